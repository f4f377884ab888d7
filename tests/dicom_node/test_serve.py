"""The supervisor restarts what dies, and leaves nothing running when it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from pathlib import Path

import pytest

from dicom_node import serve
from dicom_node.config import Config, Destination
from dicom_node.delivery_dimse import echo
from dicom_node.errors import SightlineError
from tests.dicom_node.ct_series import ct_series
from tests.dicom_node.network import ANY_DISK, free_port, running_node, send, wait_until


def receivers(folder: Path) -> list[int]:
    """Process ids of all receivers that the supervisor has started so far."""
    return [int(pid) for pid in re.findall(r"started role=receiver pid=(\d+)", log(folder))]


def log(folder: Path) -> str:
    return (folder / "node.log").read_text("utf-8")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_dead_receiver_is_started_again(tmp_path: Path) -> None:
    config = Config(port=free_port(), archive=tmp_path / "archive", receiver=ANY_DISK)
    node = Destination("node", config.address, config.port, config.ae_title)
    with running_node(config, tmp_path, ["receiver"]):
        assert echo(node, config) is None
        (first,) = receivers(tmp_path)
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: len(receivers(tmp_path)) == 2, 20, "a second receiver")
        wait_until(lambda: echo(node, config) is None, 20, "the second receiver to answer")
        assert send(config, ct_series()[:2]) == [0, 0]
        assert "died role=receiver exit=-9" in log(tmp_path)
    assert "node stopped" in log(tmp_path)
    assert not any(is_alive(pid) for pid in receivers(tmp_path))


def test_no_child_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    config = Config(port=free_port(), archive=tmp_path / "archive", receiver=ANY_DISK)
    with running_node(config, tmp_path, ["receiver"], exit_status=-signal.SIGKILL) as supervisor:
        (child,) = receivers(tmp_path)
        os.kill(supervisor.pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(child), 20, "the orphaned receiver to end")
    assert not is_alive(child)


def test_what_cannot_start_is_an_error_at_once(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = Config(port=taken.getsockname()[1], archive=tmp_path / "archive")
        with pytest.raises(SightlineError, match=f"port = {config.port}: cannot listen"):
            serve.run(config, roles=["receiver"], stop=threading.Event(), log=tmp_path / "node.log")
    assert "node stopped" not in log(tmp_path)
    assert "receiver cannot run" in log(tmp_path)
