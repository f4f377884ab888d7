"""One frozen encoder under several checkpoints: each tile of a scan is encoded once for all of them.

A checkpoint, its ablations and its vanilla CLIP baseline differ in what follows on the encoder, and
the encoder is what costs. Remembers one patient at a time; knows no benchmark.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import nn

from core_model.image_encoder import ImageEncoder, ImageFeatures
from core_model.model import SightlineModel
from training.stored_windows import encoder_digest


class SharedEncoder(nn.Module):
    """An image encoder that answers a tile it has seen from memory; of one device and one precision.

    Attributes
    ----------
    encoded, remembered: how many tiles were encoded, and how many were not because they were known.
    """

    def __init__(self, encoder: ImageEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.channels, self.stride = encoder.channels, encoder.stride
        self.organ_head = encoder.organ_head
        self.encoded = self.remembered = 0
        self._known: dict[str, ImageFeatures] = {}

    def forward(self, x: torch.Tensor) -> ImageFeatures:
        """As `ImageEncoder.forward`; the result is shared, so nobody may write into it."""
        content = x.detach().float().cpu().contiguous().numpy().tobytes()
        key = hashlib.sha256(repr(tuple(x.shape)).encode() + content).hexdigest()
        if key in self._known:
            self.remembered += 1
        else:
            self.encoded += 1
            self._known[key] = self.encoder(x)
        return self._known[key]

    def forget(self) -> None:
        """Drop every tile; to be called between patients."""
        self._known.clear()


def share_encoder(models: Sequence[SightlineModel]) -> SharedEncoder:
    """Put one encoder under all of some models.

    Raises
    ------
    ValueError: if there is no model, or their encoders differ.
    """
    if not models:
        raise ValueError("models is empty; one at least has an encoder to share")
    digests = [encoder_digest(m) for m in models]
    other = next((d for d in digests if d != digests[0]), None)
    if other is not None:
        raise ValueError(
            f"the checkpoints' encoders differ ({digests[0]} and {other}); "
            "only checkpoints of one frozen encoder are read together"
        )
    shared = SharedEncoder(models[0].image)
    for model in models:
        model.add_module("image", shared)
    return shared
