"""Adapters of the store: etcd v3 over gRPC, and an embedded SQLite database for one machine."""
