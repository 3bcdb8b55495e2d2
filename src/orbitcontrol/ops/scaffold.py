"""``init``: a small tree that works, to start from.

One web service in containers on ports that Orbit picks, bound to the tag ``web``, and a load balancer
on the tag ``lb``. It validates as it is; a test holds that.
"""

from __future__ import annotations

from pathlib import Path

from orbitcontrol.tree.write import require_empty, write

_SERVICE = """\
{
  "Name": "web",
  "ContainerPort": 80,
  "Instances": 2,
  "Container": {
    "Config": {
      "Image": "nginx:alpine",
      "Env": ["EXAMPLE=hello"]
    },
    "HostConfig": {
      "Memory": 134217728
    }
  },
  "Checks": [
    {
      "Type": "http",
      "Url": "http://${ENDPOINT_HOST}:${ENDPOINT_PORT}/",
      "Interval": "1s",
      "Rise": 2,
      "Fall": 3
    }
  ],
  "Attributes": {
    "weight": "10"
  }
}
"""

_TEMPLATE = """\
global
    stats socket {{ socket }} mode 600 level admin expose-fd listeners
    hard-stop-after 30s

defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    timeout http-request 10s
    retries 3
    option redispatch
    errorfile 503 {{ files_dir }}/503.http

frontend http
    bind :8080
    default_backend web

backend web
    balance roundrobin
    {% for e in endpoints("web") -%}
    server {{ e.name }} {{ e.address }} check weight {{ e.attributes.weight | default(10) }}
    {% endfor %}
"""

_ERROR_PAGE = """\
HTTP/1.0 503 Service Unavailable
Cache-Control: no-cache
Connection: close
Content-Type: text/plain

No healthy endpoint.
"""

_TAGS = "machineconfigurations/tags"
_FILES = {
    "globalproperties.json": '{\n  "AvailabilityZones": {}\n}\n',
    "services/web.json": _SERVICE,
    f"{_TAGS}/web/services/web.json": "{}\n",
    f"{_TAGS}/web/authoritative_names.json": "[]\n",
    f"{_TAGS}/lb/haproxy.tpl": _TEMPLATE,
    f"{_TAGS}/lb/haproxy_files/503.http": _ERROR_PAGE.replace("\n", "\r\n"),
}


def init(directory: Path) -> tuple[str, ...]:
    """Writes the tree into a directory that is absent or empty; the paths of its files."""
    require_empty(directory)
    write({path: content.encode() for path, content in _FILES.items()}, directory)
    return tuple(_FILES)
