"""What people write about a service: ``services/<name>.json`` and its bindings to tags.

Field names are the file's own, in snake case here and PascalCase in JSON. Durations are seconds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from orbitcontrol.model.durations import Duration

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"

Port = Annotated[int, Meta(ge=0, le=65535)]
Name = Annotated[str, Meta(pattern=NAME_PATTERN, max_length=200)]
AtLeastOne = Annotated[int, Meta(ge=1)]


class _Written(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """Base of everything that is written as a JSON object with PascalCase keys."""


class CheckBase(_Written, frozen=True, kw_only=True):
    """What all checks share: how long to wait, how often to ask, how many answers decide."""

    connect_timeout: Duration = Duration(0.3)
    response_timeout: Duration = Duration(0.3)
    interval: Duration = Duration(2)
    rise: AtLeastOne = 1
    fall: AtLeastOne = 2
    start_period: Duration = Duration(0)


class HttpCheck(CheckBase, frozen=True, kw_only=True, tag_field="Type", tag="http"):
    """Passes on a status that begins with ``expect_http_status`` and a body that has ``expect_string``."""

    url: str
    method: str = "GET"
    http_host: str | None = None
    headers: dict[str, str] = {}
    username: str | None = None
    password: str | None = None
    expect_http_status: str | int = "2"
    expect_string: str | None = None
    tls_skip_verify: bool = False


class TcpCheck(CheckBase, frozen=True, kw_only=True, tag_field="Type", tag="tcp"):
    """Passes when a TCP connection is accepted."""

    host_port: str


class ExecCheck(CheckBase, frozen=True, kw_only=True, tag_field="Type", tag="exec"):
    """Passes when the command ends with 0."""

    command: str | list[str]
    in_container: bool = False


class DockerCheck(CheckBase, frozen=True, kw_only=True, tag_field="Type", tag="docker"):
    """Passes while the image's own HEALTHCHECK says healthy."""


class GrpcCheck(CheckBase, frozen=True, kw_only=True, tag_field="Type", tag="grpc"):
    """Passes when grpc.health.v1 answers SERVING."""

    host_port: str
    service: str = ""


class DummyCheck(CheckBase, frozen=True, kw_only=True, tag_field="Type", tag="dummy"):
    """Passes or fails as it is told to."""

    dummy_result: bool = True


Check = HttpCheck | TcpCheck | ExecCheck | DockerCheck | GrpcCheck | DummyCheck


class Container(_Written, frozen=True, kw_only=True):
    """The Docker Engine API's own ``Config`` and ``HostConfig`` objects, passed through."""

    config: dict[str, Any] = {}
    host_config: dict[str, Any] = {}


class SourceControl(_Written, frozen=True, kw_only=True):
    """Where the service's source lives; shown to people, never acted on."""

    origin: str | None = None
    oauth_token: str | None = field(default=None, name="OAuthToken")
    ci_url: str | None = field(default=None, name="CIUrl")


class Update(_Written, frozen=True, kw_only=True):
    """How a rollout of the service goes."""

    max_parallel: AtLeastOne | Annotated[str, Meta(pattern=r"^([1-9]\d?|100)%$")] = 1
    min_healthy_time: Duration = Duration(5)
    healthy_deadline: Duration = Duration(60)
    auto_revert: bool = True
    canary: Annotated[int, Meta(ge=0)] = 0
    order: Literal["stop-first", "start-first"] = "stop-first"
    drain_timeout: Duration = Duration(30)
    stop_timeout: Duration = Duration(10)
    stagger: Duration = Duration(0)


class Relaunch(_Written, frozen=True, kw_only=True):
    """When to replace a container whose checks keep failing."""

    after: Duration = Duration(60)
    limit: Annotated[int, Meta(ge=0)] = 5


class Service(_Written, frozen=True, kw_only=True):
    """One service as its file states it, before any tag's overrides."""

    name: Name
    endpoint_port: Port = 0
    container_port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    instances: AtLeastOne = 1
    container: Container | None = None
    checks: tuple[Check, ...] = ()
    revision: str | None = None
    source_control: SourceControl | None = None
    attributes: dict[str, str] = {}
    update: Update = Update()
    relaunch: Relaunch = Relaunch()

    @property
    def image(self) -> str | None:
        """The image as written, with whatever tag it has; None without a container."""
        return None if self.container is None else self.container.config.get("Image")

    @property
    def picks_port(self) -> bool:
        """True when Orbit chooses the host port of each instance."""
        return self.endpoint_port == 0 and self.container_port is not None

    @property
    def has_endpoint(self) -> bool:
        """False for a worker: it runs and is checked, but nothing is published."""
        return self.endpoint_port != 0 or self.container_port is not None


class Binding(_Written, frozen=True, kw_only=True):
    """``tags/<tag>/services/<service>.json``: that a tag runs the service, and what differs there."""

    name: Name | UnsetType = UNSET
    endpoint_port: Port | UnsetType = UNSET
    checks: tuple[Check, ...] | UnsetType = UNSET
    attributes: dict[str, str] = {}
    container: Container | UnsetType = UNSET


class GlobalProperties(_Written, frozen=True, kw_only=True):
    """``globalproperties.json``: the availability zones by network."""

    availability_zones: dict[str, tuple[str, ...]] = {}
    amqp_url: str | None = field(default=None, name="AMQPUrl")
