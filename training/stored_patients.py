"""Whole patients for the second look: scan, organs and first masks as the reader makes them, and the truth.

``python -m training.stored_patients CHECKPOINT --out DIR --n 200`` paints patients, has the checkpoint's
encoder and masks read each as the reader does, and keeps what `core_model.second_look` reads and what it
should draw; `training.second_look` trains on them. Whole patients and not windows: crops that are deformed
and blurred have other vessels, and vessels are what has to be told from lesions. They have tumours more often
than the benchmark's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from scipy import ndimage

from core_model.anatomy import organs
from core_model.checkpoint import Checkpoint, load_checkpoint
from core_model.detection import Detector
from core_model.inference import choose_device, encode_scan, supports_bf16
from core_model.memory import give_back_memory, keep_memory
from core_model.reader import searched
from core_model.second_look import near_organs, organ_medians
from core_model.volume import canonical, to_model_grid
from training.benchmark import TRAINING_SEED, Case, make_case
from training.phantoms.dicom import nearest, phantom_geometry
from training.phantoms.labelmaps import LabelMapAnatomy, load_folder
from training.phantoms.tissues import AnatomySource
from training.stored_windows import digest_of
from training.whole_files import whole_file
from training.work_parts import add_part, share

HOW = "python -m training.stored_patients CHECKPOINT --out DIR"
READER_FILE = "reader.json"
SPACING_MM = 2.5  # at which patients are painted, as the benchmark's
LOGIT_STEPS, LOGIT_ZERO = 12.0, 160.0  # logits of first masks are kept in bytes, from -13 to 8
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
class Spot:
    """One lesion of a patient.

    Attributes
    ----------
    kind: its place in the list of abnormalities that first masks are of.
    centre: voxel (z, y, x).
    voxels: its size.
    """

    kind: int
    centre: tuple[int, int, int]
    voxels: int


@dataclass(frozen=True)
class StoredPatient:
    """One patient, all on one grid of (D, H, W) voxels of the model's spacing.

    Attributes
    ----------
    hu: (D, H, W) int16 Hounsfield units.
    label: (D, H, W) uint8, the most probable organ.
    first: (K, D, H, W) uint8 of `to_bytes`, logits of the first masks where the second look reads them.
    lesions: (D, H, W) uint8, 1 + index of the spot that a voxel belongs to, 0 for none.
    organs: (D, H, W) uint8, the organ that was painted, 0 for none.
    medians: (1 + O,) of `core_model.second_look.organ_medians`.
    spots: the lesions that can be seen.
    """

    hu: torch.Tensor
    label: torch.Tensor
    first: torch.Tensor
    lesions: torch.Tensor
    organs: torch.Tensor
    medians: torch.Tensor
    spots: tuple[Spot, ...]

    def save(self, file: Path) -> None:
        """Write it; the file is there whole or not at all."""
        names = ("hu", "label", "first", "lesions", "organs", "medians")
        spots = json.dumps([[s.kind, s.centre, s.voxels] for s in self.spots])
        with whole_file(file) as out:
            save_file({n: getattr(self, n).contiguous() for n in names}, out, {"spots": spots})


class PatientFile:
    """A stored patient of which boxes are read, not the whole.

    Raises
    ------
    ValueError: if the file is damaged.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            with safe_open(file, "pt") as held:
                self.shape: tuple[int, int, int] = tuple(held.get_slice("hu").get_shape())
                held.get_slice("organs")  # files of 0.6.0 have none: said here, not by a worker
                self.medians: torch.Tensor = held.get_tensor("medians")
                self.spots = tuple(Spot(k, tuple(c), n) for k, c, n in json.loads(held.metadata()["spots"]))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ValueError(f"{file} holds no patient ({error!r}); delete it and store anew") from error

    def whole(self, name: str) -> torch.Tensor:
        """One of the tensors of `StoredPatient`."""
        with safe_open(self.file, "pt") as held:
            tensor: torch.Tensor = held.get_tensor(name)
            return tensor

    def box(self, box: tuple[slice, slice, slice]) -> dict[str, torch.Tensor]:
        """ "hu", "label", "first", "lesions" and "organs" inside a box of the grid."""
        z, y, x = box
        with safe_open(self.file, "pt") as held:
            own = {name: held.get_slice(name)[z, y, x] for name in ("hu", "label", "lesions", "organs")}
            return own | {"first": held.get_slice("first")[:, z, y, x]}


def to_bytes(logits: torch.Tensor) -> torch.Tensor:
    """Logits as they are kept."""
    return (logits * LOGIT_STEPS + LOGIT_ZERO).round().clamp(0, 255).to(torch.uint8)


def from_bytes(kept: torch.Tensor) -> torch.Tensor:
    """Logits again.

    >>> from_bytes(to_bytes(torch.tensor([-99.0, -2.0, 0.0]))).tolist()
    [-13.333333015441895, -2.0, 0.0]
    """
    return (kept.float() - LOGIT_ZERO) / LOGIT_STEPS


class PatientReader:
    """Reads patients with a checkpoint as the reader does, up to its first masks."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        self._model = checkpoint.model.to(device)
        self._model.channels_last()
        self._device = device
        kinds = searched(checkpoint.card)
        self.kinds = tuple(a.name for a in kinds)
        self._detector = Detector(self._model, kinds, device)

    @torch.inference_mode()
    def read(self, case: Case) -> StoredPatient:
        """One patient."""
        hu, geometry = to_model_grid(canonical(case.volume), self._model.config.spacing_mm)
        scan = encode_scan(self._model, hu, geometry, self._device, supports_bf16(self._device))
        label = scan.organ_probability.argmax(0)  # (D, H, W)
        read = near_organs(label) & scan.body
        painted = phantom_geometry(case.phantom)
        values = np.asarray(nearest(case.phantom.lesions, painted, scan.geometry))
        organs_drawn = np.asarray(nearest(case.phantom.organs, painted, scan.geometry))
        lesions, spots = self._spots(case, values)
        return StoredPatient(
            hu=scan.hu.round().to(torch.int16),
            label=label.to(torch.uint8),
            first=to_bytes(self._detector.first_masks(scan)) * read,
            lesions=torch.from_numpy(lesions),
            organs=torch.from_numpy(organs_drawn),
            medians=organ_medians(scan.hu, label, len(organs())),
            spots=spots,
        )

    def _spots(
        self, case: Case, values: npt.NDArray[np.uint8]
    ) -> tuple[npt.NDArray[np.uint8], tuple[Spot, ...]]:
        lesions = np.zeros(values.shape, dtype=np.uint8)
        spots: list[Spot] = []
        for planted in case.phantom.planted:
            own = values == planted.mask_value
            if not planted.mask_value or planted.abnormality not in self.kinds or not own.any():
                continue
            z, y, x = (round(c) for c in ndimage.center_of_mass(own))
            spots.append(Spot(self.kinds.index(planted.abnormality), (z, y, x), int(own.sum())))
            lesions[own] = len(spots)
        return lesions, tuple(spots)


def reading_digest(checkpoint: Checkpoint) -> str:
    """Of everything in a checkpoint that stored patients depend on."""
    model = checkpoint.model
    parts = [model.image, model.half_organ_head, model.quarter_organ_head, model.lesion_decoder]
    kept = [] if model.kept_organ_head is None else [model.kept_organ_head]
    return digest_of([*parts, *kept, model.text_to_mask, model.text])


def patient_files(folder: Path, checkpoint: Checkpoint) -> list[Path]:
    """The patients of a folder, in order.

    Raises
    ------
    ValueError: if there are none, or another checkpoint read them.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"patients folder {folder} holds no patients; store some: {HOW}")
    by = json.loads((folder / READER_FILE).read_text(encoding="utf-8"))["reader"]
    if by != reading_digest(checkpoint):
        raise ValueError(
            f"patients folder {folder} was read by {by}, this checkpoint is {reading_digest(checkpoint)}; "
            f"store patients of it in a new folder: {HOW}"
        )
    return files


def store(
    checkpoint: Checkpoint,
    out: Path,
    seeds: Sequence[int],
    *,
    device: torch.device,
    console: Console,
    spacing_mm: float = SPACING_MM,
    maps: Sequence[LabelMapAnatomy] = (),
    map_share: float = 0.5,
) -> None:
    """Store the patients of some seeds; those that are there are not read again.

    Parameters
    ----------
    maps: label maps of real patients at `spacing_mm`, which `map_share` of the patients are grown from.

    Raises
    ------
    ValueError: if the folder holds patients that another checkpoint read.
    """
    out.mkdir(parents=True, exist_ok=True)
    if any(out.glob("*.safetensors")):
        patient_files(out, checkpoint)
    else:
        with whole_file(out / READER_FILE) as file:
            file.write_text(json.dumps({"reader": reading_digest(checkpoint)}), encoding="utf-8")
    reader = PatientReader(checkpoint, device)
    left = [s for s in seeds if not (out / f"{s}.safetensors").exists()]
    for seed in track(left, description="patients", console=console):
        case = make_case(seed, spacing_mm, CHANCES, source_of(seed, maps, map_share))
        reader.read(case).save(out / f"{seed}.safetensors")
        give_back_memory()


def source_of(seed: int, maps: Sequence[LabelMapAnatomy], share: float) -> AnatomySource | None:
    """The label map that the patient of a seed is grown from; None where it is procedural."""
    rng = np.random.default_rng([seed, 6])
    if not maps or rng.random() >= share:
        return None
    chosen = maps[int(rng.integers(len(maps)))]
    return chosen.sample


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.stored_patients",
        description="Paint and read whole patients for the second look. Interrupt it at will: the same "
        "command goes on. Fifty megabytes for each patient.",
        epilog="example, in two shells: OMP_NUM_THREADS=1 python -m training.stored_patients "
        "runs/judge/checkpoint --out runs/patients --n 200 --part 1/2 (and 2/2); then "
        "python -m training.second_look",
    )
    parser.add_argument("checkpoint", type=Path, help="checkpoint folder")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder that keeps the patients"
    )
    parser.add_argument("--n", type=int, default=200, help="number of patients (default: %(default)s)")
    add_part(parser)
    parser.add_argument(
        "--label-maps",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders of label maps of real patients (TotalSegmentator's classes) to grow patients from",
    )
    parser.add_argument(
        "--map-share",
        type=float,
        default=0.5,
        help="share of the patients that are grown from label maps (default: %(default)s)",
    )
    parser.add_argument("--device", help="cpu or cuda (default: CUDA if there is one)")
    args = parser.parse_args(arguments)
    keep_memory()
    if args.n < 1:
        parser.error(f"--n is {args.n}; needed is 1 at least")
    if not 0 <= args.map_share <= 1:
        parser.error(f"--map-share is {args.map_share}; it is a share, from 0 to 1")
    try:
        maps = load_folder(args.label_maps, SPACING_MM) if args.label_maps else []
        store(
            load_checkpoint(args.checkpoint),
            args.out,
            share(range(TRAINING_SEED, TRAINING_SEED + args.n), args.part),
            device=choose_device(args.device),
            console=Console(stderr=True),
            maps=maps,
            map_share=args.map_share,
        )
    except (OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
