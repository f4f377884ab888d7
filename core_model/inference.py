"""Running the network over a whole scan: device, precision, body box, sliding window.

MONAI's sliding window does the tiling and blending; here is only what is ours to choose.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import highdicom as hd
import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from core_model.model import SightlineModel
from core_model.parts import without_strays
from core_model.volume import bounding_slices, sub_geometry, window

BODY_HU = -400.0
AIR = -1.0  # both channels of `core_model.volume.window` in air
MAX_IN_PLANE = 128  # voxels of the window in plane; a body wider than 512 mm at 4 mm is tiled


def choose_device(device: str | None = None) -> torch.device:
    """CUDA where there is one, else CPU; `device` overrides.

    Raises
    ------
    ValueError: if `device` is not usable here; the message says what is.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r} is not a device; use 'cpu', 'cuda' or 'cuda:1'") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} was asked for, but torch sees no CUDA device; use 'cpu'")
    return chosen


def supports_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 there: on CUDA, and on CPUs with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return cpu_has("amx_tile") or cpu_has("avx512_bf16")


def cpu_has(feature: str) -> bool:
    """Whether torch says that this CPU has a feature, such as "amx_tile"."""
    # torch has no public question for this yet; without the private one, no is the safe answer.
    ask = getattr(torch.cpu, f"_is_{feature}_supported", None)
    return ask is not None and bool(ask())


def describe_device(device: torch.device, bf16: bool) -> str:
    """For people: ``"cpu (bf16, 2 threads)"``."""
    precision = "bf16" if bf16 else "float32"
    if device.type == "cuda":
        return f"{device} {torch.cuda.get_device_name(device)} ({precision})"
    return f"cpu ({precision}, {torch.get_num_threads()} of {os.cpu_count()} threads)"


@dataclass(frozen=True)
class ScanFeatures:
    """The network's output for a whole scan, cropped to the body's box.

    Attributes
    ----------
    geometry: of the model-grid voxels inside the box.
    hu: (D, H, W) float32 Hounsfield units.
    body: (D, H, W) bool, inside the patient.
    organ_probability: (1 + O, D, H, W) float32, the organs rid of strays (`core_model.parts`).
    dense: (C, D, H, W) float32, for text-conditioned masks.
    grid: (E, D/2, H/2, W/2) float32, for grounding.
    grid_geometry: of the grid cells.
    """

    geometry: hd.VolumeGeometry
    hu: torch.Tensor
    body: torch.Tensor
    organ_probability: torch.Tensor
    dense: torch.Tensor
    grid: torch.Tensor
    grid_geometry: hd.VolumeGeometry


def body_mask(hu: torch.Tensor) -> torch.Tensor:
    """(D, H, W) bool: the largest connected thing denser than fat and air, holes filled per slice.

    Raises
    ------
    ValueError: if nothing in the volume is denser than -400 HU (it is no CT of a body).
    """
    # Beyond its end the scan goes on: else opening would erase scans of one or two layers.
    dense = np.pad(hu.numpy() > BODY_HU, 1, mode="edge")
    dense = ndimage.binary_opening(dense, iterations=1)[1:-1, 1:-1, 1:-1]
    labels, n = ndimage.label(dense)
    if n == 0:
        raise ValueError(
            "volume shows no body: nothing in it is denser than -400 HU; "
            "is the rescale to Hounsfield units missing?"
        )
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    body = labels == int(sizes.argmax())
    for k in range(body.shape[0]):
        body[k] = ndimage.binary_fill_holes(body[k])
    return torch.from_numpy(body)


def _multiple(n: int, of: int) -> int:
    return -(-n // of) * of


def encode_scan(
    model: SightlineModel,
    hu: torch.Tensor,
    geometry: hd.VolumeGeometry,
    device: torch.device,
    bf16: bool,
    *,
    lesions: bool = True,
) -> ScanFeatures:
    """Encode a whole scan.

    Parameters
    ----------
    hu: (1, 1, D, H, W) Hounsfield units on the model grid.
    geometry: of `hu`.
    lesions: as in `SightlineModel.encode_image`.

    Raises
    ------
    ValueError: if the scan shows no body.
    """
    # Not above: importing MONAI takes ten seconds of a core, and who asks of stored readings never tiles.
    from monai.inferers.utils import sliding_window_inference  # noqa: PLC0415

    body = body_mask(hu[0, 0])
    hu, body, geometry = _evened(hu, body, geometry)
    box = _even_box(bounding_slices(body.numpy(), margin=(2, 4, 4)), hu.shape[2:])
    x = window(hu[:, :, box[0], box[1], box[2]])
    size = x.shape[2:]
    stride, train_window = model.image.stride, model.config.window
    roi = (
        train_window[0],
        min(MAX_IN_PLANE, max(train_window[1], _multiple(size[1], stride))),
        min(MAX_IN_PLANE, max(train_window[2], _multiple(size[2], stride))),
    )
    # MONAI would pad by itself, but centred: half-resolution cells would then lie half a cell off.
    missing = [max(0, r - n) for r, n in zip(roi, size, strict=True)]
    x = F.pad(x, (0, missing[2], 0, missing[1], 0, missing[0]), value=AIR)

    def predict(tile: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        tile = tile.contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            encoded = model.encode_image(tile, lesions=lesions)
        return encoded.organ_logits.float(), encoded.dense.float(), encoded.grid.float()

    with torch.inference_mode():
        organ_logits, dense, grid = sliding_window_inference(
            x.to(device),
            roi_size=roi,
            sw_batch_size=1,
            predictor=predict,
            overlap=0.5,
            mode="gaussian",
            sigma_scale=0.25,
        )
    half = [n // 2 for n in size]
    organs = organ_logits[0, :, : size[0], : size[1], : size[2]].softmax(0).cpu()  # (1 + O, D, H, W)
    inner = sub_geometry(geometry, *box)
    return ScanFeatures(
        geometry=inner,
        hu=hu[0, 0, box[0], box[1], box[2]],
        body=body[box],
        organ_probability=without_strays(organs),
        dense=dense[0, :, : size[0], : size[1], : size[2]].cpu(),
        grid=grid[0, :, : half[0], : half[1], : half[2]].cpu(),
        grid_geometry=halved(inner),
    )


def _evened(
    hu: torch.Tensor, body: torch.Tensor, geometry: hd.VolumeGeometry
) -> tuple[torch.Tensor, torch.Tensor, hd.VolumeGeometry]:
    """The scan with even sides, so that half-resolution cells cover whole voxels.

    Odd sides get their last layer once more, outside of the body, instead of losing it.
    """
    odd = [n % 2 for n in body.shape]
    ends = (0, odd[2], 0, odd[1], 0, odd[0])
    grown = geometry.pad([[0, n] for n in odd])
    return F.pad(hu, ends, mode="replicate"), F.pad(body, ends), grown


def _even_box(box: tuple[slice, slice, slice], shape: torch.Size) -> tuple[slice, slice, slice]:
    """`box` grown to even sides inside of an even `shape`."""
    even = []
    for s, n in zip(box, shape, strict=True):
        odd = (s.stop - s.start) % 2
        even.append(slice(s.start, s.stop + odd) if s.stop < n else slice(s.start - odd, s.stop))
    return even[0], even[1], even[2]


def halved(geometry: hd.VolumeGeometry) -> hd.VolumeGeometry:
    """The grid of cells of 2x2x2 voxels."""
    affine = np.array(geometry.affine)
    origin = geometry.map_indices_to_reference(np.array([[0.5, 0.5, 0.5]]))[0]
    affine[:3, :3] *= 2
    affine[:3, 3] = origin
    return hd.VolumeGeometry(
        affine,
        spatial_shape=[n // 2 for n in geometry.spatial_shape],
        coordinate_system="PATIENT",
        frame_of_reference_uid=geometry.frame_of_reference_uid,
    )
