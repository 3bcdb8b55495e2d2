"""Containers that somebody else started and that were adopted; remembered over restarts of the daemon.

Docker takes no labels for a container that exists, so those that make an adopted one Orbit's own are
kept in the state directory, by container id. When they are lost, a container that still is what is
wanted is adopted again, and any other is a stranger's again: it is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from orbitcontrol.agent.remembered import Remembered
from orbitcontrol.errors import OrbitError
from orbitcontrol.log import Log
from orbitcontrol.model.containers import ObservedContainer
from orbitcontrol.planning.container_specs import WantedContainer
from orbitcontrol.planning.strangers import adoptions, with_labels
from orbitcontrol.ports import StateFiles

_log = Log(__name__)

_ADOPTED = "adopted.json"


class AdoptedContainers:
    """Knows the labels of adopted containers, and adopts."""

    def __init__(self, files: StateFiles) -> None:
        self._remembered = Remembered(files, _ADOPTED, dict[str, dict[str, str]], {})
        self._labels = self._remembered.load()

    def labelled(
        self, observed: tuple[ObservedContainer, ...], wanted: Iterable[WantedContainer], *, address: str
    ) -> tuple[ObservedContainer, ...]:
        """What was observed, with the labels of those that were adopted, now or earlier."""
        there = {container.id for container in observed}
        known = {key: labels for key, labels in self._labels.items() if key in there}
        observed = with_labels(observed, known)
        new = adoptions(wanted, observed, address=address)
        for one in new:
            _log.info(
                "container adopted",
                container=one.container.name,
                service=one.key.service,
                reason="it was started by somebody else and is what is wanted",
            )
        labels = {one.container.id: one.labels for one in new}
        self._remember(known | labels)
        return with_labels(observed, labels)

    def _remember(self, labels: dict[str, dict[str, str]]) -> None:
        if labels == self._labels:
            return
        self._labels = labels
        try:
            self._remembered.save(labels)
        except OrbitError as error:  # it is adopted all the same, for as long as this daemon lives
            _log.warning("adopted containers not saved", reason=error)
