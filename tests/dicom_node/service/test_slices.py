"""What the page is made of, without a browser: pictures of slices, trying again, files without a token."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from PIL import Image

from dicom_node import readings
from dicom_node.completeness import open_again
from dicom_node.service.bounded import Bounded
from dicom_node.service.page_files import FOLDER
from dicom_node.service.slice_pictures import WINDOWS, Layout, heat_png, slice_png
from tests.dicom_node.ct_series import volume_of
from tests.dicom_node.service.conftest import OBLIQUE, STUDY
from tests.dicom_node.service.stage import SHAPE, SPACING, Stage, assert_refused, make_stage, series


def pixels(content: bytes) -> np.ndarray:
    """The picture of a PNG."""
    return np.asarray(Image.open(io.BytesIO(content)))


ORDERS = [
    (axes, signs)
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


@pytest.mark.parametrize(("axes", "signs"), ORDERS)
def test_all_48_axis_orders_show_the_patient_the_same_way(
    axes: tuple[int, int, int], signs: tuple[int, int, int]
) -> None:
    affine = np.eye(4)
    for column, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[:3, column] = 0
        affine[axis, column] = sign * (2.0, 2.0, 2.0)[column]
    geometry = hd.VolumeGeometry(affine, spatial_shape=(4, 5, 6), coordinate_system="PATIENT")
    layout = Layout.of(geometry)
    lps = np.moveaxis(
        geometry.map_indices_to_reference(np.indices((4, 5, 6)).reshape(3, -1).T).reshape(4, 5, 6, 3), -1, 0
    )
    for k in (0, 3):
        shown = np.stack([layout.arranged(lps[axis, k]) for axis in range(3)])  # where each pixel is
        assert shown.shape[1:] == (layout.height, layout.width)
        y, x = np.indices(shown.shape[1:])
        places = np.stack([np.full_like(y, k), y, x, np.ones_like(y)]).reshape(4, -1)
        assert np.allclose((layout.to_lps @ places)[:3], shown.reshape(3, -1))
    right, down = layout.to_lps[:3, 2], layout.to_lps[:3, 1]
    expected = {0: ("A", "P", "H", "F"), 1: ("R", "L", "H", "F"), 2: ("R", "L", "A", "P")}[axes[0]]
    assert layout.letters == expected
    assert right.sum() > 0  # to the left or back of the patient
    assert (down.sum() > 0) == (axes[0] == 2)  # axial: to the back, else to the feet
    assert layout.head_up == signs[0]


def test_pixels_that_are_not_square_become_square() -> None:
    affine = np.diag([5.0, 2.0, 0.5, 1.0])[[2, 1, 0, 3]]
    geometry = hd.VolumeGeometry(affine, spatial_shape=(3, 10, 80), coordinate_system="PATIENT")
    layout = Layout.of(geometry)
    assert (layout.height, layout.width, layout.pixel_mm) == (40, 80, 0.5)
    shown = pixels(slice_png(np.zeros((10, 80), np.float32), layout, WINDOWS["soft"]))
    assert shown.shape == (40, 80)
    assert shown[0, 0] == 102  # water in a window of 400 round 40
    middle = layout.to_lps @ [1, 19.5, 39.5, 1]
    assert np.allclose(middle, geometry.affine @ [1, 4.5, 39.5, 1])


def test_spacings_that_cannot_be_make_no_giant() -> None:
    affine = np.diag([5.0, 1e-6, 1.0, 1.0])[[2, 1, 0, 3]]
    layout = Layout.of(hd.VolumeGeometry(affine, spatial_shape=(3, 10, 80), coordinate_system="PATIENT"))
    assert (layout.height, layout.width) == (1, 2048)


def test_the_heat_lies_where_the_text_agrees() -> None:
    affine = np.diag([8.0, 8.0, 8.0, 1.0])[[2, 1, 0, 3]]
    grid = hd.VolumeGeometry(affine, spatial_shape=(6, 10, 10), coordinate_system="PATIENT")
    share = np.zeros((6, 10, 10), np.float32)
    share[4, 7, 2] = 1.0
    shown = pixels(heat_png(share, grid, Layout.of(grid), 4))
    rows, columns = np.nonzero(shown[..., 3] > 0)
    assert (rows.mean() / len(shown), columns.mean() / shown.shape[1]) == pytest.approx(
        (0.75, 0.25), abs=0.02
    )
    assert not pixels(heat_png(share, grid, Layout.of(grid), 2))[..., 3].any()


@pytest.mark.parametrize("study", [STUDY, OBLIQUE])
def test_the_picture_is_the_slice_in_its_window(stage: Stage, study: str) -> None:
    slices = series() if study == STUDY else series("2.25.305", "oblique")
    volume = volume_of(slices)
    stack = stage.client.get(f"/studies/{study}/slices").json()
    assert (stack["slices"], stack["pixel_mm"], stack["head_up"]) == (SHAPE[0], 4.0, 1)
    assert stack["height"] == SHAPE[1] * SPACING[1] / SPACING[2]
    assert np.allclose(np.array(stack["to_lps"])[:3, 2], np.asarray(volume.affine)[:3, 2])
    for k, (name, (centre, width)) in zip((0, 7, 23), WINDOWS.items(), strict=True):
        answer = stage.client.get(f"/studies/{study}/slices/{k}/image", params={"window": name})
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["cache-control"] == "no-store"
        grey = np.clip((volume.array[k] - centre + width / 2) / width * 255, 0, 255)
        shown = pixels(answer.content).astype(float)
        rows = (
            (np.arange(SHAPE[1]) + 0.5) * SPACING[1] / SPACING[2]
        )  # the rows are stretched, the columns not
        inside = slice(12, 28)
        assert np.abs(shown[rows.astype(int)][inside, 12:36] - grey[inside, 12:36]).max() <= 2


def test_outlines_are_switched_and_named(stage: Stage) -> None:
    legend = stage.client.get(f"/studies/{STUDY}/outlines").json()
    assert legend["organs_kept"] is True
    organ = max(legend["organs"], key=lambda one: len(one["slices"]))
    k = organ["slices"][0]
    path = f"/studies/{STUDY}/slices/{k}/outlines"
    drawn = np.asarray(Image.open(io.BytesIO(stage.client.get(path).content)).convert("RGBA"))
    colours = {"#" + bytes(int(v) for v in colour[:3]).hex() for colour in drawn[drawn[..., 3] > 0]}
    assert organ["colour"] in colours
    off = stage.client.get(path, params={"organs": False, "lesions": False}).content
    assert not np.asarray(Image.open(io.BytesIO(off)).convert("RGBA"))[..., 3].any()


def test_what_cannot_be_shown_is_refused(stage: Stage, tmp_path: Path) -> None:
    client = stage.client
    for rest in ("image", "outlines"):
        assert_refused(client.get(f"/studies/{STUDY}/slices/24/{rest}"), 404, "no such slice")
        assert client.get(f"/studies/{STUDY}/slices/-1/{rest}").status_code == 422
    assert_refused(client.post(f"/studies/{STUDY}/slices/24/heatmap", json={"text": "liver"}), 404, "slice")
    assert_refused(client.post(f"/studies/{STUDY}/slices/2/heatmap", json={"text": " "}), 422, "text")
    assert client.get(f"/studies/{STUDY}/slices/2/image", params={"window": "x"}).status_code == 422
    assert_refused(client.get("/studies/2.25.9/slices"), 404, "no study")
    broken = make_stage(tmp_path)
    study = broken.read(series())
    assert broken.client.get(f"/studies/{study}/slices/3/image").status_code == 200
    broken.archive.path("2.25.304.3.5").write_bytes(b"no DICOM at all")
    assert_refused(broken.client.get(f"/studies/{study}/slices/4/image"), 409, "damaged")
    assert broken.client.get(f"/studies/{study}/slices/5/image").status_code == 200
    (broken.folder(study) / "organs.seg.dcm").write_bytes(b"no DICOM at all")
    assert_refused(broken.client.get(f"/studies/{study}/outlines"), 409, "damaged")


def test_what_failed_or_was_refused_is_tried_again_once(tmp_path: Path) -> None:
    stage = make_stage(tmp_path)
    client = stage.client
    assert_refused(client.post("/studies/2.25.9/retry"), 404, "no study")
    study = stage.arrive(series()[:3])
    assert_refused(client.post(f"/studies/{study}/retry"), 409, "nothing to try again", "receiving")
    (first,) = stage.complete()
    assert first.state == "refused"
    answer = client.post(f"/studies/{study}/retry")
    assert (answer.status_code, answer.json()["state"], answer.json()["generation"]) == (202, "complete", 2)
    assert_refused(client.post(f"/studies/{study}/retry"), 409, "nothing to try again", "complete")
    with stage.archive.index.writing() as session:
        again = session.get_one(type(first), first.id + 1)
    assert readings.select(stage.archive, stage.config, stage.reader.identity, again).state == "refused"
    assert open_again(stage.archive.index, study, now=5.0) is not None


def test_a_cache_stays_within_its_bound_and_makes_each_thing_once() -> None:
    made: list[str] = []

    def make(name: str) -> str:
        made.append(name)
        return name

    cache: Bounded[str] = Bounded(6, len)
    for name in ("aa", "bbb", "aa", "cc", "aa", "too long for it"):
        assert cache.get(name, lambda name=name: make(name)) == name  # type: ignore[misc]
    assert made == ["aa", "bbb", "cc", "too long for it"]
    assert cache.weight == 4
    with pytest.raises(ValueError, match="no"):
        cache.get("d", lambda: (_ for _ in ()).throw(ValueError("no")))
    assert cache.get("d", lambda: "d") == "d"


def test_the_page_is_the_only_thing_without_a_token(stage: Stage) -> None:
    closed = {"Authorization": ""}
    names = sorted(path.name for path in FOLDER.iterdir())
    assert {"index.html", "main.js", "style.css", "icon.svg"} <= set(names)
    for path in ("/", *(f"/page/{name}" for name in names)):
        answer = stage.client.get(f"http://testserver{path}", headers=closed)
        assert answer.status_code == 200, path
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "<script>" not in answer.text
        assert " style=" not in answer.text
        assert "http:" not in answer.text.replace("http://www.w3.org/2000/svg", "")
        assert "https:" not in answer.text
    for path in (
        "/page",
        "/page/",
        "/page/nothing.js",
        "/page/../run.py",
        "/page/%2e%2e/run.py",
        "//",
        "/index.html",
    ):
        assert stage.client.get(f"http://testserver{path}", headers=closed).status_code == 401, path
    for path in ("/page/nothing.js", "/page/..%2frun.py", "/page/%00"):
        assert stage.client.get(f"http://testserver{path}").status_code == 404, path
    assert stage.client.post("http://testserver/page/main.js").status_code == 405
    assert_refused(stage.client.post("http://testserver/"), 405, "method")
