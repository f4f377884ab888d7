"""TotalSegmentator as a function: a CT volume in, its structures or the reading organs out.

Not a model of ours: the package ``TotalSegmentator`` (Wasserthal et al., Radiology: Artificial Intelligence
2023, doi 10.1148/ryai.230024) is imported when it is used, and is an extra of the installation. Its habits
are kept in here: it ends the process, prints, downloads, removes older weights, counts its use over the
network, and writes into the home folder. Here it does none of that.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import torch

from core_model.anatomy import organs, structures
from core_model.inference import choose_device
from core_model.reading import ModelIdentity, OrganDrawing

SOURCE = "University Hospital Basel"
TOTAL = "total"
# What TotalSegmentator and nnU-Net read from the environment; the first two are set here.
_ENVIRONMENT = (
    "TOTALSEG_HOME_DIR",
    "TOTALSEG_WEIGHTS_PATH",
    "nnUNet_raw",
    "nnUNet_preprocessed",
    "nnUNet_results",
)
_CONFIG = {
    "totalseg_id": "sightline",
    "send_usage_stats": False,
    "statistics_disclaimer_shown": True,
    "prediction_counter": 0,
}


class TotalSegmentatorError(RuntimeError):
    """TotalSegmentator failed on one volume; the message is its last word."""


class TotalSegmentatorMasks:
    """One task of TotalSegmentator with weights that lie on this disk. An `OrganSegmenter`.

    Not thread-safe, and one per process: while it draws, it sets environment variables of the process and
    takes its standard output. nnU-Net starts processes of its own, so the process must not be a daemon.

    Parameters
    ----------
    task: one that needs no licence; `organs` needs ``"total"``.
    fast: the model of 3 mm instead of 1.5 mm, for tasks that have one.
    device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``; None means CUDA where there is any.
    weights: folder with ``Dataset297_...`` and the like; None means where TotalSegmentator looks itself.

    Attributes
    ----------
    model: package version and SHA-256 of the weights.
    labels: what the numbers of `structures` mean.

    Raises
    ------
    ValueError: if the package or a weight is missing, or the task is unknown or needs a licence; the message
        says what to do.
    """

    def __init__(
        self,
        *,
        task: str = TOTAL,
        fast: bool = False,
        device: str | None = None,
        weights: Path | None = None,
    ) -> None:
        _package()
        self.task, self.fast = task, fast
        self._classes = _classes(task)
        where = choose_device(device)
        index = "" if where.index is None else f":{where.index}"
        self._device = "cpu" if where.type == "cpu" else f"gpu{index}"
        self._weights = (weights or _usual_weights()).absolute()
        folders = [folder for one in _needed(task, fast) for folder in [_model_folder(self._weights, *one)]]
        size = " 3 mm" if fast else ""
        self.model = ModelIdentity(
            f"TotalSegmentator {task}{size}", importlib.metadata.version("TotalSegmentator"), _digest(folders)
        )
        ids = {s.name: s.v2_id for s in structures() if s.v2_id is not None}
        self._ids = {v: ids.get(n, 0) if task == TOTAL else v for v, n in self._classes.items()}
        self.labels: Mapping[int, str] = {self._ids[v]: n for v, n in self._classes.items() if self._ids[v]}

    @property
    def drawing(self) -> OrganDrawing:
        """Who draws, and the reading organs that it can draw."""
        drawn = set(self.labels.values())
        names = {s.reading_organ for s in structures() if s.name in drawn}
        return OrganDrawing(self.model, SOURCE, tuple(o.name for o in organs() if o.name in names))

    def organs(self, volume: hd.Volume) -> hd.Volume:
        """Reading organ labels of a CT, uint8 on exactly its geometry; raises as `structures`.

        Merged by the names of the structures (`core_model.anatomy`).
        """
        if self.task != TOTAL:
            raise ValueError(f"task {self.task!r} draws no organs; use {TOTAL!r}")
        label = {o.name: o.label for o in organs()}
        table = np.zeros(256, dtype=np.uint8)
        for s in structures():
            if s.v2_id is not None and s.reading_organ is not None:
                table[s.v2_id] = label[s.reading_organ]
        return volume.with_array(table[self.structures(volume).array])

    def structures(self, volume: hd.Volume) -> hd.Volume:
        """What TotalSegmentator draws in a CT.

        Parameters
        ----------
        volume: Hounsfield units, in any orientation.

        Returns
        -------
        uint8 Volume on exactly `volume`'s geometry: v2 ids of the task "total", else the task's own.

        Raises
        ------
        TotalSegmentatorError: if it fails, or ends the process.
        """
        from totalsegmentator import python_api  # noqa: PLC0415

        image = volume.with_array(volume.array.astype(np.float32)).to_nibabel()
        printed = io.StringIO()
        try:
            with _contained(self._weights, python_api), contextlib.redirect_stdout(printed):
                result = python_api.totalsegmentator(
                    image, task=self.task, fast=self.fast, ml=True, quiet=True, device=self._device
                )
        except (Exception, SystemExit) as error:
            said = [line for line in printed.getvalue().splitlines() if line.strip()]
            why = (said or ["no reason given"])[-1] if isinstance(error, SystemExit) else str(error)
            name = type(error).__name__
            raise TotalSegmentatorError(f"TotalSegmentator failed ({name}): {why}") from error
        if result.shape != image.shape or not np.allclose(result.affine, image.affine, atol=1e-3):
            raise TotalSegmentatorError(
                f"TotalSegmentator failed: it drew {result.shape} on a CT of {image.shape}, or elsewhere"
            )
        table = np.zeros(256, dtype=np.uint8)
        for value, own in self._ids.items():
            table[value] = own
        return volume.with_array(table[np.asarray(result.dataobj).astype(np.uint8)])


def _package() -> None:
    try:
        import nnunetv2  # noqa: F401, PLC0415
        import totalsegmentator.registry  # noqa: F401, PLC0415
    except ImportError as error:
        raise ValueError(
            f"TotalSegmentator is not installed ({error}); pip install 'sightline[totalsegmentator]'"
        ) from error


def _classes(task: str) -> dict[int, str]:
    """What the numbers of an open CT task mean."""
    from totalsegmentator import registry  # noqa: PLC0415

    if task not in registry.TASKS:
        raise ValueError(f"task {task!r} is none of TotalSegmentator's: {', '.join(registry.TASKS)}")
    if registry.requires_license(task):
        raise ValueError(f"task {task!r} of TotalSegmentator needs a licence; choose an open one: {TOTAL!r}")
    if registry.task_modality(task) != "CT":
        raise ValueError(f"task {task!r} of TotalSegmentator is for MR; choose one for CT: {TOTAL!r}")
    return {int(value): str(name) for value, name in registry.get_task_classes(task).items()}


def _usual_weights() -> Path:
    from totalsegmentator.config import get_weights_dir  # noqa: PLC0415

    return Path(get_weights_dir())


def _needed(task: str, fast: bool) -> list[tuple[int, str]]:
    """Weights of a task, and of the one that it crops by: number, and folder of trainer and plans."""
    from totalsegmentator.python_api import get_task_config  # noqa: PLC0415

    config: dict[str, Any] = get_task_config(task, fast=fast, quiet=True)
    plans = config["plans"] or "nnUNetPlans"
    ids = config["task_id"] if isinstance(config["task_id"], list) else [config["task_id"]]
    needed = [(int(n), f"{config['trainer']}__{plans}__{config['model']}") for n in ids]
    if config["crop"] is not None or config["cascade"]:
        if config["crop_model"] is not None:
            return needed + _needed(config["crop_model"], fast=False)
        body = {"body_trunc", "body_extremities"} & set(config["crop"] or ())
        number = 300 if body else 297 if config["robust_crop"] else 298
        trainer = "nnUNetTrainer" if body else "nnUNetTrainer_4000epochs_NoMirroring"
        needed.append((number, f"{trainer}__nnUNetPlans__3d_fullres"))
    return needed


def _model_folder(weights: Path, number: int, name: str) -> Path:
    """The folder of one model, or an error that says how it comes here."""
    found = sorted(weights.glob(f"Dataset{number:03d}_*/{name}"))
    if len(found) == 1 and any(found[0].glob("fold_*/checkpoint_final.pth")):
        return found[0]
    what = "is incomplete" if found else "is missing"
    raise ValueError(
        f"the weight Dataset{number:03d}_.../{name} {what} in {weights}; nothing is downloaded here: run "
        "'totalseg_download_weights -t total' (of 3 mm: -t total_fast) where there is a network and copy "
        "~/.totalsegmentator/nnunet/results"
    )


def _digest(folders: list[Path]) -> str:
    """SHA-256 of all files that decide what is drawn."""
    digest = hashlib.sha256()
    for folder in sorted(folders):
        files = [folder / "dataset.json", folder / "plans.json", *folder.glob("fold_*/checkpoint_final.pth")]
        for path in sorted(files):
            with path.open("rb") as file:
                digest.update(f"{folder.parent.name}/{path.relative_to(folder).as_posix()}\0".encode())
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


@contextlib.contextmanager
def _contained(weights: Path, api: Any) -> Iterator[None]:
    """TotalSegmentator with weights of this disk, a home of its own, and no network."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    fetch = api.download_pretrained_weights
    with tempfile.TemporaryDirectory(prefix="sightline-totalsegmentator-") as home:
        (Path(home) / "config.json").write_text(json.dumps(_CONFIG), encoding="utf-8")
        os.environ.update(TOTALSEG_HOME_DIR=home, TOTALSEG_WEIGHTS_PATH=str(weights))
        api.download_pretrained_weights = _no_download  # it would also remove weights of version 1
        try:
            yield
        finally:
            api.download_pretrained_weights = fetch
            torch.set_num_threads(threads)
            torch.backends.cudnn.benchmark = benchmark
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def _no_download(task_id: int) -> None:
    """In the place of TotalSegmentator's own: that all weights are here was seen before."""
