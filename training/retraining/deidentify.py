"""DICOM without the patient, before anything of training sees it.

Of images only what training needs is taken at all; on that, and on segmentations, the basic profile of PS3.15
(table E.1-1) by dicom-anonymizer (KitwareMedical). dicom-anonymizer was chosen because its rules are the
standard's table, edition by edition, and each can be replaced; dicognito gives consistent stand-ins for names
and dates but follows no profile, and deid wants a recipe that each site writes itself. What the library
leaves to us: it does not go into sequences that remain, and makes up UIDs anew in each process; both are done
here, UIDs by a keyed digest.

Not a look at pixels: a name that is burned in stays, so images that say or may be expected to have one
(Burned In Annotation YES, secondary capture) are refused. A face can be seen in a CT of the head.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

from dicomanonymizer import anonymize_dataset, initialize_actions
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.uid import UID, CTImageStorage, SegmentationStorage

from training.datasets.sample import UnusableSampleError
from training.retraining.pseudonyms import Pseudonyms

EDITION = "dicomfields_2026c"  # of the table, as dicom-anonymizer names it
# All that is read of an image (training.datasets) or needed to decode it.
KEPT = (
    "BitsAllocated",
    "BitsStored",
    "Columns",
    "HighBit",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "InstanceNumber",
    "Modality",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "PixelData",
    "PixelRepresentation",
    "PixelSpacing",
    "RescaleIntercept",
    "RescaleSlope",
    "Rows",
    "SOPClassUID",
    "SOPInstanceUID",
    "SamplesPerPixel",
    "SeriesInstanceUID",
    "SeriesNumber",
    "StudyInstanceUID",
)
# Sequences of references, which the profile would empty; the UIDs in them are replaced like all others.
_REFERENCES = (
    "DerivationImageSequence",
    "ReferencedImageSequence",
    "ReferencedInstanceSequence",
    "ReferencedSeriesSequence",
    "SourceImageSequence",
)
_WITH_UIDS = ("replace_UID", "delete_or_empty_or_replace_UID")  # names of dicom-anonymizer's actions
# The profile lets text and dates stay that its table does not name. Of a segmentation only codes are read.
_TEXT = frozenset({"AE", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_DROPPED = frozenset({"DA", "DT", "TM", "UN"})
_CODES = frozenset({"CodeValue", "CodingSchemeDesignator", "CodingSchemeVersion"})
REMOVED = "removed"
STANDARD_UIDS = "1.2.840.10008."  # PS3.6 annex A: of classes and syntaxes, never of a patient's objects


class Deidentifier:
    """Makes de-identified copies; what it is given stays as it is.

    Parameters
    ----------
    pseudonyms: of the archive, so that UIDs stay consistent over studies and runs.
    """

    def __init__(self, pseudonyms: Pseudonyms) -> None:
        self._pseudonyms = pseudonyms
        rules: dict[tuple[int, ...], Callable[..., None]] = initialize_actions(EDITION)
        uids = {tag: _keep for tag, action in rules.items() if action.__name__ in _WITH_UIDS}
        self._rules = rules | uids | {_tag(keyword): _keep for keyword in _REFERENCES}

    def __call__(self, dataset: Dataset) -> Dataset:
        """A copy without identity.

        Raises
        ------
        UnusableSampleError: it is neither a CT image nor a segmentation, or its pixels may show a name.
        """
        refuse_burned_in(dataset)
        if dataset.SOPClassUID == SegmentationStorage:
            found = copy.deepcopy(dataset)
        else:
            found = Dataset()
            for keyword in KEPT:
                if keyword in dataset:
                    found[keyword] = copy.deepcopy(dataset[keyword])
        self._clean(found)
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
        found.file_meta = meta
        return found

    def _clean(self, dataset: Dataset) -> None:
        """The profile on a data set and all that is nested in it, then UIDs and what it leaves of text."""
        anonymize_dataset(dataset, base_rules_gen=partial(dict, self._rules), delete_private_tags=True)
        for element in list(dataset):
            if element.VR == "SQ":
                for item in element.value:
                    self._clean(item)
            elif element.VR == "UI":
                element.value = self._replaced(element.value)
            elif element.VR in _DROPPED:
                del dataset[element.tag]
            elif element.VR in _TEXT and element.keyword not in _CODES:
                element.value = REMOVED

    def _replaced(self, value: Any) -> Any:
        if isinstance(value, MultiValue):
            return [self._replaced(one) for one in value]
        text = str(value or "")
        return text if not text or text.startswith(STANDARD_UIDS) else self._pseudonyms.uid(text)


def refuse_burned_in(dataset: Dataset) -> None:
    """Raise `UnusableSampleError` where an object is no CT or SEG, or its pixels may show a name."""
    if str(dataset.get("BurnedInAnnotation", "")).strip().upper() == "YES":
        raise UnusableSampleError("image has burned-in annotation")
    if dataset.get("ConversionType"):
        raise UnusableSampleError("image is a secondary capture")
    if UID(str(dataset.get("SOPClassUID", ""))) not in (CTImageStorage, SegmentationStorage):
        raise UnusableSampleError("object is neither a CT image nor a segmentation")


def _keep(dataset: Dataset, tag: tuple[int, int]) -> None:
    """Leave an element to us: items of sequences are cleaned by themselves, UIDs replaced."""


def _tag(keyword: str) -> tuple[int, int]:
    tag = Tag(keyword)
    return tag.group, tag.element


__all__ = ["EDITION", "KEPT", "Deidentifier", "refuse_burned_in"]
