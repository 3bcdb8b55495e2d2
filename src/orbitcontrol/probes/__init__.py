"""Adapters of the checks: one module a kind."""
