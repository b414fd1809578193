"""More training pairs out of few: flips, quarter turns, crops, noise."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _validate


class Augmentation:
    """Random changes of a pair that keep it true.

    Flips and turns assume that the blur is alike in the directions that they exchange (a Gaussian on pixels
    that are as wide as high, not motion blur).

    Parameters
    ----------
    flips : bool or one bool per axis
        Reverse each axis or not; of several, those that may be reversed.
    rotations : bool
        By 0, 90, 180 or 270 degrees in the plane (y, x), where it is square.
    crop : tuple of int, optional
        Cut patches of this shape out of the image, and the same place out of the target.
    noise : float
        Standard deviation of Gaussian noise added to the image, in its unit.

    Raises
    ------
    ValueError, TypeError
        Options that make no sense.
    """

    def __init__(
        self, flips: Any = True, rotations: bool = True, crop: Any = None, noise: float = 0.0
    ) -> None:
        self.flips = (
            tuple(_validate.flag(flip, f"flips[{i}]") for i, flip in enumerate(flips))
            if isinstance(flips, tuple | list)
            else _validate.flag(flips, "flips")
        )
        self.rotations = _validate.flag(rotations, "rotations")
        self.crop = None if crop is None else _validate.shape(crop, "crop")
        self.noise = _validate.number(noise, "noise", minimum=0)

    def describe(self) -> dict[str, Any]:
        return dict(vars(self))

    def __call__(
        self, x: np.ndarray, y: np.ndarray, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """One changed pair of (C, *spatial)."""
        ndim = x.ndim - 1
        if self.crop is not None:
            x, y = self._cropped(x, y, generator)
        flips = self.flips if isinstance(self.flips, tuple) else (self.flips,) * ndim
        if len(flips) != ndim:
            raise ValueError(f"flips: got {len(flips)} values, expected one or {ndim}, one per axis")
        if any(flips):
            axes = tuple(axis for axis, flip in enumerate(flips, 1) if flip and generator.integers(2))
            x, y = np.flip(x, axes), np.flip(y, axes)
        if self.rotations and ndim > 1 and x.shape[-1] == x.shape[-2] and y.shape[-1] == y.shape[-2]:
            turns = int(generator.integers(4))
            x, y = np.rot90(x, turns, (-2, -1)), np.rot90(y, turns, (-2, -1))
        if self.noise:
            x = x + generator.normal(0.0, self.noise, x.shape)
        return x, y

    def _cropped(
        self, x: np.ndarray, y: np.ndarray, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        crop = self.crop
        assert crop is not None
        lengths = x.shape[1:]
        if len(crop) != len(lengths) or any(c > n for c, n in zip(crop, lengths, strict=True)):
            raise ValueError(f"crop: got {crop}, expected at most {lengths}, the images' size")
        if any(m % n or m < n for n, m in zip(lengths, y.shape[1:], strict=True)):
            raise ValueError(
                f"y: got a target of {y.shape[1:]}, expected a whole multiple of its image's {lengths}"
            )
        factors = [m // n for n, m in zip(lengths, y.shape[1:], strict=True)]
        starts = [int(generator.integers(n - c + 1)) for n, c in zip(lengths, crop, strict=True)]
        cuts = tuple(slice(s, s + c) for s, c in zip(starts, crop, strict=True))
        wide = tuple(slice(c.start * f, c.stop * f) for c, f in zip(cuts, factors, strict=True))
        return x[(slice(None), *cuts)], y[(slice(None), *wide)]
