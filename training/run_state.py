"""Tensors of a run as they are without any strategy: whole, by parameter name, on the CPU.

So a state that one strategy and number of processes saved is loaded by any other. Not a checkpoint of a model
(`core_model.checkpoint`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(value: Any) -> Any:
    """A tensor without its distribution, on the CPU; anything else as it is. All processes must ask."""
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value.detach().cpu() if isinstance(value, torch.Tensor) else value


def module_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """A module's state, whole."""
    return {name: whole(value) for name, value in module.state_dict().items()}


def load_module_state(module: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Take over what `module_state` gave.

    Raises
    ------
    ValueError: if names or shapes differ.
    """
    own = module.state_dict()
    different = sorted(
        set(own) ^ set(state) or {k for k in own if tuple(own[k].shape) != tuple(state[k].shape)}
    )
    if different:
        raise ValueError(
            f"the saved state does not fit this model at {different[0]!r}; "
            "name the run's own config, or another folder for a new run"
        )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(_as(state[name], value))


def optimiser_state(module: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    """What an optimiser keeps of each parameter of `module`, by the parameter's name."""
    names = {id(p): name for name, p in module.named_parameters()}
    return {
        names[id(p)]: {key: whole(value) for key, value in optimiser.state[p].items()}
        for p in _parameters(optimiser)
        if p in optimiser.state
    }


def load_optimiser_state(
    module: nn.Module, optimiser: torch.optim.Optimizer, state: Mapping[str, Mapping[str, Any]]
) -> None:
    """Take over what `optimiser_state` gave."""
    names = {id(p): name for name, p in module.named_parameters()}
    for p in _parameters(optimiser):
        kept = state.get(names[id(p)])
        if kept is not None:
            optimiser.state[p] = {
                key: _as(value, p) if isinstance(value, torch.Tensor) and value.shape == p.shape else value
                for key, value in kept.items()
            }


def _parameters(optimiser: torch.optim.Optimizer) -> Iterable[torch.Tensor]:
    return (p for group in optimiser.param_groups for p in group["params"])


def _as(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A whole tensor, distributed and placed as another one of its shape."""
    value = value.to(like.device)
    if isinstance(like, DTensor):
        return distribute_tensor(value, like.device_mesh, like.placements)
    return value.clone(memory_format=torch.preserve_format)


__all__ = ["load_module_state", "load_optimiser_state", "module_state", "optimiser_state", "whole"]
