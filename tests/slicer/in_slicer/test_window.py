"""The window never waits for the server, and what is under way can be given up."""

from __future__ import annotations

import pytest
from PySide6 import QtCore

from tests.slicer.harness import phantom
from tests.slicer.harness.operator import Operator
from tests.slicer.harness.server import SERIES, ContractServer
from tests.slicer.harness.waiting import Ticks, run_for, wait_until

GRID = phantom.grid(spacing=20.0)
SLOW_S = 2.0
# A client that waits stands still for SLOW_S. A busy machine is slow too, but not so slow.
BLOCKED_S = 0.75 * SLOW_S


@pytest.fixture
def server():
    with ContractServer(GRID) as running:
        yield running


@pytest.fixture
def user(widget, scene, server):
    operator = Operator(widget, server.url)
    operator.choose(phantom.add_volume(GRID, SERIES))
    return operator


def ticks_while(user, action):
    with Ticks() as ticks:
        action()
        user.wait()
    return ticks


@pytest.mark.parametrize("slow", ["/health", f"/series/{SERIES}", "/query", "/heatmap", "/reading", "/mask"])
def test_the_window_goes_on_while_an_answer_is_pending(user, server, slow):
    server.delays[slow] = SLOW_S
    ticks = ticks_while(user, lambda: user.ask("lesion"))
    assert ticks.times[-1] - ticks.times[0] >= SLOW_S
    print(f"{slow}: worst gap {1000 * ticks.worst_gap_s:.0f} ms, {len(ticks.times)} ticks")
    assert ticks.worst_gap_s < BLOCKED_S
    assert user.says.startswith("Place 1")


def test_the_window_goes_on_while_a_ct_is_sent_and_read(user, server):
    server.known.clear()
    server.delays[f"={SERIES}"] = SLOW_S
    user.ask("lesion")
    user.wait()
    ticks = ticks_while(user, lambda: user.click("sendCtButton"))
    assert ticks.worst_gap_s < BLOCKED_S
    assert user.says.startswith("Place 1")


@pytest.mark.parametrize("how", ["button", "escape"])
def test_a_question_can_be_given_up(user, server, how):
    server.delays["/query"] = SLOW_S
    user.ask("lesion")
    wait_until(lambda: bool(server.asked("/query")))
    if how == "button":
        user.click("cancelButton")
    else:
        user.press(QtCore.Qt.Key.Key_Escape)
    assert user.says == "Cancelled."
    assert not user.busy
    run_for(SLOW_S + 0.5)
    assert user.rows("hitsTable") == []
    assert user.says == "Cancelled."


def test_a_job_that_is_given_up_is_stopped_on_the_server(user, server):
    server.polls = 1000
    user.ask("lesion")
    wait_until(lambda: bool(server.asked("/jobs/mask-0", "GET")))
    assert "lesions" in user.ui.activityLabel.text() or user.busy
    user.click("cancelButton")
    wait_until(lambda: bool(server.asked("/jobs/mask-0", "DELETE")))
    assert server.jobs["mask-0"]["state"] == "cancelled"


def test_a_new_question_takes_the_place_of_the_old(user, server):
    server.delays["/query"] = 0.5
    user.ask("first")
    wait_until(lambda: bool(server.asked("/query")))
    user.ask("second")
    user.wait()
    assert [request.json()["text"] for request in server.asked("/heatmap")] == ["second"]


def test_an_answer_for_the_ct_before_is_not_shown(user, server, scene):
    server.delays["/query"] = 0.5
    user.ask("lesion")
    wait_until(lambda: bool(server.asked("/query")))
    user.choose(None)
    run_for(1.0)
    assert user.rows("hitsTable") == []


def test_a_closed_panel_is_called_no_more(user, server):
    server.delays["/query"] = 0.5
    user.ask("lesion")
    wait_until(lambda: bool(server.asked("/query")))
    user.widget.cleanup()
    run_for(1.0)
    assert user.rows("hitsTable") == []
