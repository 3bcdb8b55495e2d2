"""Fixtures for all tests; each kind of real program has its module in ``support``."""

from hypothesis import settings

# An example that takes long says that the machine is busy. Tests at the same time make it so.
settings.register_profile("busy", settings.default, deadline=None)
settings.load_profile("busy")

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
    "support.workers",
]
