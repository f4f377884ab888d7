"""What a person on call sees of deliveries, and the other try that he or she can ask for."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import pytest
from rich.console import Console

from dicom_node import commitment
from dicom_node.archive import Archive
from dicom_node.cli import main
from dicom_node.commitment import Commitment
from dicom_node.config import Config, DeliverySettings, Destination
from dicom_node.delivery import Courier
from dicom_node.delivery_status import destinations, retry, undelivered
from dicom_node.delivery_tables import delivery_tables
from dicom_node.errors import SightlineError
from tests.dicom_node.deliveries import STUDY, deliveries, finished_reading, peer
from tests.dicom_node.faulty_pacs import FaultyPacs
from tests.dicom_node.network import free_port, write_config

DAY = 86400.0


@pytest.fixture
def pacs() -> FaultyPacs:
    return FaultyPacs(free_port())


@pytest.fixture
def config(tmp_path: Path, pacs: FaultyPacs) -> Config:
    """One destination that works, and one that is down."""
    return Config(
        archive=tmp_path / "archive",
        delivery=DeliverySettings(retry_seconds=100, timeout_seconds=15),
        destinations=(
            Destination("pacs", "127.0.0.1", pacs.port, "PACS"),
            Destination("down", "127.0.0.1", free_port(), "DOWN"),
        ),
    )


@pytest.fixture
def archive(config: Config) -> Archive:
    return finished_reading(config)


def shown(archive: Archive, config: Config) -> str:
    console = Console(width=250, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    tables = delivery_tables(destinations(archive, config), undelivered(archive, 20), time.time())
    for table in tables:
        console.print(table)
    return console.export_text()


def test_each_destination_says_how_it_stands(config: Config, archive: Archive, pacs: FaultyPacs) -> None:
    pacs.answers = [0xA700]
    pacs.comment = "[red]disk[/red] full"
    with pacs.listening():
        Courier(config, archive).send_due()
    works, down = destinations(archive, config)
    assert (works.delivered, works.pending, works.dead) == (1, 2, 0)
    assert works.unreachable_since is None
    assert (down.delivered, down.pending, down.dead) == (0, 3, 0)
    assert down.unreachable_since is not None
    assert "no connection" in (down.reason or "")
    (refused,) = undelivered(archive, 20)
    assert (refused.destination, refused.state, refused.attempts) == ("pacs", "pending", 1)
    assert refused.study_instance_uid == STUDY
    assert refused.status == 0xA700
    text = shown(archive, config)
    assert "DOWN at 127.0.0.1" in text
    assert "unreachable for" in text
    assert "[red]disk[/red] full" in text, "a peer's words are shown as they are"


def test_promises_are_counted(config: Config, archive: Archive) -> None:
    with archive.index.writing() as session:
        one, other = {row.sop_instance_uid for row in deliveries(archive)[:4]}
        for uid in (one, other):
            commitment.note_stored(session, uid, "pacs", 0.0)
        session.get_one(Commitment, (one, "pacs")).state = "committed"
    works, _ = destinations(archive, config)
    assert (works.committed, works.uncommitted) == (1, 1)
    assert "1 of 2" in shown(archive, config)


def give_up(config: Config, archive: Archive) -> None:
    """Everything that waits at the destination that is down has waited too long."""
    late = max(row.created_at for row in deliveries(archive)) + config.delivery.give_up_days * DAY + 1
    only = dataclasses.replace(config, destinations=config.destinations[1:])
    Courier(only, archive).send_due(now=late)
    assert {row.state for row in deliveries(archive) if row.destination == "down"} == {"dead"}


def test_what_was_given_up_is_sent_after_a_retry(config: Config, archive: Archive) -> None:
    give_up(config, archive)
    assert "given up" in shown(archive, config)
    repaired = FaultyPacs(config.destinations[1].port)
    only = dataclasses.replace(config, destinations=config.destinations[1:])
    with repaired.listening():
        assert Courier(only, archive).send_due() == 0
        assert retry(archive, config, destination="down") == {"down": 3}
        assert Courier(only, archive).send_due() == 3
    # Days and attempts count anew: the next trouble is no reason to give up at once.
    assert all(time.time() - row.created_at < 3600 for row in deliveries(archive))


def test_a_retry_is_for_the_studies_and_destinations_that_are_named(config: Config, archive: Archive) -> None:
    give_up(config, archive)
    with pytest.raises(SightlineError, match="not in the archive"):
        retry(archive, config, studies=["1.2.3"])
    with pytest.raises(SightlineError, match="configured: pacs, down"):
        retry(archive, config, destination="elsewhere")
    assert {row.state for row in deliveries(archive) if row.destination == "down"} == {"dead"}
    assert retry(archive, config, studies=[STUDY], destination="pacs") == {"pacs": 3}
    assert {row.state for row in deliveries(archive) if row.destination == "down"} == {"dead"}
    assert retry(archive, config, studies=[STUDY]) == {"pacs": 3, "down": 3}


def test_a_retry_asks_again_for_what_was_never_answered(config: Config, archive: Archive) -> None:
    (first, *_) = deliveries(archive)
    with archive.index.writing() as session:
        commitment.note_stored(session, first.sop_instance_uid, "pacs", 0.0)
    assert commitment.give_up_old(archive.index, "pacs", config.delivery, time.time()) == 1
    retry(archive, config)
    assert commitment.is_due(archive.index, "pacs", time.time() + 1)


def test_the_command_line(
    config: Config, archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    give_up(config, archive)
    file = str(write_config(config, tmp_path / "node.toml"))
    assert main(["status", "--json", "--config", file]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [line["study_instance_uid"] for line in document["studies"]] == [STUDY]
    assert [line["dead"] for line in document["destinations"]] == [0, 3]
    assert len(document["undelivered"]) == 3
    assert main(["status", "--config", file]) == 0
    assert "given up" in capsys.readouterr().out
    assert main(["retry", "--config", file, "--destination", "down", STUDY]) == 0
    assert capsys.readouterr().out == "down: 3 results are due now\n"
    assert {row.state for row in deliveries(archive)} == {"pending"}
    assert peer(archive, "down").retry_at == 0.0
    assert main(["retry", "--config", file, "--destination", "elsewhere"]) == 2
    assert "configured: pacs, down" in capsys.readouterr().err
