"""The one function that restores a tile, of files or of an image in memory; every driver calls it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from .. import _arrays, _device, backends
from .._blur import Blur, Operator, Sides
from .._grid import Tile, extent, radius_of
from ._acceleration import Prescribed
from ._back_projectors import back_projector_of
from ._iteration import Model, Penalty, iterate, unit_of
from ._options import framed, regularizer_of
from ._start import Counts, counts_of, gain_of, sharpness
from ._tikhonov import tikhonov
from ._wiener import wiener

# Filters of one pass, and the name of the weight that cross-validation finds.
FILTERS: dict[str, tuple[Callable[..., Any], str]] = {
    "wiener": (wiener, "balance"),
    "tikhonov": (tikhonov, "weight"),
}

# A filter's response beyond the halo, added up without signs, moves no voxel by more than this share of the
# range.
RESPONSE = 1e-3
LARGEST_RESPONSE = 1 << 22  # voxels of the grid on which it is looked at
SMALLEST_GRID = 3  # taps of a regularizer: an axis that it couples is looked at as if the PSF had as many
CLEAR = 3 / 8  # of an axis of that grid: a response that reaches farther asks for a longer one


@dataclass(frozen=True)
class Numbers:
    """What all tiles of a channel share; everything in it goes through JSON.

    Attributes
    ----------
    method : {"richardson_lucy", "wiener", "tikhonov"}
    options : dict
        Of the method, with a number for everything that was to be found.
    highest, level, offset : float
        Richardson-Lucy: largest value of the sample (what the smallest divisor is relative to), its mean
        above the background (the first estimate, and what a regularizer is relative to), what is added to
        make negative values positive.
    highest_weight, fill : float
        The largest weight of a sample; what stands in for its image where weights are 0.
    alphas : list of float, optional
        Factors of the acceleration, one after each iteration.
    noise, chosen : dict
        What "auto" found and took.
    sample : dict
        What was looked at: whole, blocks, voxels, seed.
    warnings : list of str
    """

    method: str
    options: dict[str, Any]
    highest: float = 0.0
    level: float = 0.0
    offset: float = 0.0
    highest_weight: float = 1.0
    fill: float = 0.0
    alphas: list[float] | None = None
    noise: dict[str, float] | None = None
    chosen: dict[str, str] = field(default_factory=dict)
    sample: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def iterative(self) -> bool:
        return self.method == "richardson_lucy"

    def record(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Numbers:
        options = dict(record["options"])
        for name in ("regularizer", "engine", "voxel_size"):
            if isinstance(options.get(name), list):
                options[name] = tuple(options[name])
        return cls(**{**record, "options": options})


class Restored(NamedTuple):
    """The core of a tile, and how many values of it and its halo were negative and set to zero."""

    core: Any
    clipped: int


class InMemory:
    """An array as a source of regions."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype

    def read(self, item: int, region: tuple[slice, ...]) -> np.ndarray:
        return self._array[region]


def read_region(source: Any, item: int, region: Sequence[slice]) -> np.ndarray:
    """A region of a source, which may reach beyond it: periodically, then."""
    shape = source.shape
    if all(s.start >= 0 and s.stop <= n for s, n in zip(region, shape, strict=True)):
        array: np.ndarray = source.read(item, tuple(region))
        return array
    pieces = [list(_segments(s, n)) for s, n in zip(region, shape, strict=True)]
    made = np.empty(extent(region), source.dtype)
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


def counted(data: Any, negative: str, offset: float, readout: Any) -> Counts:
    """The image as the model takes it, with the offset of the volume."""
    if offset:
        data, negative = data + data.dtype.type(offset), "clip"
    return counts_of(data, float(data.min()), negative, readout)


class Restorer:
    """Restores tiles of one channel; keeps the operator while tiles of one shape follow each other.

    Parameters
    ----------
    numbers : Numbers
    psf : ndarray
    periodic : bool
        The volume goes on at its other end.
    num_threads : int, optional
    arrays : mapping of str to ndarray, optional
        Richardson-Lucy's options that are arrays of the volume's shape, in the dtype of the work: weights,
        readout_variance, damping, initial.
    """

    def __init__(
        self,
        numbers: Numbers,
        psf: np.ndarray,
        *,
        periodic: bool,
        num_threads: int | None = None,
        arrays: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self._numbers, self._psf, self._periodic = numbers, psf, periodic
        self._num_threads = num_threads
        self._arrays = dict(arrays or {})
        weights = self._arrays.get("weights")
        self._largest_weight = numbers.highest_weight if weights is None else float(weights.max())
        self._made: tuple[Any, Blur, Operator, Any] | None = None

    def __call__(self, raw: np.ndarray, tile: Tile, **parts: np.ndarray) -> Restored:
        """The restored core of `tile`, whose region holds the stored values `raw`, on the host.

        `parts`: weights and initial of the region, where they are not cut out of `arrays`.
        """
        core, clipped = self.beside(raw, tile, **parts)
        return Restored(np.ascontiguousarray(_device.host(core)), clipped)

    def beside(self, raw: Any, tile: Tile, **parts: np.ndarray) -> Restored:
        """The same on the side where the backend computes; `raw` may be there already."""
        data = _arrays.in_dtype(raw, _arrays.result_dtype(raw.dtype))
        _arrays.finite(data, f"source, {_where(tile)}")
        if self._numbers.iterative:
            return self._richardson_lucy(data, tile, parts)
        return self._filtered(data, tile)

    def _filtered(self, data: np.ndarray, tile: Tile) -> Restored:
        options = dict(self._numbers.options)
        if self._periodic and any(map(any, tile.open_sides)):
            options["boundary"] = "reflect"  # beyond a halo that was read from the other end
        function, _ = FILTERS[self._numbers.method]
        result = function(data, self._psf, num_threads=self._num_threads, **options)
        return Restored(result[tile.inside], 0)

    def _richardson_lucy(self, data: Any, tile: Tile, parts: dict[str, np.ndarray]) -> Restored:
        numbers = self._numbers
        options = numbers.options
        if "weights" in parts:
            data = np.where(parts["weights"] > 0, data, data.dtype.type(numbers.fill))
        data = backends.resolve(options.get("backend", "auto"), data).resident(data)
        blur, operator, gain = self._operator(data, tile, weighted="weights" in {**self._arrays, **parts})
        weights, readout, damping, initial = (
            self._part(name, tile, data, parts)
            for name in ("weights", "readout_variance", "damping", "initial")
        )
        constant = 0.0 if readout is not None else options.get("readout_variance") or 0.0
        try:
            added = readout if readout is not None else constant or None
            counts = counted(data, options["negative"], numbers.offset, added)
        except ValueError as error:
            raise ValueError(f"source, {_where(tile)}: {error}") from error
        clipped = counts.clipped
        if numbers.level <= 0 or counts.image.max() == 0:
            # Every correction is zero, and so is the estimate, before it is shifted back.
            lowest = -numbers.offset / blur.psf_sum if numbers.offset else 0.0
            return Restored(np.full(tile.core_shape, lowest, data.dtype), clipped)
        if gain is None and weights is not None:
            gain = self._gain(blur, operator, data, weights)
        level = numbers.level / blur.psf_sum
        if initial is not None:
            if numbers.offset:
                initial = initial + initial.dtype.type(numbers.offset / blur.psf_sum)
            estimate = framed(initial, blur)
        elif options.get("initial", "flat") == "flat":
            estimate = _device.full_beside(data, blur.estimate_shape, level)
        else:
            estimate = framed(np.maximum(counts.measured, 0), blur)
        smoothing = regularizer_of(options.get("regularizer"))
        threshold = damping if damping is not None else options.get("damping") or None
        model = Model(
            image=counts.image,
            weights=weights,
            background=options.get("background", 0.0) + constant,
            partial=readout,
            damping=None if threshold is None else sharpness(threshold, data),
            eps=blur.smallest_divisor(numbers.highest),
            unit=unit_of(numbers.highest),
        )
        del data, counts, initial  # what the model has no use for
        estimate, _ = iterate(
            operator,
            model,
            estimate,
            options["num_iter"],
            [],
            gain=gain,
            penalty=None
            if smoothing is None
            else Penalty(*smoothing, level, options.get("voxel_size"), operator, options.get("acceleration")),
            scheme=None if numbers.alphas is None else Prescribed(numbers.alphas),
        )
        box = tuple(
            slice(f.start + i.start, f.start + i.stop) for f, i in zip(blur.frame, tile.inside, strict=True)
        )
        core = estimate[box]
        if numbers.offset:
            core = core - core.dtype.type(numbers.offset / blur.psf_sum)
        return Restored(core, clipped)

    def _part(self, name: str, tile: Tile, data: Any, parts: dict[str, np.ndarray]) -> Any:
        """A tile's part of an option that is an array, beside `data`; None if it is none."""
        if name in parts:
            return _device.beside(data, parts[name])
        if name not in self._arrays:
            return None
        values = read_region(InMemory(self._arrays[name]), 0, tile.region)
        return _device.beside(data, np.ascontiguousarray(values))

    def _gain(self, blur: Blur, operator: Operator, data: Any, weights: Any) -> Any:
        matched = operator.back_transfer is operator.transfer
        return gain_of(blur, operator, data, weights, matched=matched, largest_weight=self._largest_weight)

    def _operator(self, data: Any, tile: Tile, *, weighted: bool) -> tuple[Blur, Operator, Any]:
        """Blur, operator and, but for weights, the gain."""
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
            gain = None if weighted else self._gain(blur, operator, data, None)
            self._made = (key, blur, operator, gain)
        return self._made[1:]


def is_regularized(numbers: Numbers) -> bool:
    """Whether a filter's regularizer may couple voxels, also along axes where its PSF does not."""
    options = numbers.options
    regularizer = options.get("regularizer", 0 if numbers.method == "tikhonov" else "laplacian")
    alone = isinstance(regularizer, int | str) and regularizer in (0, "identity")
    return options.get("noise_to_signal") is None and not alone


def halo_of_filter(numbers: Numbers, psf: np.ndarray, rule: str, volume: Sequence[int]) -> tuple[int, ...]:
    """As far as the filter's response matters in a volume of that shape, looked at on a periodic grid.

    What does not end within the largest grid is noted in the warnings of `numbers`.
    """
    if rule != "auto":
        raise ValueError(
            f"halo: got {rule!r}, but the response of {numbers.method} has no end; expected 'auto' or numbers"
        )
    least = tuple(
        max(k, SMALLEST_GRID) if is_regularized(numbers) and n > 1 else k
        for n, k in zip(volume, psf.shape, strict=True)
    )
    shape = tuple(1 if k == 1 else 1 << math.ceil(math.log2(8 * k)) for k in least)
    while math.prod(shape) > LARGEST_RESPONSE:
        smaller = tuple(max(n // 2, min(n, k)) for n, k in zip(shape, least, strict=True))
        if smaller == shape:
            break  # a PSF that is larger than that
        shape = smaller
    function, _ = FILTERS[numbers.method]
    options = {**numbers.options, "boundary": "wrap"} | (
        {"prior": 0.0} if numbers.method == "tikhonov" else {}
    )
    while True:
        impulse = np.zeros(shape)
        impulse[tuple(n // 2 for n in shape)] = 1
        radius = radius_of(function(impulse, psf, **options), RESPONSE / len(shape))
        # Farther out it overlaps with itself, and what lies beyond is not seen.
        short = [
            axis
            for axis, (r, n, whole) in enumerate(zip(radius, shape, volume, strict=True))
            if r > CLEAR * n and n < 4 * whole
        ]
        if not short:
            return radius
        if 2 * math.prod(shape) > LARGEST_RESPONSE:
            axes = " and ".join("zyx"[-len(shape) :][axis] for axis in short)
            numbers.warnings.append(
                f"halo: the response of {numbers.method} along {axes} does not end within {shape} voxels; a "
                f"halo of {radius} may be too short: pass halo=, or a larger weight"
            )
            return radius
        axis = max(short, key=lambda a: radius[a] / shape[a])
        shape = tuple(2 * n if a == axis else n for a, n in enumerate(shape))


def _where(tile: Tile) -> str:
    return "voxels " + " x ".join(f"{s.start}:{s.stop}" for s in tile.region)
