"""``--part K/N``: one of several processes or machines that share a piece of work."""

from __future__ import annotations

import argparse


def part_of(text: str) -> tuple[int, int]:
    """``2/3`` as a pair: this process is the second of three.

    Raises
    ------
    ValueError: if it is not of that form.

    >>> part_of("2/3")
    (2, 3)
    """
    first, _, second = text.partition("/")
    if not (first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        raise ValueError(f"{text!r} is no part; give K/N with K from 1 to N, such as 1/2")
    return int(first), int(second)


def part(text: str) -> tuple[int, int]:
    """`part_of` for an argument of a command line.

    Raises
    ------
    argparse.ArgumentTypeError: if it is not of that form.
    """
    try:
        return part_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_part(parser: argparse.ArgumentParser) -> None:
    """``--part`` of a program that goes through patients one by one; the whole work where it is not given."""
    parser.add_argument(
        "--part", type=part, default=(1, 1), metavar="K/N", help="every N-th patient from the K-th on"
    )


__all__ = ["add_part", "part", "part_of"]
