"""What the network's masks say of the dictionary's abnormalities: candidates, lesions, findings.

Works on the features of one scan (`core_model.inference.ScanFeatures`); knows neither how they were
made nor what is kept of them. `core_model.reader` is who asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import highdicom as hd
import numpy as np
import torch

from core_model.abnormality import Abnormality, abnormality
from core_model.anatomy import organ
from core_model.candidates import CandidateView, candidates, describe_all, evidence
from core_model.grounding import text_masks, top_logit
from core_model.inference import ScanFeatures
from core_model.lesions import Component, measure
from core_model.masks import Region, paste, region_of
from core_model.model import EncodedText, SightlineModel
from core_model.parts import without_strays
from core_model.reading import Finding, Lesion, OrganReading, point_lps
from core_model.second_look import LEAST_LOGIT
from core_model.thresholds import Thresholds

MAX_LESIONS = 20  # of one kind in one study; the most probable are kept
OUTLINE = 0.15  # share of its highest probability down to which the second look outlines a lesion; our choice
SECOND_PIECE = 0.05  # probability that holds a piece of the second look's own together; by training patients


@dataclass(frozen=True)
class Seen:
    """What the masks of one scan show.

    Attributes
    ----------
    masks: (A, D, H, W) probability that a voxel shows each abnormality, in the detector's order; zero where
        it is not searched.
    candidates: of each abnormality, with the scores of the judge or of the second look (`seconded`), highest
        first; none where it is no tumour.
    """

    masks: torch.Tensor
    candidates: tuple[tuple[Component, ...], ...]


def seconded(found: Sequence[Component], drawn: torch.Tensor) -> tuple[Component, ...]:
    """Candidates as the second look sees them.

    Of tumours of liver and lung it finds fewer by itself: where it is not sure, it draws crumbs of them. Of
    others it finds more, as first masks hardly show them (`Thresholds.second_pieces`).

    Parameters
    ----------
    found: pieces of the first mask, or of `drawn`.
    drawn: (D, H, W) probability of the second look.

    Returns
    -------
    Each with the highest probability in it as score, cut down to `OUTLINE` of that; highest score first.
    Those in which nothing is drawn are left out.
    """
    probability = drawn.numpy()
    again = []
    for piece in found:
        highest = float(probability[piece.mask].max())
        if highest > 0:
            mask = piece.mask & (probability >= OUTLINE * highest)
            again.append(Component(mask, highest, int(mask.sum())))
    return tuple(sorted(again, key=lambda c: -c.score))


@dataclass(frozen=True)
class Redrawn:
    """A scan after the second look.

    Attributes
    ----------
    features: its features, with the organs as they were drawn again where the second look draws them.
    masks: (D, H, W) probability that a voxel shows an abnormality, of each that the second look draws, by its
        name; empty where there is no second look.
    """

    features: ScanFeatures
    masks: Mapping[str, torch.Tensor]


class Detector:
    """Looks for abnormalities of the dictionary.

    Parameters
    ----------
    model: on the device that it is to run on.
    searched: what is looked for; all that is returned is in this order.
    bf16: whether the second look's convolutions run in bfloat16.
    """

    def __init__(
        self,
        model: SightlineModel,
        searched: Sequence[Abnormality],
        device: torch.device,
        *,
        bf16: bool = False,
    ) -> None:
        self._model = model
        self._searched = tuple(searched)
        self._device = device
        self._bf16 = bf16
        self._again = tuple(abnormality(name) for name in model.config.second_look)
        with torch.inference_mode():
            self._present = self._project([a.present for a in searched])
            self._absent = self._project([a.absent for a in searched])
            self._first = self._project([a.present for a in self._again])

    def _project(self, prompts: Sequence[Sequence[str]]) -> EncodedText:
        """One projected text for the wordings of each prompt (prompt averaging)."""
        means = [self._model.text.mean(texts) for texts in prompts]
        nothing = torch.zeros(0, self._model.text.width, device=self._device)
        return self._model.project_text(torch.cat([nothing, *means]))

    def look(self, scan: Redrawn, thresholds: Thresholds) -> Seen:
        """Draw the masks of everything that is searched, and judge what they show of tumours.

        Parameters
        ----------
        scan: of `draw_again`.
        """
        features, again = scan.features, scan.masks
        regions = region_of(
            features.organ_probability, self._model.config.spacing_mm, (a.organ for a in self._searched)
        )
        asked = self.looks_again(thresholds)
        view = CandidateView.of(features.hu, features.dense, features.organ_probability)
        masks = self.first_masks(features).sigmoid() * features.body
        judged: list[tuple[Component, ...]] = []
        for i, entry in enumerate(self._searched):
            region = regions[entry.organ]
            masks[i] *= region.reach
            drawn = again[entry.name] * region.reach if entry.name in asked else None
            found: list[Component] = []
            if entry.tumour and drawn is not None and entry.name in thresholds.second_pieces:
                # It knows the organ's surface from a lesion: no core is asked for.
                found = candidates(drawn, Region(region.reach, region.reach), SECOND_PIECE)
            elif entry.tumour:
                found = candidates(masks[i], region, thresholds.mask)
            if drawn is not None:
                masks[i] = drawn
                judged.append(seconded(found, drawn))
            else:
                judged.append(self._judged(found, i, masks[i], region, view))
        return Seen(masks, tuple(judged))

    def looks_again(self, thresholds: Thresholds) -> frozenset[str]:
        """Names of the abnormalities of which the second look's word counts."""
        return frozenset(entry.name for entry in self._again) - set(thresholds.first_masks)

    def _logits(self, features: ScanFeatures, texts: EncodedText) -> torch.Tensor:
        """(T, D, H, W), on the CPU."""
        dense = features.dense[None].to(self._device)
        return text_masks(dense, texts.mask_weight, texts.mask_bias)[0].cpu()

    def first_masks(self, features: ScanFeatures) -> torch.Tensor:
        """(A, D, H, W) logits of the texts' own masks, all over the scan."""
        if not self._searched:
            return torch.zeros(0, *features.body.shape)
        return self._logits(features, self._present)

    def draw_again(self, features: ScanFeatures) -> Redrawn:
        """Have the second look draw what it draws.

        Parameters
        ----------
        features: of `core_model.inference.encode_scan`.

        Returns
        -------
        What it draws, organs rid of strays again.
        """
        look = self._model.second_look
        if look is None:
            return Redrawn(features, {})
        first = self._logits(features, self._first).masked_fill(~features.body, LEAST_LOGIT)
        label = features.organ_probability.argmax(0)
        drawn = look.look(features.hu, label, first, bf16=self._bf16)
        masks = {e.name: m * features.body for e, m in zip(self._again, drawn.masks, strict=True)}
        if drawn.organs is not None:
            features = replace(features, organ_probability=without_strays(drawn.organs))
        return Redrawn(features, masks)

    def _judged(
        self, found: list[Component], index: int, mask: torch.Tensor, region: Region, view: CandidateView
    ) -> tuple[Component, ...]:
        if not found:
            return ()
        described = describe_all(view, found, self._searched[index].organ, mask, region)
        logits = self._model.candidate_logits(
            described.to(self._device),
            torch.tensor([evidence(c.score) for c in found], device=self._device),
            self._present.judge_weight[index].expand(len(found), -1),
            self._present.judge_bias[index].expand(len(found)),
        )
        scores = logits.sigmoid().tolist()
        again = [replace(c, score=s) for c, s in zip(found, scores, strict=True)]
        return tuple(sorted(again, key=lambda c: -c.score))

    def lesions(
        self, seen: Seen, geometry: hd.VolumeGeometry, upright: hd.Volume, thresholds: Thresholds
    ) -> tuple[hd.Volume, tuple[Lesion, ...]]:
        """The candidates that reach the threshold of their kind, outlined on the scan's own grid.

        Parameters
        ----------
        geometry: of the masks.
        upright: the scan, sharing axis directions with `geometry`.

        Returns
        -------
        Instance mask on the scan (uint8, a lesion's label), and its lesions, most probable first.
        """
        again = self.looks_again(thresholds)
        found: list[tuple[int, Component]] = []
        for i, (entry, every) in enumerate(zip(self._searched, seen.candidates, strict=True)):
            lowest = thresholds.lesion_score(entry.name)
            meant = [replace(c, score=thresholds.lesion_probability(entry.name, c.score)) for c in every]
            found += [(i, c) for c in meant if c.score >= lowest][:MAX_LESIONS]
        found.sort(key=lambda pair: -pair[1].score)
        labels = np.zeros(upright.spatial_shape, dtype=np.uint8)
        lesions: list[Lesion] = []
        for i, component in found:
            entry = self._searched[i]
            probability = seen.masks[i] * torch.from_numpy(component.mask)
            level = OUTLINE * float(probability.max()) if entry.name in again else thresholds.mask
            own = paste(probability, component.mask, geometry, upright, level)
            own &= labels == 0
            if not own.any():
                continue
            size = measure(own, upright)
            labels[own] = len(lesions) + 1
            lesions.append(
                Lesion(
                    label=len(lesions) + 1,
                    organ=entry.organ,
                    type=entry.name,
                    probability=component.score,
                    volume_ml=size.volume_ml,
                    long_axis_mm=size.long_axis_mm,
                    short_axis_mm=size.short_axis_mm,
                    mean_hu=size.mean_hu,
                    centroid_lps_mm=size.centroid_lps_mm,
                )
            )
        return upright.with_array(labels), tuple(lesions)

    def findings(
        self,
        seen: Seen,
        geometry: hd.VolumeGeometry,
        pooled: torch.Tensor,
        *,
        organ_readings: tuple[OrganReading, ...],
        lesions: tuple[Lesion, ...],
        thresholds: Thresholds,
    ) -> tuple[Finding, ...]:
        """One finding per abnormality; undetermined where its organ is not in view.

        Parameters
        ----------
        geometry: of the masks.
        pooled: (O, E) organ embeddings.
        """
        if not self._searched:
            return ()
        index = [organ(a.organ).label - 1 for a in self._searched]
        logits = self._model.finding_logits(
            pooled[index][None].to(self._device),
            self._present.embedding,
            self._absent.embedding,
            top_logit(seen.masks[None]).to(self._device),
        )[0]  # (A,)
        offset = logits.new_tensor([thresholds.finding_offset(a.name) for a in self._searched])
        probabilities = ((logits + offset) / thresholds.temperature).sigmoid().cpu().tolist()
        findings = []
        for i, entry in enumerate(self._searched):
            own = [n.probability for n in lesions if n.type == entry.name and thresholds.raise_findings]
            if not organ_readings[index[i]].present and not own:
                findings.append(Finding(entry.organ, entry.name, None, "undetermined", None))
                continue
            probability = max([float(probabilities[i]), *own])
            inside = seen.masks[i].numpy()
            best = np.unravel_index(int(inside.argmax()), inside.shape)
            point = geometry.map_indices_to_reference(np.array([best], dtype=np.float64))[0]
            findings.append(
                Finding(
                    organ=entry.organ,
                    abnormality=entry.name,
                    probability=probability,
                    status="present" if own else thresholds.status(probability),
                    position_lps_mm=point_lps(point),
                )
            )
        return tuple(findings)
