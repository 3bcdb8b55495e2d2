"""The lab for people: up until Ctrl-C, or with ``--once`` a check that it works.

``make lab`` runs this after it has set everything up.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from types import FrameType

import pytest

from lab.cluster import Lab
from lab.commands import LabError
from lab.leftovers import left_of, remove_leftovers
from lab.load import Report

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_RATE = 200
_SECONDS = 8


class _Interrupted(BaseException):
    """Somebody asked the lab to end; nothing that handles errors may catch it."""


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    for each in _SIGNALS:  # cleaning up takes seconds, and must not be cut short by impatience
        signal.signal(each, signal.SIG_IGN)
    raise _Interrupted


def main() -> int:
    """Runs the lab; its exit code."""
    parser = argparse.ArgumentParser(prog="scripts/lab", description=__doc__)
    parser.add_argument("--hosts", type=int, default=3, help="how many (3)")
    parser.add_argument("--balancers", type=int, default=2, help="how many of them run HAProxy, too (2)")
    parser.add_argument("--once", action="store_true", help="import a tree, send requests, end")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("The lab needs root, for network namespaces and Docker engines.", file=sys.stderr)
        return 1
    for each in _SIGNALS:
        signal.signal(each, _interrupt)
    for name in remove_leftovers():
        print(f"Removed what {name} had left behind.")
    lab = Lab(hosts=options.hosts, balancers=options.balancers)
    try:
        code = _run(lab, once=options.once)
    except _Interrupted:
        code = 130
    except (LabError, pytest.fail.Exception) as error:
        print(f"The lab has failed: {error}", file=sys.stderr)
        return 1
    if left := left_of(lab.name):
        print("Left behind:", *left, sep="\n  ", file=sys.stderr)
        return 1
    print("Nothing of it is left.")
    return code


def _run(lab: Lab, *, once: bool) -> int:
    began = time.monotonic()
    print("Starting the lab: etcd, engines, daemons…", flush=True)
    with lab:
        lab.import_tree()
        lab.wait_until_routed()
        print(f"Up in {time.monotonic() - began:.1f} s.\n\n{_described(lab)}", flush=True)
        if once:
            report = _asked(lab)
            print(report.text(), flush=True)
            return 1 if report.failures else 0
        print("\nCtrl-C ends it.", flush=True)
        try:
            signal.pause()
        except _Interrupted:
            print("\nEnding the lab…", flush=True)
    return 0


def _asked(lab: Lab) -> Report:
    print(f"\n{_RATE} requests a second through every load balancer, for {_SECONDS} s…", flush=True)
    with lab.load(rate=_RATE) as load:
        time.sleep(_SECONDS)
    return load.report


def _described(lab: Lab) -> str:
    """How to use the lab from another terminal."""
    hosts = [
        f"  {host.address}  tags {','.join(host.tags)}; {host.memory() / 1e6:.0f} MB; "
        f"docker -H {host.engine.host} ps"
        for host in lab.hosts
    ]
    revisions = ", ".join(revision.name for revision in lab.revisions)
    return "\n".join(
        [
            "Hosts, and the engine of each:",
            *hosts,
            "Load balancers:",
            *(f"  curl http://{host.address}/" for host in lab.balancers),
            "The store:",
            f"  export ORBITCTL_STORE={lab.cluster.store}",
            "  .venv/bin/orbitctl status",
            f"  .venv/bin/orbitctl service web set revision R2        (there are {revisions})",
            f"Logs and files: {lab.directory}",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
