"""A network on images of any size, tile by tile."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction

Cut = tuple[slice, ...]


def tiles(
    lengths: tuple[int, ...],
    core: tuple[int, ...],
    halo: tuple[int, ...],
    scale: tuple[Fraction, ...],
) -> Iterator[tuple[Cut, Cut, Cut]]:
    """(window of the image, part of the window's result to keep, its place in the whole result).

    Windows reach `halo` beyond their core, but not beyond the image: there the network's own padding acts, as
    it does on the whole image.
    """
    per_axis = []
    for n, c, h, s in zip(lengths, core, halo, scale, strict=True):
        cuts = []
        for start in range(0, n, c):
            stop = min(start + c, n)
            low, high = max(start - h, 0), min(stop + h, n)
            inner = slice(int((start - low) * s), int((stop - low) * s))
            cuts.append((slice(low, high), inner, slice(int(start * s), int(stop * s))))
        per_axis.append(cuts)
    for chosen in itertools.product(*per_axis):
        window, inner, place = zip(*chosen, strict=True)
        yield window, inner, place


def aligned(value: float, step: int) -> int:
    """The smallest multiple of `step` that is not below `value`."""
    return math.ceil(value / step) * step
