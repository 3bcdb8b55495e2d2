"""Fixtures for all tests; each kind of real program has its module in ``support``."""

pytest_plugins = [
    "support.kinds",
    "support.etcd",
    "support.stores",
    "support.docker",
    "support.haproxy_homes",
    "support.haproxy",
    "support.haproxy_servers",
    "support.haproxy_acks",
    "support.machine",
    "support.webserver",
    "support.site",
    "support.farm",
    "support.shop",
]
