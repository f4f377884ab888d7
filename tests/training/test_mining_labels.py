"""Labels, organs and statements of whole reports, in the language of several hospitals.

The reports were written for this test; none is of a data set.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from core_model.abnormality import Abnormality, abnormalities
from core_model.anatomy import organs
from training.mining.concepts import CT_RATE, DICTIONARY, concepts
from training.mining.labels import labels
from training.mining.organ_sentences import organ_sentences
from training.mining.vocabulary import organ_of_place, places_in

CHEST = """EXAM: CT CHEST WITHOUT CONTRAST
HISTORY: Emphysema and history of pleural effusion. Rule out bronchiectasis.
COMPARISON: CT chest 3/4/2019.
FINDINGS:
Lungs: Moderate centrilobular emphysema. A 6 mm solid nodule is in the right upper lobe (series 4, image 77).
Bibasilar dependent atelectasis. No focal consolidation.
Pleura: No pleural effusion or pneumothorax.
Heart: Normal in size. No pericardial effusion. Moderate coronary artery calcifications.
Mediastinum/Hila: No lymphadenopathy.
Vessels: Mild atherosclerotic calcification of the thoracic aorta.
Upper abdomen: Small hiatal hernia. Status post cholecystectomy with surgical clips.
IMPRESSION:
1. 6 mm right upper lobe nodule. Follow-up CT in 6-12 months.
2. Emphysema."""

# A report, the labels that are present, those that are absent; all others are unknown.
CHESTS = [
    (
        CHEST,
        {
            "Emphysema",
            "Lung nodule",
            "Atelectasis",
            "Coronary artery wall calcification",
            "Arterial wall calcification",
            "Hiatal hernia",
            "Medical material",
        },
        {"Consolidation", "Pleural effusion", "Cardiomegaly", "Pericardial effusion", "Lymphadenopathy"},
    ),
    (
        "The lungs are clear. No nodules or consolidations. The heart is normal in size. No adenopathy.",
        set(),
        {"Lung opacity", "Lung nodule", "Consolidation", "Cardiomegaly", "Lymphadenopathy"},
    ),
    (
        "Thorax CT: Heart dimensions are increased. Calcific atheroma plaques are seen in aorta and coronary "
        "arteries. In the left hemithorax, effusion of 3 cm is seen. Free fluid in the abdomen. Linear "
        "atelectasis in both bases. Sequela fibrotic bands in bilateral apices. "
        "No pathological LAP was seen in mediastinum.",
        {
            "Cardiomegaly",
            "Arterial wall calcification",
            "Coronary artery wall calcification",
            "Pleural effusion",
            "Atelectasis",
            "Pulmonary fibrotic sequela",
        },
        {"Lymphadenopathy"},
    ),
    (
        "Interval resolution of the left pleural effusion. The right lower lobe consolidation has cleared. "
        "Unchanged 4 mm nodule in the lingula. No new nodules.",
        {"Lung nodule"},
        {"Pleural effusion", "Consolidation"},
    ),
    (
        "Pleural effusion: None.\nPericardial effusion: Small.\n"
        "Coronary calcification: Absent\nEmphysema: Mild.",
        {"Pericardial effusion", "Emphysema"},
        {"Pleural effusion", "Coronary artery wall calcification"},
    ),
    (
        "Pacemaker with leads in the right ventricle. Dense mitral annular calcification. Calcified "
        "granuloma in the right lung. Subcutaneous emphysema of the chest wall. Left thyroid nodule of 1 cm.",
        {"Medical material"},
        set(),
    ),
    (
        "Bronchial walls are not thickened. The interlobular septa are not thickened. No mosaic "
        "attenuation. The aorta is of normal caliber without calcified plaque. Coronary arteries are free of "
        "calcification.",
        set(),
        {
            "Peribronchial thickening",
            "Interlobular septal thickening",
            "Mosaic attenuation pattern",
            "Arterial wall calcification",
            "Coronary artery wall calcification",
        },
    ),
    (
        "Patchy airspace opacities in both lower lobes, which may represent pneumonia. Varicose "
        "bronchiectasis, unchanged. Peribronchial cuffing. Mosaic perfusion. Interlobular septal thickening.",
        {
            "Lung opacity",
            "Bronchiectasis",
            "Peribronchial thickening",
            "Mosaic attenuation pattern",
            "Interlobular septal thickening",
        },
        set(),
    ),
]


@pytest.mark.parametrize(("report", "present", "absent"), CHESTS)
def test_chest_labels(report: str, present: set[str], absent: set[str]) -> None:
    found = {x.concept: x.presence for x in labels(report)}
    assert {n for n, p in found.items() if p == "present"} == present
    assert {n for n, p in found.items() if p == "absent"} == absent
    assert all(found[n] == "unknown" for n in found.keys() - present - absent)


# One sentence, one label: written for this test.
SENTENCES = [
    ("Pleural effusion", "present", "Pleural effusion was watched in the right hemithorax."),
    ("Pleural effusion", "absent", "No pleural effusion or thickening was watched."),
    ("Pleural effusion", "absent", "Bilateral pleural effusion is not available."),
    ("Lung nodule", "present", "There is a 5x6 mm nodule in the RLL."),
    ("Lung nodule", "unknown", "Nodular density in the left lower lobe, 8 mm."),
    ("Lung nodule", "present", "Subpleural pulmonary nodule, not significantly changed."),
    ("Lung nodule", "present", "Multiple nodules, some of which are calcified, are seen in both lungs."),
    ("Lung nodule", "absent", "No nodules other than a 3 mm granuloma in the right upper lobe."),
    ("Cardiomegaly", "absent", "The cardiothoracic ratio is within normal limits."),
    ("Cardiomegaly", "present", "Heart is mildly enlarged with coronary calcifications."),
    (
        "Coronary artery wall calcification",
        "present",
        "Heart is mildly enlarged with coronary calcifications.",
    ),
    ("Cardiomegaly", "present", "Mild cardiac enlargement."),
    ("Arterial wall calcification", "present", "Aortic calcifications are present."),
    ("Arterial wall calcification", "present", "Aortic calcification."),
    ("Arterial wall calcification", "present", "Atherosclerotic vascular disease."),
    ("Coronary artery wall calcification", "present", "Calcified plaques in the thoracic aorta and LAD."),
    ("Arterial wall calcification", "present", "Calcified plaques in the thoracic aorta and LAD."),
    ("Arterial wall calcification", "unknown", "Coronary artery calcification is present."),
    ("Arterial wall calcification", "unknown", "Calcific atherosclerotic changes in coronary arteries."),
    ("Medical material", "present", "Stent in the LAD."),
    ("Medical material", "present", "Port catheter tip is in the right atrium."),
    ("Medical material", "absent", "No catheter or tube is seen."),
    ("Medical material", "present", "Contrast material was given through a catheter."),
    ("Medical material", "unknown", "Sternotomy."),
    ("Lymphadenopathy", "present", "Enlarged right paratracheal lymph nodes."),
    ("Lymphadenopathy", "absent", "There is no axillary, mediastinal or hilar lymphadenopathy."),
    ("Lymphadenopathy", "present", "Lymph nodes with preserved fatty hilum were observed in both axillae."),
    ("Emphysema", "present", "Bullous changes at the apices."),
    ("Emphysema", "absent", "No bulla."),
    ("Emphysema", "present", "Centriacinar emphysema areas draw attention."),
    ("Lung opacity", "unknown", "Aeration of both lungs is normal."),
    ("Lung opacity", "present", "Diffuse ground-glass opacities with crazy paving."),
    ("Lung opacity", "present", "Peripheral patchy consolidations and frosted glass densities."),
    ("Lung opacity", "absent", "No active infiltration or mass lesion was detected in both lungs."),
    ("Lung opacity", "absent", "There was no finding in favor of pneumonic infiltration."),
    ("Consolidation", "absent", "No consolidation or ground glass."),
    ("Bronchiectasis", "present", "Bronchiectatic changes in the right middle lobe."),
    ("Bronchiectasis", "absent", "Cylindrical bronchiectasis was not observed."),
    ("Bronchiectasis", "present", "Dilated bronchi in the left lower lobe."),
    ("Bronchiectasis", "present", "Tubular bronchial ectasias"),
    ("Interlobular septal thickening", "present", "Smooth thickening of interlobular septa."),
    ("Interlobular septal thickening", "present", "Increased thickness of interlobular septa in both lungs."),
    ("Interlobular septal thickening", "present", "Septal thickening in the basal segments."),
    ("Interlobular septal thickening", "unknown", "Interatrial septum is thickened with fat."),
    ("Peribronchial thickening", "present", "Thickening of the peribronchovascular interstitium."),
    ("Peribronchial thickening", "present", "Thickening of the bronchial walls."),
    ("Peribronchial thickening", "unknown", "Esophageal wall thickening near the left main bronchus."),
    ("Mosaic attenuation pattern", "present", "Mosaic density differences in both lungs."),
    ("Atelectasis", "present", "Passive atelectasis adjacent to the effusion."),
    ("Atelectasis", "present", "Subsegmental atelectatic changes."),
    ("Atelectasis", "present", "Collapsed left lower lobe."),
    ("Pulmonary fibrotic sequela", "present", "Fibrotic strands in the upper lobes."),
    (
        "Pulmonary fibrotic sequela",
        "present",
        "Sequelae of old granulomatous disease with calcified granulomas.",
    ),
    ("Pulmonary fibrotic sequela", "unknown", "Scar tissue at the abdominal incision."),
    ("Pulmonary fibrotic sequela", "unknown", "Post-surgical scarring of the left breast."),
    ("Pulmonary fibrotic sequela", "unknown", "Sequela fracture of the 5th rib."),
    ("Hiatal hernia", "absent", "Hiatal hernia is not seen."),
    ("Hiatal hernia", "present", "Herniation of the gastric fundus through the esophageal hiatus."),
    ("Hiatal hernia", "unknown", "Umbilical hernia containing fat."),
    ("Pericardial effusion", "absent", "Pericardial thickening or effusion is absent."),
    ("Pericardial effusion", "present", "Minimal pericardial smear-like effusion."),
    ("Pericardial effusion", "present", "Fluid in the pericardial recess."),
    ("Pleural effusion", "unknown", "Joint effusion in the shoulder."),
    ("Pleural effusion", "unknown", "Perihepatic fluid."),
    ("Pleural effusion", "present", "Loculated right hydropneumothorax."),
    ("Lung nodule", "absent", "The previously described nodules are no longer seen."),
    ("Lung nodule", "unknown", "Follow up of pulmonary nodules is recommended."),
    ("Lung nodule", "absent", "No evidence of pulmonary metastases or suspicious nodules."),
    ("Lung nodule", "unknown", "The left kidney shows a nodule."),
    ("Lung nodule", "unknown", "Hypodense nodules in both thyroid lobes."),
    ("Lymphadenopathy", "absent", "Lymph nodes: Unremarkable."),
    ("Lymphadenopathy", "absent", "Lymph nodes: None enlarged."),
    ("Lymphadenopathy", "present", "Lymph nodes: Enlarged left hilar node."),
    ("Lymphadenopathy", "absent", "Lymph nodes are normal."),
    ("Cardiomegaly", "present", "Heart: Cardiomegaly."),
    ("Medical material", "present", "Devices: Right chest port."),
]


@pytest.mark.parametrize(("name", "presence", "sentence"), SENTENCES)
def test_one_sentence(name: str, presence: str, sentence: str) -> None:
    assert {x.concept: x.presence for x in labels(sentence)}[name] == presence


def test_doubt_is_neither_present_nor_absent() -> None:
    found = {
        x.concept: x
        for x in labels("Cannot exclude a nodule in the left lung apex. Borderline cardiomegaly.")
    }
    assert found["Lung nodule"].presence == found["Cardiomegaly"].presence == "uncertain"
    assert found["Lung nodule"].evidence == ("Cannot exclude a nodule in the left lung apex.",)


def test_present_outweighs_absent_and_history_says_nothing() -> None:
    found = {
        x.concept: x.presence for x in labels("No effusion in the left pleura. Small right pleural effusion.")
    }
    assert found["Pleural effusion"] == "present"
    assert all(x.presence == "unknown" for x in labels("CLINICAL HISTORY: pleural effusion, no emphysema."))


ABDOMEN = """FINDINGS:
LIVER: Normal in size. Diffuse fatty infiltration. A 1.2 cm hypodense lesion in segment 7 (3/45).
GALLBLADDER: Cholelithiasis without evidence of cholecystitis.
ADRENALS: Normal.
KIDNEYS: Bilateral simple renal cysts. No hydronephrosis. 3 mm nonobstructing left renal calculus.
VASCULATURE: 4.2 cm infrarenal abdominal aortic aneurysm.
BONES: Compression fracture of L1. No suspicious osseous lesion.
LUNG BASES: Small right pleural effusion."""


def test_abdominal_statements_and_organs() -> None:
    found = {x.concept: x.presence for x in labels(ABDOMEN, concepts(DICTIONARY))}
    assert {n for n, p in found.items() if p == "present"} == {
        "hepatic_steatosis",
        "liver_tumour",
        "gallstones",
        "renal_cyst",
        "kidney_stone",
        "aortic_aneurysm",
        "vertebral_fracture",
        "pleural_effusion",
    }
    assert {n for n, p in found.items() if p == "absent"} == {"hydronephrosis", "adrenal_mass"}
    decided = {s.text: (s.organs, s.decision) for s in organ_sentences(ABDOMEN)}
    assert decided["Diffuse fatty infiltration."] == (("liver",), "heading")
    assert decided["No hydronephrosis."] == (("kidneys",), "heading")
    assert decided["LUNG BASES: Small right pleural effusion."] == (("lung",), "named")
    assert decided["No suspicious osseous lesion."] == ((), "none")


def test_organs_of_neighbours_abnormalities_and_what_goes_on() -> None:
    report = (
        "Cyst in the spleen, adjacent to the left kidney. It is simple. Cardiomegaly. Enlarged thyroid. "
        "It displaces the trachea."
    )
    found = [(s.organs, s.decision) for s in organ_sentences(report)]
    assert found[0] == (("spleen",), "named")
    assert found[1] == (("spleen",), "carried")
    assert found[2] == (("heart",), "named")
    assert found[3] == ((), "none")


def test_statements_keep_status_and_words() -> None:
    (sentence,) = organ_sentences("No pleural effusion, but mild emphysema.")
    said = [(s.abnormality, s.status, s.words) for s in sentence.statements]
    assert said == [("pleural_effusion", "absent", "pleural effusion"), ("emphysema", "present", "emphysema")]


def test_tables_fit_the_organ_table_and_the_dictionary() -> None:
    assert {(c.name, c.organ) for c in concepts(DICTIONARY)} == {(a.name, a.organ) for a in abnormalities()}
    known = {o.name for o in organs()}
    assert {c.organ for c in concepts(CT_RATE)} <= known | {""}
    assert len(concepts(CT_RATE)) == 18
    assert set(organ_of_place().values()) == known | {""}
    places = set(organ_of_place())
    for table in (CT_RATE, DICTIONARY):
        assert all(rule.places <= places for c in concepts(table) for rule in c.rules)
    for organ in organs():
        assert organ.name in {p.organ for p in places_in(f"The {organ.display} were seen.")}


@pytest.mark.parametrize("entry", abnormalities(), ids=lambda a: a.name)
def test_the_dictionarys_own_wordings_are_read(entry: Abnormality) -> None:
    """What training says of an abnormality, mining reads: most wordings, and none as its contrary."""
    texts = [(t, "present") for t in entry.present] + [(t, "absent") for t in entry.absent]
    found = [
        (status, {x.concept: x.presence for x in labels(t, concepts(DICTIONARY))}) for t, status in texts
    ]
    read = [(status, presences[entry.name]) for status, presences in found]
    assert not {("present", "absent"), ("absent", "present")} & set(read)
    assert sum(status == presence for status, presence in read) >= 0.6 * len(read)


def test_rules_need_no_torch() -> None:
    code = (
        "import sys, training.mining.__main__; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
