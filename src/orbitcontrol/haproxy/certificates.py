"""Certificates exchanged in the running HAProxy (management guide, 9.3: ``set ssl cert``).

Each is put into a transaction, which HAProxy refuses when it cannot read it; only when it has all of
them are they committed. A new handshake gets the new certificate, no connection ends, and nothing is
reloaded. HAProxy knows a certificate by the path from which it was loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from orbitcontrol.haproxy.master import MasterSocket

_DEADLINE = 10.0


async def exchange(socket: str, certificates: Mapping[Path, str]) -> str | None:
    """Has HAProxy use these contents; why it does not. Raises HAProxyError when it does not answer."""
    runtime = MasterSocket(Path(socket))
    refusal = None
    for path, pem in certificates.items():
        await runtime.command(f"abort ssl cert {path}")  # of somebody who ended in the middle
        reply = await runtime.command(f"set ssl cert {path} <<\n{_payload(pem)}", deadline=_DEADLINE)
        if "Transaction created" not in reply:
            refusal = f"{path.name}: {' '.join(reply.split()) or 'no answer'}"
            break
    for path in certificates if refusal is None else ():
        reply = await runtime.command(f"commit ssl cert {path}", deadline=_DEADLINE)
        if "Success" not in reply:
            refusal = f"{path.name}: {' '.join(reply.split()) or 'no answer'}"
            break
    if refusal is not None:
        for path in certificates:
            await runtime.command(f"abort ssl cert {path}")
    return refusal


def _payload(pem: str) -> str:
    """Without empty lines: the first one ends what HAProxy reads."""
    return "".join(f"{line}\n" for line in pem.splitlines() if line.strip())
