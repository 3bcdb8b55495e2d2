"""What HAProxy prints, as values: messages of its parser, ``show proc``, the answer to ``reload``.

Formats as HAProxy 2.4 to 2.8 print them (management guide, sections 3 and 9.4; ``src/errors.c``).
Older lines with a date before the process id are understood too.
"""

from __future__ import annotations

import re
from typing import Literal

from msgspec import Struct

Severity = Literal["notice", "warning", "alert", "other"]

_HEAD = re.compile(r"^\[(NOTICE|WARNING|ALERT|EMERG|DIAG)\]\s*(?:\S+\s+)?(?:\(\d+\))?\s*: (.*)$")
_SEVERITIES: dict[str, Severity] = {
    "NOTICE": "notice",
    "WARNING": "warning",
    "ALERT": "alert",
    "EMERG": "alert",
}
_PLACE = re.compile(r"^(?:parsing )?\[([^\]]+):(\d+)\]\s*:?\s*")
_PLACE_INSIDE = re.compile(r"\[([^\]\s]+):(\d+)\]")
_MASTER = re.compile(r"^(\d+)\s+master\s+(\d+)(?:\s+\[failed: (\d+)\])?", re.MULTILINE)
_UPTIME = re.compile(r"(\d+)d(\d+)h(\d+)m(\d+)s")
_VERSION = re.compile(r"(\d+)\.(\d+)")
_SUMMARY = re.compile(r"^(Error\(s\) found in configuration file|Fatal errors found in configuration)")


class Message(Struct, frozen=True, kw_only=True):
    """One thing HAProxy said. ``line`` counts from 1 in ``file``; both are empty where it named none."""

    severity: Severity
    text: str
    file: str = ""
    line: int | None = None


def parse_messages(output: str) -> tuple[Message, ...]:
    """The messages of ``haproxy -c`` or of a log, in order; what merely announces others is left out.

    A line without a ``[SEVERITY]`` head is a message of severity ``other``; a line that begins with
    `` | `` goes on with the message before it.
    """
    messages: list[Message] = []
    for line in output.splitlines():
        if line.lstrip().startswith("|") and messages:
            last = messages.pop()
            more = line.lstrip().removeprefix("|").strip()
            messages.append(
                Message(severity=last.severity, text=f"{last.text} {more}", file=last.file, line=last.line)
            )
        elif (message := _message(line)) is not None:
            messages.append(message)
    return tuple(messages)


def _message(line: str) -> Message | None:
    head = _HEAD.match(line)
    if head is None:
        return Message(severity="other", text=line.strip()) if line.strip() else None
    text = head[2].removeprefix("config : ").strip()
    if _SUMMARY.match(text):
        return None
    severity = _SEVERITIES.get(head[1], "notice")
    if (place := _PLACE.match(text)) is not None:
        return Message(severity=severity, text=text[place.end() :], file=place[1], line=int(place[2]))
    if (place := _PLACE_INSIDE.search(text)) is not None:
        return Message(severity=severity, text=text, file=place[1], line=int(place[2]))
    return Message(severity=severity, text=text)


class CheckResult(Struct, frozen=True, kw_only=True):
    """What ``haproxy -c`` said of the configuration that it read as ``file``."""

    accepted: bool
    file: str
    messages: tuple[Message, ...]


class Processes(Struct, frozen=True, kw_only=True):
    """The master's ``show proc``.

    ``reloads`` counts the reloads that the master was asked for, ``failed`` those of them that
    failed since the last one that worked. ``workers`` are the pids that serve, ``leaving`` those
    that finish their old connections.
    """

    master: int
    reloads: int
    failed: int
    workers: frozenset[int]
    leaving: frozenset[int] = frozenset()


class Worker(Struct, frozen=True, kw_only=True):
    """One worker in ``show proc``.

    ``reloads`` counts those that it has seen, failed ones too: the older a worker, the more.
    ``uptime`` is in seconds. ``version`` is its HAProxy's, such as ``(2, 6)``; None where it is not said.
    """

    pid: int
    leaving: bool
    reloads: int
    uptime: float
    version: tuple[int, int] | None


def parse_workers(reply: str) -> tuple[Worker, ...]:
    """The workers in ``show proc``, those that serve and those that leave."""
    found = []
    leaving = False
    for line in reply.splitlines():
        if line.startswith("#"):
            leaving = line.startswith("# old workers") or (leaving and not line.startswith("# workers"))
            continue
        fields = line.split()
        if len(fields) >= 3 and fields[1] == "worker" and fields[0].isdigit() and fields[2].isdigit():
            found.append(_worker(fields, leaving=leaving))
    return tuple(found)


def _worker(fields: list[str], *, leaving: bool) -> Worker:
    uptime = _UPTIME.fullmatch(fields[3]) if len(fields) > 3 else None
    days, hours, minutes, seconds = map(int, uptime.groups()) if uptime else (0, 0, 0, 0)
    version = _VERSION.match(fields[4]) if len(fields) > 4 else None
    return Worker(
        pid=int(fields[0]),
        leaving=leaving,
        reloads=int(fields[2]),
        uptime=float(((days * 24 + hours) * 60 + minutes) * 60 + seconds),
        version=(int(version[1]), int(version[2])) if version else None,
    )


def parse_processes(reply: str) -> Processes | None:
    """``show proc`` of the master socket; None where the text is not one (2.6 cuts it off in a reload)."""
    master = _MASTER.search(reply)
    if master is None:
        return None
    workers = parse_workers(reply)
    return Processes(
        master=int(master[1]),
        reloads=int(master[2]),
        failed=int(master[3] or 0),
        workers=frozenset(worker.pid for worker in workers if not worker.leaving),
        leaving=frozenset(worker.pid for worker in workers if worker.leaving),
    )


class ReloadReply(Struct, frozen=True):
    """What the master said of a reload: ``success`` is None where it says nothing (before 2.7)."""

    success: bool | None
    log: str = ""


def parse_reload(reply: str) -> ReloadReply:
    """The answer to ``reload``: 2.7 and later ``Success=0|1``, a line ``--`` and the log."""
    head, _, log = reply.strip().partition("\n--")
    if head.strip() not in ("Success=0", "Success=1"):
        return ReloadReply(None, reply.strip())
    return ReloadReply(head.strip() == "Success=1", log.strip())
