"""A promoted checkpoint reads later studies without a restart; what speaks against it leaves the old one."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import highdicom as hd
import pydicom
import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from core_model.checkpoint import load_checkpoint
from core_model.reading import Reading
from core_model.verdict import FILE as VERDICT
from dicom_node import model_store, promotion, readings
from dicom_node.archive import Archive
from dicom_node.cli import main
from dicom_node.completeness import complete_studies
from dicom_node.config import Config
from dicom_node.errors import SightlineError
from dicom_node.index import Generation
from dicom_node.model_in_use import ModelInUse
from dicom_node.promotion import all_models, go_back, in_use, promote
from dicom_node.readings import CanRead
from dicom_node.service.app import create_app
from dicom_node.service.parts import Parts
from dicom_node.workflow import Workflow
from tests.dicom_node.audit_schema import check
from tests.dicom_node.ct_series import ct_series
from tests.dicom_node.network import role_process, wait_until, write_config
from tests.dicom_node.service.stage import TOKEN
from tests.dicom_node.test_workflow import finish, put
from tests.tiny import tiny_checkpoint
from tests.verdicts import WORSE, allow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three checkpoints."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for seed, name in enumerate(("old", "new", "third")):
        tiny_checkpoint(folder / name, seed=seed, name=name)
    return {name: folder / name for name in ("old", "new", "third")}


@pytest.fixture
def checkpoints(made: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """Copies of them, without verdicts."""
    return {name: Path(shutil.copytree(path, tmp_path / name)) for name, path in made.items()}


@pytest.fixture
def config(checkpoints: dict[str, Path], tmp_path: Path) -> Config:
    return Config(
        archive=tmp_path / "archive", checkpoint=checkpoints["old"], device="cpu", quiet_seconds=0.2
    )


def digest(folder: Path) -> str:
    return str(json.loads((folder / "card.json").read_text())["digest"])


def named_by(report: Path) -> str:
    """The digest of the checkpoint that the algorithm identification of an SR names."""
    texts = [str(element.value) for element in pydicom.dcmread(report).iterall() if element.VR != "SQ"]
    (found,) = {text.split("checkpoint_sha256=")[1] for text in texts if "checkpoint_sha256=" in text}
    return found


def used(config: Config) -> str:
    line = in_use(config)
    assert line.judged is not None
    return line.judged.digest


def test_a_promoted_checkpoint_is_copied_whole_and_pointed_to(
    config: Config, checkpoints: dict[str, Path]
) -> None:
    assert used(config) == digest(checkpoints["old"])
    allow(checkpoints["new"], checkpoints["old"])
    (checkpoints["new"] / "events.log").write_text("of training")
    promote(config, checkpoints["new"])
    shutil.rmtree(checkpoints["new"])
    assert used(config) != digest(checkpoints["old"])
    kept = config.archive / "models" / used(config)
    assert load_checkpoint(kept).identity.digest == used(config)
    assert sorted(path.name for path in kept.iterdir()) == sorted(promotion.FILES)
    assert ModelInUse(config, "cpu").current().identity.name == "new"
    audit = [line for f in (config.archive / "audit").iterdir() for line in f.read_bytes().splitlines()]
    root = check(audit[-1])
    assert root.find("EventIdentification/EventTypeCode").attrib["csd-code"] == "110131"  # type: ignore[union-attr]
    assert f"checkpoint {used(config)} promoted".encode() in audit[-1]


def test_back_and_forth(config: Config, checkpoints: dict[str, Path]) -> None:
    old, new, third = (checkpoints[name] for name in ("old", "new", "third"))
    with pytest.raises(SightlineError, match="nothing to go back to"):
        go_back(config)
    allow(new, old)
    promote(config, new)
    allow(third, new)
    promote(config, third)
    assert used(config) == digest(third)
    states = {line.judged.name: line.state for line in all_models(config) if line.judged}
    assert states == {"third": "in use", "new": "before", "old": "before"}
    go_back(config)
    assert used(config) == digest(new)
    go_back(config)
    assert used(config) == digest(old)
    allow(new, old)
    promote(config, new)
    assert used(config) == digest(new)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda new, old, third: allow(new, old, WORSE), "findings AUC fell"),
        (lambda new, old, third: allow(new, old, patients=2), "only 2 held-out patients"),
        (lambda new, old, third: None, "has no verdict.json"),
        (lambda new, old, third: allow(new, third), "was compared with third"),
        (lambda new, old, third: change(new / VERDICT, '"patients": 12', '"patients": 13'), "was changed"),
        (lambda new, old, third: change(new / "card.json", "Untrained", "Trained"), "was changed"),
        (lambda new, old, third: change(old / "card.json", "Untrained", "Trained"), "was compared with old"),
        (lambda new, old, third: flip(new / "model.safetensors"), "is damaged"),
        (lambda new, old, third: (new / "tokenizer.json").unlink(), "lacks tokenizer.json"),
    ],
)
def test_what_speaks_against_it_refuses_it(
    config: Config, checkpoints: dict[str, Path], spoil: Callable[..., Any], reason: str
) -> None:
    old, new, third = (checkpoints[name] for name in ("old", "new", "third"))
    if reason not in ("has no verdict.json", "was compared with third"):
        allow(new, old)
    spoil(new, old, third)
    with pytest.raises(SightlineError, match=reason) as refused:
        promote(config, new)
    assert ".part" not in refused.value.message
    assert used(config) == digest(old)
    assert not [path for path in (config.archive / "models").iterdir() if path.is_dir()]


def change(path: Path, what: str, into: str) -> None:
    text = path.read_text()
    assert what in text
    path.write_text(text.replace(what, into))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_the_one_in_use_is_not_promoted_again(config: Config, checkpoints: dict[str, Path]) -> None:
    allow(checkpoints["old"], checkpoints["old"])
    with pytest.raises(SightlineError, match="is in use already"):
        promote(config, checkpoints["old"])


@pytest.mark.parametrize("where", ["_copy", "_same", "write_pointer"])
def test_a_crash_on_the_way_leaves_the_old_one_in_use(
    config: Config, checkpoints: dict[str, Path], where: str
) -> None:
    """The process ends as by a power cut after a step: no handler and no `finally` runs."""
    allow(checkpoints["new"], checkpoints["old"])
    child = os.fork()
    if child == 0:
        step = getattr(promotion, where)

        def dies(*given: Any) -> Any:
            if where != "write_pointer":
                step(*given)
            os._exit(7)

        setattr(promotion, where, dies)
        promote(config, checkpoints["new"])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert used(config) == digest(checkpoints["old"])
    assert ModelInUse(config, "cpu").current().identity.name == "old"
    promote(config, checkpoints["new"])
    assert used(config) == digest(checkpoints["new"])
    assert not list((config.archive / "models").glob("*.part"))


def test_a_promoted_checkpoint_that_does_not_load_is_refused_for_all(
    config: Config, checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = ModelInUse(config, "cpu"), ModelInUse(config, "cpu")
    allow(checkpoints["new"], checkpoints["old"])
    promote(config, checkpoints["new"])
    flip(config.archive / "models" / digest(checkpoints["new"]) / "model.safetensors")
    assert first.current().identity.name == "old"
    assert used(config) == digest(checkpoints["old"])
    assert second.current().identity.name == "old"
    assert ModelInUse(config, "cpu").current().identity.name == "old"
    file = write_config(config, tmp_path / "node.toml")
    assert main(["status", "--config", str(file)]) == 0
    said = capsys.readouterr().out
    assert f"model: old 0.0.1, digest {digest(checkpoints['old'])[:12]} (as configured" in said
    assert f"s ago: {digest(checkpoints['new'])[:12]}, CheckpointError" in said
    assert main(["status", "--json", "--config", str(file)]) == 0
    document = json.loads(capsys.readouterr().out)["model"]
    assert [one["digest"] for one in document["refused"]] == [digest(checkpoints["new"])]


def test_a_damaged_pointer_stops_no_reader_that_runs(config: Config, checkpoints: dict[str, Path]) -> None:
    models = ModelInUse(config, "cpu")
    allow(checkpoints["new"], checkpoints["old"])
    promote(config, checkpoints["new"])
    (config.archive / "models" / model_store.POINTER).write_text("{")
    assert models.current().identity.name == "old"
    with pytest.raises(SightlineError, match="remove it to go back to the configured checkpoint"):
        ModelInUse(config, "cpu")


def test_the_command(
    config: Config, checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(write_config(config, tmp_path / "node.toml"))
    new = str(checkpoints["new"])
    assert main(["promote", new, "--config", file]) == 2
    assert "has no verdict.json" in capsys.readouterr().err
    allow(checkpoints["new"], checkpoints["old"])
    assert main(["promote", new, "--config", file]) == 0
    assert f"model: new 0.0.1, digest {digest(checkpoints['new'])[:12]} (promoted" in capsys.readouterr().out
    assert main(["promote", "--list", "--config", file]) == 0
    said = capsys.readouterr().out
    assert digest(checkpoints["new"])[:12] in said
    assert digest(checkpoints["old"])[:12] in said
    assert main(["promote", "--back", "--config", file]) == 0
    assert "model: old 0.0.1" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["promote", new, "--back", "--config", file])


@pytest.mark.slow
def test_a_running_node_reads_later_studies_with_the_promoted_checkpoint(
    config: Config, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    archive = Archive.open(config)
    with role_process("reader", config, tmp_path) as process:
        before = finish(archive, put(archive, ct_series()))
        allow(checkpoints["new"], checkpoints["old"])
        file = write_config(config, tmp_path / "sightline.toml")
        assert main(["promote", str(checkpoints["new"]), "--config", str(file)]) == 0
        after = finish(archive, put(archive, ct_series(uid_root="2.25.9")))
        assert main(["promote", "--back", "--config", str(file)]) == 0
        last = finish(archive, put(archive, ct_series(uid_root="2.25.10")))
        assert process.poll() is None
    digests = [named_by((one.folder or Path()) / "findings.sr.dcm") for one in (before, after, last)]
    old, new = digest(checkpoints["old"]), digest(checkpoints["new"])
    assert digests == [old, new, old]
    assert [one.state for one in (before, after, last)] == ["read"] * 3
    numbers = json.loads(((after.folder or Path()) / "reading.json").read_text())
    assert numbers["model"] == {"name": "new", "version": "0.0.1", "digest": new}


class Gate:
    """The model in use, which tells when it begins to read and waits until it may go on."""

    def __init__(self, models: ModelInUse) -> None:
        self._models = models
        self.began, self.may_go_on = threading.Event(), threading.Event()

    def current(self) -> CanRead:
        return Gated(self._models.current(), self)


class Gated:
    def __init__(self, reader: CanRead, gate: Gate) -> None:
        self.identity, self.organ_drawing = reader.identity, reader.organ_drawing
        self._reader, self._gate = reader, gate

    def read(self, volume: hd.Volume, **about: Any) -> Reading:
        self._gate.began.set()
        assert self._gate.may_go_on.wait(60)
        return self._reader.read(volume, **about)


@pytest.fixture
def gate(config: Config) -> Iterator[Gate]:
    gate = Gate(ModelInUse(config, "cpu"))
    workflow = Workflow(config, Archive.open(config), gate)
    workflow.start()
    stop = threading.Event()
    watching = threading.Thread(target=workflow.watch, args=(stop,))
    watching.start()
    yield gate
    gate.may_go_on.set()
    stop.set()
    watching.join()
    workflow.stop()


def test_a_study_under_way_is_finished_by_the_old_one_and_a_chosen_one_is_read_by_the_new(
    config: Config, checkpoints: dict[str, Path], gate: Gate
) -> None:
    archive = Archive.open(config)
    first = put(archive, ct_series())
    assert gate.began.wait(60)
    second = put(archive, ct_series(uid_root="2.25.9"))

    def chosen() -> bool:
        with archive.index.reading() as session:
            rows = session.scalars(sa.select(Generation).where(Generation.study_instance_uid == second))
            return [row.state for row in rows] == ["queued"]

    wait_until(chosen, 60, "the second study to be queued for the old model")
    allow(checkpoints["new"], checkpoints["old"])
    promote(config, checkpoints["new"])
    gate.may_go_on.set()
    reports = [(finish(archive, study).folder or Path()) / "findings.sr.dcm" for study in (first, second)]
    assert [named_by(report) for report in reports] == [digest(checkpoints[name]) for name in ("old", "new")]
    with archive.index.reading() as session:
        again = {row.study_instance_uid: row.choices for row in session.scalars(sa.select(Generation))}
    assert again == {first: None, second: 1}


def test_a_slow_reader_that_was_taken_for_dead_publishes_nothing_under_another_key(
    config: Config, checkpoints: dict[str, Path]
) -> None:
    archive = Archive.open(config)
    study = put(archive, ct_series())
    (opened,) = complete_studies(archive.index, config, now=2e10)
    old = ModelInUse(config, "cpu").current()
    chosen = readings.select(archive, config, old.identity, opened)
    finished = readings.read(archive, config, old, chosen.id)
    allow(checkpoints["new"], checkpoints["old"])
    promote(config, checkpoints["new"])
    new = ModelInUse(config, "cpu").current()
    assert chosen.reading_key is not None
    assert readings.choose_again(archive, chosen.id, chosen.reading_key)
    assert not readings.choose_again(archive, chosen.id, chosen.reading_key)
    with archive.index.reading() as session:
        (opened,) = session.scalars(sa.select(Generation))
    chosen = readings.select(archive, config, new.identity, opened)
    readings.publish(archive, config, chosen.id, finished)  # the old one's, late
    with archive.index.reading() as session:
        assert session.get_one(Generation, chosen.id).state == "queued"
    readings.publish(archive, config, chosen.id, readings.read(archive, config, new, chosen.id))
    (report,) = archive.root.glob(f"results/{chosen.reading_key}/findings.sr.dcm")
    assert named_by(report) == digest(checkpoints["new"])
    assert study


def test_readers_that_disagree_for_good_do_not_choose_for_ever(
    config: Config, checkpoints: dict[str, Path]
) -> None:
    archive = Archive.open(config)
    put(archive, ct_series())
    (generation,) = complete_studies(archive.index, config, now=2e10)
    identity = ModelInUse(config, "cpu").current().identity
    for n in range(readings.MOST_CHOICES + 1):
        key = readings.select(archive, config, identity, generation).reading_key
        assert key is not None
        assert readings.choose_again(archive, generation.id, key) == (n < readings.MOST_CHOICES)
    with archive.index.reading() as session:
        row = session.get_one(Generation, generation.id)
    assert row.state == "failed"
    assert "make them alike" in (row.reason or "")


def test_questions_go_to_the_model_that_read_the_study(config: Config, checkpoints: dict[str, Path]) -> None:
    archive = Archive.open(config)
    models = ModelInUse(config, "cpu")
    shape = {"shape": (24, 40, 48), "spacing": (6.0, 5.0, 4.0)}

    def read(root: str) -> str:
        study = put(archive, ct_series(uid_root=root, **shape))  # type: ignore[arg-type]
        reader = models.current()
        for opened in complete_studies(archive.index, config, now=2e10):
            chosen = readings.select(archive, config, reader.identity, opened)
            readings.publish(archive, config, chosen.id, readings.read(archive, config, reader, chosen.id))
        return study

    first = read("2.25.9")
    parts = Parts.of(config, archive, models)
    client = TestClient(
        create_app(parts, TOKEN),
        base_url="http://testserver/api/1",
        headers={"Authorization": f"Bearer {TOKEN}"},
    )

    def asked(path: str) -> dict[str, Any]:
        answer = client.post(path, json={"text": "liver tumour"})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    parts.search.refresh()
    before = asked(f"/studies/{first}/query")
    assert before["model"]["name"] == "old"
    allow(checkpoints["new"], checkpoints["old"])
    promote(config, checkpoints["new"])
    assert parts.answering.refresh()
    second = read("2.25.10")
    parts.search.refresh()
    assert client.get("/health").json()["model"]["name"] == "new"
    assert asked(f"/studies/{first}/query") == before
    assert asked(f"/studies/{second}/query")["model"]["name"] == "new"
    everywhere = asked("/query")
    assert (everywhere["model"]["name"], everywhere["searched"]) == ("new", 1)
    assert [one["study_instance_uid"] for one in everywhere["hits"]] == [second]
    shutil.rmtree(checkpoints["old"])
    fresh = Parts.of(dataclasses.replace(config), archive, models)
    client.app.state.parts = fresh  # type: ignore[attr-defined]
    refused = client.post(f"/studies/{first}/query", json={"text": "liver tumour"})
    assert refused.status_code == 409
    assert "was read by model old 0.0.1, another one answers now" in refused.json()["error"]
