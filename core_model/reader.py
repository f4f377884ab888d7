"""The reader: a CT volume in, a `Reading` out; and a text to a place in a stored encoding.

Joins network, text tower and geometry. Knows no DICOM objects and no files besides the
checkpoint. Thresholds and calibration come from the checkpoint's card, never from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from core_model.abnormality import Abnormality, abnormalities, abnormality
from core_model.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from core_model.clock import Clock, Progress
from core_model.detection import Detector, Redrawn
from core_model.encode_study import encode_study
from core_model.grounding import text_masks
from core_model.inference import (
    ScanFeatures,
    choose_device,
    describe_device,
    encode_scan,
    supports_bf16,
)
from core_model.known_places import known_places
from core_model.localization import Searchable
from core_model.masks import label_volume, paste
from core_model.organ_readings import readings_of
from core_model.organ_segmenter import OrganSegmenter, completed, with_organs
from core_model.question import Asker, Question
from core_model.ranking import localize
from core_model.reading import (
    Localization,
    ModelIdentity,
    OrganDrawing,
    Reading,
    SliceReference,
    StudyEncoding,
    point_lps,
)
from core_model.statements import Statements
from core_model.thresholds import Thresholds
from core_model.volume import canonical, to_model_grid


def searched(card: dict[str, Any]) -> tuple[Abnormality, ...]:
    """The abnormalities that a checkpoint was trained on: its card's "abnormalities", or the dictionary.

    Raises
    ------
    CheckpointError: if the card names one that the dictionary does not have.
    """
    names = card.get("abnormalities")
    if names is None:
        return abnormalities()
    try:
        return tuple(abnormality(name) for name in names)
    except KeyError as error:
        raise CheckpointError(f"checkpoint's card.json: {error.args[0]}") from error


class Reader:
    """Reads volumes with one checkpoint on one device.

    Use `Reader.load`. Not thread-safe; one reader per process.

    Attributes
    ----------
    abnormalities: what is searched for, in this order: the card's "abnormalities" (names it was
        trained on), the whole dictionary where the card does not say. None at all where the card
        says none (vanilla CLIP): such a reader encodes, and is asked in words.
    organ_segmenter: draws the organs; None where the model's own head does.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device,
        bf16: bool,
        organ_segmenter: OrganSegmenter | None = None,
    ) -> None:
        self.identity: ModelIdentity = checkpoint.identity
        self.card = checkpoint.card
        self.device = device
        self.bf16 = bf16
        self.thresholds = Thresholds.from_card(checkpoint.card)
        self.abnormalities = searched(checkpoint.card)
        self.organ_segmenter = organ_segmenter
        self._model = checkpoint.model.to(device)
        self._model.channels_last()
        self._detector = Detector(self._model, self.abnormalities, device, bf16=bf16)
        self._asker = Asker(self._model, self.abnormalities, bf16=bf16)
        self._statements = Statements(self._model, self.abnormalities)

    @classmethod
    def load(
        cls,
        checkpoint: Path | None = None,
        device: str | None = None,
        organ_segmenter: OrganSegmenter | None = None,
    ) -> Reader:
        """Load a checkpoint folder (None: the shipped one) onto a device (None: CUDA if any, else CPU).

        `organ_segmenter` draws the organs in the place of the model's own head.

        Raises
        ------
        core_model.checkpoint.CheckpointError: if the checkpoint is missing or damaged.
        ValueError: if the device cannot be used.
        """
        where = choose_device(device)
        return cls(load_checkpoint(checkpoint), where, supports_bf16(where), organ_segmenter)

    @property
    def organ_drawing(self) -> OrganDrawing | None:
        """Who draws the organs; None where the model's own head does."""
        return None if self.organ_segmenter is None else self.organ_segmenter.drawing

    def read(
        self,
        volume: hd.Volume,
        *,
        slices: tuple[SliceReference, ...] | None = None,
        series_instance_uid: str | None = None,
        progress: Progress | None = None,
    ) -> Reading:
        """Read one CT.

        Parameters
        ----------
        volume: Hounsfield units; the first array axis is the slice axis.
        slices: slices[k] belongs to ``volume.array[k]``, unless they have normals of their own
            because the volume was resampled from them; None (NIfTI) makes them from the geometry.
        series_instance_uid: of the source, kept in the encoding.
        progress: called with a stage's name and the share done, 0..1.

        Returns
        -------
        Reading whose masks lie on exactly `volume`'s geometry.

        Raises
        ------
        ValueError: if the volume is no 3D CT of a body, or `slices` does not fit it.
        """
        resampled = slices is not None and any(one.normal_lps is not None for one in slices)
        if slices is not None and not resampled and len(slices) != volume.spatial_shape[0]:
            raise ValueError(
                f"slices has {len(slices)} entries, the volume has {volume.spatial_shape[0]} slices; "
                "one for each is needed"
            )
        _refuse_not_finite(volume)
        clock = Clock(progress)
        upright = canonical(volume)
        scan = self._features(upright, clock, lesions=bool(self.abnormalities))
        features = scan.features
        with clock.stage("organs", 0.5):
            organ_mask = label_volume(features.organ_probability, features.geometry, upright)
            if self.organ_segmenter is not None:
                drawn = self.organ_segmenter.organs(upright)
                organ_mask = drawn.with_array(
                    completed(drawn.array, organ_mask.array, self.organ_segmenter.drawing)
                )
                features = with_organs(features, organ_mask)
            organ_readings = readings_of(organ_mask, self.thresholds.organ_ml)
        with clock.stage("lesions", 0.75), torch.inference_mode():
            seen = self._detector.look(replace(scan, features=features), self.thresholds)
            lesion_mask, lesions = self._detector.lesions(seen, features.geometry, upright, self.thresholds)
        with clock.stage("findings", 0.9), torch.inference_mode():
            pooled = self._pool(features)
            findings = self._detector.findings(
                seen,
                features.geometry,
                pooled,
                organ_readings=organ_readings,
                lesions=lesions,
                thresholds=self.thresholds,
            )
            encoding = encode_study(
                self._model,
                features,
                pooled,
                organ_present=np.array([o.present for o in organ_readings]),
                places=known_places(
                    seen, self.abnormalities, features.geometry, self._detector.looks_again(self.thresholds)
                ),
                slices=slices or _slices(volume),
                identity=self.identity,
                series_instance_uid=series_instance_uid,
            )
        with clock.stage("finish", 1.0):
            reading = Reading(
                organs=organ_readings,
                findings=findings,
                lesions=lesions,
                organ_mask=_like(organ_mask, volume),
                lesion_mask=_like(lesion_mask, volume),
                encoding=encoding,
                model=self.identity,
                seconds=clock.seconds,
                device=describe_device(self.device, self.bf16),
                organs_by=self.organ_drawing,
            )
        return reading

    def draw_organs(self, volume: hd.Volume, *, progress: Progress | None = None) -> hd.Volume:
        """The organs of a CT as the model's own head draws them; the rest of a reading is not made.

        Parameters
        ----------
        volume, progress: as `read`.

        Returns
        -------
        uint8 Volume of reading organ labels on exactly `volume`'s geometry, as `Reading.organ_mask`.

        Raises
        ------
        ValueError: if the volume is no 3D CT of a body.
        """
        _refuse_not_finite(volume)
        clock = Clock(progress)
        upright = canonical(volume)
        features = self._features(upright, clock, lesions=self._model.config.organs_again).features
        with clock.stage("organs", 0.9):
            mask = label_volume(features.organ_probability, features.geometry, upright)
        return _like(mask, volume)

    def _features(self, upright: hd.Volume, clock: Clock, *, lesions: bool) -> Redrawn:
        """`Detector.draw_again` of a canonical volume; nothing is drawn again without `lesions`, which are as
        in `encode_scan`."""
        with clock.stage("resample", 0.05):
            hu, geometry = to_model_grid(upright, self._model.config.spacing_mm)
        with clock.stage("encode", 0.1):
            features = encode_scan(self._model, hu, geometry, self.device, self.bf16, lesions=lesions)
        if not lesions:
            return Redrawn(features, {})
        with clock.stage("second look", 0.4), torch.inference_mode():
            return self._detector.draw_again(features)

    def segment(self, volume: hd.Volume, text: str, *, progress: Progress | None = None) -> hd.Volume:
        """Draw what a text describes: its text-conditioned mask, whatever organ it lies in.

        A text that means an abnormality of the dictionary gets the mask of the second look, where the model
        has one. The masks were trained on abnormalities; a text that names none of them may get any mask
        or none. Lesions that were judged one by one are in `Reading.lesion_mask`.

        Parameters
        ----------
        volume, progress: as `read`.
        text: what to draw.

        Returns
        -------
        uint8 Volume on exactly `volume`'s geometry, 1 where the text is, else 0.

        Raises
        ------
        ValueError: as `read`, or if the text is blank.
        """
        _refuse_not_finite(volume)
        clock = Clock(progress)
        upright = canonical(volume)
        with torch.inference_mode():
            classifier = self._model.encode_text([text])
        asked = self._detector.looks_again(self.thresholds)
        meant = self.question(text).abnormality if asked else None
        scan = self._features(upright, clock, lesions=True)
        features = scan.features
        with clock.stage("mask", 0.9), torch.inference_mode():
            if meant is not None and meant in asked:
                probability = scan.masks[meant]
            else:
                dense = features.dense[None].to(self.device)
                logits = text_masks(dense, classifier.mask_weight, classifier.mask_bias)[0, 0].cpu()
                probability = logits.sigmoid() * features.body
            inside = (probability >= self.thresholds.mask).numpy()
            drawn = np.zeros(upright.spatial_shape, dtype=bool)
            if inside.any():
                drawn = paste(probability, inside, features.geometry, upright, self.thresholds.mask)
        return _like(upright.with_array(drawn.astype(np.uint8)), volume)

    def question(self, text: str) -> Question:
        """A text that can be looked for in encodings of this model.

        Raises
        ------
        ValueError: if the text is blank.
        """
        return self.questions([text])[0]

    def questions(self, texts: Sequence[str]) -> list[Question]:
        """Several questions at once, which is cheaper; raises as `question`."""
        return self._asker.questions(texts)

    def embed(self, text: str) -> npt.NDArray[np.float32]:
        """(E,) unit length embedding of a query.

        Raises
        ------
        ValueError: if the text is blank.
        """
        embedding: npt.NDArray[np.float32] = self.embed_all([text])[0]
        return embedding

    def embed_all(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """(T, E) unit length embeddings of several queries at once.

        Raises
        ------
        ValueError: if there is no text or one is blank.
        """
        with torch.inference_mode():
            embedding = self._model.encode_text(texts).embedding
        return np.asarray(embedding.float().cpu().numpy(), dtype=np.float32)

    def embed_report(self, sentences: Sequence[str]) -> npt.NDArray[np.float32]:
        """(E,) unit length embedding of a report, to compare with `StudyEncoding.global_feature`.

        Raises
        ------
        ValueError: if there is no sentence or one is blank.
        """
        with torch.inference_mode():
            report = F.normalize(self._model.encode_text(sentences).report.mean(0), dim=0)
        return np.asarray(report.float().cpu().numpy(), dtype=np.float32)

    def stated(self, sentences: Sequence[str]) -> dict[str, bool]:
        """What a report states of what this model searches for: whether an abnormality is there or is not.

        Raises
        ------
        ValueError: if there is no sentence or one is blank.
        """
        return self._statements.of_report(sentences)

    def localize(self, encoding: StudyEncoding, text: str) -> Localization:
        """Where in a study a text is.

        Raises
        ------
        ValueError: if the text is blank, or another model made the encoding.
        """
        if encoding.model.digest != self.identity.digest:
            raise ValueError(
                f"encoding was made by model {encoding.model.digest[:12]}, "
                f"this is {self.identity.digest[:12]}; read the study again with this model"
            )
        return localize(Searchable(encoding), self.question(text), by_slab=self.by_slab)

    @property
    def by_slab(self) -> bool:
        """Whether slabs decide on the axial position (`core_model.ranking.ranked_places`)."""
        return self._model.separate

    def _pool(self, features: ScanFeatures) -> torch.Tensor:
        """(O, E) organ embeddings."""
        shares = F.avg_pool3d(features.organ_probability[None, 1:], 2)  # (1, O, d, h, w)
        pooled: torch.Tensor = self._model.organ_pooling(
            features.grid[None].to(self.device), shares.to(self.device)
        )
        return pooled[0].cpu()


def _refuse_not_finite(volume: hd.Volume) -> None:
    if not np.isfinite(volume.array).all():
        raise ValueError("volume holds values that are not finite; clean them to Hounsfield units first")


def _slices(volume: hd.Volume) -> tuple[SliceReference, ...]:
    """Slices of a volume that did not come from DICOM: the middle of each plane."""
    _, rows, columns = volume.spatial_shape
    middle = np.array([[k, (rows - 1) / 2, (columns - 1) / 2] for k in range(volume.spatial_shape[0])])
    points = volume.map_indices_to_reference(middle)
    return tuple(SliceReference(point_lps(p), None) for p in points)


def _like(mask: hd.Volume, volume: hd.Volume) -> hd.Volume:
    """A mask on the canonical axes back on the axes of `volume`."""
    back = mask.to_patient_orientation(volume.get_closest_patient_orientation())
    return volume.with_array(np.ascontiguousarray(back.array))
