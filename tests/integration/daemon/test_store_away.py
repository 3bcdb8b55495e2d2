"""The store does not answer: checks go on, and what fails here is out of the HAProxy here."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.etcd import EtcdServer
from support.machine import Cluster, eventually
from support.shop import BALANCER, LOST, shop_on

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


def test_a_local_failure_takes_the_local_endpoint_out_while_the_store_hangs(
    tmp_path: Path, own_etcd: EtcdServer
) -> None:
    with shop_on(Cluster(tmp_path, f"etcd://{own_etcd.endpoint}"), lease_ttl="60s") as shop:
        shop.start()
        every_machine, the_balancer = 3, 2  # meta, deployments/, its drain; alive/, the endpoints of web
        few = 2 * every_machine + the_balancer
        eventually(lambda: own_etcd.watchers() == few, what="few and narrow watches")
        own_etcd.freeze()
        shop.servers[BALANCER].status = 500
        eventually(lambda: shop.answers(4) == {LOST}, what="the local one out")
        shop.servers[BALANCER].status = 200
        eventually(lambda: shop.answers(4) == {LOST, BALANCER}, what="the local one back")
        assert "endpoint withdrawn" not in shop.balancer.text(), "the store took nothing"

        shop.servers[BALANCER].status = 500
        eventually(lambda: shop.answers(4) == {LOST}, what="out once more")
        own_etcd.thaw()
        eventually(lambda: shop.published() == {LOST}, what="withdrawn for everybody")
        assert shop.answers(4) == {LOST}
