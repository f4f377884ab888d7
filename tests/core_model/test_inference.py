"""The network over whole scans: body, box, tiles, and the geometry of what comes out."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from core_model import inference
from core_model.inference import (
    ScanFeatures,
    body_mask,
    choose_device,
    describe_device,
    encode_scan,
    halved,
    supports_bf16,
)
from core_model.model import SightlineModel
from core_model.parts import without_strays
from core_model.volume import resampled_geometry, to_model_grid, window
from tests.tiny import body_volume, tiny_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> SightlineModel:
    return tiny_model()


def encoded(model: SightlineModel, shape: tuple[int, int, int], spacing_mm: float = 8.0) -> ScanFeatures:
    volume = body_volume(shape, (spacing_mm,) * 3)
    hu, geometry = to_model_grid(volume, 8.0)
    return encode_scan(model, hu, geometry, CPU, bf16=False)


def test_a_table_is_no_body() -> None:
    hu = torch.full((10, 40, 40), -1000.0)
    hu[:, 8:26, 8:32] = 40
    hu[:, 12:20, 12:20] = -800  # lung: a hole that belongs to the body
    hu[:, 32:35, 2:38] = 100
    body = body_mask(hu)
    assert bool(body[:, 12:20, 12:20].all())
    assert not bool(body[:, 30:].any())
    assert int(body.sum()) == pytest.approx(10 * 18 * 24, rel=0.02)  # opening rounds the corners


def test_a_thin_bridge_to_the_table_is_cut() -> None:
    hu = torch.full((10, 40, 40), -1000.0)
    hu[:, 8:26, 8:32] = 40
    hu[:, 30:34, 2:38] = 100
    hu[5, 26:30, 20] = 100
    assert not bool(body_mask(hu)[:, 30:].any())


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_thin_scans_have_a_body(depth: int) -> None:
    hu = torch.full((depth, 30, 30), -1000.0)
    hu[:, 5:25, 5:25] = 40
    assert int(body_mask(hu).sum()) >= depth * (400 - 4)


def test_air_is_no_body() -> None:
    with pytest.raises(ValueError, match=r"shows no body.*Hounsfield"):
        body_mask(torch.full((8, 8, 8), -1000.0))


# Window 16 x 32 x 32, stride 8: smaller, odd, one off, larger than the window.
@pytest.mark.parametrize("shape", [(3, 20, 21), (7, 33, 30), (10, 26, 27), (17, 30, 34), (29, 45, 37)])
def test_sizes_and_geometry_of_the_crop(
    model: SightlineModel, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    features = encoded(model, shape)
    size = features.geometry.spatial_shape
    half = tuple(n // 2 for n in size)
    assert all(n % 2 == 0 for n in size)
    assert features.body.shape == size
    assert features.organ_probability.shape == (37, *size)
    assert features.dense.shape == (8, *size)
    assert features.grid.shape == (16, *half)
    assert features.grid_geometry.spatial_shape == half
    with monkeypatch.context() as patch:
        patch.setattr(inference, "without_strays", lambda probability: probability)
        drawn = encoded(model, shape).organ_probability
    torch.testing.assert_close(drawn.sum(0), torch.ones(size))
    torch.testing.assert_close(features.organ_probability, without_strays(drawn))
    assert bool(features.grid.isfinite().all())
    # The whole body lies in the crop, also where a side is odd.
    hu, geometry = to_model_grid(body_volume(shape), 8.0)
    inside = body_mask(hu[0, 0])
    assert int(features.body.sum()) == int(inside.sum())
    points = geometry.map_indices_to_reference(inside.nonzero().numpy().astype(float))
    cropped = features.geometry.map_indices_to_reference(features.body.nonzero().numpy().astype(float))
    np.testing.assert_allclose(cropped, points, atol=1e-6)


def test_a_small_scan_is_encoded_as_its_padded_window(model: SightlineModel) -> None:
    features = encoded(model, (12, 24, 26))
    hu, _ = to_model_grid(body_volume((12, 24, 26)), 8.0)
    corner = features.geometry.map_indices_to_reference(np.zeros((1, 3)))
    start = body_volume((12, 24, 26)).map_reference_to_indices(corner)[0].round().astype(int)
    z, y, x = (slice(a, a + n) for a, n in zip(start, features.geometry.spatial_shape, strict=True))
    tile = window(hu[:, :, z, y, x])
    depth, height, width = tile.shape[2:]
    padded = F.pad(tile, (0, 32 - width, 0, 32 - height, 0, 16 - depth), value=-1.0)
    with torch.no_grad():
        whole = model.encode_image(padded)
    torch.testing.assert_close(
        features.dense, whole.dense[0, :, :depth, :height, :width], rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(
        features.grid, whole.grid[0, :, : depth // 2, : height // 2, : width // 2], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("depth", [6, 10, 14, 26, 31])
def test_grid_cells_cover_their_eight_voxels(depth: int) -> None:
    """A model whose outputs repeat its input: cells must be the means of the voxels they cover."""
    real = tiny_model()

    class Echo:
        image = real.image
        config = real.config

        def encode_image(self, tile: torch.Tensor, *, lesions: bool) -> SimpleNamespace:
            wide = tile[:, :1]
            return SimpleNamespace(
                organ_logits=torch.cat([wide, -wide], 1), dense=wide, grid=F.avg_pool3d(wide, 2)
            )

    hu, geometry = to_model_grid(body_volume((depth, 26, 30)), 8.0)
    out = encode_scan(Echo(), hu, geometry, CPU, bf16=False)  # type: ignore[arg-type]
    torch.testing.assert_close(out.grid, F.avg_pool3d(out.dense[None], 2)[0], rtol=1e-4, atol=1e-4)
    # And the voxels are where the geometry says.
    index = np.argwhere(out.body.numpy())
    at = geometry.map_reference_to_indices(out.geometry.map_indices_to_reference(index.astype(float)))
    z, y, x = at.round().astype(int).T
    expected = window(hu)[0, 0, z, y, x]
    torch.testing.assert_close(out.dense[0, index[:, 0], index[:, 1], index[:, 2]], expected)


def test_halved_grid_has_its_cells_in_the_middle_of_eight_voxels() -> None:
    fine = resampled_geometry(body_volume((8, 10, 12)).get_geometry(), 8.0)
    coarse = halved(fine)
    assert coarse.spatial_shape == (4, 5, 6)
    np.testing.assert_allclose(
        coarse.map_indices_to_reference(np.array([[1.0, 2.0, 3.0]])),
        fine.map_indices_to_reference(np.array([[2.5, 4.5, 6.5]])),
    )


def test_devices() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device().type in ("cpu", "cuda")
    assert isinstance(supports_bf16(CPU), bool)
    assert describe_device(CPU, bf16=False).startswith("cpu (float32, ")
    with pytest.raises(ValueError, match=r"'abacus' is not a device"):
        choose_device("abacus")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="no CUDA device; use 'cpu'"):
        choose_device("cuda:3")
