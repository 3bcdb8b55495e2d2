"""Fixtures that run a real etcd for tests."""
