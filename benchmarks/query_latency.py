"""How long one question to the query service takes: ``python -m benchmarks.query_latency`` (issue 4).

A real service on loopback, one study whose encoding has the size of a trunk CT (random features), and some
clients that ask at once, each text once. From the first byte sent to the last byte of the hits;
what the client does then is not part of it.
"""

from __future__ import annotations

import argparse
import http.client
import json
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import highdicom as hd
import numpy as np

from benchmarks.running_service import running_service
from core_model.checkpoint import load_checkpoint
from core_model.encoding_file import save_encoding
from core_model.reading import ModelIdentity, SliceReference, StudyEncoding
from dicom_node.archive import Archive, results_folder
from dicom_node.config import Config
from dicom_node.index import Generation, ReadingRow, Study
from dicom_node.reading_files import ENCODING

SHAPE = (75, 45, 56)  # 8 mm cells: 600 x 360 x 448 mm
STUDY = "2.25.1"
KEY = "0" * 64


def trunk_encoding(model: ModelIdentity, width: int) -> StudyEncoding:
    """Random unit features in an elliptic body."""
    rng = np.random.default_rng(0)
    _, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    body = x**2 + y**2 < 0.9
    features = rng.normal(size=(*SHAPE, width)).astype(np.float32)
    features /= np.linalg.norm(features, axis=-1, keepdims=True)
    features[~body] = 0
    affine = np.array([[0, 0, 8.0, -220], [0, 8.0, 0, -180], [8.0, 0, 0, 0], [0, 0, 0, 1]])
    return StudyEncoding(
        global_feature=np.zeros(width, np.float32),
        organ_features=np.zeros((36, width), np.float32),
        organ_present=np.zeros(36, bool),
        slab_features=np.zeros((SHAPE[0], width), np.float32),
        slab_centres_mm=np.zeros((SHAPE[0], 3), np.float32),
        grid=hd.VolumeGeometry(affine, spatial_shape=SHAPE, coordinate_system="PATIENT"),
        grid_features=features.astype(np.float16),
        grid_organs=body.astype(np.uint8),
        slices=tuple(SliceReference((-220.0, -180.0, 2.0 * k), f"2.25.2.{k}") for k in range(300)),
        model=model,
        series_instance_uid="2.25.2",
    )


def fill(config: Config, checkpoint: Path | None) -> None:
    """An archive with one study that is read."""
    loaded = load_checkpoint(checkpoint)
    archive = Archive.open(config)
    folder = results_folder(archive, KEY)
    folder.mkdir(parents=True)
    save_encoding(trunk_encoding(loaded.identity, loaded.model.config.width), folder / ENCODING)
    now = time.time()
    with archive.index.writing() as session:
        session.add(
            Study(study_instance_uid=STUDY, first_ct_at=now, last_ct_at=now, last_ct_id=1, waiting=False)
        )
        session.add(
            Generation(
                study_instance_uid=STUDY,
                number=1,
                watermark=1,
                last_ct_at=now,
                complete_at=now,
                state="read",
                series_instance_uid="2.25.2",
                sop_instance_uids=["2.25.2.0"],
                reading_key=KEY,
            )
        )
        session.add(
            ReadingRow(
                key=KEY,
                study_instance_uid=STUDY,
                series_instance_uid="2.25.2",
                started_at=now,
                finished_at=now,
                seconds={},
                peak_rss_bytes=0,
                device="",
            )
        )
    archive.index.close()


def ask(port: int, token: str, texts: Sequence[str]) -> list[float]:
    """Milliseconds of each question over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    taken = []
    for text in texts:
        clock = time.perf_counter()
        connection.request(
            "POST", f"/api/1/studies/{STUDY}/query", json.dumps({"text": text, "k": 5}), headers
        )
        answer = connection.getresponse()
        body = answer.read()
        taken.append(1000 * (time.perf_counter() - clock))
        if answer.status != 200 or len(json.loads(body)["hits"]) != 5:
            raise RuntimeError(f"no hits but status {answer.status}")
    connection.close()
    return taken


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.query_latency", description=__doc__)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--questions", type=int, default=50, help="of each client")
    parser.add_argument("--checkpoint", type=Path, help="model (default: the shipped one)")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        archive = Path(name) / "archive"
        fill(Config(archive=archive), given.checkpoint)
        with running_service(archive, given.checkpoint) as service:
            port, token = service.port, service.token
            ask(port, token, ["the first question loads the study"])
            sets = [
                [f"lesion {n} of {client}" for n in range(given.questions)] for client in range(given.clients)
            ]
            with ThreadPoolExecutor(given.clients) as pool:
                taken = np.concatenate(list(pool.map(lambda texts: ask(port, token, texts), sets)))
    result = {
        "clients": given.clients,
        "questions": len(taken),
        "ms_median": round(float(np.median(taken)), 1),
        "ms_p95": round(float(np.percentile(taken, 95)), 1),
        "ms_most": round(float(taken.max()), 1),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
