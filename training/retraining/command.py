"""``python -m training.finetune --archive ARCHIVE --out DIR``: corrections become a checkpoint and a verdict.

The order of the work, and nothing of how it is done: intake, lesions, findings, comparison, verdict. ``DIR``
gets ``checkpoint/`` (with ``verdict.json``, which `sightline promote` obeys), ``comparison.json``, ``.md``
and ``.png``, and the state and log of the lesion stage. Nothing in it names a patient, a study or a file of
the archive.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom as hd
import torch
from rich.console import Console
from rich.progress import track

from core_model.checkpoint import Checkpoint, default_checkpoint, load_checkpoint, save_checkpoint
from core_model.detection import Detector, Redrawn
from core_model.inference import choose_device, encode_scan, supports_bf16
from core_model.model import SightlineModel
from core_model.reader import Reader, searched
from core_model.thresholds import Thresholds
from core_model.verdict import Judged, Verdict, write_verdict
from core_model.volume import canonical, to_model_grid
from training.datasets.archive import CorrectedStudy
from training.datasets.sample import UnusableSampleError
from training.datasets.tally import Tally
from training.labelled import LabelledCase
from training.retraining.cases import finding_truth, labelled_case, lesion_labels, outlined_kinds
from training.retraining.comparison import PATIENTS_NEEDED, Pair, measures, read_pairs
from training.retraining.comparison_report import outcome, write_report
from training.retraining.deidentify import Deidentifier
from training.retraining.findings import FindingRecord, FindingTeacher, detector_of, finding_record
from training.retraining.intake import StudyFile, load_study, only, study_files
from training.retraining.lesions import LesionRetraining
from training.retraining.pseudonyms import HELD_OUT, key_of, open_pseudonyms
from training.retraining.reports import read_reports, said_of
from training.run import follow
from training.start import STAGE_KEYS

INPUTS = "inputs.json"


@dataclass(frozen=True)
class Taught:
    """One study that is learnt from, on the model's grid.

    Attributes
    ----------
    hu: (1, 1, D, H, W) int16, geometry: of it.
    case: its outlines; None where none were sent.
    before: its findings by the base.
    """

    hu: torch.Tensor
    geometry: hd.VolumeGeometry
    case: LabelledCase | None
    before: FindingRecord


class Retraining:
    """One retraining: what the steps share.

    Parameters
    ----------
    base: the checkpoint that is retrained.
    out: folder for everything that is made.
    """

    def __init__(self, base: Checkpoint, out: Path, device: torch.device, console: Console) -> None:
        self.base, self.out, self.device, self.console = base, out, device, console
        self.thresholds = Thresholds.from_card(base.card)
        self.tally = Tally()

    def taught(
        self, files: Sequence[StudyFile], clean: Deidentifier, said: Mapping[str, Mapping[str, bool]]
    ) -> list[Taught]:
        """The studies to learn from; what cannot be used is told to the tally."""
        model = self.base.model.to(self.device)
        detector = detector_of(model)
        found = []
        for file, study in self._studies(files, clean, "reading corrections"):
            try:
                found.append(self._taught(model, detector, study, said.get(file.name, {})))
            except (UnusableSampleError, ValueError) as error:
                self._skip(file, error)
                continue
            self.tally.used += 1
        return found

    def _taught(
        self, model: SightlineModel, detector: Detector, study: CorrectedStudy, said: Mapping[str, bool]
    ) -> Taught:
        labels = lesion_labels(study)
        truth = finding_truth(study, said)
        if labels is None and not bool((truth >= 0).any()):
            raise UnusableSampleError("correction says nothing that can be learnt")
        hu, geometry = to_model_grid(canonical(study.volume), model.config.spacing_mm)
        scan = self._encode(model, detector, hu, geometry)
        case = None if labels is None else labelled_case(hu, geometry, scan.features, labels, study.volume)
        before = finding_record(model, detector, scan, truth, self.thresholds)
        return Taught(hu.round().short(), geometry, case, before)

    def _encode(
        self, model: SightlineModel, detector: Detector, hu: torch.Tensor, geometry: hd.VolumeGeometry
    ) -> Redrawn:
        features = encode_scan(model, hu, geometry, self.device, supports_bf16(self.device))
        with torch.inference_mode():
            return detector.draw_again(features)

    def _studies(
        self, files: Sequence[StudyFile], clean: Deidentifier, what: str
    ) -> Iterator[tuple[StudyFile, CorrectedStudy]]:
        for file in track(files, description=what, console=self.console):
            try:
                study = load_study(file, clean)
            except UnusableSampleError as error:
                self._skip(file, error)
                continue
            yield file, study

    def _skip(self, file: StudyFile, error: Exception) -> None:
        kind = (
            error
            if isinstance(error, UnusableSampleError)
            else UnusableSampleError("volume is no CT of a body")
        )
        self.tally.skip(file.name, kind)

    def lesions(self, taught: Sequence[Taught], **changes: Any) -> SightlineModel:
        """The model whose lesion decoder has learnt from the outlines; the base's where there are none."""
        cases = [one.case for one in taught if one.case is not None]
        if not cases:
            return self.base.model
        kinds = outlined_kinds(searched(self.base.card), cases)
        folder = self.out / "lesions"
        folder.mkdir(parents=True, exist_ok=True)
        run = LesionRetraining(
            folder, str(self.device), source=self.base, cases=cases, kinds=kinds, **changes
        )
        follow(run)
        return load_checkpoint(folder / "checkpoint").model

    def findings(
        self, model: SightlineModel, taught: Sequence[Taught], steps: int
    ) -> tuple[SightlineModel, dict[str, float]]:
        """The model whose text heads have learnt from the verdicts, and the last losses."""
        if not any(bool((one.before.truth >= 0).any()) for one in taught):
            return model, {}
        model = model.to(self.device)
        detector, after = detector_of(model), []
        for one in track(taught, description="masks anew", console=self.console):
            scan = self._encode(model, detector, one.hu.float(), one.geometry)
            after.append(finding_record(model, detector, scan, one.before.truth, self.thresholds))
        teacher = FindingTeacher(
            self.base.model, model, [one.before for one in taught], after, self.thresholds
        )
        history = teacher.teach(steps)
        return teacher.model, history[-1] if history else {}

    def save(self, model: SightlineModel, taught: Sequence[Taught], losses: dict[str, float]) -> Path:
        """The checkpoint's folder; thresholds stay the base's, because the comparison judges them too."""
        base, folder = self.base, self.out / "checkpoint"
        outlined = [one.case for one in taught if one.case is not None]
        known = {a.name for a in searched(base.card)}
        kinds = [k for k in outlined_kinds(searched(base.card), outlined) if outlined]
        earlier = [
            *base.card.get("earlier_stages", []),
            {k: base.card[k] for k in STAGE_KEYS if k in base.card},
        ]
        times = int(base.card.get("retrained", 0)) + 1
        card = {k: v for k, v in base.card.items() if k not in ("metrics", "digest", *STAGE_KEYS)}
        card |= {
            "version": f"{str(base.card['version']).partition('+')[0]}+retrained.{times}",
            "retrained": times,
            "retrained_from": base.identity.digest,
            "description": "Research model, retrained on one archive's corrections. Not a medical device.",
            "data": {
                "corrected_studies": len(taught),
                "outlined_studies": len(outlined),
                "outlined": kinds,
                "verdicts": sum(int((one.before.truth >= 0).sum()) for one in taught),
            },
            "abnormalities": [
                *(a.name for a in searched(base.card)),
                *(kind for kind in kinds if kind not in known),
            ],
            "earlier_stages": earlier,
            "losses": losses,
        }
        save_checkpoint(model.cpu(), card, folder)
        return folder

    def pairs(self, files: Sequence[StudyFile], clean: Deidentifier, base: Path, new: Path) -> list[Pair]:
        """Both checkpoints on the held-out studies."""
        readers = Reader.load(base, str(self.device)), Reader.load(new, str(self.device))
        found: list[Pair] = []
        for file, study in self._studies(files, clean, "comparing on held-out patients"):
            try:
                found += read_pairs(*readers, [(file.patient, study)])
            except (UnusableSampleError, ValueError) as error:
                self._skip(file, error)
        return found


def base_of(archive: Path) -> Path:
    """The checkpoint that the archive's node was promoted to; the shipped one where none was."""
    pointer = archive / "models" / "in_use.json"
    try:
        digest = str(json.loads(pointer.read_text(encoding="utf-8"))["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        digest = ""
    return archive / "models" / digest if digest else default_checkpoint()


def retrain(args: argparse.Namespace, console: Console) -> Verdict:
    """Do what the command line asks.

    Raises
    ------
    ValueError: an argument is wrong, or there is nothing to learn.
    """
    if not (args.archive / "results").is_dir():
        raise ValueError(f"--archive {args.archive} is no archive of a node; name its folder")
    base_folder = args.base or base_of(args.archive)
    base = load_checkpoint(base_folder)
    pseudonyms = open_pseudonyms(args.key or key_of(args.archive))
    clean = Deidentifier(pseudonyms)
    texts = {} if args.reports is None else read_reports(args.reports, pseudonyms)
    said = {study: said_of(text) for study, text in texts.items()}
    work = Retraining(base, args.out, choose_device(args.device), console)
    files = study_files(args.archive, pseudonyms, work.tally)
    args.out.mkdir(parents=True, exist_ok=True)
    _refuse_other_inputs(args, base, files)
    taught = work.taught(only(files, held_out=False), clean, said)
    if not taught:
        raise ValueError(f"nothing to learn from in --archive {args.archive}: {work.tally.summary()}")
    changes = {k: getattr(args, k) for k in ("steps", "batch", "learning_rate", "seed")}
    model = work.lesions(taught, **changes)
    model, losses = work.findings(model, taught, args.finding_steps)
    folder = work.save(model, taught, losses)
    pairs = work.pairs(only(files, held_out=True), clean, base_folder, folder)
    verdict = Verdict(
        base=Judged.of(base_folder),
        new=Judged.of(folder),
        measures=tuple(measures(pairs, args.draws)),
        patients=len({pair.patient for pair in pairs}),
        patients_needed=args.patients_needed,
        about=f"{len(pairs)} corrected studies of one archive, none of a patient who was learnt from",
    )
    write_verdict(verdict, folder)
    write_report(verdict, args.out)
    console.print(work.tally.summary(), markup=False, highlight=False)
    return verdict


def _refuse_other_inputs(args: argparse.Namespace, base: Checkpoint, files: Sequence[StudyFile]) -> None:
    """A folder goes on with what it began with, and with nothing else."""
    content = [hashlib.sha256(file.path.read_bytes()).hexdigest() for file in files]
    asked = [args.steps, args.batch, args.learning_rate, args.seed, base.identity.digest]
    own = hashlib.sha256(json.dumps([asked, sorted(content)]).encode()).hexdigest()
    note = args.out / INPUTS
    if note.exists() and json.loads(note.read_text(encoding="utf-8")) != own:
        raise ValueError(
            f"--out {args.out} holds a run on other corrections or settings; name another folder"
        )
    note.write_text(json.dumps(own), encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.finetune",
        description="Turn a node's archive and its radiologists' corrections into a new checkpoint, compare "
        f"it with the one before on the {round(100 * HELD_OUT)} %% of the patients that are never learnt "
        "from, and say whether it may be promoted. Identity is removed on the way in. Interrupt it at will: "
        "the same command goes on.",
        epilog="example: python -m training.finetune --archive /var/lib/sightline --out runs/ours, then "
        "sightline promote runs/ours/checkpoint --config node.toml",
    )
    parser.add_argument("--archive", type=Path, required=True, help="folder of the node's archive")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for state, log, checkpoint and verdict"
    )
    parser.add_argument(
        "--base",
        type=Path,
        help="checkpoint to start from (default: the one promoted there, or the shipped one)",
    )
    parser.add_argument(
        "--reports",
        type=Path,
        help="CSV (StudyInstanceUID, report) or folder of STUDY_UID.txt; what they affirm or deny counts "
        "where no radiologist gave a verdict. The text itself is not kept",
    )
    parser.add_argument(
        "--key", type=Path, help="file of the key of split and names (default: in the archive)"
    )
    parser.add_argument("--steps", type=int, default=1000, help="of the lesion stage (default: %(default)s)")
    parser.add_argument(
        "--finding-steps", type=int, default=200, help="of the findings stage (default: %(default)s)"
    )
    parser.add_argument("--batch", type=int, default=1, help="crops per step (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=3e-4, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--draws", type=int, default=1000, help="of the bootstrap (default: %(default)s)")
    parser.add_argument(
        "--patients-needed",
        type=int,
        default=PATIENTS_NEEDED,
        help="held-out patients without whom nothing is promoted (default: %(default)s)",
    )
    parser.add_argument("--device", help="cpu or cuda (default: CUDA if there is one)")
    return parser


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = _parser()
    args = parser.parse_args(arguments)
    for name in ("steps", "finding_steps", "batch", "draws", "patients_needed"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(args, name)}; needed is 1 at least")
    console = Console()
    try:
        verdict = retrain(args, console)
    except ValueError as error:
        parser.error(str(error))
    console.print(f"{args.out / 'checkpoint'}: {outcome(verdict)}", markup=False, highlight=False)
    console.print(f"compared in {args.out / 'comparison.md'}", markup=False, highlight=False)


__all__ = ["Retraining", "base_of", "main", "retrain"]
