"""Processes and devices: one training step over all of them, on Lightning Fabric.

A step has one batch, however many processes share it. Each passes its crops through the model, in one go or
in several, keeps little of each (`training.views`), and all see the views of all: so contrastive losses
have the full batch, and the losses and weights are those of one process (up to rounding). Not the loop
(`training.run`).

Strategies: "ddp", and "fsdp", which is PyTorch's `fully_shard` (FSDP2): parameters, gradients and the
optimiser's state are divided among the processes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from core_model.inference import cpu_has, supports_bf16
from training.views import Views

STRATEGIES = ("auto", "ddp", "fsdp")
PRECISIONS = ("auto", "bf16", "32")


def trains_in_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 for training there, and right.

    Not on CPUs with AVX512-BF16 but no AMX (Zen 4): there oneDNN 3.12's gradient of the weights of a
    3x3x3 convolution in bfloat16 reads memory that nobody has written where the image has two layers.
    It then differs from run to run and now and then is infinite. Reading is not concerned.
    """
    return supports_bf16(device) and (device.type == "cuda" or cpu_has("amx_tile"))


@dataclass(frozen=True)
class Placement:
    """Where a run runs.

    Attributes
    ----------
    device: "cpu" or "cuda".
    devices: processes on each node; on a GPU machine one for each GPU.
    nodes: machines. With more than one, start the same command on each with torchrun or under SLURM.
    strategy: of `STRATEGIES`; "auto" is "ddp" where there are several processes.
    accumulate: passes that a process makes for one step. The batch stays whole; each pass is made twice.
    precision: of `PRECISIONS`; "auto" is bfloat16 where the hardware is fast with it and trains
        rightly with it (`trains_in_bf16`), else single.

    Raises
    ------
    ValueError: if a number is below 1, or there is no such strategy.
    """

    device: str = "cpu"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    accumulate: int = 1
    precision: str = "auto"

    def __post_init__(self) -> None:
        for name in ("devices", "nodes", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; 1 is the least")
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy {self.strategy!r} is unknown; choose of {', '.join(STRATEGIES)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision {self.precision!r} is unknown; choose of {', '.join(PRECISIONS)}")

    def autocast(self, device: torch.device) -> torch.autocast:
        """For passes of the model and its losses; without hardware for bfloat16 it would take minutes."""
        wanted = trains_in_bf16(device) if self.precision == "auto" else self.precision == "bf16"
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=wanted)

    @property
    def divides(self) -> bool:
        """Whether parameters are divided among the processes."""
        return self.strategy == "fsdp"

    @property
    def processes(self) -> int:
        """Of all nodes."""
        return self.devices * self.nodes

    def fabric(self) -> Fabric:
        """Fabric for it, not yet launched."""
        several = self.processes > 1
        strategy: Any = "auto"
        if self.divides:
            strategy = ModelParallelStrategy(
                _shard,
                data_parallel_size=self.processes,
                tensor_parallel_size=1,
                save_distributed_checkpoint=False,
            )
        elif several or self.strategy == "ddp":
            # Which parameters a step uses depends on its losses; their gradients may be of different steps.
            strategy = DDPStrategy(find_unused_parameters=True)
        kind = torch.device(self.device)
        devices: Any = [kind.index] if kind.index is not None and not several else self.devices
        return Fabric(
            accelerator="cuda" if kind.type == "cuda" else "cpu",
            devices=devices,
            num_nodes=self.nodes,
            strategy=strategy,
        )


def _shard(module: nn.Module, mesh: Any) -> nn.Module:
    for p in module.parameters():
        p.data = p.data.contiguous()  # what is divided cannot lie channels-last
    fully_shard(module, mesh=mesh["data_parallel"], ignored_params=set(_scalars(module)))
    return module


def _scalars(module: nn.Module) -> list[nn.Parameter]:
    """Scales and biases of cosines, which cannot be divided."""
    return [p for p in module.parameters() if p.ndim == 0]


class Forward(nn.Module):
    """A model behind one forward pass that does any work with it.

    DDP and FSDP prepare gradients and gather parameters in `forward`; a training step uses more of a model
    than its own forward pass has.

    Parameters
    ----------
    model: whose parameters the work uses.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], Any]) -> Any:
        """The outcome of some work."""
        return work()


class Team:
    """The processes of a run, as one of them sees them.

    Parameters
    ----------
    fabric: launched.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric

    @property
    def rank(self) -> int:
        """Number of this process."""
        return int(self.fabric.global_rank)

    @property
    def size(self) -> int:
        """Count of processes."""
        return int(self.fabric.world_size)

    def gather(self, tensors: Views) -> Views:
        """The rows of all processes in their order, with gradients back to each."""
        if self.size == 1:
            return tensors
        found = {}
        for key, value in tensors.items():
            stacked = self.fabric.all_gather(value.contiguous(), sync_grads=value.requires_grad)
            found[key] = cast(torch.Tensor, stacked).flatten(0, 1)
        return found

    def forward_module(self, model: nn.Module) -> Any:
        """The model on its device, behind `Forward`."""
        return self.fabric.setup_module(Forward(model))

    def quiet(self, module: Any, *, quiet: bool) -> AbstractContextManager[Any]:
        """Backward passes that gather gradients and leave exchanging them to a later one."""
        if quiet and self.size > 1:
            return self.fabric.no_backward_sync(module)
        return nullcontext()

    def clip(self, module: nn.Module, longest: float) -> None:
        """After a step's last backward pass: shorten the gradient of all parameters to a norm of `longest`.

        What `fully_shard` leaves alone gets the mean gradient of all processes first, as the rest has.
        """
        if not isinstance(self.fabric.strategy, ModelParallelStrategy):
            nn.utils.clip_grad_norm_(module.parameters(), longest)
            return
        common = [p.grad for p in _scalars(module) if p.grad is not None]
        for grad in common:
            grad.copy_(self._all_reduced(grad, "mean"))
        own = [p.grad.to_local() for p in module.parameters() if isinstance(p.grad, DTensor)]
        zero = torch.zeros((), device=self.fabric.device)
        here, everywhere = (sum((g.float().square().sum() for g in part), zero) for part in (own, common))
        norm = (self._all_reduced(here, "sum") + everywhere).sqrt()
        factor = (longest / (norm + 1e-6)).clamp_max(1.0)
        for grad in (*own, *common):
            grad.mul_(factor)

    def _all_reduced(self, tensor: torch.Tensor, how: str) -> torch.Tensor:
        return cast(torch.Tensor, self.fabric.all_reduce(tensor, reduce_op=how))


def share_of(batch: int, team_size: int, accumulate: int) -> int:
    """Crops of a batch that each process takes.

    Raises
    ------
    ValueError: if the batch cannot be divided among processes and passes.
    """
    if batch % (team_size * accumulate):
        raise ValueError(
            f"a batch of {batch} crops cannot be divided among {team_size} processes with {accumulate} "
            f"passes each; set [optimiser] batch to a multiple of {team_size * accumulate}"
        )
    return batch // team_size


__all__ = ["PRECISIONS", "STRATEGIES", "Forward", "Placement", "Team", "share_of"]
