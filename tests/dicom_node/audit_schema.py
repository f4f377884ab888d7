"""The DICOM audit message schema (PS3.15 A.5.1.1) as tables, and a check of messages against it.

Written down from the standard's text, apart from the code that makes the messages.
"""

from __future__ import annotations

import base64
import re
from datetime import datetime
from xml.etree.ElementTree import Element, fromstring

CODED = {"csd-code", "codeSystemName", "originalText"}
# Element -> (required attributes, optional attributes, children as a regular expression over their names).
SCHEMA: dict[str, tuple[set[str], set[str], str]] = {
    "AuditMessage": (
        set(),
        set(),
        r"EventIdentification( ActiveParticipant)+ AuditSourceIdentification"
        r"( ParticipantObjectIdentification)*",
    ),
    "EventIdentification": (
        {"EventDateTime", "EventOutcomeIndicator"},
        {"EventActionCode"},
        r"EventID( EventTypeCode)*( EventOutcomeDescription)?",
    ),
    "ActiveParticipant": (
        {"UserID", "UserIsRequestor"},
        {"AlternativeUserID", "UserName", "NetworkAccessPointID", "NetworkAccessPointTypeCode"},
        r"(RoleIDCode ?)*(MediaIdentifier)?",
    ),
    "MediaIdentifier": (set(), set(), "MediaType"),
    "AuditSourceIdentification": ({"AuditSourceID"}, {"AuditEnterpriseSiteID"}, r"(AuditSourceTypeCode ?)*"),
    "ParticipantObjectIdentification": (
        {"ParticipantObjectID"},
        {
            "ParticipantObjectTypeCode",
            "ParticipantObjectTypeCodeRole",
            "ParticipantObjectDataLifeCycle",
            "ParticipantObjectSensitivity",
        },
        r"ParticipantObjectIDTypeCode (ParticipantObjectName|ParticipantObjectQuery)"
        r"( ParticipantObjectDetail)*( ParticipantObjectDescription)*",
    ),
    "ParticipantObjectDescription": (set(), set(), r"(SOPClass ?)*"),
    "SOPClass": ({"NumberOfInstances"}, {"UID"}, ""),
    **{
        name: (CODED, {"displayName"}, "")
        for name in ("EventID", "EventTypeCode", "RoleIDCode", "MediaType", "ParticipantObjectIDTypeCode")
    },
    **{
        name: (set(), set(), "")
        for name in ("EventOutcomeDescription", "ParticipantObjectName", "ParticipantObjectQuery")
    },
}
VALUES = {
    "EventActionCode": "[CRUDE]",
    "EventOutcomeIndicator": "0|4|8|12",
    "UserIsRequestor": "true|false",
    "NetworkAccessPointTypeCode": "[1-5]",
    "ParticipantObjectTypeCode": "[1-4]",
    "ParticipantObjectTypeCodeRole": "[1-9]|1[0-9]|2[0-6]",
    "NumberOfInstances": r"\d+",
    "UserID": ".+",
    "ParticipantObjectID": ".+",
    "AuditSourceID": ".+",
}
# Event -> roles that must be among its participants, kinds of object that it must have: PS3.15 A.5.3.
MUST_HAVE: dict[str, tuple[set[str], set[str]]] = {
    "110100": ({"110150"}, set()),
    "110102": ({"110153", "110152"}, {"110180", "2"}),
    "110103": (set(), {"110180", "2"}),
    "110104": ({"110153", "110152"}, {"110180", "2"}),
    "110105": (set(), {"110180", "2"}),
    "110106": ({"110153", "110152", "110154"}, set()),
    "110112": ({"110153", "110152"}, {"12"}),
    "110113": (set(), {"110182"}),
}


def check(line: bytes | str) -> Element:
    """The message in a line; asserts that it is one by the schema, and has what its event demands."""
    root = fromstring(line)
    assert root.tag == "AuditMessage"
    for element in root.iter():
        required, optional, children = SCHEMA[element.tag]
        given = set(element.attrib)
        assert required <= given <= required | optional, (element.tag, given)
        names = " ".join(child.tag for child in element)
        assert re.fullmatch(children, names), (element.tag, names)
        for name, value in element.attrib.items():
            assert re.fullmatch(VALUES.get(name, ".*"), value), (name, value)
    event = root[0]
    assert datetime.fromisoformat(event.attrib["EventDateTime"]).utcoffset() is not None
    for query in root.iter("ParticipantObjectQuery"):
        base64.b64decode(query.text or "", validate=True)
    roles = {code.attrib["csd-code"] for code in root.iter("RoleIDCode")}
    kinds = {code.attrib["csd-code"] for code in root.iter("ParticipantObjectIDTypeCode")}
    wanted_roles, wanted_kinds = MUST_HAVE[event_of(root)]
    assert wanted_roles <= roles
    assert wanted_kinds <= kinds
    return root


def event_of(root: Element) -> str:
    """The code of a message's event."""
    return root[0][0].attrib["csd-code"]


def objects(root: Element) -> dict[str, str]:
    """What a message is about: code of the kind of identifier -> identifier."""
    return {
        element[0].attrib["csd-code"]: element.attrib["ParticipantObjectID"]
        for element in root.iter("ParticipantObjectIdentification")
    }
