"""Several receiver processes on one port: they share the work and the limits, and one may die."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.raw_peer import RawPeer
from dicom_node.archive import Archive
from dicom_node.config import Config
from dicom_node.open_associations import OpenAssociations
from dicom_node.receiver_settings import ReceiverSettings
from tests.dicom_node.ct_series import ct_series
from tests.dicom_node.network import ANY_DISK, free_port, running_node, send, wait_until
from tests.dicom_node.test_receiver import rows, still_open


def test_a_port_is_shared_and_the_death_of_one_ends_only_its_own(tmp_path: Path) -> None:
    config = Config(
        port=free_port(),
        archive=tmp_path / "archive",
        maximum_associations=6,
        receiver=replace(ANY_DISK, processes=2, maximum_per_address=6),
    )
    with running_node(config, tmp_path, ["receiver"]):
        log = tmp_path / "node.log"
        members = [int(pid) for pid in re.findall(r"role=receiver member pid=(\d+)", log.read_text("utf-8"))]
        assert len(members) == 2
        with contextlib.ExitStack() as stack:
            peers = [stack.enter_context(RawPeer(config.port)) for _ in range(6)]
            assert all([peer.associate(config.ae_title) for peer in peers])
            with RawPeer(config.port) as one_too_many:
                assert not one_too_many.associate(config.ae_title)
            os.kill(members[0], signal.SIGKILL)
            alive = [peer.echo() for peer in peers]
            assert any(alive), "all associations were in one process"
            assert not all(alive), "all associations were in one process"
            wait_until(
                lambda: "started role=receiver member" in log.read_text("utf-8")[-2000:], 20, "a new one"
            )
        wait_until(
            lambda: len(re.findall("receiver ready", log.read_text("utf-8"))) == 3, 60, "it to be ready"
        )
        slices = ct_series()
        assert send(config, slices) == [0] * len(slices)
    archive = Archive.open(config)
    assert len(rows(archive)) == len(slices)
    assert still_open(archive) == 0


@pytest.mark.parametrize("processes", [1, 3])
def test_the_limits_hold_over_all_processes(processes: int) -> None:
    config = Config(
        maximum_associations=4, receiver=ReceiverSettings(processes=processes, maximum_per_address=2)
    )
    slots = [0] * (processes * config.maximum_associations)
    views = [OpenAssociations(config, slots, n) for n in range(processes)]
    first = [views[n % processes].enter("10.0.0.1") for n in range(2)]
    assert None not in first
    assert views[-1].enter("10.0.0.1") is None
    assert views[0].enter("10.0.0.2") is not None
    assert views[-1].enter("10.0.0.3") is not None
    assert views[0].enter("10.0.0.4") is None
    views[0].clear()  # it was started again
    assert views[0].enter("10.0.0.4") is not None
