"""Windows that a frozen encoder has read, kept in a folder for all stages after it.

``python -m training.stored_windows CHECKPOINT --out DIR --n 400`` reads each crop of phantoms once; the
stages on a frozen encoder (lesions, judge, language heads, their baselines and ablations) then take
``--windows DIR`` and cost minutes instead of hours. Not a cache of phantoms: a file holds what one
encoder gave, and is refused by a model with another one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from core_model.checkpoint import load_checkpoint
from core_model.image_encoder import ImageFeatures
from core_model.inference import choose_device, supports_bf16
from core_model.model import SightlineModel
from core_model.volume import window
from training.phantom_data import phantom_crops
from training.samples import Crop, collate
from training.settings import Settings
from training.snippets import CropSnippet
from training.whole_files import whole_file

CONFIG = Path(__file__).parent / "configs" / "lesions.toml"
HOW = "python -m training.stored_windows CHECKPOINT --out DIR"
ENCODER_FILE = "encoder.json"
SHARE_STEPS = 255  # shares of cells are kept in so many steps


class OtherEncoderError(ValueError):
    """A folder holds windows that another encoder read."""


def digest_of(modules: Sequence[nn.Module]) -> str:
    """Sixteen hexadecimal digits of the weights, in the half precision that checkpoints have."""
    total = hashlib.sha256()
    for module in modules:
        for name, value in sorted(module.state_dict().items()):
            total.update(name.encode() + value.detach().cpu().half().contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


def encoder_digest(model: SightlineModel) -> str:
    """Of everything that "encoder" freezes."""
    return digest_of([model.image, model.half_organ_head, model.quarter_organ_head])


@torch.no_grad()
def save_window(model: SightlineModel, sample: Crop, file: Path, *, bf16: bool) -> None:
    """Read one crop and write it with its features; the file is there whole or not at all.

    Parameters
    ----------
    sample: a batch of one, on the model's device.
    """
    x = window(sample.hu).contiguous(memory_format=torch.channels_last_3d)
    with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=bf16):
        features = model.image(x)
        half_logits = model.half_organ_head(features.half)
    logits = features.organ_logits.float() + F.interpolate(half_logits.float(), scale_factor=2.0)
    shares = F.avg_pool3d(logits.softmax(1)[:, 1:], 2)  # (1, O, d, h, w)
    tensors = {
        "hu": sample.hu[0].round().to(torch.int16),
        "organs": sample.organs[0],
        "lesions": sample.lesions[0],
        "findings": sample.findings[0],
        "shares": (shares[0] * SHARE_STEPS).round().to(torch.uint8),
        "fine": features.fine[0].half(),
        "half": features.half[0].half(),
        "quarter": features.quarter[0].half(),
    }
    snippets = json.dumps([asdict(s) for s in sample.snippets[0]])
    with whole_file(file) as part:
        save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, part, {"snippets": snippets})


def load_window(file: Path, *, fine: bool, evidence: torch.Tensor | None = None) -> Crop:
    """One crop with its features.

    Parameters
    ----------
    fine: with the finest features, of which organ logits are made; they are most of a file.
    evidence: see `Crop.evidence`.

    Raises
    ------
    ValueError: if the file is damaged.
    """
    try:
        with safe_open(file, "pt") as opened:
            names = [name for name in opened.keys() if fine or name != "fine"]  # noqa: SIM118
            held = {name: opened.get_tensor(name) for name in names}
            snippets = json.loads(opened.metadata()["snippets"])
            nothing = torch.zeros(1, 0, *held["organs"].shape)
            return Crop(
                hu=held["hu"].float(),
                organs=held["organs"],
                lesions=held["lesions"],
                findings=held["findings"],
                snippets=(tuple(CropSnippet(**s) for s in snippets),),
                features=ImageFeatures(
                    fine=held["fine"].float()[None] if fine else nothing,
                    half=held["half"].float()[None],
                    quarter=held["quarter"].float()[None],
                    organ_logits=nothing,
                ),
                shares=held["shares"].float() / SHARE_STEPS,
                evidence=evidence,
            )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(f"{file} is no stored window ({error!r}); delete it and store anew") from error


def window_files(folder: Path, model: SightlineModel) -> list[Path]:
    """The windows of a folder, in order.

    Raises
    ------
    ValueError: if there are none, or another encoder read them (`OtherEncoderError`).
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"windows folder {folder} holds no windows; make some: {HOW}")
    described, own = folder / ENCODER_FILE, encoder_digest(model)
    read_by = "unknown"
    if described.is_file():
        read_by = json.loads(described.read_text(encoding="utf-8"))["encoder"]
    if read_by != own:
        raise OtherEncoderError(
            f"windows folder {folder} was read by encoder {read_by}, this checkpoint has {own}; store its "
            f"windows in a new folder: {HOW}"
        )
    return files


class StoredWindows(IterableDataset[Crop]):
    """An endless stream of stored windows, all of them in a new order each time round.

    Parameters
    ----------
    files: of `window_files`, or a part of them.
    seed: of the order; start, batch: as in `training.samples.PhantomCrops`.
    fine: as in `load_window`.
    evidence: by file name, see `Crop.evidence`; None gives none.
    part: number of this process and their count: which rows of each batch are its own.

    Raises
    ------
    ValueError: if there are fewer files than a batch has.
    """

    def __init__(
        self,
        files: Sequence[Path],
        *,
        seed: int,
        start: int = 0,
        batch: int = 1,
        fine: bool = True,
        evidence: Mapping[str, torch.Tensor] | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        if len(files) < batch:
            raise ValueError(f"{len(files)} windows are stored, a batch has {batch}; store more: {HOW}")
        self.files, self.seed, self.start, self.batch = list(files), seed, start, batch
        self.fine, self.evidence = fine, evidence or {}
        rank, size = part
        self._rows = slice(rank * batch // size, (rank + 1) * batch // size)

    def __iter__(self) -> Iterator[Crop]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        number = self.start + worker  # the loader takes batches from its workers in turn
        while True:
            for file in self.batch_of(number)[self._rows]:
                yield load_window(file, fine=self.fine, evidence=self.evidence.get(file.name))
            number += workers

    def batch_of(self, number: int) -> list[Path]:
        """The files of batch `number`, counted from 0; a rest smaller than a batch is left out each round."""
        per_round = len(self.files) // self.batch
        turn, place = divmod(number, per_round)
        order = np.random.default_rng([self.seed, 11, turn]).permutation(len(self.files))
        return [self.files[i] for i in order[place * self.batch : (place + 1) * self.batch]]


def store(
    model: SightlineModel,
    settings: Settings,
    label_maps: Sequence[Path],
    out: Path,
    n: int,
    *,
    stream: int = 0,
    device: torch.device,
    console: Console,
) -> None:
    """Store windows 0 to `n` - 1 of a stream; those that are there are not read again.

    Parameters
    ----------
    stream: processes with different streams fill one folder together.

    Raises
    ------
    OtherEncoderError: if the folder holds windows that another encoder read.
    """
    out.mkdir(parents=True, exist_ok=True)
    if any(out.glob("*.safetensors")):
        window_files(out, model)  # windows of two encoders in one folder would be taken for those of one
    else:
        (out / ENCODER_FILE).write_text(json.dumps({"encoder": encoder_digest(model)}), encoding="utf-8")
    names = [out / f"{stream:02d}-{k:05d}.safetensors" for k in range(n)]
    done = next((k for k, f in enumerate(names) if not f.exists()), n)
    crops = phantom_crops(settings, label_maps, stream=stream, start=done, batch=1)
    loader = DataLoader(crops, batch_size=1, collate_fn=collate, num_workers=settings.data["workers"])
    model = model.to(device)
    model.channels_last()
    bf16 = supports_bf16(device)
    steps = zip(names[done:], loader, strict=False)
    for file, sample in track(steps, description="windows", total=n - done, console=console):
        save_window(model, sample.to(device), file, bf16=bf16)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.stored_windows",
        description="Read crops of phantoms once with a checkpoint's encoder, for the stages that leave it "
        "as it is. Interrupt it at will: the same command goes on. A window takes 28 MB.",
        epilog=f"example: {HOW} --n 400, then training.pretrain --config training/configs/heads.toml "
        "--init CHECKPOINT --windows DIR --out runs/heads",
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--n", type=int, default=400, help="windows of this stream (default: %(default)s)")
    parser.add_argument("--config", type=Path, default=CONFIG, help="its data section (default: %(default)s)")
    parser.add_argument("--label-maps", type=Path, action="append", default=[], metavar="DIR")
    parser.add_argument("--stream", type=int, default=0, help="another one for each process (default: 0)")
    parser.add_argument("--device", help="cpu or cuda (default: CUDA if there is one)")
    args = parser.parse_args(arguments)
    if args.n < 1 or args.stream < 0:
        parser.error(f"--n is {args.n} and --stream {args.stream}; needed are 1 and 0 at least")
    try:
        settings = Settings.from_file(args.config)
        device = choose_device(args.device)
        model = load_checkpoint(args.checkpoint).model
    except ValueError as error:
        parser.error(str(error))
    try:
        store(
            model,
            settings,
            args.label_maps,
            args.out,
            args.n,
            stream=args.stream,
            device=device,
            console=Console(stderr=True),
        )
    except OtherEncoderError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
