"""The protocols by name. A name says the set, whose protocol it is, and the number of items where there are
several."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from training.datasets.rad_chestct import MAPPINGS
from training.protocols.curves import CORNER, YOUDEN
from training.protocols.outcome import PublicProtocol
from training.protocols.placing import AxialPosition, TextMasks
from training.protocols.published import (
    CT_CLIP,
    CT_RATE_LABELS,
    FVLM,
    FVLM_LABELS,
    MERGED_LABELS,
    RADFINDER,
)
from training.protocols.searching import MerlinPools, ReportToVolume, VolumeToVolume
from training.protocols.selection import VARIANTS
from training.protocols.zero_shot import ZeroShot

RAD_CHEST_CT = 3630  # published scans of Rad-ChestCT, of its three tables
MERLIN_TEST = 5137  # of the test split; 43 exams lack labels, which pools do not need
REX_VALIDATION = 50  # of the data set's paper; the 2026 challenge has 200
_CLIP = "CT-CLIP, arXiv 2403.17834; scripts/zero_shot.py, eval.py"
_FINDER = "RadFinder, arXiv 2603.02026; tasks/binary_zs_ctrate_task.py"
_FVLM = "fVLM, arXiv 2501.14548, calc_metrics.py; HLIP, zeroshot_ct_rate.py; ViSD-Boost"
# Whose variant is published without further words.
_DEFAULT = {
    "ct-rate/ct-clip": 3039,
    "ct-rate/radfinder": 1564,
    "ct-rate/fvlm": 3039,
    "ct-rate/retrieval": 3039,
}


def _ct_rate() -> list[PublicProtocol]:
    made: list[PublicProtocol] = []
    for count, variant in VARIANTS.items():
        made += [
            ZeroShot(
                name=f"ct-rate/ct-clip/{count}",
                title=f"CT-RATE, {count} items, 18 labels, CT-CLIP's prompts",
                source=_CLIP,
                dataset="CT-RATE",
                published=count,
                labels=CT_RATE_LABELS,
                prompts=CT_CLIP,
                rule=CORNER,
                variant=variant,
            ),
            ZeroShot(
                name=f"ct-rate/radfinder/{count}",
                title=f"CT-RATE, {count} items, 18 labels, mean of seven templates",
                source=_FINDER,
                dataset="CT-RATE",
                published=count,
                labels=CT_RATE_LABELS,
                prompts=RADFINDER,
                rule=YOUDEN,
                variant=variant,
                learned_scale=False,
                item_intervals=True,
            ),
            ZeroShot(
                name=f"ct-rate/fvlm/{count}",
                title=f"CT-RATE, {count} items, 16 labels, the form of fVLM, HLIP and ViSD-Boost",
                source=_FVLM,
                dataset="CT-RATE",
                published=count,
                labels=FVLM_LABELS,
                prompts=FVLM,
                rule=CORNER,
                variant=variant,
                on_organs=True,
            ),
            ReportToVolume(
                name=f"ct-rate/retrieval/{count}",
                title=f"CT-RATE, report to volume, R@K among {count}",
                source={
                    3039: "CT-CLIP, scripts/report_to_volume_new.py; RadFinder, ctrate_valdup.yaml",
                    1564: "SPECTRE, eval/retrieval_ct_rate.py; RadFinder, ctrate_val.yaml",
                    1493: "COLIPRI, discussion 6 of its model card",
                }.get(count, "the form of CT-CLIP; this count for its exclusion of non-chest scans"),
                published=count,
                variant=variant,
            ),
        ]
    said = {
        "spectre": (1564, "same 18 labels", "SPECTRE, eval/retrieval_ct_rate.py"),
        "radfinder": (1564, "any shared label", "RadFinder, tasks/volume_retrieval_task.py"),
        "ct-clip": (3039, "mean overlap of labels", "CT-CLIP, scripts/volume_to_volume_new.py"),
    }
    for definition, (count, what, source) in said.items():
        made.append(
            VolumeToVolume(
                name=f"ct-rate/volume-to-volume/{definition}",
                title=f"CT-RATE, volume to volume, {what}, {count} items",
                source=source,
                published=count,
                variant=VARIANTS[count],
                definition=definition,
            )
        )
    return made


def _rad_chest_ct(mapping: str) -> PublicProtocol:
    of_clip = mapping == "ct-clip"
    # RadFinder merges calcification in its protocol "radchestct_standard" alone.
    judged = CT_RATE_LABELS if mapping == "radfinder-broad" else MERGED_LABELS
    return ZeroShot(
        name=f"rad-chestct/{mapping}",
        title=f"Rad-ChestCT, {len(judged)} labels, mapping {mapping}",
        source=_CLIP if of_clip else f"{_FINDER}, configs/tasks/binary_zs",
        dataset="Rad-ChestCT",
        published=RAD_CHEST_CT,
        labels=CT_RATE_LABELS,
        prompts=CT_CLIP if of_clip else RADFINDER,
        rule=CORNER if of_clip else YOUDEN,
        mapping=mapping,
        judged=judged,
        learned_scale=of_clip,
        item_intervals=not of_clip,
    )


def protocols() -> Mapping[str, PublicProtocol]:
    """All protocols, with the names that leave the number of items to the publication."""
    made = [
        *_ct_rate(),
        *(_rad_chest_ct(mapping) for mapping in MAPPINGS),
        MerlinPools(
            name="merlin/pools",
            title="Merlin's test split, text to volume, R@1 in pools of 32, 64 and 128, 100 repeats",
            source="Merlin, arXiv 2406.06512; RadFinder, tasks/pool_retrieval_task.py",
            published=MERLIN_TEST,
        ),
        AxialPosition(
            name="rexgrounding/axial",
            title="ReXGroundingCT's validation split, sentence to axial position",
            source="RadFinder, tasks/localization_task.py, on the masks of ReXGroundingCT, arXiv 2507.22030",
            published=0,
        ),
        TextMasks(
            name="rexgrounding/masks",
            title="ReXGroundingCT's validation split, sentence to mask",
            source="ReXGroundingCT, arXiv 2507.22030; metrics of ReXrank's page",
            published=REX_VALIDATION,
        ),
    ]
    named = {p.name: p for p in made}
    short = {name: named[f"{name}/{count}"] for name, count in _DEFAULT.items()}
    return MappingProxyType(named | short)


def find(name: str) -> PublicProtocol:
    """A protocol.

    Raises
    ------
    ValueError: if there is none of that name.
    """
    known = protocols()
    if name not in known:
        raise ValueError(f"protocol {name!r} is unknown; choose of {', '.join(sorted(known))}")
    return known[name]
