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
}

# Organs without an entry in the abnormality dictionary, and general remarks that contradict nothing.
NORMAL: dict[str, tuple[str, ...]] = {
    "adrenals": (
        "The adrenal glands are unremarkable.",
        "Adrenals: normal.",
        "Both adrenal glands are slender.",
    ),
    "aorta": ("The aorta is of normal calibre.", "No aortic aneurysm."),
    "autochthon": ("The paraspinal muscles are symmetrical.",),
    "duodenum": ("The duodenum is unremarkable.",),
    "esophagus": ("The oesophagus is not dilated.", "Unremarkable esophagus."),
    "gallbladder": ("The gallbladder wall is not thickened.", "Gallbladder distended, thin-walled."),
    "heart": ("Heart size is normal.", "No pericardial effusion.", "The heart is not enlarged."),
    "hip": ("No destructive lesion of the pelvis.", "The bony pelvis is intact."),
    "iliac_artery": ("The iliac arteries are patent.",),
    "iliopsoas": ("The psoas muscles are symmetrical.",),
    "inferior_vena_cava": ("The inferior vena cava is patent.",),
    "kidneys": ("The kidneys are normal in size and position.", "No hydronephrosis."),
    "liver": ("The liver is of normal size.", "Smooth liver contour."),
    "lumbar_spine": ("No fracture of the lumbar spine.", "Lumbar vertebrae of normal height."),
    "lung": ("No consolidation.", "The lungs are well expanded."),
    "pancreas": ("The pancreatic duct is not dilated.",),
    "portal_vein_and_splenic_vein": (
        "The portal vein is patent.",
        "Portal and splenic veins are unremarkable.",
    ),
    "ribs": ("No rib fracture.", "The ribs are intact."),
    "sacrum": ("The sacrum is unremarkable.",),
    "small_bowel": ("No small bowel obstruction.", "Small bowel loops are of normal calibre."),
    "colon": ("No colonic obstruction.", "The colon is not dilated."),
    "spleen": ("The spleen is normal in size.", "Spleen: homogeneous, not enlarged.", "No splenomegaly."),
    "stomach": ("The stomach is unremarkable.", "No gastric wall thickening."),
    "thoracic_spine": ("No fracture of the thoracic spine.", "Thoracic vertebrae of normal height."),
    "trachea": ("The central airways are patent.", "Trachea and main bronchi are clear."),
    "urinary_bladder": ("The urinary bladder is unremarkable.", "Smooth bladder wall."),
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
