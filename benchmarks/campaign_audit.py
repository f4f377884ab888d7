"""What must hold after a campaign, checked against the sender's and the PACS's own records.

Not the node's word: files are compared with what was sent, results with what the PACS was sent.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from benchmarks.campaign_peers import Journal
from dicom_node.archive import Archive
from dicom_node.completeness import open_again
from dicom_node.index import Delivery, Generation, Instance, Result, Study

POLL_SECONDS = 0.25


@dataclass(frozen=True)
class Figures:
    """The outcome of a campaign. All of `problems` is what must not be.

    Attributes
    ----------
    studies, acknowledged: sent and acknowledged as a whole; instances acknowledged.
    refusals: statuses other than success -> how often.
    results: distinct result objects at the PACS.
    stored_again: C-STORE requests of a result that the PACS already had.
    superseded: reports that a later report replaces, because a study was read in two states.
    tried_again: studies that were set aside after three kills and that the "operator" had tried again.
    seconds: from the last acknowledgement until every study had its report.
    """

    studies: int
    acknowledged: int
    refusals: dict[str, int]
    results: int
    stored_again: int
    superseded: int
    tried_again: int
    seconds: float
    problems: tuple[str, ...]


def settle(
    archive: Archive, journal: Journal, timeout: float, meanwhile: Callable[[], object] = lambda: None
) -> tuple[float, int]:
    """Wait until every study has its report at the PACS, and all that was made of it.

    A study that was set aside is tried again, as an operator would.

    Parameters
    ----------
    meanwhile: called at each look.

    Returns
    -------
    Seconds that it took, at most `timeout`; studies that were tried again.
    """
    start = time.monotonic()
    again = 0
    while time.monotonic() - start < timeout:
        meanwhile()
        again += try_again(archive)
        if all(len(journal.reports(study)) == 1 for study in journal.studies) and not _open(archive):
            break
        time.sleep(POLL_SECONDS)
    return time.monotonic() - start, again


def try_again(archive: Archive) -> int:
    """Have every study that was set aside tried again; how many those were."""
    with archive.index.reading() as session:
        aside = session.scalars(
            sa.select(Generation.study_instance_uid).where(Generation.state == "set aside")
        ).all()
    return sum(open_again(archive.index, study) is not None for study in set(aside))


def _open(archive: Archive) -> bool:
    """Whether a study waits to become complete, or a generation or a result is on its way."""
    waiting = sa.select(Study.study_instance_uid).where(Study.waiting)
    generations = sa.select(Generation.id).where(Generation.state.in_(("complete", "queued")))
    results = sa.select(Delivery.sop_instance_uid).where(Delivery.state == "pending")
    with archive.index.reading() as session:
        return any(
            session.scalars(rows.limit(1)).first() is not None for rows in (waiting, generations, results)
        )


def audit(archive: Archive, journal: Journal, seconds: float, tried_again: int) -> Figures:
    """Compare archive and PACS with what was acknowledged."""
    problems = _lost(archive, journal) + _wrong_results(archive, journal)
    times = Counter(uid for _, _, uid, _ in journal.stored)
    reports = {uid for _, _, uid, predecessor in journal.stored if predecessor != "-"}
    return Figures(
        studies=len(journal.studies),
        acknowledged=len(journal.acknowledged),
        refusals=journal.refusals,
        results=len(times),
        stored_again=sum(times.values()) - len(times),
        superseded=len(reports) - sum(len(journal.reports(study)) for study in journal.studies),
        tried_again=tried_again,
        seconds=seconds,
        problems=tuple(problems),
    )


def _lost(archive: Archive, journal: Journal) -> list[str]:
    """Acknowledged instances that are not on disk with their bytes, or not in the index."""
    problems = []
    with archive.index.reading() as session:
        known = set(session.scalars(sa.select(Instance.sop_instance_uid)))
    for uid, digest in journal.acknowledged.items():
        path = archive.path(uid)
        if not path.exists():
            problems.append(f"acknowledged and not on disk: {uid}")
        elif hashlib.sha256(data_set(path.read_bytes())).hexdigest() != digest:
            problems.append(f"acknowledged and other bytes on disk: {uid}")
        if uid not in known:
            problems.append(f"acknowledged and not in the index: {uid}")
    return problems


def data_set(content: bytes) -> bytes:
    """The data set of a DICOM file: what follows the file meta information (PS3.10 7.1)."""
    length = int.from_bytes(content[140:144], "little")  # value of (0002,0000), after preamble and DICM
    return content[144 + length :]


def _wrong_results(archive: Archive, journal: Journal) -> list[str]:
    """Studies whose results at the PACS are not exactly those of their readings, or not just one set."""
    problems = []
    for study in journal.studies:
        at_pacs = {uid for row, _, uid, _ in journal.stored if row == study}
        with archive.index.reading() as session:
            read = session.scalars(
                sa.select(Generation)
                .where(Generation.study_instance_uid == study, Generation.state == "read")
                .order_by(Generation.number)
            ).all()
            made = set(
                session.scalars(
                    sa.select(Result.sop_instance_uid).where(
                        Result.reading_key.in_([g.reading_key for g in read])
                    )
                )
            )
        if at_pacs != made or not made:
            problems.append(f"study {study}: {len(at_pacs)} results at the PACS, {len(made)} made")
        if len(journal.reports(study)) != 1:
            problems.append(f"study {study}: {len(journal.reports(study))} current reports at the PACS")
        images = sum(1 for uid in journal.acknowledged if uid.startswith(study.rsplit(".", 1)[0] + "."))
        if not read or len(read[-1].sop_instance_uids or ()) != images:
            problems.append(f"study {study}: the last reading is not of all {images} images")
    return problems
