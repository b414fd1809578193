"""The one function that restores a tile; every driver calls it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import _arrays, _device, _validate
from .._blur import Blur, Operator, Sides
from .._grid import Tile
from ..algorithms._acceleration import Prescribed
from ..algorithms._back_projectors import back_projector_of
from ..algorithms._iteration import Model, Penalty, iterate, unit_of
from ..algorithms._options import framed, regularizer_of
from ..algorithms._richardson_lucy import sharpness
from ..algorithms._start import gain_of
from ._numbers import FILTERS, Numbers, counted


class Restored(NamedTuple):
    """The core of a tile, and how many values of it and its halo were negative and set to zero."""

    core: np.ndarray
    clipped: int


def read_region(source: Any, item: int, region: Sequence[slice]) -> np.ndarray:
    """A region of a source, which may reach beyond it: periodically, then."""
    shape = source.shape
    if all(s.start >= 0 and s.stop <= n for s, n in zip(region, shape, strict=True)):
        array: np.ndarray = source.read(item, tuple(region))
        return array
    pieces = [list(_segments(s, n)) for s, n in zip(region, shape, strict=True)]
    made = np.empty([s.stop - s.start for s in region], source.dtype)
    for combination in itertools.product(*pieces):
        there, here = (tuple(part[i] for part in combination) for i in (0, 1))
        made[here] = source.read(item, there)
    return made


def _segments(span: slice, n: int) -> Any:
    """(where in a period of n, where in the span) of a span that may leave the period."""
    at = span.start
    while at < span.stop:
        start = at % n
        length = min(n - start, span.stop - at)
        yield slice(start, start + length), slice(at - span.start, at - span.start + length)
        at += length


class Restorer:
    """Restores tiles of one channel; keeps the operator while tiles of one shape follow each other."""

    def __init__(
        self, numbers: Numbers, psf: np.ndarray, *, periodic: bool, num_threads: int | None = None
    ) -> None:
        self._numbers, self._psf, self._periodic = numbers, psf, periodic
        self._num_threads = num_threads
        self._made: tuple[Any, Blur, Operator, np.ndarray | None] | None = None

    def __call__(self, raw: np.ndarray, tile: Tile) -> Restored:
        """The restored core of `tile`, whose region holds the stored values `raw`."""
        data = _arrays.computable(raw, _arrays.result_dtype(raw.dtype))
        _validate.finite(data, f"source, {_where(tile)}")
        if self._numbers.iterative:
            return self._richardson_lucy(data, tile)
        return self._filtered(data, tile)

    def _filtered(self, data: np.ndarray, tile: Tile) -> Restored:
        options = dict(self._numbers.options)
        if self._periodic and any(map(any, tile.open_sides)):
            options["boundary"] = "reflect"  # beyond a halo that was read from the other end
        function, _ = FILTERS[self._numbers.method]
        result = function(data, self._psf, num_threads=self._num_threads, **options)
        return Restored(np.ascontiguousarray(result[tile.inside]), 0)

    def _richardson_lucy(self, data: np.ndarray, tile: Tile) -> Restored:
        numbers = self._numbers
        options = numbers.options
        readout = options.get("readout_variance") or None
        background = options.get("background", 0.0)
        try:
            counts = counted(data, options["negative"], numbers.offset, readout)
        except ValueError as error:
            raise ValueError(f"source, {_where(tile)}: {error}") from error
        clipped = counts.clipped
        if numbers.level <= 0 or counts.image.max() == 0:
            # Every correction is zero, and so is the estimate, before it is shifted back.
            total = _arrays.as_psf(self._psf, data.ndim, normalize=options.get("normalize_psf", True))[1]
            lowest = -numbers.offset / total if numbers.offset else 0.0
            return Restored(np.full(tile.core_shape, lowest, data.dtype), clipped)
        blur, operator, gain = self._operator(data, tile)
        level = numbers.level / blur.psf_sum
        if options.get("initial", "flat") == "flat":
            estimate = np.full(blur.estimate_shape, level, data.dtype)
        else:
            estimate = framed(np.maximum(counts.measured, 0), blur)
        smoothing = regularizer_of(options.get("regularizer"))
        threshold = options.get("damping") or None
        resident = operator.backend.resident
        model = Model(
            image=resident(counts.image),
            weights=None,
            background=background + (readout or 0.0),
            damping=None if threshold is None else resident(sharpness(threshold, data)),
            eps=blur.smallest_divisor(numbers.highest),
            unit=unit_of(numbers.highest),
        )
        del data, counts
        estimate, _ = iterate(
            operator,
            model,
            resident(estimate),
            options["num_iter"],
            [],
            gain=gain,
            penalty=None
            if smoothing is None
            else Penalty(*smoothing, level, options.get("voxel_size"), operator),
            scheme=None if numbers.alphas is None else Prescribed(numbers.alphas),
        )
        core = np.ascontiguousarray(_device.host(estimate)[blur.frame][tile.inside])
        if numbers.offset:
            core -= core.dtype.type(numbers.offset / blur.psf_sum)
        return Restored(core, clipped)

    def _operator(self, data: np.ndarray, tile: Tile) -> tuple[Blur, Operator, np.ndarray | None]:
        options = self._numbers.options
        boundary = options.get("boundary", "extended")
        sides: Sides | None = tile.open_sides
        if self._periodic and any(map(any, tile.open_sides)):
            boundary = "extended"  # the volume goes on on every side
        if boundary == "extended":
            sides = None  # all sides are alike
        key = (tile.shape, sides, boundary, data.dtype)
        if self._made is None or self._made[0] != key:
            self._made = None  # before the next one takes its memory
            blur = Blur(
                self._psf,
                tile.shape,
                boundary=boundary,
                engine=options.get("engine", "auto"),
                backend=options.get("backend", "auto"),
                dtype=data.dtype,
                normalize_psf=options.get("normalize_psf", True),
                num_threads=self._num_threads,
                _open_sides=sides,
            )
            _, back = back_projector_of(options.get("back_projector", "matched"), blur.psf)
            operator = blur.operator(data.dtype, back)
            beside = operator.backend.resident(data)
            self._made = (key, blur, operator, gain_of(blur, operator, beside, None, matched=back is None))
        return self._made[1:]


def _where(tile: Tile) -> str:
    return "voxels " + " x ".join(f"{s.start}:{s.stop}" for s in tile.region)
