"""Fixtures that run a real haproxy for tests."""
