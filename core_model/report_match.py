"""How well a report fits a scan: what it states of each abnormality, beside how probable each finding is.

Two vectors whose inner product is the logarithm of how much more probable the statements are of this scan
than of any: of many scans it finds the one that a report is of, and of many reports the one of a scan, by
any index of inner products. Beside the papers' way, one learnt vector of a report and one of a scan
(`Reader.embed_report`, `StudyEncoding.global_feature`), which needs more reports than a phantom engine's
training run meets. Our choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

SUREST = 0.01  # probabilities nearer to 0 or 1 count as this near
PRIOR = 0.25  # of a finding of which nothing is known
# What a report says of organs that the scan does not show, and what it leaves out of those that it does, in
# the same logarithms. Our choice.
STATED_OUTSIDE = -3.0
DENIED_OUTSIDE = -1.0
NOT_MENTIONED = -0.5


def report_vector(stated: Mapping[str, bool], names: Sequence[str]) -> Vector:
    """(3 A,) of a report: what it says is there, what it says is not, what it does not mention.

    Parameters
    ----------
    stated: of `core_model.statements.Statements.of_report`.
    names: the A abnormalities.
    """
    there = np.array([stated.get(n) is True for n in names], dtype=float)
    not_there = np.array([stated.get(n) is False for n in names], dtype=float)
    return np.concatenate([there, not_there, 1 - there - not_there])


def scan_vector(probability: Mapping[str, float], prior: Mapping[str, float], names: Sequence[str]) -> Vector:
    """(3 A,) of a scan, to be multiplied with `report_vector`s of the same abnormalities.

    Parameters
    ----------
    probability: of each finding whose organ the scan shows.
    prior: how probable each is in any scan; `PRIOR` where it does not say.

    Raises
    ------
    ValueError: if a probability is not from 0 to 1.
    """
    rows = []
    for name in names:
        if name not in probability:
            rows.append((STATED_OUTSIDE, DENIED_OUTSIDE, 0.0))
            continue
        if not 0 <= probability[name] <= 1:
            raise ValueError(f"probability of {name} is {probability[name]}; it must lie from 0 to 1")
        own, any_scan = np.clip([probability[name], prior.get(name, PRIOR)], SUREST, 1 - SUREST)
        rows.append((np.log(own / any_scan), np.log((1 - own) / (1 - any_scan)), NOT_MENTIONED))
    return np.array(rows).T.reshape(-1)
