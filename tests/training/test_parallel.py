"""Several processes, several passes, another strategy: the same losses and weights as one process.

Real processes with gloo on loopback. A run goes on with another number of them.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import nn

from tests.training import tiny_run
from tests.training.small_shards import small_shards
from tests.training.tiny_run import go, shrink, small_config
from training.parallel import Placement, share_of
from training.run import Run
from training.settings import Settings
from training.start import new_model

STEPS = 3


@dataclass(frozen=True)
class Scenario:
    """A run of two processes that starts where a folder's state is."""

    name: str
    strategy: str
    accumulate: int
    steps: int = STEPS


SCENARIOS = (
    Scenario("ddp", "ddp", 1),
    Scenario("passes", "ddp", 2),
    Scenario("divided", "fsdp", 1),
    Scenario("divided-passes", "fsdp", 2),
)


def settings_of(steps: int) -> Settings:
    """Every loss at once, in four crops a step."""
    settings = small_config("grounded.toml", steps=100)
    return replace(settings, optimiser={**settings.optimiser, "batch": 4, "steps": steps, "freeze": []})


def run_of(folder: Path, shards: Path, placement: Placement, steps: int = STEPS) -> Run:
    return go(Run(settings_of(steps), folder, [], placement, shards=shards))


def _worker(rank: int, port: int, folder: Path, scenarios: Sequence[Scenario]) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "GLOO_SOCKET_IFNAME": "lo"}
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        for one in scenarios:
            placement = Placement("cpu", 2, strategy=one.strategy, accumulate=one.accumulate, precision="32")
            run = run_of(folder / one.name, folder / "shards", placement, one.steps)
            torch.save({"running": run.running, "rank": run.team.rank}, folder / one.name / f"seen-{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs of all scenarios, and of one process alone."""
    folder = tmp_path_factory.mktemp("parallel")
    small_shards(folder / "shards")
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        run_of(folder / "one", folder / "shards", Placement("cpu", precision="32"))
        run_of(folder / "one-passes", folder / "shards", Placement("cpu", accumulate=4, precision="32"))
        run_of(folder / "whole", folder / "shards", Placement("cpu", precision="32"), STEPS + 2)
    shutil.copytree(folder / "one", folder / "more")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    wanted = (*SCENARIOS, Scenario("more", "fsdp", 1, STEPS + 2))
    multiprocessing.set_forkserver_preload(
        [tiny_run.__name__, Run.__module__]
    )  # torch is imported once, not twice
    torch.multiprocessing.start_processes(  # type: ignore[no-untyped-call]
        _worker, (port, folder, wanted), nprocs=2, start_method="forkserver"
    )
    return folder


def state_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / "state.pt", weights_only=True)
    return found


def assert_same(one: Path, other: Path) -> None:
    a, b = state_of(one), state_of(other)
    assert a["running"] == pytest.approx(b["running"], rel=2e-4, abs=1e-6)
    assert a["step"] == b["step"]
    assert a["optimiser"].keys() == b["optimiser"].keys()
    for name, kept in a["optimiser"].items():  # mean gradients: weights hide their size and show their noise
        mean, another = kept["exp_avg"], b["optimiser"][name]["exp_avg"]
        assert float((mean - another).norm()) < 1e-2 * float(mean.norm()) + 1e-5, name
    assert weights_apart(a["average"], b["average"]) < 0.05 * weights_apart(a["average"], untrained())


def weights_apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """How far two models are from each other."""
    return float(torch.stack([(one[k] - other[k]).float().norm() for k in one]).norm())


def untrained() -> dict[str, torch.Tensor]:
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        return new_model(settings_of(1)).state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("name", [s.name for s in SCENARIOS])
def test_two_processes_give_the_losses_and_weights_of_one(runs: Path, name: str) -> None:
    assert_same(runs / "one", runs / name)
    seen = [torch.load(runs / name / f"seen-{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert [s["rank"] for s in seen] == [0, 1]
    assert seen[0]["running"] == pytest.approx(seen[1]["running"], rel=1e-6)


def test_passes_give_the_losses_and_weights_of_one_go(runs: Path) -> None:
    assert_same(runs / "one", runs / "one-passes")


def test_a_run_goes_on_with_other_processes_and_another_strategy(runs: Path) -> None:
    assert_same(runs / "whole", runs / "more")


def test_the_batch_matters_to_the_losses(runs: Path) -> None:
    assert state_of(runs / "one")["running"]["abnormality_text"] != pytest.approx(
        state_of(runs / "whole")["running"]["abnormality_text"], rel=1e-3
    )


@pytest.mark.parametrize(("batch", "size", "passes", "share"), [(4, 2, 1, 2), (8, 2, 2, 4), (1, 1, 1, 1)])
def test_a_batch_is_divided(batch: int, size: int, passes: int, share: int) -> None:
    assert share_of(batch, size, passes) == share


def test_a_batch_that_cannot_be_divided() -> None:
    with pytest.raises(ValueError, match="a batch of 6 crops cannot be divided among 2 processes with 2"):
        share_of(6, 2, 2)


@pytest.mark.parametrize(
    "wrong", [{"devices": 0}, {"nodes": 0}, {"accumulate": -1}, {"strategy": "dp"}, {"precision": "16"}]
)
def test_a_placement_that_makes_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"1 is the least|choose of auto, "):
        Placement(**wrong)


@pytest.mark.parametrize("threads", [1, 2])
def test_gradients_of_the_precision_that_is_chosen_are_the_same_each_time(threads: int) -> None:
    """What oneDNN does in bfloat16 on some processors: a gradient of memory that nobody has written."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    convolution = nn.Conv3d(16, 8, 3, padding=1, bias=False)
    x = torch.linspace(-1, 1, 16 * 12).reshape(1, 16, 2, 2, 3)
    gradients = []
    for _ in range(8):
        junk = [torch.full((10**k,), torch.nan) for k in range(3, 7)]
        del junk  # what is allocated next lies there
        convolution.zero_grad()
        with Placement().autocast(torch.device("cpu")):
            convolution(x.clone().requires_grad_()).float().square().sum().backward()
        gradients.append(convolution.weight.grad)
    torch.set_num_threads(before)
    assert all(torch.equal(g, gradients[0]) for g in gradients)
