"""A sum of decision trees as tensors of a checkpoint.

Grown elsewhere (`training.judge`, by LightGBM); here they only answer, so that a reader needs no other
library and a checkpoint stays tensors. Trees and not a network judge places: of so few positive ones they
learn more.
"""

from __future__ import annotations

import torch
from torch import nn


class BoostedTrees(nn.Module):
    """Regression trees on the same numbers, whose leaves add up.

    Parameters
    ----------
    trees: how many. 0: none are grown yet.
    leaves: of each, at most; 2 or more.

    Attributes
    ----------
    feature: (T, L - 1) int32, which number a node asks for.
    threshold: (T, L - 1), the greatest of that number that goes left.
    child: (T, L - 1, 2) int32, node on the left and right; below 0 a leaf, -1 - its index.
    value: (T, L), of the leaves.

    Raises
    ------
    ValueError: if a number of trees is below 0, or of leaves below 2.
    """

    feature: torch.Tensor
    threshold: torch.Tensor
    child: torch.Tensor
    value: torch.Tensor

    def __init__(self, trees: int, leaves: int) -> None:
        super().__init__()
        if trees < 0 or leaves < 2:
            raise ValueError(f"trees is {trees} and leaves {leaves}; 0 and 2 are the least")
        nodes = leaves - 1
        self.register_buffer("feature", torch.zeros(trees, nodes, dtype=torch.int32))
        self.register_buffer("threshold", torch.zeros(trees, nodes))
        self.register_buffer("child", torch.full((trees, nodes, 2), -1, dtype=torch.int32))
        self.register_buffer("value", torch.zeros(trees, leaves))

    def __len__(self) -> int:
        """The number of trees."""
        return len(self.feature)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, F) numbers -> (N,) sum of what the trees say; 0 without trees.

        Raises
        ------
        ValueError: if there are fewer numbers than the trees ask for.
        """
        if not len(self):
            return x.new_zeros(len(x))
        last = int(self.feature.max())
        if last >= x.shape[1]:
            raise ValueError(f"x has {x.shape[1]} numbers, the trees ask for number {last}")
        trees = torch.arange(len(self), device=x.device)[None].expand(len(x), -1)  # (N, T)
        rows = torch.arange(len(x), device=x.device)[:, None]
        node = torch.zeros_like(trees)
        while bool((node >= 0).any()):
            here = node.clamp_min(0)
            asked = x[rows, self.feature[trees, here].long()]  # (N, T)
            right = (asked > self.threshold[trees, here]).long()
            node = torch.where(node >= 0, self.child[trees, here, right].long(), node)
        return self.value[trees, -1 - node].sum(1)
