"""The real query service, in a process of its own, with a phantom study that the node has read.

Not `tests.slicer.harness.server`, which is for what the real one cannot be made to do: delays, other
versions, broken connections.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from dicom_node.demo_node import free_port
from tests.slicer.harness.phantom import Grid

ROOT = Path(__file__).resolve().parents[3]
PHANTOM, CONFIG = "phantom", "node.toml"
START_SECONDS = 300.0


class RealService:
    """Runs while it is entered.

    Parameters
    ----------
    folder: holds ``node.toml`` and what it names; `with_phantom` makes one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.archive = folder / "archive"
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def with_phantom(cls, folder: Path, settings: str = "") -> RealService:
        """A service whose node has read one phantom; `settings` are further lines of its configuration."""
        port = free_port()
        lines = f'archive = "archive"\ndevice = "cpu"\n{settings}\n[service]\nport = {port}\n'
        (folder / CONFIG).write_text(lines, encoding="utf-8")
        service = cls(folder)
        service._python(
            "-m", "tests.slicer.harness.read_phantom", str(folder / PHANTOM), str(folder / CONFIG)
        )
        service.url = f"http://127.0.0.1:{port}"
        return service

    def __enter__(self) -> RealService:
        command = [sys.executable, "-m", "dicom_node.processes", "service"]
        command += ["--config", str(self.folder / CONFIG)]
        log = self.folder / "service.log"
        with log.open("wb") as stream:
            self._process = subprocess.Popen(command, stderr=stream, cwd=ROOT)
        deadline = time.monotonic() + START_SECONDS
        while "service ready" not in log.read_text(encoding="utf-8"):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the service did not start:\n{log.read_text(encoding='utf-8')}")
            time.sleep(0.1)
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it; a second time does nothing."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None

    def deliver(self) -> None:
        """Have the node's courier send what is due, once."""
        code = (
            "import sys; from pathlib import Path; from dicom_node.archive import Archive;"
            "from dicom_node.config import load_config; from dicom_node.delivery import Courier;"
            "config = load_config(Path(sys.argv[1])); Courier(config, Archive.open(config)).send_due()"
        )
        self._python("-c", code, str(self.folder / CONFIG))

    def status(self) -> list[dict[str, Any]]:
        """What ``sightline status --json`` says of the studies."""
        code = "import sys; from dicom_node.cli import main; sys.exit(main(sys.argv[1:]))"
        config = str(self.folder / CONFIG)
        document = json.loads(self._python("-c", code, "status", "--json", "--config", config))
        return document["studies"]

    def _python(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=900, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{arguments} ended with {done.returncode}:\n{done.stderr[-3000:]}")
        return done.stdout

    @property
    def token(self) -> str:
        """What the node drew at its first start."""
        return (self.archive / "service.token").read_text(encoding="ascii").strip()

    @property
    def log(self) -> str:
        """What the service wrote so far."""
        return (self.folder / "service.log").read_text(encoding="utf-8")

    @property
    def truth(self) -> dict[str, Any]:
        """What was planted into the phantom."""
        return json.loads((self.folder / PHANTOM / "truth.json").read_text(encoding="utf-8"))

    def ct(self) -> tuple[np.ndarray, Grid, str]:
        """The phantom's HU (k, j, i), its grid and its series, from its DICOM files."""
        return load_ct(self.folder / PHANTOM / "dicom")


def load_ct(folder: Path) -> tuple[np.ndarray, Grid, str]:
    """HU (k, j, i), grid and series of a folder of axial CT images, feet first as Slicer loads them."""
    images = [pydicom.dcmread(path) for path in folder.glob("*.dcm")]
    images.sort(key=lambda image: float(image.ImagePositionPatient[2]))
    planes = [image.pixel_array.astype(np.int16) + np.int16(image.RescaleIntercept) for image in images]
    first, last = (np.array(image.ImagePositionPatient, dtype=float) for image in (images[0], images[-1]))
    matrix = np.eye(4)
    matrix[0, 0], matrix[1, 1] = float(images[0].PixelSpacing[1]), float(images[0].PixelSpacing[0])
    matrix[:3, 2] = (last - first) / (len(images) - 1)
    matrix[:3, 3] = first
    voxels = np.stack(planes)
    return voxels, Grid(matrix, voxels.shape[::-1]), str(images[0].SeriesInstanceUID)
