"""Whole patients for the judge: the places where the masks see tumours in them, and which are tumours.

``python -m training.stored_places CHECKPOINT --out DIR --n 200`` paints patients, has the checkpoint's
encoder and masks read each as the reader does, and keeps what the judge reads of every place;
`training.judge` grows trees on them. Whole patients and not windows: crops that are deformed and blurred
have other vessels, and vessels are what a judge has to tell from lesions. They have tumours more often than
the benchmark's, which is weighed off when the trees are grown.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from core_model.abnormality import abnormalities
from core_model.candidates import candidate_places
from core_model.checkpoint import Checkpoint, load_checkpoint
from core_model.detection import Detector, sought
from core_model.inference import choose_device, encode_scan, supports_bf16
from core_model.parts import without_strays
from core_model.place_features import place_features
from core_model.reader import searched
from core_model.volume import canonical, to_model_grid
from training.benchmark import TRAINING_SEED, Case, make_case
from training.phantoms.dicom import nearest, phantom_geometry
from training.phantoms.lesions import lesion_kinds
from training.stored_windows import digest_of
from training.whole_files import whole_file
from training.work_parts import part

HOW = "python -m training.stored_places CHECKPOINT --out DIR"
READER_FILE = "reader.json"
# How many patients have an abnormality: two to four times as many as in the benchmark; our choice.
CHANCES = {
    "liver_tumour": 0.7,
    "renal_tumour": 0.75,
    "pancreatic_tumour": 0.75,
    "lung_nodule": 0.75,
    "colon_tumour": 0.75,
    "adrenal_mass": 0.6,
    "bladder_tumour": 0.5,
    "lumbar_metastasis": 0.55,
    "thoracic_metastasis": 0.6,
    "liver_cyst": 0.35,
    "liver_haemangioma": 0.3,
    "renal_cyst": 0.4,
    "pancreatic_cyst": 0.2,
}


@dataclass(frozen=True)
class Planted:
    """A tumour of a patient; `value` in its truth, 0 where the scan shows none of it."""

    abnormality: str
    value: int
    diameter_mm: float


@dataclass(frozen=True)
class PatientPlaces:
    """The places of one patient; the first axis counts them.

    Attributes
    ----------
    features: (N, F) of `core_model.place_features.place_features`.
    evidence: (N,) logits of the masks of what is sought.
    kind: (N,) index in the dictionary of the tumour that is sought.
    lesion: (N,) value of the planted tumour of that kind that lies there, 0 where there is none.
    planted: the patient's tumours.
    """

    features: npt.NDArray[np.float32]
    evidence: npt.NDArray[np.float32]
    kind: npt.NDArray[np.int16]
    lesion: npt.NDArray[np.uint8]
    planted: tuple[Planted, ...]

    def save(self, file: Path) -> None:
        """Write them; the file is there whole or not at all."""
        planted = json.dumps([[p.abnormality, p.value, p.diameter_mm] for p in self.planted])
        names = ("features", "evidence", "kind", "lesion")
        with whole_file(file) as out:
            save_file({k: np.ascontiguousarray(getattr(self, k)) for k in names}, out, {"planted": planted})

    @classmethod
    def load(cls, file: Path) -> PatientPlaces:
        """Read what `save` wrote.

        Raises
        ------
        ValueError: if the file is damaged.
        """
        try:
            with safe_open(file, "np") as held:
                planted = tuple(Planted(*p) for p in json.loads(held.metadata()["planted"]))
                names = ("features", "evidence", "kind", "lesion")
                return cls(**{name: held.get_tensor(name) for name in names}, planted=planted)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ValueError(f"{file} holds no places ({error!r}); delete it and store anew") from error


class PlaceReader:
    """Reads patients with a checkpoint as the reader does, up to the judge.

    Parameters
    ----------
    checkpoint: what its judge says is not asked.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        self._model = checkpoint.model.to(device)
        self._model.channels_last()
        self._device = device
        self._searched = searched(checkpoint.card)
        self._detector = Detector(self._model, self._searched, device)

    @torch.inference_mode()
    def read(self, case: Case) -> PatientPlaces:
        """The places of one patient."""
        hu, geometry = to_model_grid(canonical(case.volume), self._model.config.spacing_mm)
        found = encode_scan(self._model, hu, geometry, self._device, supports_bf16(self._device))
        found.organ_probability.copy_(without_strays(found.organ_probability))
        views = self._detector.views(found)
        source = phantom_geometry(case.phantom)
        lesions = np.asarray(nearest(case.phantom.lesions, source, found.geometry))
        tumours = {a.name for a in abnormalities() if a.tumour}
        planted = tuple(
            Planted(p.abnormality, p.mask_value if (lesions == p.mask_value).any() else 0, p.diameter_mm)
            for p in case.phantom.planted
            if p.abnormality in tumours
        )
        parts = []
        for entry in self._searched:
            kind, others = sought(entry)
            view, mask = views[entry.organ], views[entry.organ].logits[kind]
            places = candidate_places(view, kind, others) if entry.tumour else np.zeros((0, 3), dtype=int)
            if len(places) and mask is not None:
                values = {p.value for p in planted if p.abnormality == entry.name} - {0}
                kinds = np.full(len(places), kind, dtype=np.int16)
                own = (mask[tuple(places.T)], kinds, _at(lesions, places, values))
                parts.append((place_features(view, kind, places), *own))
        if not parts:
            nothing = np.zeros(0, dtype=np.float32)
            labels = (nothing.astype(np.int16), nothing.astype(np.uint8))
            return PatientPlaces(nothing[:, None], nothing, *labels, planted)
        features, evidence, kinds, lesion = (np.concatenate(one) for one in zip(*parts, strict=True))
        return PatientPlaces(features, evidence, kinds, lesion, planted)


def _at(
    lesions: npt.NDArray[np.uint8], places: npt.NDArray[np.int64], values: set[int]
) -> npt.NDArray[np.uint8]:
    """(N,) the first of `values` that a place or one of its 26 neighbours has, 0 for none."""
    found = np.zeros(len(places), dtype=np.uint8)
    for n, place in enumerate(places):
        cube = lesions[tuple(slice(max(0, int(c) - 1), int(c) + 2) for c in place)]
        found[n] = min(values & set(np.unique(cube).tolist()), default=0)
    return found


def weights(patient: PatientPlaces, chances: Mapping[str, float] | None = None) -> npt.NDArray[np.float32]:
    """(N,) how much each place counts: tumours that were planted more often than usual count for less.

    Parameters
    ----------
    chances: that the patient was painted with (default: `CHANCES`).
    """
    raised = CHANCES if chances is None else chances
    usual = {k.abnormality: k.chance for k in lesion_kinds()}
    names = [a.name for a in abnormalities()]
    less = [usual[n] / raised.get(n, usual[n]) if n in usual else 1.0 for n in names]
    found = np.array(less, dtype=np.float32)[patient.kind]
    return np.where(patient.lesion > 0, found, np.float32(1))


def reading_digest(checkpoint: Checkpoint) -> str:
    """Of everything in a checkpoint that places depend on."""
    model = checkpoint.model
    parts = [model.image, model.half_organ_head, model.quarter_organ_head, model.lesion_decoder]
    return digest_of([*parts, model.text_to_mask])


def place_files(folder: Path, checkpoint: Checkpoint) -> list[Path]:
    """The patients of a folder, in order.

    Raises
    ------
    ValueError: if there are none, or another checkpoint read them.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"places folder {folder} holds no patients; store some: {HOW}")
    by = json.loads((folder / READER_FILE).read_text(encoding="utf-8"))["reader"]
    if by != reading_digest(checkpoint):
        raise ValueError(
            f"places folder {folder} was read by {by}, this checkpoint is {reading_digest(checkpoint)}; "
            f"store its places in a new folder: {HOW}"
        )
    return files


def store(
    checkpoint: Checkpoint,
    out: Path,
    seeds: Sequence[int],
    *,
    device: torch.device,
    console: Console,
    spacing_mm: float = 2.5,
) -> None:
    """Store the patients of some seeds; those that are there are not read again.

    Raises
    ------
    ValueError: if the folder holds patients that another checkpoint read.
    """
    out.mkdir(parents=True, exist_ok=True)
    if any(out.glob("*.safetensors")):
        place_files(out, checkpoint)
    else:
        with whole_file(out / READER_FILE) as file:
            file.write_text(json.dumps({"reader": reading_digest(checkpoint)}), encoding="utf-8")
    reader = PlaceReader(checkpoint, device)
    left = [s for s in seeds if not (out / f"{s}.safetensors").exists()]
    for seed in track(left, description="patients", console=console):
        reader.read(make_case(seed, spacing_mm, CHANCES)).save(out / f"{seed}.safetensors")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.stored_places",
        description="Paint and read whole patients for the judge of places. Interrupt it at will: the same "
        "command goes on. Half a megabyte for each patient.",
        epilog="example, in two shells: OMP_NUM_THREADS=1 python -m training.stored_places "
        "runs/heads/checkpoint --out runs/places --n 200 --part 1/2 (and 2/2); then python -m training.judge",
    )
    parser.add_argument("checkpoint", type=Path, help="checkpoint folder")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder that keeps the patients"
    )
    parser.add_argument("--n", type=int, default=200, help="number of patients (default: %(default)s)")
    parser.add_argument(
        "--part", type=part, default=(1, 1), metavar="K/N", help="every N-th patient from the K-th on"
    )
    parser.add_argument("--device", help="cpu or cuda (default: CUDA if there is one)")
    args = parser.parse_args(arguments)
    if args.n < 1:
        parser.error(f"--n is {args.n}; needed is 1 at least")
    k, parts = args.part
    try:
        store(
            load_checkpoint(args.checkpoint),
            args.out,
            range(TRAINING_SEED + k - 1, TRAINING_SEED + args.n, parts),
            device=choose_device(args.device),
            console=Console(stderr=True),
        )
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
