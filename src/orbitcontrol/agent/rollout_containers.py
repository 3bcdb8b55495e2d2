"""The steps of a rollout that change containers, one at a time; each says in the log why it is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from orbitcontrol.agent.containers_actions import ContainerActions
from orbitcontrol.agent.containers_images import Images
from orbitcontrol.log import Log
from orbitcontrol.planning.container_specs import is_kept, kept_name
from orbitcontrol.planning.rollout_steps import Remove, Rename, Revive, Start, Stop

_log = Log(__name__)

ContainerStep = Start | Revive | Rename | Remove | Stop


class Hands(Protocol):
    """What a deployer needs of the containers loop."""

    @property
    def actions(self) -> ContainerActions: ...

    @property
    def images(self) -> Images: ...

    async def look(self) -> None:
        """Returns when the containers were looked at from now on."""


async def change(
    actions: ContainerActions, step: ContainerStep, *, grace: float, allowed: Callable[[], bool]
) -> None:
    """Takes the step. Raises OrbitError.

    ``grace`` is how many seconds a container has to end by itself; ``allowed`` has the last word on whether
    it may be stopped.
    """
    match step:
        case Start(wanted=wanted, beside=beside, ended=ended, reason=reason):
            _log.info("starting container", container=wanted.name, image=wanted.image, reason=reason)
            for own in beside:
                await actions.rename(own, kept_name(own, wanted.name))
            await actions.start(wanted, ended)
            _log.info("container started", container=wanted.name, reason=reason)
        case Revive(own=own, wanted=wanted, ended=ended, reason=reason):
            _log.info("starting the kept container again", container=wanted.name, reason=reason)
            await actions.revive(own, name=wanted.name, ended=ended)
        case Rename(own=own, name=name):
            await actions.rename(own, name)
        case Remove(own=own, reason=reason):
            await actions.remove(own)
            _log.info("container removed", container=own.container.name, reason=reason)
        case Stop(own=own, keep=keep, reason=reason):
            name = own.container.name
            _log.info("stopping container", container=name, reason=reason, kept=keep)
            keep_as = (name if is_kept(own) else kept_name(own, name)) if keep else None
            await actions.stop(own, grace=grace, keep_as=keep_as, allowed=allowed)
