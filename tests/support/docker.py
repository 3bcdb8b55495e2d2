"""Fixtures that run a real docker for tests."""
