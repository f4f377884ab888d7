"""What protocols have published and everybody must take over word by word: labels, prompts, mappings.

Nothing is computed here. Sources: CT-CLIP ``scripts/zero_shot.py`` and ``eval.py``; RadFinder
``prompt_rate_labels.py`` and ``configs/tasks/binary_zs``; HLIP ``zeroshot_metadata_ct_rate.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

# The columns of CT-RATE's label tables, in their order.
CT_RATE_LABELS = (
    "Medical material",
    "Arterial wall calcification",
    "Cardiomegaly",
    "Pericardial effusion",
    "Coronary artery wall calcification",
    "Hiatal hernia",
    "Lymphadenopathy",
    "Emphysema",
    "Atelectasis",
    "Lung nodule",
    "Lung opacity",
    "Pulmonary fibrotic sequela",
    "Pleural effusion",
    "Mosaic attenuation pattern",
    "Peribronchial thickening",
    "Consolidation",
    "Bronchiectasis",
    "Interlobular septal thickening",
)
# fVLM, HLIP and ViSD-Boost leave out the two labels that are of no one organ.
FVLM_LABELS = tuple(x for x in CT_RATE_LABELS if x not in {"Medical material", "Lymphadenopathy"})
# The organ of each of them (HLIP's ``ORGANS``, after fVLM), as a reading organ; the rest are of the lung.
FVLM_ORGANS = MappingProxyType(
    {
        **dict.fromkeys(FVLM_LABELS, "lung"),
        "Cardiomegaly": "heart",
        "Pericardial effusion": "heart",
        "Coronary artery wall calcification": "heart",
        "Hiatal hernia": "esophagus",
        "Arterial wall calcification": "aorta",
    }
)
# What of the labels this model's own dictionary has: the rows "own findings". Our choice.
OWN_FINDINGS = MappingProxyType(
    {
        "Arterial wall calcification": "aortic_calcification",
        "Pericardial effusion": "pericardial_effusion",
        "Coronary artery wall calcification": "coronary_calcification",
        "Hiatal hernia": "hiatal_hernia",
        "Emphysema": "emphysema",
        "Lung nodule": "lung_nodule",
        "Pleural effusion": "pleural_effusion",
        "Consolidation": "lung_consolidation",
    }
)


@dataclass(frozen=True)
class Prompts:
    """Templates for and against a label.

    Attributes
    ----------
    name: said in every result.
    pairs: (for, against), with ``{a}`` for the label as the table writes it and ``{b}`` for it with a small
        first letter. Embeddings of several pairs are averaged.
    """

    name: str
    pairs: tuple[tuple[str, str], ...]

    def texts(self, label: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The texts for and the texts against a label.

        >>> CT_CLIP.texts("Lung nodule")
        (('Lung nodule is present.',), ('Lung nodule is not present.',))
        """
        words = {"a": label, "b": label[:1].lower() + label[1:]}
        yes, no = zip(*((y.format(**words), n.format(**words)) for y, n in self.pairs), strict=True)
        return tuple(yes), tuple(no)

    def described(self) -> str:
        """For people: name and templates."""
        said = "; ".join(f'"{yes}" / "{no}"' for yes, no in self.pairs)
        return f"{self.name}: {said}"


CT_CLIP = Prompts("CT-CLIP", (("{a} is present.", "{a} is not present."),))
# T1..T7 of RadFinder's mode mean7.
RADFINDER = Prompts(
    "RadFinder mean7",
    (
        ("{a}.", "No {a}."),
        ("Findings are compatible with {a}.", "Findings are not compatible with {a}."),
        ("There is {a}.", "There is no {a}."),
        ("{a} is seen.", "{a} is not seen."),
        ("{a}.", "Not {a}."),
        ("{a} is observed.", "{a} is not observed."),
        ("{a} is present.", "{a} is not present."),
    ),
)
FVLM = Prompts("fVLM", (("{a}.", "Not {b}."),))


@dataclass(frozen=True)
class Mapping18:
    """How labels of Rad-ChestCT become labels of CT-RATE. There is no standard one: it belongs to a result.

    Attributes
    ----------
    name: said in every result.
    parts: label of CT-RATE -> abnormalities of Rad-ChestCT, any of which, anywhere, makes it present.
    merged: whether the two calcifications are judged as one: the greater of both scores, 16 labels with
        "Mosaic attenuation pattern" left out (CT-CLIP ``eval.py``).
    """

    name: str
    parts: Mapping[str, tuple[str, ...]]
    merged: bool

    def labels(self) -> tuple[str, ...]:
        """The labels that are judged, in CT-RATE's order."""
        dropped = {"Coronary artery wall calcification", "Mosaic attenuation pattern"} if self.merged else ()
        return tuple(x for x in CT_RATE_LABELS if x not in dropped)

    def truth(self, native: Mapping[str, bool]) -> dict[str, bool]:
        """Labels of CT-RATE from labels of Rad-ChestCT.

        Parameters
        ----------
        native: ``"abnormality*location"`` or ``"abnormality"`` -> present.
        """
        present = {name.split("*")[0] for name, there in native.items() if there}
        return {label: not present.isdisjoint(self.parts[label]) for label in self.labels()}


_DEVICES = (
    "catheter_or_port",
    "tracheal_tube",
    "chest_tube",
    "breast_implant",
    "pacemaker_or_defib",
    "stent",
    "clip",
    "staple",
    "gi_tube",
    "hardware",
    "suture",
)
_STANDARD: dict[str, tuple[str, ...]] = {
    "Medical material": _DEVICES,
    "Arterial wall calcification": ("calcification",),
    "Cardiomegaly": ("cardiomegaly",),
    "Pericardial effusion": ("pericardial_effusion",),
    "Coronary artery wall calcification": ("calcification",),
    "Hiatal hernia": ("hernia",),
    "Lymphadenopathy": ("lymphadenopathy",),
    "Emphysema": ("emphysema",),
    "Atelectasis": ("atelectasis",),
    "Lung nodule": ("nodule", "nodulegr1cm"),
    "Lung opacity": ("opacity",),
    "Pulmonary fibrotic sequela": ("scarring",),
    "Pleural effusion": ("pleural_effusion",),
    "Mosaic attenuation pattern": (),
    "Peribronchial thickening": ("bronchial_wall_thickening",),
    "Consolidation": ("consolidation",),
    "Bronchiectasis": ("bronchiectasis",),
    "Interlobular septal thickening": ("septal_thickening",),
}
RADFINDER_STANDARD = Mapping18("radfinder-standard", MappingProxyType(_STANDARD), merged=True)
RADFINDER_BROAD = Mapping18(
    "radfinder-broad",
    MappingProxyType(
        {
            **_STANDARD,
            "Medical material": (*_DEVICES, "heart_valve_replacement", "cabg", "sternotomy"),
            "Arterial wall calcification": ("atherosclerosis",),
            "Coronary artery wall calcification": ("coronary_artery_disease",),
            "Lung opacity": ("opacity", "groundglass", "infiltrate", "airspace_disease"),
            "Pulmonary fibrotic sequela": (
                "fibrosis",
                "reticulation",
                "honeycombing",
                "scarring",
                "interstitial_lung_disease",
            ),
            "Mosaic attenuation pattern": ("air_trapping",),
            "Bronchiectasis": ("bronchiectasis", "bronchiolectasis"),
        }
    ),
    merged=False,
)
# CT-CLIP has not published its mapping (its issues 20 and 29); what others say of it is that fibrosis stands
# for fibrotic sequela. The rest is RadFinder's standard one: our reading.
CT_CLIP_MAPPING = Mapping18(
    "ct-clip", MappingProxyType({**_STANDARD, "Pulmonary fibrotic sequela": ("fibrosis",)}), merged=True
)
MAPPINGS = MappingProxyType({m.name: m for m in (CT_CLIP_MAPPING, RADFINDER_STANDARD, RADFINDER_BROAD)})
