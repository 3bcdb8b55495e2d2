"""The tree that a lab runs unless it is given another: one web service, and HAProxys before it."""

from __future__ import annotations

from typing import Any

from lab.images import Revision
from lab.server import PORT

SERVICE = "web"

TEMPLATE = """\
global
    stats socket {{ socket }} mode 600 level admin expose-fd listeners
    hard-stop-after 30s
    maxconn 4000
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    timeout http-request 10s
    retries 0
frontend web
    bind {{ machine.address }}:80
    default_backend web
backend web
    balance roundrobin
    {% for e in endpoints("web") -%}
    server {{ e.name }} {{ e.address }}
    {% endfor %}
"""
"""Neither retries nor redispatch: they would hide a request that was sent to a container about to end."""


def web(revision: Revision, **fields: Any) -> dict[str, Any]:
    """The web service, checked at ``/health``; ``fields`` replace or add some of its own."""
    check = {
        "Type": "http",
        "Url": "http://${ENDPOINT_HOST}:${ENDPOINT_PORT}/health",
        "Interval": "500ms",
        # patient: a lab shares few cores among many hosts
        "ConnectTimeout": "2s",
        "ResponseTimeout": "2s",
    }
    return {
        "Name": SERVICE,
        "ContainerPort": PORT,
        "Checks": [check],
        "Update": {"StopTimeout": "5s"},
        "Container": {"Config": {"Image": revision.reference}},
        **fields,
    }


def tree(service: dict[str, Any], *, template: str = TEMPLATE) -> dict[str, Any]:
    """The files of a tree with the service on all hosts tagged ``app`` and HAProxy on those tagged ``lb``."""
    return {
        f"services/{SERVICE}.json": service,
        f"machineconfigurations/tags/app/services/{SERVICE}.json": {},
        "machineconfigurations/tags/lb/haproxy.tpl": template,
    }
