"""How results say which software, which model and which installation made them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import highdicom as hd

import dicom_node
from core_model.anatomy import organs
from core_model.reading import ModelIdentity, OrganDrawing
from dicom_node.results import codes

NOT_FOR_DIAGNOSIS = "Research software, not for diagnostic use"


@dataclass(frozen=True)
class Equipment:
    """The General Equipment Module of a result (PS3.3 C.7.5.1).

    Attributes
    ----------
    manufacturer, model_name: what receivers recognise own results by.
    software_version: of the node.
    device_serial: distinguishes installations; also names the device observer of the SR.
    """

    manufacturer: str = "Sightline"
    model_name: str = "Sightline CT reader"
    software_version: str = dicom_node.__version__
    device_serial: str = "1"

    def keywords(self) -> dict[str, Any]:
        """As highdicom's constructors take it."""
        return {
            "manufacturer": self.manufacturer,
            "manufacturer_model_name": self.model_name,
            "software_versions": self.software_version,
            "device_serial_number": self.device_serial,
        }


def segment_algorithm(model: ModelIdentity, equipment: Equipment) -> hd.AlgorithmIdentificationSequence:
    """Which model drew a segment (PS3.3 table 10-19)."""
    return hd.AlgorithmIdentificationSequence(
        name=model.name,
        family=codes.ARTIFICIAL_INTELLIGENCE,
        version=model.version,
        source=equipment.manufacturer,
        parameters={"checkpoint_sha256": model.digest},
    )


def organ_algorithm(drawing: OrganDrawing) -> hd.AlgorithmIdentificationSequence:
    """Which algorithm drew the segment of an organ in the model's place (PS3.3 table 10-19)."""
    return hd.AlgorithmIdentificationSequence(
        name=drawing.model.name,
        family=codes.ARTIFICIAL_INTELLIGENCE,
        version=drawing.model.version,
        source=drawing.source,
        parameters={"weights_sha256": drawing.model.digest},
    )


def organ_note(drawing: OrganDrawing) -> str:
    """A sentence for the report: who drew the organs."""
    own = [o.display for o in organs() if o.name not in drawing.organs]
    rest = f"; {' and '.join(own)} by the model" if own else ""
    name, version, digest = drawing.model.name, drawing.model.version, drawing.model.digest
    return f"Organs were drawn by {name} {version} (weights_sha256={digest}){rest}."


def report_algorithm(model: ModelIdentity, equipment: Equipment) -> hd.sr.AlgorithmIdentification:
    """Which model made a finding (PS3.16 TID 4019)."""
    return hd.sr.AlgorithmIdentification(
        name=model.name,
        version=model.version,
        parameters=[f"checkpoint_sha256={model.digest}"],
        family=codes.ARTIFICIAL_INTELLIGENCE,
        manufacturer=equipment.manufacturer,
    )
