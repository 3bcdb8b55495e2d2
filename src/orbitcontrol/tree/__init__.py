"""Adapter of the configuration tree: a directory to entries of the store and back."""
