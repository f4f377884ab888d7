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
from monai.inferers.utils import sliding_window_inference
from scipy import ndimage

from core_model.model import SightlineModel
from core_model.volume import bounding_slices, window

BODY_HU = -400.0
AIR = -1.0  # what both channels of the network's window are in air
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
    # torch has no public question for this yet; without the private one, float32 is the safe answer.
    asks = [getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")]
    return any(bool(ask()) for ask in asks if ask is not None)


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
    body: (D, H, W) bool, inside the patient.
    organ_probability: (1 + O, D, H, W) float32.
    dense: (C, D, H, W) float32, for text-conditioned masks.
    grid: (E, D/2, H/2, W/2) float32, for grounding.
    grid_geometry: of the grid cells.
    """

    geometry: hd.VolumeGeometry
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
    dense = ndimage.binary_opening(hu.numpy() > BODY_HU, iterations=1)
    labels, n = ndimage.label(dense)
    if n == 0:
        raise ValueError(
            "volume shows no body: nothing in it is denser than -400 HU; is the rescale to Hounsfield units missing?"
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
    model: SightlineModel, hu: torch.Tensor, geometry: hd.VolumeGeometry, device: torch.device, bf16: bool
) -> ScanFeatures:
    """Encode a whole scan.

    Parameters
    ----------
    hu: (1, 1, D, H, W) Hounsfield units on the model grid.
    geometry: of `hu`.

    Raises
    ------
    ValueError: if the scan shows no body.
    """
    body = body_mask(hu[0, 0])
    box = bounding_slices(body.numpy(), margin=(2, 4, 4))
    x = window(hu[:, :, box[0], box[1], box[2]])
    stride, train_window = model.image.stride, model.config.window
    roi = (
        max(train_window[0], stride),
        min(MAX_IN_PLANE, max(train_window[1], _multiple(x.shape[3], stride))),
        min(MAX_IN_PLANE, max(train_window[2], _multiple(x.shape[4], stride))),
    )
    shape = tuple(x.shape[2:])
    # Padded at the end only, and to even sides, so that half-resolution cells cover whole voxels.
    padded = [max(_multiple(n, 2), r) for n, r in zip(shape, roi, strict=True)]
    x = F.pad(x, [0, padded[2] - shape[2], 0, padded[1] - shape[1], 0, padded[0] - shape[0]], value=AIR)
    cells = [n // 2 for n in shape]

    def predict(tile: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        tile = tile.contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            encoded = model.encode_image(tile)
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
        organ_logits, dense = (t[0, :, : shape[0], : shape[1], : shape[2]].cpu() for t in (organ_logits, dense))
        grid = grid[0, :, : cells[0], : cells[1], : cells[2]].cpu()
        probability = organ_logits.softmax(0)
    inner = geometry[box[0], box[1], box[2]]
    return ScanFeatures(
        geometry=inner,
        body=body[box],
        organ_probability=probability,
        dense=dense,
        grid=grid,
        grid_geometry=halved(inner),
    )


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
