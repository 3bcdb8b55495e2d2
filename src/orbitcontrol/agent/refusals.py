"""Which configurations HAProxy refused, and for how long that stands.

The same text is not checked again at every change of something else. A refusal by ``haproxy -c``
stands for the very text: other endpoints may make it a good one. A refusal by a failed reload
stands for the template whatever the endpoints, because a failed reload halts traffic for a moment; but
not for another generation of the configuration, which may mend it elsewhere. Either ends after a
pause that grows from a second to a minute: what HAProxy missed (a name that no resolver knew, a port
in use) may be there by then.
"""

from __future__ import annotations

from msgspec import Struct

from orbitcontrol.model.configuration import ProxyConfiguration
from orbitcontrol.planning.backoff import Backoff, failed

_KEPT = 2


class Refusal(Struct, frozen=True, kw_only=True):
    """One refusal, with the pause before the same is tried again."""

    configuration: ProxyConfiguration
    generation: int
    text: str
    error: str
    by_reload: bool
    backoff: Backoff

    def stands_for(self, text: str, *, generation: int, now: float) -> bool:
        """True while trying this text would only repeat the refusal."""
        return now < self.backoff.ready_at and (
            self.text == text or (self.by_reload and self.generation == generation)
        )


class Refusals:
    """The refusals of the newest template and of the last good one."""

    def __init__(self) -> None:
        self._refusals: tuple[Refusal, ...] = ()

    def of(self, configuration: ProxyConfiguration) -> Refusal | None:
        """The template's refusal, standing or not."""
        return next((each for each in self._refusals if each.configuration == configuration), None)

    def add(
        self,
        configuration: ProxyConfiguration,
        text: str,
        error: str,
        *,
        generation: int,
        by_reload: bool,
        now: float,
    ) -> Refusal:
        """Notes a refusal; its pause is twice that of the template's one before."""
        before = self.of(configuration)
        backoff = failed(before.backoff if before else Backoff(), reason=error, now=now)
        refusal = Refusal(
            configuration=configuration,
            generation=generation,
            text=text,
            error=error,
            by_reload=by_reload,
            backoff=backoff,
        )
        others = tuple(each for each in self._refusals if each.configuration != configuration)
        self._refusals = (*others, refusal)[-_KEPT:]
        return refusal

    def forget(self, configuration: ProxyConfiguration) -> None:
        """The template was taken."""
        self._refusals = tuple(each for each in self._refusals if each.configuration != configuration)
