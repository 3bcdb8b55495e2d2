"""A backup is put back under running load balancers: what once was does not return into rotation."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from support.etcd import EtcdServer
from support.machine import Cluster, eventually
from support.shop import BALANCER, LOST, shop_on
from support.traffic import traffic

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


def test_a_restored_backup_brings_no_old_endpoint_into_rotation_and_takes_no_new_one_out(
    tmp_path: Path, own_etcd: EtcdServer
) -> None:
    """In the backup one machine is published, in truth it is the other; both sessions are alive in it."""
    with shop_on(Cluster(tmp_path, f"etcd://{own_etcd.endpoint}"), lease_ttl="5s") as shop:
        shop.servers[BALANCER].status = 500
        for machine in (shop.lost, shop.balancer):
            machine.start()
        eventually(lambda: shop.answers(2) == {LOST}, what="the lost one served")
        own_etcd.save(tmp_path / "backup")

        shop.servers[BALANCER].status = 200
        shop.servers[LOST].status = 500
        eventually(lambda: shop.published() == {BALANCER}, what="the other one published instead")
        eventually(lambda: shop.answers(4) == {BALANCER}, what="the other one served")
        shop.lost.stop(signal.SIGKILL)
        shop.servers[LOST].body = b"what is now at this address"
        shop.servers[LOST].status = 200

        with traffic(shop.get) as wrong:
            own_etcd.restore(tmp_path / "backup")
            own_etcd.start()
            assert LOST in shop.published(), "as long as the lease of the backup lasts"
            eventually(lambda: "the store went back" in shop.balancer.text(), what="it was noticed")
            eventually(lambda: shop.published() == {BALANCER}, what="the backup's lease ended")
            eventually(lambda: "caution is over" in shop.balancer.text(), what="caution ended")
        assert wrong == []

        shop.servers[LOST].body = LOST.encode()
        shop.lost.start(ready=False)
        eventually(lambda: shop.answers(4) == {LOST, BALANCER}, what="its machine's return believed")


def test_a_machine_whose_earlier_session_is_in_the_backup_publishes_again_without_waiting_for_its_end(
    tmp_path: Path, own_etcd: EtcdServer
) -> None:
    """Its lease would last for ten minutes; the test has no such patience. Another machine's keeps it out."""
    with shop_on(Cluster(tmp_path, f"etcd://{own_etcd.endpoint}"), lease_ttl="600s") as shop:
        shop.balancer.start()
        [earlier] = sessions(shop.cluster)
        own_etcd.save(tmp_path / "backup")
        shop.balancer.stop()
        shop.cluster.revoke(shop.cluster.stored("alive/")[0].lease)
        shop.balancer.start()
        assert sessions(shop.cluster) not in ([], [earlier])
        eventually(lambda: shop.answers(4) == {BALANCER}, what="served under it")

        own_etcd.restore(tmp_path / "backup")
        own_etcd.start()
        eventually(lambda: published_by(shop.cluster) - {earlier}, what="published in a session of its own")
        assert sessions(shop.cluster) == list(published_by(shop.cluster))
        assert shop.balancer.text().count("an earlier session of this machine is replaced") == 1
        assert shop.answers(10) == {BALANCER}

        shop.balancer.stop()
        (shop.balancer.directory / "state" / "identity.json").unlink()
        own_etcd.restore(tmp_path / "backup")
        own_etcd.start()
        shop.balancer.start(ready=False)
        eventually(lambda: f"session {earlier} of another daemon" in shop.balancer.text(), what="named")
        assert sessions(shop.cluster) == [earlier]


def sessions(cluster: Cluster) -> list[str]:
    """The sessions that the store holds for alive."""
    return [str(json.loads(item.value)["Session"]) for item in cluster.stored("alive/")]


def published_by(cluster: Cluster) -> set[str]:
    """The sessions that published what the store has of the service."""
    return {str(json.loads(item.value)["Session"]) for item in cluster.stored("services/web/endpoints/")}
