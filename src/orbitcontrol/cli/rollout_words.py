"""How rollouts are shown in tables and on the page of a service."""

from __future__ import annotations

from orbitcontrol.cli.output import Column
from orbitcontrol.cli.times import age
from orbitcontrol.ops.rollout_views import PastView, RolloutView

STEP_COLUMNS = (
    Column("MACHINE", lambda step: step.machine),
    Column("STEP", lambda step: step.step),
    Column("REASON", lambda step: step.reason.replace("\n", " ")),
)

_TREE = "(tree)"
"""The revision that the tree's own tag is."""


def what(view: RolloutView | PastView) -> str:
    """``R1 → R2``; one of the two where they are the same."""
    return " → ".join(dict.fromkeys(name or _TREE for name in (view.from_, view.to)))


def cause(view: RolloutView | PastView) -> str:
    """Why it was begun."""
    return f"revert of {view.revert_of}" if view.revert_of else view.cause


def sentence(view: RolloutView) -> str:
    """The rollout in one line: ``running, revision R1 → R2 by alice for 12s (3f2a9c01)``."""
    by = f" by {view.user}" if view.user else ""
    where = f" on {', '.join(view.machines)}" if view.machines else ""
    since = f"{age(view.started)}" if view.state != "complete" else f", begun {view.started}"
    return f"{view.state}, {cause(view)} {what(view)}{where}{by}{since} ({view.id})"


def left(view: RolloutView) -> str:
    """What stands between the rollout and its end: its reason, else whom it waits for, else who is left."""
    late = [step.machine for step in view.steps if step.step != "done"]
    return view.reason.replace("\n", " ") or "; ".join(view.waits) or (f"{len(late)} left" if late else "")
