"""Adapter of the Docker Engine API."""
