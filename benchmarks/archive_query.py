"""How long a query over the whole archive takes: ``python -m benchmarks.archive_query`` (issue 4).

Simulated studies: random landmarks in memory, as the service holds them, and one file for the places
of all hits. It measures time, not what is found. With ``--encoding FILE`` it also says what a real
encoding loses by its landmarks: the best smoothed cosine of random texts over all cells, less
that over the landmarks.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from core_model.abnormality import abnormalities
from core_model.encoding_file import load_encoding
from core_model.landmarks import MOST, landmarks
from core_model.localization import Searchable
from core_model.question import Meaning, Question
from dicom_node.archive import Archive
from dicom_node.config import Config
from dicom_node.service.archive_search import ArchiveSearch
from dicom_node.service.landmark_file import Landmarked, SearchedFinding, save_landmarks
from dicom_node.service.models import Hit

Floats = npt.NDArray[np.float32]


def unit(rng: np.random.Generator, n: int, width: int) -> Floats:
    """(n, width) random unit vectors."""
    vectors = rng.normal(size=(n, width)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def measure(studies: int, width: int, k: int, repeats: int, folder: Path) -> dict[str, float]:
    """Milliseconds of one query: median and 95th percentile by the clock, median of the CPU."""
    rng = np.random.default_rng(0)
    archive = Archive.open(Config(archive=folder / "archive"))
    search = ArchiveSearch(archive, "simulated", by_slab=False)
    hit = Hit(
        rank=1,
        position_lps_mm=(0.0, 0.0, 0.0),
        score=0.0,
        organ="liver",
        slice_index=0,
        sop_instance_uid="1.2.3",
        slab_lps_mm=((0.0, 0.0, -4.0), (0.0, 0.0, 4.0)),
    )
    names = [a.name for a in abnormalities()]
    findings = {name: SearchedFinding(0.5, hit) for name in names}
    save_landmarks(folder, unit(rng, MOST, width), [hit] * MOST, "simulated", findings)
    for number in range(studies):
        kept = Landmarked(unit(rng, MOST, width), dict(zip(names, rng.random(len(names)), strict=True)))
        search.add(f"2.25.{number}", f"2.25.{number}.1", str(number), kept, folder)
    result: dict[str, float] = {"studies": studies, "landmarks": studies * MOST}
    meaning = Meaning("abnormality", names[0], 1.0)
    for by, means in (("words", None), ("findings", meaning)):
        wall, cpu = [], []
        for query in unit(rng, repeats, width):
            clock, used = time.perf_counter(), time.thread_time()
            if len(search.search(Question("", query, means), k)) != min(k, studies):
                raise RuntimeError("the search lost studies")
            wall.append(1000 * (time.perf_counter() - clock))
            cpu.append(1000 * (time.thread_time() - used))
        result |= {
            f"{by}_wall_ms_median": float(np.median(wall)),
            f"{by}_wall_ms_p95": float(np.percentile(wall, 95)),
            f"{by}_wall_ms_least": float(np.min(wall)),
            f"{by}_cpu_ms_median": float(np.median(cpu)),
        }
    archive.index.close()
    return result


def loss(path: Path, texts: int = 200) -> dict[str, float]:
    """What the landmarks of a stored encoding lose of the best score; median and 95th percentile."""
    study = Searchable(load_encoding(path))
    chosen = landmarks(study)
    rng = np.random.default_rng(1)
    every = study.neighbourhoods()
    # Texts that are about something in the scan: near to a cell's feature, with noise.
    seeds = every[rng.integers(0, len(every), texts)]
    queries = seeds + 0.3 * unit(rng, texts, every.shape[1])
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    lost = (every @ queries.T).max(0) - (chosen.vectors @ queries.T).max(0)
    return {"loss_median": float(np.median(lost)), "loss_p95": float(np.percentile(lost, 95))}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.archive_query", description=__doc__)
    parser.add_argument("--studies", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=64, help="of the joint space")
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--encoding", type=Path, help="encoding.safetensors, to measure the loss too")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(given.studies, given.width, given.k, given.repeats, Path(folder))
    if given.encoding is not None:
        result |= loss(given.encoding)
    print(json.dumps({key: round(value, 4) for key, value in result.items()}, indent=1))


if __name__ == "__main__":
    main()
