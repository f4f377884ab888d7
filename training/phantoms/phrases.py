"""The phrases of synthetic reports: what radiologists write about each abnormality and organ.

Only wording; `reports` decides what is said about which phantom. The sentences are our choice.
Slots: {size} as "18 mm" or "1.8 cm", {where} as "in the right lobe of the liver".
"""

from __future__ import annotations

# Findings with a position and a size.
POSITIVE: dict[str, tuple[str, ...]] = {
    "liver_tumour": (
        "Hypodense lesion {where} measuring {size}, suspicious for metastasis",
        "There is a {size} hypoattenuating mass {where}",
        "{size} ill-defined hypovascular lesion {where}, suspicious for malignancy",
        "A focal lesion of {size} with indistinct margins is seen {where}, most likely a metastasis",
        "Liver tumour of {size} {where}",
    ),
    "liver_cyst": (
        "Simple cyst of {size} {where}",
        "{size} well-circumscribed fluid-density lesion {where}, consistent with a cyst",
        "A hepatic cyst measuring {size} is noted {where}",
        "Sharply marginated water-attenuation lesion {where}, {size}, a benign cyst",
    ),
    "renal_tumour": (
        "Solid enhancing mass {where} measuring {size}, suspicious for renal cell carcinoma",
        "There is a {size} solid renal mass {where}",
        "{size} exophytic heterogeneous tumour {where}",
        "A renal mass of {size} is seen {where}, concerning for malignancy",
    ),
    "renal_cyst": (
        "Simple cortical cyst of {size} {where}",
        "{size} fluid-density cyst {where}, Bosniak I",
        "A renal cyst measuring {size} is present {where}",
        "Non-enhancing low-attenuation lesion {where}, {size}, compatible with a simple cyst",
    ),
    "kidney_stone": (
        "Calcified calculus of {size} {where}",
        "{size} nonobstructing stone {where}",
        "Nephrolithiasis with a {size} calculus {where}",
        "A hyperdense stone measuring {size} lies {where}",
    ),
    "pancreatic_tumour": (
        "Hypodense mass {where} measuring {size}, suspicious for adenocarcinoma",
        "There is a {size} hypoattenuating lesion {where}",
        "{size} poorly enhancing tumour {where}",
        "A solid pancreatic mass of {size} is seen {where}",
    ),
    "lung_nodule": (
        "Solid pulmonary nodule of {size} {where}",
        "{size} nodule {where}",
        "There is a {size} soft-tissue nodule {where}, suspicious for malignancy",
        "A rounded lung lesion measuring {size} is seen {where}",
    ),
    "colon_tumour": (
        "Wall thickening with a {size} mass {where}, suspicious for carcinoma",
        "There is a {size} intraluminal soft-tissue mass {where}",
        "{size} stenosing tumour {where}",
        "A colonic mass of {size} is seen {where}",
    ),
    "gallstones": (
        "Calcified gallstone of {size}",
        "Cholelithiasis with a stone of {size}",
        "A {size} hyperdense stone lies in the dependent part of the gallbladder",
    ),
    "aortic_calcification": (
        "Calcified plaque {where}",
        "Atherosclerotic wall calcification {where}",
        "There is mural calcification {where}",
    ),
    "pleural_effusion": (
        "{side} pleural effusion",
        "Layering {side} pleural fluid",
        "There is a {side} pleural effusion in the dependent part of the chest",
    ),
    "liver_haemangioma": (
        "{size} haemangioma {where} with peripheral nodular enhancement",
        "Well-defined lesion of {size} {where} with centripetal fill-in, typical of a hemangioma",
        "A benign cavernous haemangioma measuring {size} is seen {where}",
    ),
    "pancreatic_cyst": (
        "Cystic lesion of {size} {where}",
        "{size} fluid-density lesion {where}, probably a side-branch IPMN",
        "There is a thin-walled cyst of {size} {where}",
    ),
    "hydronephrosis": (
        "{side} hydronephrosis",
        "Dilatation of the {side} renal pelvis and calyces",
        "The {side} collecting system is dilated",
    ),
    "splenomegaly": (
        "Splenomegaly",
        "The spleen is enlarged",
        "Marked enlargement of the spleen",
    ),
    "adrenal_mass": (
        "{size} nodule {where}",
        "There is a {size} adrenal mass {where}",
        "Round adrenal lesion measuring {size} {where}, likely an adenoma",
    ),
    "bladder_tumour": (
        "Polypoid mass {where} measuring {size}, suspicious for urothelial carcinoma",
        "There is a {size} soft-tissue mass {where}",
        "{size} focal wall thickening {where}, concerning for a bladder tumour",
    ),
    "bladder_stone": (
        "Calcified stone of {size} {where}",
        "{size} calculus layering {where}",
        "A bladder stone measuring {size} lies {where}",
    ),
    "pericardial_effusion": (
        "Pericardial effusion",
        "There is fluid in the pericardial sac",
        "Circumferential pericardial fluid",
    ),
    "coronary_calcification": (
        "Coronary artery calcification",
        "Calcified plaque of the coronary arteries",
        "There are coronary artery calcifications",
    ),
    "aortic_aneurysm": (
        "Aortic aneurysm with a diameter of {size}",
        "Fusiform aneurysm {where} measuring {size}",
        "The aorta is dilated to {size}",
    ),
    "lung_consolidation": (
        "Consolidation with air bronchograms {where}",
        "Airspace opacity {where}, compatible with pneumonia",
        "There is pulmonary consolidation {where}",
    ),
    "emphysema": (
        "Centrilobular emphysema",
        "Emphysematous changes of both lungs",
        "Pulmonary emphysema with upper lobe predominance",
    ),
    "pneumothorax": (
        "{side} pneumothorax",
        "There is a {side} pneumothorax",
        "Air in the {side} pleural space with partial collapse of the lung",
    ),
    "hiatal_hernia": (
        "Sliding hiatal hernia",
        "There is a hiatus hernia",
        "Part of the stomach has herniated into the chest",
    ),
    "vertebral_fracture": (
        "Compression fracture of a lumbar vertebra with loss of height",
        "Wedge-shaped compression deformity of a lumbar vertebral body",
        "There is a lumbar vertebral compression fracture",
    ),
    "lumbar_metastasis": (
        "Focal bone lesion of {size} {where}, suspicious for metastasis",
        "There is a {size} bone metastasis {where}",
        "{size} metastatic lesion of a vertebral body {where}",
    ),
    "thoracic_metastasis": (
        "Focal bone lesion of {size} {where}, suspicious for metastasis",
        "There is a {size} bone metastasis {where}",
        "{size} metastatic lesion of a vertebral body {where}",
    ),
    "hepatic_steatosis": (
        "Diffusely decreased attenuation of the liver, consistent with steatosis",
        "The liver is of diffusely low density, in keeping with fatty infiltration",
        "Hepatic steatosis",
    ),
}

# A second and further lesion of the same kind.
FURTHER = (
    "A further lesion of {size} {where}",
    "Another similar lesion {where}, {size}",
    "An additional {size} lesion {where}",
)

# Said once, however many there are: nobody counts them.
SUMMED = ("aortic_calcification", "coronary_calcification")

# Added to a finding, before its reference: doubt, and comparison with an earlier study.
DOUBT = (
    ", although not fully characterised on this examination",
    ", likely but not certain",
    ", for which correlation is suggested",
    ", probably",
)
COMPARISON = (
    ", unchanged compared with the prior examination",
    ", new since the prior study",
    ", stable in comparison with the previous CT",
    ", not present on the prior examination",
)

# Absence in general terms: {name} is what a person reads, "liver tumour".
ABSENT = (
    "No CT evidence of {name}.",
    "No convincing evidence of {name}.",
    "No new {name} compared with the prior examination.",
    "Negative for {name}.",
    "{name} is not identified.",
    "No definite {name}, within the limits of the examination.",
)

# Absence, besides the dictionary's wordings.
NEGATIVE: dict[str, tuple[str, ...]] = {
    "liver_tumour": ("No suspicious hepatic lesion.", "No evidence of liver metastases."),
    "liver_cyst": ("No hepatic cysts.",),
    "hepatic_steatosis": (
        "Normal attenuation of the liver parenchyma.",
        "No fatty infiltration of the liver.",
    ),
    "renal_tumour": ("No suspicious renal mass.", "No enhancing lesion in either kidney."),
    "renal_cyst": ("No renal cysts.",),
    "kidney_stone": ("No nephrolithiasis.", "No calculi in either kidney."),
    "pancreatic_tumour": (
        "No pancreatic mass is identified.",
        "Homogeneous pancreas without a focal lesion.",
    ),
    "lung_nodule": ("No suspicious pulmonary nodules.", "The lungs are clear of nodules."),
    "pleural_effusion": ("No pleural effusion on either side.", "No pleural fluid."),
    "colon_tumour": ("No colonic mass or wall thickening.", "No suspicious lesion of the colon."),
    "gallstones": ("No radiopaque gallstones.", "The gallbladder is free of stones."),
    "aortic_calcification": ("No significant aortic atherosclerosis.", "No calcified plaque of the aorta."),
    "liver_haemangioma": ("No haemangioma of the liver.",),
    "pancreatic_cyst": ("No cystic pancreatic lesion.", "No pancreatic cysts."),
    "hydronephrosis": ("No hydronephrosis on either side.", "No dilatation of the collecting systems."),
    "splenomegaly": ("The spleen is normal in size.", "Spleen not enlarged."),
    "adrenal_mass": ("No adrenal nodule.", "Both adrenal glands are slender.", "Adrenals: normal."),
    "bladder_tumour": ("Smooth bladder wall.", "No focal thickening of the bladder wall."),
    "bladder_stone": ("No bladder calculi.", "No stone in the bladder."),
    "pericardial_effusion": ("No pericardial fluid.", "No significant pericardial effusion."),
    "coronary_calcification": ("No coronary artery calcification.", "No calcified coronary plaque."),
    "aortic_aneurysm": ("No aneurysm of the aorta.", "The aorta is of normal calibre."),
    "lung_consolidation": ("No airspace consolidation.", "No consolidation or infiltrate."),
    "emphysema": ("No emphysematous change.", "No pulmonary emphysema."),
    "pneumothorax": ("No pneumothorax on either side.", "No pneumothorax is seen."),
    "hiatal_hernia": ("No hiatus hernia.", "No herniation of the stomach."),
    "vertebral_fracture": ("The lumbar spine is unremarkable.",),
    "lumbar_metastasis": ("No suspicious bone lesion of the lumbar spine.",),
    "thoracic_metastasis": ("No suspicious bone lesion of the thoracic spine.",),
}

# General remarks: of organs without an entry in the abnormality dictionary, and of others that
# have nothing wrong with them.
NORMAL: dict[str, tuple[str, ...]] = {
    "adrenals": ("The adrenal glands are unremarkable.",),
    "aorta": ("The aorta is unremarkable.",),
    "autochthon": ("The paraspinal muscles are symmetrical.",),
    "duodenum": ("The duodenum is unremarkable.",),
    "esophagus": ("The oesophagus is not dilated.", "Unremarkable esophagus."),
    "gallbladder": ("The gallbladder wall is not thickened.", "Gallbladder distended, thin-walled."),
    "heart": ("Heart size is normal.", "The heart is not enlarged."),
    "hip": ("No destructive lesion of the pelvis.", "The bony pelvis is intact."),
    "iliac_artery": ("The iliac arteries are patent.",),
    "iliopsoas": ("The psoas muscles are symmetrical.",),
    "inferior_vena_cava": ("The inferior vena cava is patent.",),
    "kidneys": ("The kidneys are normal in size and position.",),
    "liver": ("The liver is of normal size.", "Smooth liver contour."),
    "lumbar_spine": ("The lumbar spine is unremarkable.",),
    "lung": ("The lungs are well expanded.",),
    "pancreas": ("The pancreatic duct is not dilated.",),
    "portal_vein_and_splenic_vein": (
        "The portal vein is patent.",
        "Portal and splenic veins are unremarkable.",
    ),
    "ribs": ("No rib fracture.", "The ribs are intact."),
    "sacrum": ("The sacrum is unremarkable.",),
    "small_bowel": ("No small bowel obstruction.", "Small bowel loops are of normal calibre."),
    "colon": ("No colonic obstruction.", "The colon is not dilated."),
    "spleen": ("Spleen: homogeneous.",),
    "stomach": ("The stomach is unremarkable.", "No gastric wall thickening."),
    "thoracic_spine": ("No fracture of the thoracic spine.", "Thoracic vertebrae of normal height."),
    "trachea": ("The central airways are patent.", "Trachea and main bronchi are clear."),
    "urinary_bladder": ("The urinary bladder is unremarkable.",),
}

REFERENCES = (
    "(series {series}, image {image})",
    "(series {series}/image {image})",
    "(se {series}, im {image})",
    "(Series {series}, Image {image})",
)

SECTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("CHEST", ("lung", "trachea", "heart", "aorta", "esophagus")),
    ("LIVER AND BILIARY SYSTEM", ("liver", "gallbladder", "portal_vein_and_splenic_vein")),
    ("PANCREAS AND SPLEEN", ("pancreas", "spleen")),
    ("KIDNEYS AND ADRENALS", ("kidneys", "adrenals", "urinary_bladder")),
    ("BOWEL", ("stomach", "duodenum", "small_bowel", "colon")),
    ("VESSELS", ("inferior_vena_cava", "iliac_artery")),
    (
        "BONES AND MUSCLES",
        ("ribs", "thoracic_spine", "lumbar_spine", "sacrum", "hip", "autochthon", "iliopsoas"),
    ),
)
