"""The page in headless Chromium against the real service: login, worklist, viewer, query, failures.

The studies were read by the small model; organs, findings and lesions of one are put in by hand, so
that it is known where they are. Every tab is watched: nothing may leave the origin.
"""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from core_model.reading import Reading, SliceReference
from dicom_node import readings
from dicom_node.index import Generation
from tests.dicom_node.readings import make_reading
from tests.dicom_node.service.browser import Watch, browsing, served, tab
from tests.dicom_node.service.stage import SHAPE, SPACING, TOKEN, Stage, make_stage, series

READ, REFUSED, FAILED, COMING = (f"2.25.{root}.1" for root in (304, 41, 42, 43))
TEXT = "hypodense liver lesion"


@dataclasses.dataclass(frozen=True)
class KnownReader:
    """The stage's reader, whose encoding is real, with a reading that is known."""

    stage: Stage

    @property
    def identity(self) -> Any:
        """The small model's."""
        return self.stage.reader.identity

    def read(
        self,
        volume: hd.Volume,
        *,
        slices: tuple[SliceReference, ...] | None = None,
        series_instance_uid: str | None = None,
    ) -> Reading:
        """The encoding of the small model, and what `make_reading` draws."""
        real = self.stage.reader.read(volume, slices=slices, series_instance_uid=series_instance_uid)
        return dataclasses.replace(make_reading(volume), encoding=real.encoding, model=real.model)


def read_known(stage: Stage, generation: Generation) -> None:
    """Have a queued generation read by the `KnownReader`, as the reader process does."""
    finished = readings.read(stage.archive, stage.config, KnownReader(stage), generation.id)
    readings.publish(stage.archive, stage.config, generation.id, finished)


def fill(stage: Stage) -> None:
    """One study of each kind."""
    stage.arrive(series("2.25.41")[:3])
    stage.arrive(series("2.25.42"))
    stage.arrive(series())
    for generation in stage.complete():
        if generation.study_instance_uid == READ:
            read_known(stage, generation)
        elif generation.study_instance_uid == FAILED:
            readings.give_up(stage.archive, generation.id, "failed", "the reader died 3 times on this study")
    stage.arrive(series("2.25.43"))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    stage = make_stage(tmp_path_factory.mktemp("page"))
    fill(stage)
    return stage


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(stage: Stage) -> Iterator[str]:
    with served(stage.parts, TOKEN) as address:
        yield address


@contextmanager
def entered(browser: Browser, address: str, *, refused: tuple[int, ...] = ()) -> Iterator[Watch]:
    """A tab with the worklist open, watched until the end; `refused`: statuses that are expected."""
    with tab(browser, address) as watch:
        watch.page.goto(f"{address}/")
        enter(watch.page, TOKEN)
        expect(watch.page.get_by_role("heading", name="Studies")).to_be_visible()
        yield watch
        watch.assert_well(TOKEN, refused=(401, *refused))


def enter(page: Page, token: str) -> None:
    """Type a token and press Enter."""
    field = page.get_by_label("Access token")
    expect(field).to_be_focused()
    field.fill(token)
    page.keyboard.press("Enter")


def open_study(page: Page) -> Locator:
    """From the worklist into the read study; the stage of its viewer, with a slice on it."""
    page.locator(f"tr[data-uid='{READ}'] a").press("Enter")
    stage = page.locator(".stage[data-slice]")
    expect(stage).to_be_focused()
    settle(page)
    return stage


def settle(page: Page) -> None:
    """Until no slice is fetched any more."""
    expect(page.locator("body[data-busy='false']")).to_be_attached()


def shown(page: Page) -> int:
    """The slice that is shown."""
    settle(page)
    return int(page.locator(".stage").get_attribute("data-slice") or -1)


def picture(page: Page) -> np.ndarray:
    """What the browser drew of the slice, (rows, columns, 3)."""
    settle(page)
    content = page.locator(".picture").screenshot()
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def test_a_wrong_token_is_told_and_the_right_one_opens(browser: Browser, address: str) -> None:
    with tab(browser, address) as watch:
        page = watch.page
        page.goto(f"{address}/")
        expect(page.locator("code").first).to_have_text("service.token")
        expect(page.get_by_role("alert").filter(has_text="token")).to_have_count(0)
        enter(page, "not-the-token-of-it")
        expect(page.get_by_role("alert").filter(has_text="does not accept this token")).to_be_visible()
        page.get_by_label("Access token").fill("with a space")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert").filter(has_text="without spaces")).to_be_visible()
        enter(page, TOKEN)
        expect(page.get_by_role("row")).to_have_count(5)
        page.reload()  # kept for the tab
        expect(page.get_by_role("row")).to_have_count(5)
        assert page.evaluate("Object.keys(localStorage).length + document.cookie.length") == 0
        page.get_by_role("button", name="Forget token").click()
        expect(page.get_by_label("Access token")).to_be_focused()
        page.reload()
        expect(page.get_by_label("Access token")).to_be_focused()
        watch.assert_well(TOKEN, refused=(401, 401, 401))  # the first look, the wrong one, after forgetting


def test_where_the_api_asks_no_token_the_page_asks_none(browser: Browser, stage: Stage) -> None:
    with served(stage.parts, None) as address, tab(browser, address) as watch:
        watch.page.goto(f"{address}/")
        expect(watch.page.get_by_role("row")).to_have_count(5)
        expect(watch.page.get_by_label("Access token")).to_have_count(0)
        expect(watch.page.get_by_role("button", name="Forget token")).to_be_hidden()
        watch.assert_well(TOKEN)


def test_the_worklist_says_state_reason_and_result(browser: Browser, address: str) -> None:
    with entered(browser, address) as watch:
        rows = {uid: watch.page.locator(f"tr[data-uid='{uid}']") for uid in (READ, REFUSED, FAILED, COMING)}
        for uid, state in ((READ, "read"), (REFUSED, "refused"), (FAILED, "failed"), (COMING, "receiving")):
            expect(rows[uid].locator(".state").first).to_have_text(state)
        expect(rows[REFUSED].locator(".reason")).to_contain_text("only 3 slices")
        expect(rows[FAILED].locator(".reason")).to_contain_text("died 3 times")
        expect(rows[READ]).to_contain_text("2 lesions, 2 findings present")
        expect(rows[READ]).to_contain_text(re.compile("read (just now|[0-9]+ min ago)"))
        for uid, buttons in ((READ, 0), (REFUSED, 1), (FAILED, 1), (COMING, 0)):
            expect(rows[uid].get_by_role("button")).to_have_count(buttons)
        assert "Doe" not in watch.page.content()


def test_the_query_goes_to_the_slice_of_the_hit(browser: Browser, address: str, stage: Stage) -> None:
    hits = stage.client.post(f"/studies/{READ}/query", json={"text": TEXT, "k": 5}).json()["hits"]
    assert len({hit["slice_index"] for hit in hits}) > 1
    stack = stage.client.get(f"/studies/{READ}/slices").json()
    with entered(browser, address) as watch:
        page = watch.page
        open_study(page)
        page.keyboard.press("/")
        page.keyboard.type(TEXT)
        page.keyboard.press("Enter")
        expect(page.locator(".hits li")).to_have_count(len(hits))
        expect(page.locator(".stage")).to_have_attribute("data-slice", str(hits[0]["slice_index"]))
        settle(page)
        expect(page.locator("img.heat")).to_be_visible()
        assert_ring(page, stack, hits[0]["position_lps_mm"])
        for number in [*range(1, len(hits)), 0]:  # n goes through all and back to the first
            page.keyboard.press("n")
            expect(page.locator(f".hits li:nth-child({number + 1}) button")).to_have_attribute(
                "aria-current", "true"
            )
            assert shown(page) == hits[number]["slice_index"]
        page.keyboard.press("p")
        assert shown(page) == hits[-1]["slice_index"]
        page.locator(".hits button").nth(1).click()
        assert shown(page) == hits[1]["slice_index"]
        assert_ring(page, stack, hits[1]["position_lps_mm"])
        page.locator(".hits button").first.click()
        assert shown(page) == hits[0]["slice_index"]
        with_heat = picture(page)
        page.keyboard.press("h")
        assert np.abs(with_heat - picture(page)).max() > 40


def assert_ring(page: Page, stack: dict[str, Any], position: list[float]) -> None:
    """The mark is drawn where the position is in the picture, to two pixels of the screen."""
    _, y, x, _ = np.linalg.inv(np.array(stack["to_lps"])) @ [*position, 1]
    box, ring = (page.locator(name).bounding_box() for name in (".picture", ".ring"))
    assert box is not None
    assert ring is not None
    middle = ring["x"] + ring["width"] / 2 - box["x"], ring["y"] + ring["height"] / 2 - box["y"]
    wanted = (x + 0.5) / stack["width"] * box["width"], (y + 0.5) / stack["height"] * box["height"]
    assert middle == pytest.approx(wanted, abs=2)


def test_keys_wheel_and_slider_walk_the_slices(browser: Browser, address: str) -> None:
    with entered(browser, address) as watch:
        page = watch.page
        stage = open_study(page)
        page.keyboard.press("End")
        assert shown(page) == 0  # the slices lie from the feet, which is where End goes
        expect(page.locator(".caption")).to_contain_text(f"slice 1 of {SHAPE[0]}")
        for key, slice_index in (
            ("ArrowDown", 0),
            ("ArrowUp", 1),
            ("PageUp", 11),
            ("ArrowDown", 10),
            ("PageDown", 0),
            ("Home", 23),
        ):
            page.keyboard.press(key)
            assert shown(page) == slice_index, key
        stage.hover()
        page.mouse.wheel(0, 120)  # as a mouse's notch: towards the feet
        expect(stage).to_have_attribute("data-slice", "20")
        slider = page.get_by_label("Slice, counted from the feet")
        slider.fill("5")
        assert shown(page) == 4
        slider.focus()
        page.keyboard.press("ArrowUp")
        assert shown(page) == 5
        page.keyboard.press("2")
        expect(page.get_by_role("button", name="Lung")).to_have_attribute("aria-pressed", "true")
        assert shown(page) == 5


def test_findings_lesions_and_key_images_lead_to_their_slices(
    browser: Browser, address: str, stage: Stage
) -> None:
    reading = stage.client.get(f"/studies/{READ}/reading").json()
    feet = np.array(series()[0].ImagePositionPatient, dtype=float)[2]

    def slice_of(position: list[float]) -> int:
        return round((position[2] - feet) / SPACING[0])

    with entered(browser, address) as watch:
        page = watch.page
        open_study(page)
        lesions = page.get_by_role("region", name="Lesions").get_by_role("button")
        expect(lesions).to_have_count(2)
        first, second = reading["lesions"]
        expect(lesions.first).to_contain_text("16 \u00d7 10 mm")
        assert shown(page) == slice_of(first["centroid_lps_mm"])
        lesions.nth(1).press("Enter")
        assert shown(page) == slice_of(second["centroid_lps_mm"])
        expect(page.locator(".ring")).to_be_visible()
        keys = page.get_by_role("region", name="Key images").get_by_role("button")
        expect(keys).to_have_count(2)
        keys.first.click()
        assert shown(page) == slice_of(first["centroid_lps_mm"])
        findings = page.get_by_role("region", name="Findings")
        rows = findings.locator("li")
        expect(rows).to_have_count(len(reading["findings"]))
        expect(findings.locator("h3").first).to_have_text("Liver")
        cyst = next(f for f in reading["findings"] if f["abnormality"] == "liver_cyst")
        row = findings.get_by_role("button", name="Liver cyst")
        expect(row).to_contain_text("undetermined")
        expect(row).to_contain_text("48 %")
        row.click()
        assert shown(page) == slice_of(cyst["position_lps_mm"])
        expect(page.locator(".legend li:visible").filter(has_text="Spleen")).to_be_visible()


def test_the_liver_is_on_the_left_of_the_picture(browser: Browser, address: str) -> None:
    with entered(browser, address) as watch:
        page = watch.page
        open_study(page)
        letters = [
            page.locator(f".letter.{edge}").inner_text() for edge in ("left", "right", "top", "bottom")
        ]
        assert letters == ["R", "L", "A", "P"]
        with_all = picture(page)
        height, width, _ = with_all.shape
        assert width / height == pytest.approx(SHAPE[2] * SPACING[2] / (SHAPE[1] * SPACING[1]), rel=0.01)
        page.keyboard.press("o")
        with_lesions = picture(page)
        page.keyboard.press("l")
        plain = picture(page)
        lesion = np.argwhere((with_lesions != plain).any(-1)) / (height, width)
        organs = np.argwhere((with_all != with_lesions).any(-1)) / (height, width)
        assert len(lesion) > 30
        assert len(organs) > 100
        assert lesion.mean(0) == pytest.approx(
            (0.42, 0.28), abs=0.05
        )  # rows and columns of the liver's tumour
        # the tissue grows brighter towards the patient's left, and lies in air
        middle = plain[height // 2].mean(-1)
        assert middle[int(0.85 * width)] > middle[int(0.15 * width)] + 5
        assert middle[2] == 0


def test_what_failed_can_be_tried_again(browser: Browser, tmp_path: Path) -> None:
    stage = make_stage(tmp_path)
    study = stage.arrive(series())
    (generation,) = stage.complete()
    readings.give_up(stage.archive, generation.id, "failed", "OSError: no space left on device")
    with served(stage.parts, TOKEN) as address, entered(browser, address) as watch:
        row = watch.page.locator(f"tr[data-uid='{study}']")
        expect(row.locator(".reason")).to_have_text("OSError: no space left on device")
        row.get_by_role("button", name=f"Try {study} again").press("Enter")
        expect(row.locator(".state")).to_have_text("complete")
        expect(row.get_by_role("button")).to_have_count(0)
        with stage.archive.index.reading() as session:
            again = session.query(Generation).filter_by(number=2).one()
        chosen = readings.select(stage.archive, stage.config, stage.reader.identity, again)
        assert chosen.state == "queued"
        read_known(stage, chosen)
        expect(row.locator(".state")).to_have_text("read")  # it looks again by itself
        expect(row.get_by_role("link")).to_be_visible()


def test_every_failure_is_one_sentence(browser: Browser, address: str, stage: Stage) -> None:
    folder = stage.folder(READ)
    reading = folder / "reading.json"
    with entered(browser, address, refused=(404, 404, 409)) as watch:
        page, alert = watch.page, watch.page.locator("#failure")
        page.goto(f"{address}/#/studies/2.25.99")
        expect(alert).to_contain_text("knows no study of this UID")
        expect(page.get_by_role("link", name="Back to the worklist")).to_be_visible()
        reading.rename(folder / "away.json")
        try:
            page.goto(f"{address}/#/studies/{READ}")
            expect(alert).to_contain_text("The stored reading of the study is missing; send the study again.")
        finally:
            (folder / "away.json").rename(reading)
        page.reload()
        expect(page.locator(".stage[data-slice]")).to_be_focused()
        settle(page)
        page.context.set_offline(True)
        page.get_by_label("Find in this study").fill(TEXT)
        page.keyboard.press("Enter")
        expect(alert).to_contain_text("The node does not answer")
        page.context.set_offline(False)
        page.get_by_label("Find in this study").press("Enter")
        expect(page.locator(".hits li").first).to_be_visible()
        expect(alert).to_be_hidden()


def test_the_policy_is_in_force(browser: Browser, address: str) -> None:
    with tab(browser, address) as watch:
        page = watch.page
        page.goto(f"{address}/")
        expect(page.get_by_label("Access token")).to_be_focused()
        assert watch.errors == []
        page.evaluate(
            "() => { const s = document.createElement('img');"
            "s.src = 'http://127.0.0.2:9/x.png'; document.body.append(s); }"
        )
        expect(page.locator("img[src*='127.0.0.2']")).to_be_attached()
        page.wait_for_timeout(200)
        assert any("policy violated: img-src" in error for error in watch.errors)
