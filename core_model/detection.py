"""What the network's masks say of the dictionary's abnormalities: candidates, lesions, findings.

Works on the features of one scan (`core_model.inference.ScanFeatures`); knows neither how they were
made nor what is kept of them. `core_model.reader` is who asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import highdicom as hd
import numpy as np
import torch

from core_model.abnormality import Abnormality, abnormalities
from core_model.anatomy import organ
from core_model.candidates import Candidate, candidate_places, outlined
from core_model.grounding import text_masks, top_logit
from core_model.inference import ScanFeatures
from core_model.lesions import measure
from core_model.masks import Region, paste, region_of
from core_model.model import EncodedText, SightlineModel
from core_model.place_features import OrganView, place_features
from core_model.reading import Finding, Lesion, OrganReading, point_lps
from core_model.thresholds import Thresholds

MAX_LESIONS = 20  # of one kind in one study; the most probable are kept


@dataclass(frozen=True)
class Seen:
    """What the masks of one scan show.

    Attributes
    ----------
    masks: (A, D, H, W) probability that a voxel shows each abnormality, in the detector's order.
    regions: of each searched organ, by its name.
    candidates: of each abnormality, with the judge's scores, highest first; none where it is no tumour,
        `MAX_LESIONS` at most.
    """

    masks: torch.Tensor
    regions: dict[str, Region]
    candidates: tuple[tuple[Candidate, ...], ...]


def sought(entry: Abnormality) -> tuple[int, tuple[int, ...]]:
    """Index of a tumour in the dictionary, and of the other abnormalities of its organ."""
    every = abnormalities()
    others = tuple(i for i, a in enumerate(every) if a.organ == entry.organ and a.name != entry.name)
    return [a.name for a in every].index(entry.name), others


class Detector:
    """Looks for abnormalities of the dictionary.

    Parameters
    ----------
    model: on the device that it is to run on.
    searched: what is looked for; all that is returned is in this order.
    """

    def __init__(self, model: SightlineModel, searched: Sequence[Abnormality], device: torch.device) -> None:
        self._model = model
        self._searched = tuple(searched)
        self._device = device
        with torch.inference_mode():
            self._present = self._project([a.present for a in searched])
            self._absent = self._project([a.absent for a in searched])

    def _project(self, prompts: Sequence[Sequence[str]]) -> EncodedText:
        """One projected text for the wordings of each prompt (prompt averaging)."""
        means = [self._model.text.mean(texts) for texts in prompts]
        nothing = torch.zeros(0, self._model.text.width, device=self._device)
        return self._model.project_text(torch.cat([nothing, *means]))

    def look(self, features: ScanFeatures) -> Seen:
        """Draw the masks of everything that is searched, and judge where they show tumours."""
        logits = self._logits(features)
        views = self._views(features, logits)
        judged = [self._judged(entry, views[entry.organ]) if entry.tumour else () for entry in self._searched]
        regions = {name: view.region for name, view in views.items()}
        return Seen(logits.sigmoid() * features.body, regions, tuple(judged))

    def views(self, features: ScanFeatures) -> dict[str, OrganView]:
        """What is seen of each searched organ, by its name."""
        return self._views(features, self._logits(features))

    def _logits(self, features: ScanFeatures) -> torch.Tensor:
        """(A, D, H, W) of everything that is searched."""
        if not self._searched:
            return torch.zeros(0, *features.body.shape)
        dense = features.dense[None].to(self._device)
        return text_masks(dense, self._present.mask_weight, self._present.mask_bias)[0].float().cpu()

    def _views(self, features: ScanFeatures, logits: torch.Tensor) -> dict[str, OrganView]:
        regions = region_of(
            features.organ_probability, self._model.config.spacing_mm, (a.organ for a in self._searched)
        )
        own = {a.name: mask for a, mask in zip(self._searched, logits.numpy(), strict=True)}
        every = tuple(own.get(a.name) for a in abnormalities())
        hu, label = features.hu.numpy(), features.organ_probability.argmax(0).numpy().astype(np.uint8)
        return {name: OrganView(name, hu, label, region, every) for name, region in regions.items()}

    def _judged(self, entry: Abnormality, view: OrganView) -> tuple[Candidate, ...]:
        """The candidates of a tumour, the likeliest first."""
        kind, others = sought(entry)
        places = candidate_places(view, kind, others)
        if not len(places):
            return ()
        mask = view.logits[kind]
        assert mask is not None  # it is searched
        logits = self._model.place_logits(
            torch.from_numpy(place_features(view, kind, places)).to(self._device),
            torch.from_numpy(mask[tuple(places.T)]).to(self._device),
        )
        scores = logits.sigmoid().cpu().numpy()
        found: list[Candidate] = []
        taken = np.zeros(view.hu.shape, dtype=bool)
        for i in np.argsort(-scores, kind="stable"):
            if len(found) < MAX_LESIONS and not taken[tuple(places[i])]:  # else a part of a likelier one
                found.append(outlined(view, kind, places[i], float(scores[i])))
                taken[found[-1].box] |= found[-1].inside
        return tuple(found)

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
        found: list[tuple[int, Candidate]] = []
        for i, (entry, every) in enumerate(zip(self._searched, seen.candidates, strict=True)):
            lowest = thresholds.lesion_score(entry.name)
            found += [(i, c) for c in every if c.score >= lowest]
        found.sort(key=lambda pair: -pair[1].score)
        labels = np.zeros(upright.spatial_shape, dtype=np.uint8)
        lesions: list[Lesion] = []
        for i, candidate in found:
            entry = self._searched[i]
            mask = candidate.mask(geometry.spatial_shape)
            own = paste(torch.from_numpy(mask).float(), mask, geometry, upright, 0.5)
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
                    probability=candidate.score,
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
        region = torch.stack([seen.regions[a.organ].reach for a in self._searched])  # (A, D, H, W)
        logits = self._model.finding_logits(
            pooled[index][None].to(self._device),
            self._present.embedding,
            self._absent.embedding,
            top_logit(seen.masks[None], region[None]).to(self._device),
        )[0]  # (A,)
        offset = logits.new_tensor([thresholds.finding_offset(a.name) for a in self._searched])
        probabilities = ((logits + offset) / thresholds.temperature).sigmoid().cpu().tolist()
        findings = []
        for i, entry in enumerate(self._searched):
            if not organ_readings[index[i]].present:
                findings.append(Finding(entry.organ, entry.name, None, "undetermined", None))
                continue
            own = [n.probability for n in lesions if n.type == entry.name]
            if not thresholds.raise_findings:
                own = []
            probability = max([float(probabilities[i]), *own])
            inside = (seen.masks[i] * seen.regions[entry.organ].reach).numpy()
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
