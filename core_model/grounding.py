"""Grounding: organ pooling, text-conditioned masks, and where in the scan a text is.

Pure functions and small modules on tensors; no volumes, no DICOM. Organ pooling has the two
forms known of the field: the mean of the organ's features (CT-GLIP) and attention restricted
to its mask (RADAR, fVLM); a third that concatenates both is our choice.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

LESION_TOP_VOXELS = 8  # at 4 mm: 0.5 ml, a 10 mm lesion; our choice
MIN_SHARE = 0.002  # of a cell that an organ has to fill to be pooled from it; our choice
PROBABILITY_LIMIT = 1e-4  # probabilities are kept that far from 0 and 1 before their logit is taken


POOLINGS = ("mean", "attention", "both")


class OrganPooling(nn.Module):
    """One embedding per organ from grid features and organ masks.

    Parameters
    ----------
    width: channels E of the grid features.
    n_organs: number of organs; each has its own query.
    form: "mean": average over the mask, no parameters (CT-GLIP); "attention": the organ's query
        attends to the cells of its mask (RADAR and fVLM; one head and one projection for all
        organs are our choice); "both": the two concatenated and projected.

    Raises
    ------
    ValueError: if there is no such form.
    """

    def __init__(self, width: int, n_organs: int, form: str = "both") -> None:
        super().__init__()
        if form not in POOLINGS:
            raise ValueError(f"pooling is {form!r}; choose of {', '.join(POOLINGS)}")
        self.form = form
        if form != "mean":
            self.queries = nn.Parameter(torch.randn(n_organs, width) * width**-0.5)
            self.project = nn.Linear(2 * width if form == "both" else width, width)

    def forward(self, grid: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Pool.

        Parameters
        ----------
        grid: (B, E, d, h, w) features.
        masks: (B, O, d, h, w) in 0..1, share of each cell that is organ o.

        Returns
        -------
        (B, O, E) unit length; organs without a mask get an arbitrary but finite vector.
        """
        # Most cells are no part of an organ, so only those that are get multiplied.
        n_organs, n_cells = masks.shape[1], masks[0, 0].numel()
        sample, organ, cell = (masks.flatten(2) >= MIN_SHARE).nonzero(as_tuple=True)  # (M,) each
        share = masks.flatten(2)[sample, organ, cell].to(grid.dtype)
        features = grid.flatten(2).transpose(1, 2).flatten(0, 1)  # (B * N, E)
        features = features.index_select(0, sample * n_cells + cell)  # (M, E)
        row = sample * n_organs + organ
        size = (len(grid) * n_organs, features.shape[1])

        def pool(weight: torch.Tensor) -> torch.Tensor:
            total = weight.new_zeros(size[0]).index_add(0, row, weight).clamp_min(1e-4)
            sums = features.new_zeros(size).index_add(0, row, features * weight[:, None])
            return (sums / total[:, None]).reshape(-1, n_organs, size[1])  # (B, O, E)

        parts = [] if self.form == "attention" else [pool(share)]
        if self.form == "mean":
            return F.normalize(parts[0], dim=-1)  # (B, O, E)
        # Not queries[organ]: the gradient of indexing is summed up in another order each time.
        queries = self.queries.to(grid.dtype).index_select(0, organ)  # (M, E)
        scores = (features * queries).sum(1) + share.log()  # (M,)
        # Softmax over each organ's cells; what is subtracted changes nothing but overflow.
        highest = scores.new_full(size[:1], -torch.inf).scatter_reduce(0, row, scores.detach(), "amax")
        parts.append(pool((scores - highest[row]).exp()))
        return F.normalize(self.project(torch.cat(parts, -1)), dim=-1)  # (B, O, E)


class Summary(nn.Module):
    """One embedding of many grid cells: an axial slab, or the whole volume.

    RadFinder averages a slab's tokens in plane and projects them with a projector of its own
    (model.md 2.2). A mean dilutes small things, so a few learned queries look at the cells too
    (our choice).

    Parameters
    ----------
    width: channels E of the grid features and of the result.
    queries: learned queries beside the mean.
    """

    def __init__(self, width: int, queries: int = 4) -> None:
        super().__init__()
        self.score = nn.Linear(width, queries)
        many = (queries + 1) * width
        self.project = nn.Sequential(
            nn.LayerNorm(many), nn.Linear(many, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, cells: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """Summarise.

        Parameters
        ----------
        cells: (N, M, E), M cells of each of N sets.
        inside: (N, M) bool, the cells that count; a set without any is summarised as a whole.

        Returns
        -------
        (N, E) unit length.
        """
        outside = ~inside[..., None]  # (N, M, 1)
        scores = torch.cat([torch.zeros_like(cells[..., :1]), self.score(cells)], -1)
        weights = scores.masked_fill(outside, -1e4).softmax(1)  # (N, M, 1 + Q); the first is the mean
        parts = torch.einsum("nmq,nme->nqe", weights, cells).flatten(1)
        return F.normalize(self.project(parts), dim=-1)  # (N, E)


def text_masks(dense: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Mask logits of each text.

    Parameters
    ----------
    dense: (B, C, D, H, W) dense embedding.
    weight: (T, C), bias: (T,): each text's classifier, made from its embedding.

    Returns
    -------
    (B, T, D, H, W) logits.
    """
    logits = torch.einsum("bcdhw,tc->btdhw", dense, weight.to(dense.dtype))
    return logits + bias.to(dense.dtype)[:, None, None, None]


def top_logit(
    probabilities: torch.Tensor, region: torch.Tensor | None = None, k: int = LESION_TOP_VOXELS
) -> torch.Tensor:
    """Logit of the mean of the `k` largest probabilities, inside a region if there is one.

    Parameters
    ----------
    probabilities: (B, T, D, H, W) in 0..1.
    region: (B, T, D, H, W) bool, where each text's evidence may lie; None: anywhere.

    Returns
    -------
    (B, T) logits; strongly negative where the region is empty.
    """
    inside = (probabilities if region is None else probabilities * region).flatten(2)  # (B, T, N)
    top = inside.topk(min(k, inside.shape[-1]), dim=-1).values.mean(-1)
    return torch.logit(top, PROBABILITY_LIMIT)  # (B, T)


def cell_logits(grid: torch.Tensor, text: torch.Tensor, scale: torch.Tensor | float) -> torch.Tensor:
    """Scaled cosine of every grid cell with every text.

    Parameters
    ----------
    grid: (B, E, d, h, w), any length.
    text: (B, T, E) unit length.

    Returns
    -------
    (B, T, d, h, w).
    """
    unit = F.normalize(grid.float(), dim=1)
    return torch.einsum("bedhw,bte->btdhw", unit, text.float()) * scale
