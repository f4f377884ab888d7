"""How long one scrape of ``/metrics`` takes when the index knows many studies.

Rows only, no images and no network: what grows with the years is the index. Prints one line of JSON.
Run: ``python -m benchmarks.metrics_scrape --studies 100000``
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, generate_latest

from dicom_node.archive import Archive
from dicom_node.config import Config
from dicom_node.index import Delivery, Generation, ReadingRow, Result
from dicom_node.metrics import NodeCollector

ROUNDS = 5


def fill(archive: Archive, studies: int) -> None:
    """Studies that were read and delivered to one destination: a SEG and an SR each."""
    numbers = range(studies)
    results = [(f"1.2.{n}.{rank}", f"key{n}", rank) for n in numbers for rank in (0, 1)]
    with archive.index.writing() as session:
        session.execute(
            sa.insert(Generation),
            [
                {
                    "study_instance_uid": f"1.2.{n}", "number": 1, "watermark": 1, "last_ct_at": 0.0,
                    "complete_at": 30.0 + n % 7, "state": "read", "reading_key": f"key{n}",
                }
                for n in numbers
            ],
        )  # fmt: skip
        session.execute(
            sa.insert(ReadingRow),
            [
                {
                    "key": f"key{n}", "study_instance_uid": f"1.2.{n}", "series_instance_uid": "1.2",
                    "started_at": 40.0, "finished_at": 60.0 + n % 90, "seconds": {}, "peak_rss_bytes": 0,
                    "device": "cpu",
                }
                for n in numbers
            ],
        )  # fmt: skip
        session.execute(
            sa.insert(Result),
            [
                {
                    "sop_instance_uid": uid,
                    "reading_key": key,
                    "sop_class_uid": "1.2",
                    "file_name": "x",
                    "rank": r,
                }
                for uid, key, r in results
            ],
        )
        session.execute(
            sa.insert(Delivery),
            [
                {
                    "sop_instance_uid": uid, "destination": "pacs", "state": "delivered", "attempts": 1,
                    "created_at": 150.0, "due_at": 150.0, "delivered_at": 155.0,
                }
                for uid, _, _ in results
            ],
        )  # fmt: skip


def main() -> None:
    """Fill an index, scrape it some times, print the median."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=100_000)
    studies = parser.parse_args().studies
    with tempfile.TemporaryDirectory() as folder:
        config = Config(archive=Path(folder) / "archive")
        archive = Archive.open(config)
        fill(archive, studies)
        registry = CollectorRegistry()
        registry.register(NodeCollector(config, archive))
        seconds, size = [], 0
        for _ in range(ROUNDS):
            clock = time.perf_counter()
            size = len(generate_latest(registry))
            seconds.append(time.perf_counter() - clock)
        archive.index.close()
    median = sorted(seconds)[ROUNDS // 2]
    print(json.dumps({"studies": studies, "median_seconds": round(median, 3), "bytes": size}))


if __name__ == "__main__":
    main()
