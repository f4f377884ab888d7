"""Takes the pictures of the page in the browser: ``python -m docs.page_pictures docs``, at the root.

The real page of a real service, the model that ships, and a phantom that it reads (a few minutes); beside it
three studies that show other states of the worklist. Needs the test extra and Chromium. Not a test.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pydicom
from playwright.sync_api import Page

from core_model.reader import Reader
from dicom_node import readings
from dicom_node.archive import Archive
from dicom_node.completeness import complete_studies
from dicom_node.config import Config, ServiceSettings
from dicom_node.demo_node import free_port
from dicom_node.service.run import run_service
from tests.dicom_node.ct_series import ct_series
from tests.dicom_node.service.browser import SIZE, browsing
from tests.dicom_node.test_workflow import put
from training.phantoms.study import write_study

LESIONS = [("liver_tumour", 34.0), ("renal_tumour", 30.0)]
LATER = 2e10  # seconds since the epoch: what came is complete by then


def fill(config: Config, folder: Path) -> str:
    """An archive with a read phantom, a refused, a failed and an arriving study; the first one's UID."""
    archive = Archive.open(config)
    reader = Reader.load(config.checkpoint, config.device)
    put(archive, ct_series(uid_root="2.25.71")[:3])
    put(archive, ct_series(uid_root="2.25.72"))
    if not (folder / "phantom" / "truth.json").exists():
        write_study(11, folder / "phantom", lesions=LESIONS, slices=170, matrix=384)
    files = sorted((folder / "phantom" / "dicom").rglob("*.dcm"))
    study = put(archive, [pydicom.dcmread(path) for path in files])
    for generation in complete_studies(archive.index, config, now=LATER):
        chosen = readings.select(archive, config, reader.identity, generation)
        if chosen.study_instance_uid == study:
            finished = readings.read(archive, config, reader, chosen.id)
            readings.publish(archive, config, chosen.id, finished)
        elif chosen.state == "queued":
            readings.fail(archive, chosen.id, "the reader died 3 times on this study")
    put(archive, ct_series(uid_root="2.25.73"))
    archive.index.close()
    return study


@contextmanager
def serving(config: Config) -> Iterator[str]:
    """The service in a thread; its address."""
    stop, ready = threading.Event(), threading.Event()
    thread = threading.Thread(target=run_service, args=(config, stop, ready.set))
    thread.start()
    try:
        if not ready.wait(600):
            raise SystemExit("the service did not start")
        yield f"http://127.0.0.1:{config.service.port}/"
    finally:
        stop.set()
        thread.join(30)


def shoot(page: Page, address: str, token: str, study: str, out: Path) -> None:
    """Log in, look at the worklist, ask the study, and save what is seen."""
    page.set_default_timeout(240_000)
    page.goto(address)
    page.get_by_label("Access token").fill(token)
    page.get_by_role("button", name="Open").click()
    page.get_by_role("row").nth(1).wait_for()
    page.get_by_text("present").first.wait_for()  # the result of the study that was read
    page.screenshot(path=out / "page_worklist.png")
    outlines = f"{address}api/1/studies/{study}/outlines"  # the first look at masks takes a while
    page.request.get(outlines, headers={"Authorization": f"Bearer {token}"}, timeout=240_000)
    page.goto(f"{address}#/studies/{study}")
    page.locator(".legend li").first.wait_for(state="attached")
    page.get_by_label("Find in this study").fill("hypodense liver lesion")
    page.keyboard.press("Enter")
    page.locator(".hits [aria-current]").wait_for()
    page.locator("img.heat[src]").wait_for()
    for thumb in page.locator(".thumb").all():
        thumb.locator("img[src]").nth(1).wait_for()
    page.locator("body[data-busy='false']").wait_for()
    page.screenshot(path=out / "page.png")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m docs.page_pictures", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--work", type=Path, help="folder whose archive is used again")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder: Path = given.work or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        note = folder / "study.txt"
        config = Config(archive=folder / "archive")
        if not note.exists():
            note.write_text(fill(config, folder), encoding="ascii")
        config = dataclasses.replace(config, service=ServiceSettings(port=free_port()))
        with serving(config) as address, browsing() as browser:
            page = browser.new_page(viewport=SIZE)
            token = (config.archive / "service.token").read_text(encoding="ascii").strip()
            shoot(page, address, token, note.read_text(encoding="ascii"), given.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
