"""Adapter of HAProxy: its files, its process and its sockets."""
