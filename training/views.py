"""Views: what the objective keeps of each crop, as tensors with one row per crop.

They are small (embeddings and sums, no voxels), so that the views of many crops fit where their features
would not: of several passes one after another, and of several processes. Not the objective itself.

Keys, each (B, ...): "truth" (A) findings; "organs", "half_organs", "quarter_organs" (4, 1 + O) of
`training.losses.organ_rows`; "pooled" (O, E) organ embeddings; "in_view" (O); "masks" (T, 3) of `mask_rows`;
"findings" (T, 2) scores and truth; "localization", "snippets" (2) sum and count of losses; "volume" (E);
and of `training.own_words.own_words_rows`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

Views = dict[str, torch.Tensor]


def join(views: Sequence[Views]) -> Views:
    """The views of several batches as those of one, in their order."""
    return {key: torch.cat([v[key] for v in views]) for key in views[0]}


def with_gradient(views: Views) -> tuple[str, ...]:
    """The keys that a loss can be derived by, in an order that is the same everywhere."""
    return tuple(sorted(key for key, value in views.items() if value.requires_grad))


def as_leaves(views: Views) -> Views:
    """The same numbers, each floating tensor a leaf of its own that gathers a gradient."""
    return {
        key: value.detach().requires_grad_() if value.is_floating_point() else value
        for key, value in views.items()
    }


def surrogate(live: Views, leaves: Views) -> torch.Tensor:
    """A number whose gradient is what a loss of `leaves` would give the crops of `live`.

    By the chain rule: the gradient that reached the leaves, times the live views (as in Gao et al., "Scaling
    deep contrastive learning batch size under memory limited setup").

    Parameters
    ----------
    leaves: of `as_leaves`, after the loss's backward pass; the same crops as `live`.
    """
    pairs = [(live[k], leaves[k].grad) for k in with_gradient(live)]
    terms = [(value * grad).sum() for value, grad in pairs if grad is not None]
    return torch.stack(terms).sum() if terms else torch.zeros(())


__all__ = ["Views", "as_leaves", "join", "surrogate", "with_gradient"]
