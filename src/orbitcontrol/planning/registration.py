"""Under which services a load balancer is registered, and when a registration may end.

Whoever takes an endpoint out of service marks it first and reads then which load balancers there are,
and waits for all of them. A load balancer registers first and reads then which endpoints there are,
before HAProxy gets servers of them. Whichever comes first, one of the two sees the other.

So a service is registered before HAProxy is given the first configuration that names it, and stays so
until nothing is left that may still send it something: the processes of HAProxy that left when it was
dropped, or were leaving then, and the servers on their way out. All that knew it then are waited
for, and nobody who came later: a load balancer that is reloaded all day long ends its registrations, too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from orbitcontrol.planning.servers import Place

Witness = int | Place
"""What may still know a service: a process that leaves, by its pid, or a server on its way out."""


def still_known(
    before: Mapping[str, frozenset[Witness]], *, dropped: Collection[str], present: frozenset[Witness]
) -> dict[str, frozenset[Witness]]:
    """For each service that was dropped, who is left of those that may know it; nobody: it may end.

    ``before`` is the answer of the last time, ``present`` all that leave now.
    """
    return {service: before.get(service, present) & present for service in sorted(dropped)}
