"""``--part K/N``: one of several processes or machines that share a piece of work."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def part(text: str) -> tuple[int, int]:
    """``2/3`` as a pair: this process is the second of three. For an argument of a command line.

    Raises
    ------
    argparse.ArgumentTypeError: if it is not of that form.

    >>> part("2/3")
    (2, 3)
    """
    first, _, second = text.partition("/")
    if not (first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part; give K/N with K from 1 to N, such as 1/2")
    return int(first), int(second)


def share(of: Sequence[T], which: tuple[int, int]) -> Sequence[T]:
    """Every N-th of a sequence from the K-th on.

    Parameters
    ----------
    which: K and N of `part`.
    """
    return of[which[0] - 1 :: which[1]]


def add_part(parser: argparse.ArgumentParser, each: str = "patient") -> None:
    """``--part`` of a program that goes through a list of `each`; the whole of it where it is not given."""
    parser.add_argument(
        "--part",
        type=part,
        default=(1, 1),
        metavar="K/N",
        help=f"every N-th {each} from the K-th on (default: 1/1, all)",
    )


__all__ = ["add_part", "part", "share"]
