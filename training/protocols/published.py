"""What protocols have published and everybody must take over word by word: labels and prompts.

Nothing is computed here. How labels of Rad-ChestCT map to CT-RATE's is `training.datasets.rad_chestct`'s.
Sources: CT-CLIP ``scripts/zero_shot.py`` and ``eval.py``; RadFinder ``prompt_rate_labels.py``; HLIP
``zeroshot_metadata_ct_rate.py``.
"""

from __future__ import annotations

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
# On Rad-ChestCT calcifications are judged as one, mosaic attenuation not (CT-CLIP ``evaluate_external``).
MERGED_LABELS = tuple(
    x for x in CT_RATE_LABELS if x not in {"Coronary artery wall calcification", "Mosaic attenuation pattern"}
)
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
