"""Which series of a study is read: the ``[series]`` table of the configuration.

Not the rules themselves (`dicom_node.series_choice`): only what a hospital may change about them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dicom_node.errors import SightlineError
from dicom_node.setting_checks import check_positive


@dataclass(frozen=True)
class SeriesSettings:
    r"""The ``[series]`` table. Patterns are regular expressions, found anywhere, capitals or not.

    Attributes
    ----------
    prefer: patterns of series descriptions in order of preference; a series that matches an earlier
        one is read before all others, whatever else the rules say. Example: ``["portal|venous"]``.
    exclude: patterns of series descriptions that are never read. Example: ``["calcium", "\\bCTA\\b"]``.
    kernels: patterns of convolution kernels in order of preference. Empty: soft before unknown
        before sharp ones.
    slice_mm: distance of slices below which thinner ones are no better.
    minimum_slices, minimum_extent_mm: a series with less is not read; organs are recognised by
        their surroundings.
    reformats: whether a coronal or sagittal reformat may be read, after all axial series.
    """

    prefer: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    slice_mm: float = 1.0
    minimum_slices: int = 8
    minimum_extent_mm: float = 20.0
    reformats: bool = False

    def __post_init__(self) -> None:
        for key in ("prefer", "exclude", "kernels"):
            for pattern in getattr(self, key):
                _check_pattern(f"series.{key}", pattern)
        for key in ("slice_mm", "minimum_extent_mm"):
            check_positive(f"series.{key}", getattr(self, key))
        if self.minimum_slices < 2:
            raise SightlineError(f"series.minimum_slices = {self.minimum_slices}: a volume needs 2 or more")


# What was read once was wanted and large enough, whatever the configuration says now.
WAS_READ = SeriesSettings(minimum_slices=2, minimum_extent_mm=1e-3, reformats=True)


def matches(pattern: str, text: str) -> bool:
    """Whether a pattern of the settings is found in a text.

    >>> matches("portal|venous", "ABD Venous 5.0 B31f")
    True
    """
    return re.search(pattern, text, re.IGNORECASE) is not None


def _check_pattern(key: str, pattern: str) -> None:
    if not pattern:
        raise SightlineError(f"{key}: a pattern is empty and would match everything; remove it")
    try:
        re.compile(pattern)
    except re.error as error:
        raise SightlineError(
            f"{key} = {pattern!r}: is no regular expression ({error}); write . and ( as \\\\. and \\\\("
        ) from None
