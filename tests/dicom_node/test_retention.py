"""Retention: everything that is done with goes when its time has come, and nothing else ever does."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from core_model.reader import Reader
from dicom_node import retention as module
from dicom_node.archive import Archive, Received, Stored, results_folder
from dicom_node.commitment import Commitment
from dicom_node.config import Config, Destination, RetentionSettings
from dicom_node.delivery import Courier
from dicom_node.errors import SightlineError
from dicom_node.index import (
    Base,
    CorrectionRow,
    Delivery,
    Generation,
    Instance,
    ReadingRow,
    Result,
    Schema,
    Study,
)
from dicom_node.removed import RemovedInstance, RemovedReading
from dicom_node.retention import DAY, SUFFIX, Retention
from tests.dicom_node.network import Pacs, free_port
from tests.dicom_node.service.stage import Stage, series
from tests.tiny import tiny_checkpoint

CT, SEG = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.66.4"
NOW = 2e9
DAYS = 5.0
GENERATIONS = ("set aside", "complete", "queued", "read", "refused", "unchanged", "failed", "removed")


@dataclass(frozen=True)
class Case:
    """One study as it may stand in the index."""

    days: float
    waiting: bool
    states: tuple[str, ...]
    deliveries: tuple[tuple[str, ...], ...]  # per result, per destination
    corrected: bool
    correction_files: bool
    foreign: bool
    images: int

    @property
    def is_owed(self) -> bool:
        """Whether anybody still needs anything of it: said again, in other words than the code's."""
        unread = not self.states or any(s not in ("read", "unchanged", "removed") for s in self.states)
        delivered = bool(self.deliveries) and all(
            destinations and set(destinations) == {"delivered"} for destinations in self.deliveries
        )
        return self.waiting or unread or not delivered or self.corrected or self.foreign


deliveries = st.lists(st.sampled_from(["pending", "delivered", "delivered", "dead"]), max_size=2).map(tuple)
done = st.lists(st.just("delivered"), min_size=1, max_size=2).map(tuple)
cases = st.builds(
    Case,
    days=st.sampled_from([0.0, 1.0, 4.99, 5.01, 400.0]),
    waiting=st.booleans() | st.just(False),
    states=st.lists(st.sampled_from(GENERATIONS), max_size=3).map(tuple)
    | st.just(("read",))
    | st.just(("failed", "read", "unchanged")),
    deliveries=st.lists(deliveries, max_size=3).map(tuple)
    | st.lists(done, min_size=1, max_size=3).map(tuple),
    corrected=st.booleans() | st.just(False),
    correction_files=st.just(False) | st.booleans(),
    foreign=st.booleans() | st.just(False),
    images=st.integers(0, 3),
)
# All that can be kept away by one thing only: each of them has to be enough.
ONE_REASON = [
    {"waiting": True},
    *({"states": (state,)} for state in ("complete", "queued", "refused", "failed", "set aside")),
    *({"states": ("read", state)} for state in ("complete", "queued", "refused", "failed", "set aside")),
    {"states": ()},
    *({"deliveries": (("delivered",), ("delivered", state))} for state in ("pending", "dead", "committing")),
    {"deliveries": ((),)},
    {"deliveries": ()},
    {"corrected": True},
    {"correction_files": True},
    {"foreign": True},
]
REMOVABLE = Case(
    days=400, waiting=False, states=("read",), deliveries=(("delivered",),), corrected=False,
    correction_files=False, foreign=False, images=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return Archive.open(Config(archive=tmp_path_factory.mktemp("retention") / "archive"))


def empty(archive: Archive) -> None:
    with archive.index.writing() as session:
        for table in reversed(Base.metadata.sorted_tables):
            if table.name != Schema.__tablename__:
                session.execute(table.delete())
    for path in archive.root.glob("instances/*/*"):
        path.unlink()


def instance(session: Session, archive: Archive, uid: str, kind: str, days: float) -> None:
    """A received object; its study is the first three numbers of its UID."""
    study = ".".join(uid.split(".")[:3])
    session.add(
        Instance(
            sop_instance_uid=uid,
            sop_class_uid=kind,
            study_instance_uid=study,
            series_instance_uid=f"{study}.1",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            is_ct=kind == CT,
            sha256="00",
            size=4,
            received_at=NOW - days * DAY,
        )
    )
    archive.path(uid).write_bytes(b"DICM")


def put(archive: Archive, number: int, case: Case) -> str:
    """Put a case into the index, with its files; its Study Instance UID."""
    study = f"1.2.{number}"
    with archive.index.writing() as session:
        session.add(
            Study(
                study_instance_uid=study,
                first_ct_at=NOW - case.days * DAY,
                last_ct_at=NOW - case.days * DAY,
                last_ct_id=1,
                waiting=case.waiting,
            )
        )
        for n in range(case.images):
            instance(session, archive, f"{study}.1.{n}", CT, case.days)
        if case.foreign:
            instance(session, archive, f"{study}.2.0", SEG, case.days)
        key = f"key{number}"
        for n, state in enumerate(case.states):
            session.add(
                Generation(
                    study_instance_uid=study, number=n + 1, watermark=1, last_ct_at=0.0, complete_at=0.0,
                    state=state, reading_key=key,
                )
            )  # fmt: skip
        session.add(
            ReadingRow(
                key=key, study_instance_uid=study, series_instance_uid=study, started_at=0.0,
                finished_at=0.0, seconds={}, peak_rss_bytes=0, device="",
            )
        )  # fmt: skip
        session.flush()
        for n, states in enumerate(case.deliveries):
            uid = f"{study}.3.{n}"
            session.add(
                Result(sop_instance_uid=uid, reading_key=key, sop_class_uid=SEG, file_name="x", rank=0)
            )
            session.flush()
            for m, state in enumerate(states):
                session.add(
                    Delivery(
                        sop_instance_uid=uid, destination=str(m), state=state, attempts=1,
                        created_at=0.0, due_at=0.0,
                    )
                )  # fmt: skip
        if case.corrected:
            session.add(
                CorrectionRow(
                    id=key, reading_key=key, study_instance_uid=study, received_at=0.0, marks=[],
                    report_sop_instance_uid="1",
                )
            )  # fmt: skip
    folder = results_folder(archive, key)
    folder.mkdir(exist_ok=True)
    if case.correction_files:
        (folder / "corrections").mkdir(exist_ok=True)
    return study


def remain(archive: Archive, number: int) -> tuple[int, int, bool]:
    """How many instances of a case the index has and the disk has, and whether there are results."""
    study = f"1.2.{number}"
    with archive.index.reading() as session:
        uids = session.scalars(
            sa.select(Instance.sop_instance_uid).where(Instance.study_instance_uid == study)
        ).all()
    files = [f"{study}.1.{n}" for n in range(3)] + [f"{study}.2.0"]
    there = sum(archive.path(uid).exists() for uid in files)
    return len(uids), there, results_folder(archive, f"key{number}").exists()


def clean(archive: Archive, count: int) -> None:
    for number in range(count):
        folder = results_folder(archive, f"key{number}")
        for inner in folder.glob("*"):
            inner.rmdir()
        if folder.exists():
            folder.rmdir()
    empty(archive)


def keeper(archive: Archive, **given: float) -> Retention:
    config = Config(archive=archive.root, retention=RetentionSettings(**given))
    return Retention(config, archive)


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(
    found=st.lists(cases, max_size=3),
    instance_days=st.sampled_from([None, DAYS]),
    result_days=st.sampled_from([None, DAYS]),
    is_full=st.booleans(),
)
def test_what_goes_is_exactly_what_is_old_and_done_with(
    archive: Archive,
    found: list[Case],
    instance_days: float | None,
    result_days: float | None,
    is_full: bool,
) -> None:
    clean(archive, 3)
    for number, case in enumerate(found):
        put(archive, number, case)
    chosen = RetentionSettings(instance_days=instance_days, result_days=result_days)
    retention = Retention(Config(archive=archive.root, retention=chosen), archive)
    retention._too_full = lambda: is_full  # type: ignore[method-assign]
    retention.sweep(NOW)
    for number, case in enumerate(found):
        had = case.images + case.foreign
        indexed, on_disk, results = remain(archive, number)
        free = not case.is_owed and not case.correction_files and case.days > 0
        no_images = free and (is_full or (instance_days is not None and case.days > DAYS))
        no_results = free and (is_full or (result_days is not None and case.days > DAYS))
        kept_results = not no_results or set(case.states) == {"removed"}  # those had no folder any more
        assert (indexed, on_disk) == ((0, 0) if no_images else (had, had)), case
        assert results == kept_results, case
    assert retention.sweep(NOW) == 0


@pytest.mark.parametrize("one", ONE_REASON, ids=str)
def test_one_reason_is_enough_to_keep_a_study(archive: Archive, one: dict[str, object]) -> None:
    clean(archive, 2)
    put(archive, 0, dataclasses.replace(REMOVABLE, **one))  # type: ignore[arg-type]
    put(archive, 1, REMOVABLE)
    keeper(archive, instance_days=1, result_days=1).sweep(NOW)
    assert remain(archive, 0)[1:] == (2 + bool(one.get("foreign")), True)
    assert remain(archive, 1) == (0, 0, False)
    with archive.index.reading() as session:
        removed = session.scalars(sa.select(RemovedInstance)).all()
        assert {row.study_instance_uid for row in removed} == {"1.2.1"}
        assert {row.removed_at for row in removed} == {NOW}
        assert session.scalars(sa.select(RemovedReading.reading_key)).all() == ["key1"]


@pytest.mark.parametrize(("state", "kept"), [("due", True), ("asked", True), ("committed", False)])
def test_a_study_stays_until_its_results_are_promised_to_be_kept(
    archive: Archive, state: str, kept: bool
) -> None:
    clean(archive, 1)
    put(archive, 0, REMOVABLE)
    with archive.index.writing() as session:
        uid = session.scalars(sa.select(Result.sop_instance_uid)).one()
        asked = {"attempts": 1, "created_at": 0.0, "due_at": 0.0}
        session.add(Commitment(sop_instance_uid=uid, destination="pacs", state=state, **asked))
    keeper(archive, instance_days=1, result_days=1).sweep(NOW)
    assert remain(archive, 0) == ((2, 2, True) if kept else (0, 0, False))


def test_the_oldest_go_first_and_only_until_there_is_room(archive: Archive) -> None:
    clean(archive, 4)
    for number, days in enumerate((10.0, 30.0, 20.0, 40.0)):
        put(archive, number, dataclasses.replace(REMOVABLE, days=days))
    retention = keeper(archive, free_gib=2.0)

    def too_full() -> bool:
        """Until two studies of two images each are gone."""
        return len(list(archive.root.glob("instances/*/*.dcm"))) > 4

    retention._too_full = too_full  # type: ignore[method-assign]
    assert retention.sweep(NOW) == 2
    assert [remain(archive, n)[1:] for n in range(4)] == [(2, True), (0, True), (2, True), (0, True)]


def test_without_settings_nothing_goes(archive: Archive) -> None:
    clean(archive, 1)
    put(archive, 0, REMOVABLE)
    assert keeper(archive).sweep(NOW) == 0
    assert remain(archive, 0) == (2, 2, True)


def test_objects_of_studies_without_ct_go_by_age_but_not_what_may_be_a_correction(archive: Archive) -> None:
    clean(archive, 1)
    with archive.index.writing() as session:
        for n, (kind, days) in enumerate([("1.2.840.10008.5.1.4.1.1.4", 9), (SEG, 9), ("1.2.3", 2)]):
            instance(session, archive, f"1.2.9.{n}", kind, days)
    assert keeper(archive, instance_days=DAYS).sweep(NOW) == 1
    assert [archive.path(f"1.2.9.{n}").exists() for n in range(3)] == [False, True, True]


class _Crash(BaseException):
    """The process dies here."""


@pytest.mark.parametrize(("what", "renamed"), [("images", 1), ("images", 2), ("results", 1)])
def test_a_crash_before_the_commit_loses_nothing(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, what: str, renamed: int
) -> None:
    clean(archive, 1)
    put(archive, 0, REMOVABLE)
    put_aside, done = module._put_aside, []

    def dies(path: Path) -> Path:
        done.append(put_aside(path))
        if len(done) == renamed:
            raise _Crash
        return done[-1]

    monkeypatch.setattr(module, "_put_aside", dies)
    retention = keeper(archive)
    remove = retention.remove_images if what == "images" else retention.remove_results
    with pytest.raises(_Crash):
        remove("1.2.0", "a test", NOW)
    assert len(list(archive.root.glob(f"*/**/*{SUFFIX}"))) == renamed
    assert retention.recover() == renamed
    assert remain(archive, 0) == (2, 2, True)


def test_a_crash_after_the_commit_is_finished_later(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean(archive, 1)
    put(archive, 0, REMOVABLE)
    retention = keeper(archive)

    def dies(_paths: object) -> None:
        raise _Crash

    with monkeypatch.context() as patch:
        patch.setattr(module, "_delete", dies)
        for remove in (retention.remove_images, retention.remove_results):
            with pytest.raises(_Crash):
                remove("1.2.0", "a test", NOW)
    assert list(archive.root.glob(f"*/**/*{SUFFIX}"))
    # One image comes again before anybody cleans up: the new file stays.
    with archive.index.writing() as session:
        instance(session, archive, "1.2.0.1.1", CT, 0)
    assert retention.recover() == 3
    assert not list(archive.root.glob(f"*/**/*{SUFFIX}"))
    assert remain(archive, 0) == (1, 1, False)


def test_a_watermark_below_the_reserve_is_refused() -> None:
    with pytest.raises(SightlineError, match="more than reserve_gib"):
        Config(reserve_gib=5, retention=RetentionSettings(free_gib=5))


def test_what_was_removed_is_accepted_read_and_not_delivered_again(tmp_path: Path) -> None:
    pacs = Pacs(free_port())
    config = Config(
        archive=tmp_path / "archive",
        destinations=(Destination("pacs", "127.0.0.1", pacs.port, "PACS"),),
        retention=RetentionSettings(instance_days=1, result_days=1),
    )
    archive = Archive.open(config)
    tiny_checkpoint(tmp_path / "checkpoint")
    reader = Reader.load(tmp_path / "checkpoint", "cpu")
    stage, images = Stage(config, archive, reader), series()
    study = stage.read(images)
    retention = Retention(config, archive)
    far = 4e9  # long after all that
    assert retention.sweep(far) == 0  # nothing is delivered yet
    with pacs.listening():
        Courier(config, archive).send_due()
    received = list(pacs.received)
    assert received
    assert retention.sweep(far) == 2
    assert not archive.path(str(images[0].SOPInstanceUID)).exists()
    assert stage.client.get(f"/studies/{study}").json()["state"] == "removed"
    assert stage.client.get(f"/studies/{study}/reading").status_code == 409

    assert stage.read(images) == study
    assert stage.client.get(f"/studies/{study}").json()["state"] == "read"
    assert stage.client.get(f"/studies/{study}/reading").status_code == 200
    with pacs.listening():
        assert Courier(config, archive).send_due() == 0
    assert pacs.received == received
    with archive.index.reading() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(RemovedInstance)) == len(images)


def test_an_instance_that_was_removed_is_new_when_it_comes_again(archive: Archive) -> None:
    clean(archive, 1)
    put(archive, 0, REMOVABLE)
    received = Received("1.2.0.1.0", CT, "1.2.0", "1.2.0.1", "1.2.840.10008.1.2.1", True, b"again", "00")
    assert archive.store(received) is Stored.SAME
    keeper(archive, instance_days=1).sweep(NOW)
    assert archive.store(received) is Stored.NEW
    assert archive.path("1.2.0.1.0").read_bytes() == b"again"
