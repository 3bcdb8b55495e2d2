"""The store's layout: one function a key, and the way back from a key to its parts.

Everything lives below a base path (``/orbit`` by default) as plain text keys, so that
``etcdctl get --prefix /orbit`` can be read by a person.
"""

from __future__ import annotations

from msgspec import Struct

from orbitcontrol.model.stored import Range


class Keys(Struct, frozen=True):
    """Builds the keys below one base path."""

    base: str = "/orbit"

    @property
    def config(self) -> Range:
        return Range.prefix(f"{self.base}/config/")

    @property
    def meta(self) -> str:
        return f"{self.base}/config/meta"

    @property
    def global_properties(self) -> str:
        return f"{self.base}/config/globalproperties"

    def service_config(self, service: str) -> str:
        return f"{self.base}/config/services/{service}"

    @property
    def service_configs(self) -> Range:
        return Range.prefix(f"{self.base}/config/services/")

    def tag_config(self, tag: str) -> Range:
        return Range.prefix(f"{self.base}/config/tags/{tag}/")

    @property
    def tag_configs(self) -> Range:
        return Range.prefix(f"{self.base}/config/tags/")

    @property
    def import_logs(self) -> Range:
        return Range.prefix(f"{self.base}/config/import/")

    def import_log(self, import_id: str) -> Range:
        """The redo log of one import: its header and its parts."""
        return Range.prefix(f"{self.base}/config/import/{import_id}/")

    def import_header(self, import_id: str) -> str:
        return f"{self.base}/config/import/{import_id}/header"

    def import_part(self, import_id: str, number: int) -> str:
        """``number`` counts from 1."""
        return f"{self.base}/config/import/{import_id}/{number:06d}"

    def revision(self, service: str) -> str:
        return f"{self.base}/deployments/{service}/revision"

    def machine_revision(self, service: str, address: str) -> str:
        return f"{self.base}/deployments/{service}/machines/{address}"

    def machine_revisions(self, service: str) -> Range:
        return Range.prefix(f"{self.base}/deployments/{service}/machines/")

    def rollout(self, service: str) -> str:
        return f"{self.base}/deployments/{service}/rollout"

    def history(self, service: str) -> Range:
        """The rollouts of the service that are over."""
        return Range.prefix(f"{self.base}/deployments/{service}/history/")

    def past_rollout(self, service: str, rollout: str) -> str:
        return f"{self.base}/deployments/{service}/history/{rollout}"

    def deployments_of(self, service: str) -> Range:
        return Range.prefix(f"{self.base}/deployments/{service}/")

    @property
    def deployments(self) -> Range:
        return Range.prefix(f"{self.base}/deployments/")

    def endpoint(self, service: str, address: str) -> str:
        """``address`` is ``host:port``."""
        return f"{self.base}/services/{service}/endpoints/{address}"

    def endpoints(self, service: str) -> Range:
        return Range.prefix(f"{self.base}/services/{service}/endpoints/")

    @property
    def services(self) -> Range:
        return Range.prefix(f"{self.base}/services/")

    def service(self, service: str) -> Range:
        """All that daemons write about one service."""
        return Range.prefix(f"{self.base}/services/{service}/")

    def load_balancer(self, service: str, address: str) -> str:
        return f"{self.base}/services/{service}/loadbalancers/{address}"

    def ack(self, service: str, endpoint_id: str, address: str) -> str:
        """``address`` is the load balancer's."""
        return f"{self.base}/services/{service}/acks/{endpoint_id}/{address}"

    def acks(self, service: str) -> Range:
        return Range.prefix(f"{self.base}/services/{service}/acks/")

    def slot(self, service: str, number: int) -> str:
        """``number`` counts from 0; ranges compare as text, hence four digits."""
        return f"{self.base}/services/{service}/slots/{number:04d}"

    def slots(self, service: str) -> Range:
        return Range.prefix(f"{self.base}/services/{service}/slots/")

    def slots_from(self, service: str, number: int) -> Range:
        """The slots at and above ``number``."""
        return Range(self.slot(service, number), self.slots(service).end)

    def progress(self, service: str, address: str) -> str:
        return f"{self.base}/services/{service}/progress/{address}"

    def progress_of(self, service: str) -> Range:
        return Range.prefix(f"{self.base}/services/{service}/progress/")

    def drain(self, address: str) -> str:
        return f"{self.base}/drains/{address}"

    @property
    def drains(self) -> Range:
        return Range.prefix(f"{self.base}/drains/")

    def machine(self, address: str) -> str:
        return f"{self.base}/machines/{address}"

    @property
    def machines(self) -> Range:
        return Range.prefix(f"{self.base}/machines/")

    def alive(self, address: str) -> str:
        return f"{self.base}/alive/{address}"

    @property
    def all_alive(self) -> Range:
        return Range.prefix(f"{self.base}/alive/")

    def below(self, key: str) -> tuple[str, ...]:
        """The parts of a key below the base path: ``("services", "web", "endpoints", "h:1")``."""
        return tuple(key.removeprefix(self.base + "/").split("/"))
