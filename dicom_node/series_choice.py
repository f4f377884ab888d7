"""Which of several readable series of a study is read, and why not the others.

A list of rules, our choice; the first in which two series differ decides. What a hospital may
change about them is the ``[series]`` table (`dicom_node.series_settings`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dicom_node.series import CandidateSeries
from dicom_node.series_rules import plane_name
from dicom_node.series_settings import SeriesSettings, matches

_DEFAULT = SeriesSettings()
_STEP_MM = 50  # of extent; a few slices more are no reason


@dataclass(frozen=True)
class _Rule:
    """One rule: the series with the smaller `value` is better, and `words` say what the other is."""

    value: Callable[[CandidateSeries, SeriesSettings], float]
    words: str


def _first_match(patterns: Sequence[str], text: str) -> int:
    """Index of the first pattern that is found; their number where none is."""
    return next((n for n, pattern in enumerate(patterns) if matches(pattern, text)), len(patterns))


def _kernel_rank(series: CandidateSeries, settings: SeriesSettings) -> int:
    kernel = series.instances[0].kernel
    return _first_match(settings.kernels, kernel) if settings.kernels else -kernel_softness(kernel)


# The words may quote {plane}, {kernel}, {extent}, {spacing} and {count} of the series.
_RULES = (
    _Rule(lambda series, settings: _first_match(settings.prefer, series.description), "not preferred"),
    _Rule(lambda series, _: plane_name(series.instances[0]) != "axial", "{plane}, not axial"),
    _Rule(lambda series, _: "DERIVED" in series.instances[0].image_type[:1], "computed from other images"),
    _Rule(_kernel_rank, "a less suitable kernel{kernel}"),
    _Rule(lambda series, _: -round(series.extent_mm / _STEP_MM), "shows less of the body ({extent:.0f} mm)"),
    _Rule(lambda series, _: not series.instances[0].contrast, "without contrast agent"),
    _Rule(lambda series, _: not series.grid.stack.is_regular, "irregular slices"),
    _Rule(
        lambda series, settings: max(settings.slice_mm, round(series.grid.stack.spacing_mm, 2)),
        "thicker slices ({spacing:.2f} mm apart)",
    ),
    _Rule(lambda series, _: -len(series.instances), "fewer slices ({count})"),
)


def choose_series(
    candidates: Sequence[CandidateSeries], settings: SeriesSettings = _DEFAULT
) -> CandidateSeries:
    """The best of several readable series. The first rule that differs decides.

    1. What ``series.prefer`` names, in its order.
    2. Axial (within 30 degrees) before coronal and sagittal.
    3. ORIGINAL before DERIVED (Image Type value 1; empty counts as original).
    4. What ``series.kernels`` names, in its order; without it soft before unknown before sharp
       (`kernel_softness`): the sharp one is for lung and bone, and its noise hides lesions.
    5. More of the body, in steps of 50 mm.
    6. With contrast agent before without.
    7. Slices on a regular grid before those that have to be resampled.
    8. Thinner slices, but not below ``series.slice_mm``; then more slices; then the lower series
       number, the earlier part, the smaller UID.

    Raises
    ------
    ValueError: if there is none.
    """
    if not candidates:
        raise ValueError("candidates is empty; at least one readable series is needed")
    return min(candidates, key=lambda series: (*_values(series, settings), *_identity(series)))


def why_not(series: CandidateSeries, chosen: CandidateSeries, settings: SeriesSettings = _DEFAULT) -> str:
    """Why a readable series was not read, for a person: what it is beside the chosen one."""
    if _same_images(series, chosen):
        return f"the same slices as {chosen.title} once more"
    for rule, own, best in zip(_RULES, _values(series, settings), _values(chosen, settings), strict=True):
        if own != best:
            first = series.instances[0]
            words = rule.words.format(
                plane=plane_name(first),
                kernel=f" ({first.kernel})" if first.kernel else "",
                extent=series.extent_mm,
                spacing=series.grid.stack.spacing_mm,
                count=len(series.instances),
            )
            return f"{words}; {chosen.title} is better"
    return f"as good as {chosen.title}, which comes first"


def _values(series: CandidateSeries, settings: SeriesSettings) -> tuple[float, ...]:
    return tuple(float(rule.value(series, settings)) for rule in _RULES)


def _identity(series: CandidateSeries) -> tuple[float, list[int], str, str]:
    """What decides between series that are equally good."""
    number = float("inf") if series.number is None else series.number
    return number, [int(n) for n in re.findall(r"\d+", series.part)], series.part, series.series_instance_uid


def _same_images(one: CandidateSeries, other: CandidateSeries) -> bool:
    """Whether two series hold the same slices, sent or kept twice under different UIDs.

    Two phases may lie at the same places, so that without times of acquisition nothing is said.
    """
    first, second = (
        (
            series.instances[0].kernel,
            series.instances[0].image_type,
            [dict(instance.parts).get("acquisition time") for instance in series.instances],
            series.grid.rows,
            series.grid.columns,
            series.grid.pixel_spacing_mm,
        )
        for series in (one, other)
    )
    places = [series.grid.stack.positions for series in (one, other)]
    return first == second and all(first[2]) and bool(np.allclose(places[0], places[1], atol=1e-3))


def kernel_softness(kernel: str) -> int:
    """2 for a soft-tissue reconstruction kernel, 0 for a sharp one (lung, bone), 1 if unknown.

    Convolution Kernel is free text by vendor (PS3.3 C.8.2.1): Siemens B31f, Br38, I70f (sharp
    from 50), Canon FC18 (sharp from FC30 on), GE STANDARD, LUNG, BONE; Philips B, YA, L.

    >>> [kernel_softness(k) for k in ("B31f", "Br64", "FC52", "STANDARD", "LUNG", "")]
    [2, 0, 0, 2, 0, 1]
    """
    name = kernel.split("\\", maxsplit=1)[0].strip().upper()
    numbered = re.match(r"([A-Z]+)(\d{2})", name)
    if numbered:
        sharp_from = 30 if numbered[1] == "FC" else 50
        return 0 if int(numbered[2]) >= sharp_from else 2
    if re.search(r"LUNG|BONE|EDGE|ULTRA|SHARP|DETAIL|^(L|E|D|Y[B-E])$", name):
        return 0
    return 2 if re.search(r"^STANDARD|^STD|SOFT|SMOOTH|^(A|B|C|YA|UB)$", name) else 1
