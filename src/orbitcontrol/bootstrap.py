"""The only place that knows every layer: settings to adapters to loops."""
