"""Fixtures for all tests; each kind of real program has its module in ``support``."""

pytest_plugins = [
    "support.kinds",
    "support.etcd",
    "support.docker",
    "support.haproxy_homes",
    "support.haproxy",
    "support.machine",
    "support.webserver",
    "support.site",
]
