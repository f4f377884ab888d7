"""DICOM audit messages: what happened, who took part and which study it was about, as XML.

The messages of PS3.15 A.5.3 that a node has to tell, in the schema of PS3.15 A.5.1. Not where they
are kept (`dicom_node.audit`). A patient appears only as a keyed digest of the Patient ID, and never
by name: PS3.15 demands an identifier, and who holds the archive's key can make it from one.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from xml.etree.ElementTree import Element, SubElement, tostring

UNKNOWN = "unknown"
SUCCESS, MINOR_FAILURE, SERIOUS_FAILURE = "0", "4", "8"  # EventOutcomeIndicator, PS3.15 A.5.1.1
CREATE, READ, UPDATE, DELETE, EXECUTE = "C", "R", "U", "D", "E"  # EventActionCode


@dataclass(frozen=True)
class Code:
    """A coded value: code value, coding scheme designator, code meaning."""

    value: str
    scheme: str
    meaning: str


# Events: PS3.16 CID 400; types of them: CID 401 and 403; roles: CID 402; identifiers: CID 404.
APPLICATION_ACTIVITY = Code("110100", "DCM", "Application Activity")
APPLICATION_START = Code("110120", "DCM", "Application Start")
APPLICATION_STOP = Code("110121", "DCM", "Application Stop")
BEGIN_TRANSFERRING = Code("110102", "DCM", "Begin Transferring DICOM Instances")
INSTANCES_ACCESSED = Code("110103", "DCM", "DICOM Instances Accessed")
INSTANCES_TRANSFERRED = Code("110104", "DCM", "DICOM Instances Transferred")
STUDY_DELETED = Code("110105", "DCM", "DICOM Study Deleted")
DATA_EXPORT = Code("110106", "DCM", "Export")
QUERY = Code("110112", "DCM", "Query")
SECURITY_ALERT = Code("110113", "DCM", "Security Alert")
NODE_AUTHENTICATION = Code("110126", "DCM", "Node Authentication")
SOFTWARE_CONFIGURATION = Code("110131", "DCM", "Software Configuration")
APPLICATION = Code("110150", "DCM", "Application")
DESTINATION = Code("110152", "DCM", "Destination Role ID")
SOURCE = Code("110153", "DCM", "Source Role ID")
DESTINATION_MEDIA = Code("110154", "DCM", "Destination Media")
MEDIA_URI = Code("110037", "DCM", "URI")  # CID 405
STUDY_UID = Code("110180", "DCM", "Study Instance UID")
NODE_ID = Code("110182", "DCM", "Node ID")
PATIENT_NUMBER = Code("2", "RFC-3881", "Patient Number")
URI = Code("12", "RFC-3881", "URI")


@dataclass(frozen=True)
class Participant:
    """One who took part: a process or a peer.

    Attributes
    ----------
    user_id: AE title, process or address.
    role: what it was in the event, if the event says.
    address: IP address or machine name, if it is known.
    is_requestor: whether it asked for the event.
    media: what data left on, where it is a medium.
    """

    user_id: str
    role: Code | None = None
    address: str | None = None
    is_requestor: bool = False
    media: Code | None = None


@dataclass(frozen=True)
class Concerned:
    """A study that an event was about.

    Attributes
    ----------
    study_instance_uid: of the study.
    patient: keyed digest of its Patient ID, or `UNKNOWN`.
    instances: how many instances of each SOP class.
    """

    study_instance_uid: str
    patient: str
    instances: Mapping[str, int]


@dataclass(frozen=True)
class AuditMessage:
    """One audit message.

    Attributes
    ----------
    event, action, outcome: EventID, EventActionCode and EventOutcomeIndicator.
    participants: at least one.
    event_type: EventTypeCode, where the event has any.
    description: EventOutcomeDescription: why it failed, in our words.
    study: that it was about.
    query: what was asked for, without what was typed, and how it was encoded.
    alert_subject: the node that a security alert is about.
    """

    event: Code
    action: str
    participants: Sequence[Participant]
    outcome: str = SUCCESS
    event_type: Code | None = None
    description: str | None = None
    study: Concerned | None = None
    query: str | None = None
    alert_subject: str | None = None

    def xml(self, source: str, now: float) -> bytes:
        """The message as one line of XML (PS3.15 A.5.1.1), UTF-8, without a line break.

        Parameters
        ----------
        source: AuditSourceID: which node tells it.
        now: seconds since the epoch.
        """
        root = Element("AuditMessage")
        self._event(root, now)
        for participant in self.participants:
            _participant(root, participant)
        SubElement(root, "AuditSourceIdentification", AuditSourceID=_token(source))
        if self.study is not None:
            _study(root, self.study)
            _patient(root, self.study.patient)
        if self.query is not None:
            _query(root, self.query)
        if self.alert_subject is not None:
            _object(root, self.alert_subject, NODE_ID, kind="2", role="13", name=self.alert_subject)
        line: bytes = tostring(root, encoding="utf-8")
        return line

    def _event(self, root: Element, now: float) -> None:
        moment = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
        event = SubElement(
            root,
            "EventIdentification",
            EventActionCode=self.action,
            EventDateTime=moment,
            EventOutcomeIndicator=self.outcome,
        )
        _coded(event, "EventID", self.event)
        if self.event_type is not None:
            _coded(event, "EventTypeCode", self.event_type)
        if self.description is not None:
            SubElement(event, "EventOutcomeDescription").text = _token(self.description)


def _participant(root: Element, participant: Participant) -> None:
    attributes = {
        "UserID": _token(participant.user_id) or UNKNOWN,
        "UserIsRequestor": "true" if participant.is_requestor else "false",
    }
    if participant.address:
        attributes["NetworkAccessPointID"] = _token(participant.address)
        attributes["NetworkAccessPointTypeCode"] = "2" if _is_ip(participant.address) else "1"
    element = SubElement(root, "ActiveParticipant", attributes)
    if participant.role is not None:
        _coded(element, "RoleIDCode", participant.role)
    if participant.media is not None:
        _coded(SubElement(element, "MediaIdentifier"), "MediaType", participant.media)


def _study(root: Element, study: Concerned) -> None:
    element = _object(root, study.study_instance_uid, STUDY_UID, kind="2", role="3", name="study")
    if study.instances:
        described = SubElement(element, "ParticipantObjectDescription")
        for sop_class, count in sorted(study.instances.items()):
            SubElement(described, "SOPClass", UID=_token(sop_class), NumberOfInstances=str(count))


def _patient(root: Element, digest: str) -> None:
    _object(root, digest, PATIENT_NUMBER, kind="1", role="1", name="patient")


def _query(root: Element, query: str) -> None:
    """PS3.15 A.5.3.10; what is asked is base64, in the words of the protocol that was used."""
    element = _object(root, query, URI, kind="2", role="24", name=None)
    SubElement(element, "ParticipantObjectQuery").text = b64encode(query.encode()).decode("ascii")


def _object(
    root: Element, identifier: str, kind_of_id: Code, *, kind: str, role: str, name: str | None
) -> Element:
    element = SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=_token(identifier) or UNKNOWN,
        ParticipantObjectTypeCode=kind,
        ParticipantObjectTypeCodeRole=role,
    )
    _coded(element, "ParticipantObjectIDTypeCode", kind_of_id)
    if name is not None:
        SubElement(element, "ParticipantObjectName").text = _token(name)
    return element


def _coded(parent: Element, name: str, code: Code) -> None:
    attributes = {"csd-code": code.value, "codeSystemName": code.scheme, "originalText": code.meaning}
    SubElement(parent, name, attributes)


def _token(text: str) -> str:
    """An xsd:token of at most 200 characters: no control characters (XML 1.0 knows few), single spaces."""
    return " ".join("".join(c if c.isprintable() else "?" for c in text).split())[:200]


def _is_ip(address: str) -> bool:
    try:
        ip_address(address)
    except ValueError:
        return False
    return True
