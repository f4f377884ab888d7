"""Results reach a DICOMweb server by STOW-RS, and only an answer that names them counts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless

from dicom_node.archive import Archive
from dicom_node.check import run_checks
from dicom_node.config import Config, DeliverySettings, Destination
from dicom_node.delivery import Courier, stored_back_at
from dicom_node.delivery_parcels import Parcel
from dicom_node.delivery_web import answers, store
from tests.dicom_node.ct_series import ct_series
from tests.dicom_node.deliveries import (
    ORDER,
    Certificates,
    deliveries,
    finished_reading,
    make_certificates,
    next_attempt,
    peer,
)
from tests.dicom_node.network import free_port
from tests.dicom_node.orthanc import orthanc
from tests.dicom_node.readings import KEY
from tests.dicom_node.stow_server import HANG_UP, LOGIN_PAGE, REDIRECT, SILENT, StowServer
from tests.peers import require


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def server() -> StowServer:
    return StowServer(free_port())


@pytest.fixture
def config(tmp_path: Path, server: StowServer) -> Config:
    return Config(
        archive=tmp_path / "archive",
        delivery=DeliverySettings(retry_seconds=10, timeout_seconds=15),
        destinations=(Destination("web", url=f"http://127.0.0.1:{server.port}/dicom-web"),),
    )


@pytest.fixture
def archive(config: Config) -> Archive:
    return finished_reading(config)


def test_all_results_are_stored_in_order(config: Config, archive: Archive, server: StowServer) -> None:
    courier = Courier(config, archive)
    with server.listening():
        assert courier.send_due() == 3
        assert courier.send_due() == 0
    assert [str(instance.SOPClassUID) for instance in server.received] == ORDER
    assert set(server.stored) == {row.sop_instance_uid for row in deliveries(archive)}
    assert stored_back_at(archive, KEY) is not None


@pytest.mark.parametrize("media_type", ["application/json", "application/dicom+json; charset=utf-8"])
def test_other_names_of_json_are_understood(
    config: Config, archive: Archive, server: StowServer, media_type: str
) -> None:
    server.media_type = media_type
    with server.listening():
        assert Courier(config, archive).send_due() == 3


@pytest.mark.parametrize(
    "answer", [("warned", 0xB000), ("warned", 0xB006), ("warned", 0xB007), ("failed", 0x0111)]
)
def test_warnings_and_duplicates_count_as_stored(
    config: Config, archive: Archive, server: StowServer, answer: tuple[str, int]
) -> None:
    server.answers = [answer] * 3
    with server.listening():
        assert Courier(config, archive).send_due() == 3
    assert {row.status for row in deliveries(archive)} == {answer[1]}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (("failed", 0xA700), "0xA700 Refused: Out of Resources"),
        (("failed", 0x0124), "0x0124 Refused: Not Authorised"),
        (400, "HTTP 400"),
        (500, "HTTP 500"),
        (LOGIN_PAGE, "HTTP 200, but the answer does not name the result"),
        (SILENT, "no answer in time"),
        (HANG_UP, "the server broke the connection"),
    ],
)
def test_a_result_that_is_not_taken_waits_by_itself(
    config: Config, archive: Archive, server: StowServer, answer: object, reason: str
) -> None:
    server.answers = [answer]
    courier = Courier(config, archive)
    seconds = 2 if answer == SILENT else 15
    hurried = dataclasses.replace(config.delivery, timeout_seconds=seconds)
    with server.listening():
        assert Courier(dataclasses.replace(config, delivery=hurried), archive).send_due() == 1
        (failed,) = (row for row in deliveries(archive) if row.attempts and row.state == "pending")
        assert (failed.reason or "").lower() == reason.lower()
        assert failed.status == (answer[1] if isinstance(answer, tuple) else None)
        assert courier.send_due(now=next_attempt(archive, "web")) == 2
    assert len(server.stored) == 3


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(401, "check token_file"), (403, "HTTP 403"), (503, "not available"), (REDIRECT, "elsewhere")],
)
def test_a_server_that_takes_nothing_waits_as_a_whole(
    config: Config, archive: Archive, server: StowServer, answer: object, reason: str
) -> None:
    server.answers = [answer]
    courier = Courier(config, archive)
    with server.listening():
        assert courier.send_due() == 0
        assert len(server.received) == 1
        assert reason in (peer(archive, "web").reason or "")
        assert {row.attempts for row in deliveries(archive)} == {0}
        assert courier.send_due(now=next_attempt(archive, "web")) == 3


def test_a_server_that_is_down_waits_as_a_whole(config: Config, archive: Archive, server: StowServer) -> None:
    courier = Courier(config, archive)
    assert courier.send_due() == 0
    assert "no connection" in (peer(archive, "web").reason or "")
    with server.listening():
        assert courier.send_due(now=next_attempt(archive, "web")) == 3


def test_the_token_is_read_anew_and_never_guessed(
    config: Config, archive: Archive, server: StowServer, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    destination = dataclasses.replace(config.destinations[0], token_file=token)
    config = dataclasses.replace(config, destinations=(destination,))
    courier = Courier(config, archive)
    server.token = "the-right-one"
    with server.listening():
        courier.send_due()
        assert "token_file" in (peer(archive, "web").reason or "")
        token.write_text("an-old-one\n")
        courier.send_due(now=next_attempt(archive, "web"))
        assert "HTTP 401" in (peer(archive, "web").reason or "")
        assert server.received == []
        token.write_text("the-right-one\n")
        assert courier.send_due(now=next_attempt(archive, "web")) == 3


def test_https_with_client_certificates(
    config: Config, archive: Archive, server: StowServer, certificates: Certificates
) -> None:
    destination = Destination(
        "web",
        url=f"https://localhost:{server.port}/dicom-web",
        authority=certificates.authority,
        certificate=certificates.client,
        key=certificates.client,
    )
    trusted = dataclasses.replace(config, destinations=(destination,))
    with server.listening(certificates.server_context(certificates.server)):
        for change, reason in (
            ({"authority": None}, "certificate is not accepted"),
            ({"certificate": None, "key": None}, "certificate"),
            ({"certificate": certificates.stranger, "key": certificates.stranger}, "TLS"),
            ({"authority": Path("/nowhere.pem")}, "/nowhere.pem"),
            ({"key": certificates.stranger}, "belong together"),
        ):
            wrong = dataclasses.replace(destination, **change)
            message = answers(wrong, trusted) or ""
            assert reason in message, (change, message)
        assert answers(destination, trusted) is None
        (line,) = (r for r in run_checks(trusted) if r.name == "destination web")
        assert line.ok, line.message
        assert "STOW-RS" in line.message
        assert Courier(trusted, archive).send_due() == 3


def test_the_certificate_must_name_the_server(
    config: Config, server: StowServer, certificates: Certificates
) -> None:
    strict = Destination(
        "web", url=f"https://localhost:{server.port}/dicom-web", authority=certificates.authority
    )
    with server.listening(certificates.server_context(certificates.elsewhere, asks_client=False)):
        assert "hostname" in (answers(strict, config) or "").lower()
        assert answers(dataclasses.replace(strict, check_hostname=False), config) is None
        foreign = dataclasses.replace(strict, check_hostname=False, authority=certificates.stranger)
        assert "not accepted" in (answers(foreign, config) or "")


def picture(folder: Path) -> Parcel:
    """A compressed Secondary Capture, in a file."""
    image = hd.sc.SCImage.from_ref_dataset(
        ct_series()[0],
        np.random.default_rng(0).integers(0, 255, (32, 40, 3), np.uint8),
        photometric_interpretation="YBR_RCT",
        bits_allocated=8,
        coordinate_system="PATIENT",
        series_instance_uid="2.25.1",
        series_number=1,
        sop_instance_uid="2.25.2",
        instance_number=1,
        manufacturer="test",
        patient_orientation=("L", "P"),
        transfer_syntax_uid=JPEG2000Lossless,
    )
    image.save_as(folder / "picture.dcm", enforce_file_format=True)
    return Parcel("2.25.2", str(image.SOPClassUID), folder / "picture.dcm")


def test_a_server_without_the_transfer_syntax_gets_the_uncompressed_twin(
    config: Config, server: StowServer, tmp_path: Path
) -> None:
    server.syntaxes = (str(ExplicitVRLittleEndian),)
    with server.listening():
        (outcome,) = store(config.destinations[0], config, [picture(tmp_path)])
    assert outcome.stored
    compressed, twin = server.received
    assert compressed.file_meta.TransferSyntaxUID == JPEG2000Lossless
    assert twin.SOPInstanceUID == compressed.SOPInstanceUID
    assert np.array_equal(twin.pixel_array, compressed.pixel_array)


def dicomweb_plugin() -> str:
    """Of Debian's package orthanc-dicomweb."""
    found = sorted(Path("/usr/lib/orthanc").glob("libOrthancDicomWeb.so*"))
    return str(found[0]) if found else require("libOrthancDicomWeb.so")


def test_a_real_orthanc_stores_all_three(config: Config, archive: Archive, tmp_path: Path) -> None:
    extra = {"Plugins": [dicomweb_plugin()], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"}}
    with orthanc(
        require("Orthanc"), tmp_path / "pacs", node_ae_title="SIGHTLINE", node_port=free_port(), extra=extra
    ) as pacs:
        destination = Destination("web", url=f"{pacs.url}/dicom-web")
        config = dataclasses.replace(config, destinations=(destination,))
        assert answers(destination, config) is None
        assert "check url" in (answers(dataclasses.replace(destination, url=pacs.url), config) or "")
        assert Courier(config, archive).send_due() == 3
        found = {tags["SOPInstanceUID"] for tags in pacs.objects()}
        assert found == {row.sop_instance_uid for row in deliveries(archive)}
