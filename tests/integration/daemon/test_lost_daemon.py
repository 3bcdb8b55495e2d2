"""A daemon that dies takes nothing with it: its service goes on, behind another machine's HAProxy."""

from __future__ import annotations

import signal

import pytest

from support.machine import eventually
from support.shop import BALANCER, LOST, Shop

pytestmark = pytest.mark.integration


def test_a_killed_daemons_service_is_served_until_it_ends_itself_and_again_when_it_returns(
    shop: Shop,
) -> None:
    shop.start()
    before = shop.balancer.changes_of_haproxy()

    shop.lost.stop(signal.SIGKILL)
    eventually(lambda: shop.published() == {BALANCER}, what="the lease ended")
    eventually(lambda: "in rotation while this machine can connect" in shop.told(), what="named in status")
    assert shop.answers(10) == {LOST, BALANCER}
    assert shop.balancer.changes_of_haproxy() == before

    shop.servers[LOST].stop()
    eventually(lambda: "out of rotation" in shop.told(), what="out of rotation when nobody answers")
    assert shop.answers(10) == {BALANCER}

    shop.servers[LOST].start()
    eventually(lambda: LOST in shop.answers(4), what="back when it answers, with its daemon still gone")

    shop.lost.start(ready=False)
    seen: set[str] = set()

    def published() -> bool:
        seen.update(shop.answers(4))
        return shop.published() == {LOST, BALANCER}

    eventually(published, what="published again")
    eventually(lambda: not shop.told(), what="no longer an orphan")
    assert seen | shop.answers(10) == {LOST, BALANCER}, "nothing was interrupted"
