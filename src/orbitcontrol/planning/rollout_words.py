"""What a rollout says to people of what it is about to do."""

from __future__ import annotations

from collections.abc import Mapping

from orbitcontrol.model.rollouts import Rollout
from orbitcontrol.planning.container_specs import WantedContainer
from orbitcontrol.planning.rollout_aims import matches, outdated
from orbitcontrol.planning.rollout_turns import owing
from orbitcontrol.planning.rollouts import Local, Shared


def why_changed(local: Local) -> str:
    """What is about to change, for people."""
    wanted: Mapping[object, WantedContainer] = {one.key: one for one in local.target}
    for own in outdated(local, local.target):
        one = wanted.get(own.key)
        if one is None:
            return f"instance {own.key.instance} is not wanted any more"
        if own.revision != one.effective.revision:
            return f"revision {own.revision} becomes {one.effective.revision}"
        if one.relaunch and not matches(own, one, local) and own.config_hash == one.config_hash:
            return "relaunch"
    return "its configuration changed"


def canary_words(rollout: Rollout, shared: Shared) -> str:
    """Why a canary pauses, and how to go on."""
    count = rollout.policy.canary
    left = len(owing(rollout, shared))
    return f"canary: {count} done, {left} to go: promote or roll back"
