"""The model: image encoder, text tower and grounding put together.

Only the network. Volumes go in and come out through `core_model.reader`; losses live in
`training.losses`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from core_model.abnormality import abnormalities
from core_model.anatomy import organs
from core_model.candidates import CandidateJudge
from core_model.grounding import POOLINGS, OrganPooling, Summary
from core_model.image_encoder import ImageEncoder, ImageFeatures, upsampling
from core_model.model_parts import PARTS, modules_of
from core_model.point_decoder import PointDecoder
from core_model.second_look import SecondLook
from core_model.text_encoder import TextEncoder

PROJECTORS = ("shared", "separate")
DECODER_ORGANS = ("drawn", "kept")
SLAB_MM = 12.0  # RadFinder's slabs (model.md 2.2)


@dataclass(frozen=True)
class ModelConfig:
    """Everything that is needed to build the network before its tensors are loaded.

    Attributes
    ----------
    spacing_mm: isotropic voxel size that the network reads.
    window: (D, H, W) voxels of a training crop and of the reader's sliding window.
    channels: widths of the image encoder, finest first.
    width: E, size of the joint image-text space.
    dense_width: C, size of the space in which text-conditioned masks are made.
    text: keyword arguments of `transformers.BertConfig`.
    pooling: form of `grounding.OrganPooling`, "mean", "attention" or "both".
    projectors: "shared": slabs and the whole volume are means in the joint space; "separate":
        they have projectors of their own, and reports a text head of their own (RadFinder).
    decoder_organs: which organs the lesion decoder reads: "drawn", those of the organ heads; "kept", those
        that these drew when it was trained, by a copy of the head, so that organs can be learnt
        afterwards without moving what the decoder sees. Our choice.
    second_look: the abnormalities whose masks are drawn again (`core_model.second_look`), in this order; none
        where there is no such network.
    organs_again: whether the second look draws the organs again as well.
    look_mirrored: whether it sees each scan mirrored as well.

    Raises
    ------
    ValueError: if a form or an abnormality is not known, or the slabs of separate projectors (one layer of
        the grid, two voxels) were thicker than 12 mm.
    """

    spacing_mm: float = 4.0
    window: tuple[int, int, int] = (64, 64, 96)
    channels: tuple[int, ...] = (24, 48, 96, 160, 208)
    width: int = 64
    dense_width: int = 32
    text: dict[str, Any] = field(default_factory=dict)
    pooling: str = "both"
    projectors: str = "shared"
    decoder_organs: str = "drawn"
    second_look: tuple[str, ...] = ()
    organs_again: bool = False
    look_mirrored: bool = False

    def __post_init__(self) -> None:
        if self.decoder_organs not in DECODER_ORGANS:
            raise ValueError(
                f"decoder_organs is {self.decoder_organs!r}; choose of {', '.join(DECODER_ORGANS)}"
            )
        unknown = sorted(set(self.second_look) - {a.name for a in abnormalities()})
        if unknown:
            raise ValueError(f"second_look names {unknown[0]!r}, which is not in the abnormality dictionary")
        for name in ("organs_again", "look_mirrored"):
            if getattr(self, name) and not self.second_look:
                raise ValueError(f"{name} needs a second look; second_look names no abnormality")
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling is {self.pooling!r}; choose of {', '.join(POOLINGS)}")
        if self.projectors not in PROJECTORS:
            raise ValueError(f"projectors is {self.projectors!r}; choose of {', '.join(PROJECTORS)}")
        if self.projectors == "separate" and 2 * self.spacing_mm > SLAB_MM:
            raise ValueError(
                f"spacing_mm is {self.spacing_mm:g}; separate projectors need {SLAB_MM / 2:g} or less, "
                f"because their slabs are at most {SLAB_MM:g} mm thick"
            )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """From JSON.

        Raises
        ------
        ValueError: if a key is not known; the message names it.
        """
        unknown = set(values) - set(cls.__dataclass_fields__)
        if unknown:
            raise ValueError(
                f"model config has unknown key {sorted(unknown)[0]!r}; it was written by another version"
            )
        tuples: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**tuples)


@dataclass(frozen=True)
class Encoded:
    """A window's features in the joint spaces.

    Attributes
    ----------
    organ_logits: (B, 1 + O, D, H, W).
    dense: (B, C, D, H, W), for text-conditioned masks.
    grid: (B, E, D/2, H/2, W/2), for grounding and localization.
    coarse_organ_logits: (B, 1 + O, D/2, H/2, W/2) and (B, 1 + O, D/4, H/4, W/4), for deep
        supervision (as nnU-Net); the first is already part of `organ_logits`.
    """

    organ_logits: torch.Tensor
    dense: torch.Tensor
    grid: torch.Tensor
    coarse_organ_logits: tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class EncodedText:
    """Texts in the joint spaces.

    Attributes
    ----------
    embedding: (T, E) unit length.
    mask_weight: (T, C), mask_bias: (T,): the classifier that finds the text's voxels.
    judge_weight: (T, C), judge_bias: (T,): how the text weighs what is seen of a whole candidate.
    report: (T, E) unit length, in the space of whole volumes; `embedding` where the two are shared.
    """

    embedding: torch.Tensor
    mask_weight: torch.Tensor
    mask_bias: torch.Tensor
    judge_weight: torch.Tensor
    judge_bias: torch.Tensor
    report: torch.Tensor


@dataclass(frozen=True)
class Summaries:
    """A volume and its slabs in the joint spaces.

    Attributes
    ----------
    volume: (B, E) unit length, to compare with reports.
    slabs: (B, d, E) unit length, one per grid layer, to compare with snippets; zero where a layer
        has no body and the projectors are shared.
    """

    volume: torch.Tensor
    slabs: torch.Tensor


def _text_head(width: int, out: int) -> nn.Sequential:
    """From a sentence embedding into another space.

    The layer norm matters: components of a unit vector are so small that without it all texts
    look alike to the first layer, and learning to tell them apart takes many times longer.
    """
    hidden = 2 * width
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out))


class SightlineModel(nn.Module):
    """Image and text in one space, organ masks and text-conditioned masks.

    Parameters
    ----------
    config: sizes; `config.text` describes the text tower.
    tokenizer: content of the text tower's ``tokenizer.json``.
    """

    def __init__(self, config: ModelConfig, tokenizer: str) -> None:
        super().__init__()
        self.config = config
        n_organs = len(organs())
        self.image = ImageEncoder(config.channels, n_organs)
        self.text = TextEncoder(config.text, tokenizer)
        _, half, quarter = self.image.channels
        # Projected before upsampling: wide features at full resolution cost more than the network.
        self.half_to_grid = nn.Conv3d(half, config.width, 1)
        self.quarter_to_grid = upsampling(quarter, config.width)
        self.organ_pooling = OrganPooling(config.width, n_organs, config.pooling)
        self.text_to_joint = _text_head(self.text.width, config.width)
        self.text_to_mask = _text_head(self.text.width, config.dense_width + 1)
        # Cosines are small numbers: learnable scales, as in CLIP and SigLIP.
        self.cell_scale = nn.Parameter(torch.tensor(10.0))
        self.prompt_scale = nn.Parameter(torch.tensor(5.0))
        self.organ_scale = nn.Parameter(torch.tensor(10.0))
        self.global_scale = nn.Parameter(torch.tensor(10.0))
        self.global_bias = nn.Parameter(torch.tensor(-1.0))
        # How prompt evidence and mask evidence add up to a finding's logit; our choice.
        self.evidence = nn.Parameter(torch.tensor([1.0, 0.5, 0.0]))
        self.lesion_decoder = PointDecoder(n_organs, config.dense_width)
        self.candidate_judge = CandidateJudge(n_organs, config.dense_width)
        self.text_to_judge = _text_head(self.text.width, config.dense_width + 1)
        for parameter in self.text_to_judge[-1].parameters():
            nn.init.zeros_(parameter)  # an untrained judge leaves every score as it is
        # Which organ it is, is decided at half resolution; the finest level corrects the border.
        self.half_organ_head = nn.Conv3d(half, n_organs + 1, 1)
        self.quarter_organ_head = nn.Conv3d(quarter, n_organs + 1, 1)
        nn.init.zeros_(self.half_organ_head.weight)
        if self.half_organ_head.bias is not None:
            nn.init.zeros_(self.half_organ_head.bias)
        self.kept_organ_head: nn.Conv3d | None = None
        if config.decoder_organs == "kept":
            self.kept_organ_head = nn.Conv3d(half, n_organs + 1, 1).requires_grad_(False)
        self.second_look: SecondLook | None = None
        if config.second_look:
            again, mirrored = config.organs_again, config.look_mirrored
            kinds = len(config.second_look)
            self.second_look = SecondLook(kinds, n_organs, organs_again=again, mirrored=mirrored)
        self.separate = config.projectors == "separate"
        if self.separate:
            nn.init.constant_(self.global_bias, -10.0)  # SigLIP's start, which RadFinder takes over
            self.slab_summary = Summary(config.width)
            self.volume_summary = Summary(config.width)
            self.text_to_report = _text_head(self.text.width, config.width)

    def channels_last(self) -> None:
        """Lay convolution weights out channels-last, which AMX and tensor cores want."""
        # Some torch versions annotate this keyword and some do not: both must pass the type check.
        to: Any = self.to
        to(memory_format=torch.channels_last_3d)

    def freeze(self, parts: Iterable[str]) -> None:
        """Keep parts as they are, for a training stage that works on the others.

        Parameters
        ----------
        parts: of `core_model.model_parts.PARTS`.

        Raises
        ------
        ValueError: if there is no such part.
        """
        own = dict(self.named_modules())
        for name in modules_of(parts):
            if name in own:  # not every model keeps an organ head
                own[name].requires_grad_(False)

    def thaw_organ_heads(self, names: Iterable[str]) -> None:
        """Train the organ heads' answers for some organs, whatever is frozen; those for others stay.

        Parameters
        ----------
        names: of reading organs.

        Raises
        ------
        ValueError: if there is no such organ.
        """
        labels = {o.name: o.label for o in organs()}
        wrong = sorted(set(names) - set(labels))
        if wrong:
            raise ValueError(f"organ {wrong[0]!r} is unknown; choose of {', '.join(labels)}")
        rows = torch.zeros(1 + len(labels))
        rows[[labels[name] for name in names]] = 1
        for part in PARTS["organ_heads"]:
            for parameter in self.get_submodule(part).parameters():  # (1 + O, ...)
                parameter.requires_grad_(True)
                shape = (-1, *[1] * (parameter.ndim - 1))
                parameter.register_hook(  # type: ignore[no-untyped-call]
                    lambda grad, shape=shape: grad * rows.to(grad).view(shape)
                )

    def encode_image(self, x: torch.Tensor, *, lesions: bool = True) -> Encoded:
        """(B, 2, D, H, W) windowed CT -> `Encoded`; without `lesions` its `dense` has no channel."""
        return self.encode_features(self.image(x), x, lesions=lesions)

    def encode_features(self, features: ImageFeatures, x: torch.Tensor, *, lesions: bool = True) -> Encoded:
        """What follows on the image encoder, which a frozen one need not repeat.

        Parameters
        ----------
        features: of `x`. Organ logits without channels (B, 0, D, H, W) are made of the finest level;
            where that has no channels either, the result has no organ logits.
        x, lesions: as `encode_image`.
        """
        half_logits = self.half_organ_head(features.half)
        organ_logits = features.organ_logits
        if not organ_logits.shape[1] and features.fine.shape[1]:
            organ_logits = self.image.organ_head(features.fine)
        if organ_logits.shape[1]:
            organ_logits = organ_logits + F.interpolate(half_logits, scale_factor=2.0, mode="nearest")
        read = self.decoder_organs(features.half, half_logits)
        return Encoded(
            organ_logits=organ_logits,
            coarse_organ_logits=(half_logits, self.quarter_organ_head(features.quarter)),
            dense=self.lesion_decoder(x, read) if lesions else x[:, :0],
            grid=self.half_to_grid(features.half) + self.quarter_to_grid(features.quarter),
        )

    def decoder_organs(self, half: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """(B, 1 + O, D/2, H/2, W/2) organ logits that the lesion decoder reads; see `ModelConfig`.

        Parameters
        ----------
        half: features of that resolution.
        drawn: what `half_organ_head` makes of them.
        """
        return drawn if self.kept_organ_head is None else self.kept_organ_head(half)

    def encode_text(self, texts: Sequence[str]) -> EncodedText:
        """Texts -> `EncodedText`."""
        return self.project_text(self.text(texts))

    def project_text(self, sentence: torch.Tensor) -> EncodedText:
        """(T, width of the tower) sentence embeddings -> `EncodedText`; lets callers cache the tower."""
        joint = F.normalize(self.text_to_joint(sentence), dim=-1)  # (T, E)
        mask = self.text_to_mask(sentence)  # (T, C + 1)
        report = F.normalize(self.text_to_report(sentence), dim=-1) if self.separate else joint
        judge = self.text_to_judge(sentence)  # (T, C + 1)
        # The bias starts low: most voxels carry no lesion.
        return EncodedText(joint, mask[:, :-1], mask[:, -1] - 4.0, judge[:, :-1], judge[:, -1], report)

    def summarise(self, grid: torch.Tensor, inside: torch.Tensor) -> Summaries:
        """A volume and its slabs.

        Parameters
        ----------
        grid: (B, E, d, h, w) float32, any length.
        inside: (B, d, h, w) bool, the cells that show the body.
        """
        if not self.separate:
            unit = F.normalize(grid, dim=1) * inside[:, None]  # (B, E, d, h, w)
            slabs = F.normalize(unit.sum((3, 4)), dim=1).transpose(1, 2)
            return Summaries(F.normalize(unit.sum((2, 3, 4)), dim=1), slabs)
        cells = grid.permute(0, 2, 3, 4, 1).flatten(2, 3)  # (B, d, h * w, E)
        body = inside.flatten(2)  # (B, d, h * w)
        slabs = self.slab_summary(cells.flatten(0, 1), body.flatten(0, 1))  # (B * d, E)
        volume = self.volume_summary(cells.flatten(1, 2), body.flatten(1))
        return Summaries(volume, slabs.unflatten(0, grid.shape[:1] + grid.shape[2:3]))

    def candidate_logits(
        self, described: torch.Tensor, evidence: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        """Logits that candidates are what their text says.

        Parameters
        ----------
        described: (N, F) of `core_model.candidates.CandidateView.describe`.
        evidence: (N,) `core_model.candidates.evidence` of the scores that their masks gave.
        weight: (N, C), bias: (N,): `EncodedText.judge_weight` and `judge_bias` of their texts.

        Returns
        -------
        (N,) logits; `evidence` before training.
        """
        judged: torch.Tensor = self.candidate_judge(described)  # (N, C)
        return evidence + (judged * weight).sum(1) + bias

    def finding_logits(
        self, organ: torch.Tensor, present: torch.Tensor, absent: torch.Tensor, mask_logit: torch.Tensor
    ) -> torch.Tensor:
        """Logit that an abnormality is present.

        Parameters
        ----------
        organ: (B, A, E) embedding of the organ of each abnormality.
        present, absent: (A, E) text embeddings for and against (RadFinder's prompt supervision).
        mask_logit: (B, A) `grounding.top_logit` of its text-conditioned mask.

        Returns
        -------
        (B, A) logits.
        """
        prompt = torch.einsum("bae,ae->ba", organ, present - absent) * self.prompt_scale
        return self.evidence[0] * prompt + self.evidence[1] * mask_logit + self.evidence[2]
