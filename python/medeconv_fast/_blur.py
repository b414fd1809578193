"""The linear operator H of one PSF on one grid: forward, adjoint, normalizer, and sweeps with a formula.

Conventions, all in array indices (z, y, x): a PSF of k taps h[j] has its centre at c = k // 2, and

    y[i] = sum over j of h[j] x[i - (j - c)].

The adjoint is the exact transpose, applied with the conjugate OTF; nothing is ever flipped. What lies outside
the image is the boundary:

extended    the estimate covers the image plus the PSF's reach (n + k - 1), nothing is assumed outside
zero        zeros outside; taps that cannot reach from any voxel to another are dropped
wrap        periodic
reflect, nearest, mirror
            as in scipy.ndimage: H pads the estimate by that rule and then acts as extended; its adjoint ends
            with the exact transpose of the padding (`fold`). The separable engine reads beyond the border by
            the rule, so that its H pads nothing. Under reflect the H of a PSF that is symmetric along every
            axis is its own transpose: that engine then works on the image's own grid, and so do transforms,
            which become cosine transforms
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from . import _arrays, _costs, _device, _validate, backends
from ._taps import (
    MOST_TERMS,
    mirror_symmetric,
    mirrored_terms,
    point_symmetric,
    product_of,
    product_terms,
    symmetrised,
    taps_of,
)
from ._threads import resolve_num_threads

BOUNDARIES = ("extended", "zero", "reflect", "nearest", "mirror", "wrap")
FOLDED = ("reflect", "nearest", "mirror")
ENGINES = ("auto", "spectral", "separable", "direct")
AS_ASKED = "as asked for"
# Formula -> the operand arrays that it must have, and may have.
FORMULAS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "copy": ((), ()),
    "ratio": (("image",), ("weights", "damping", "held_out")),
    "multiply": (("estimate",), ("gain", "factor")),
    "residual": (("image",), ("weights",)),
    "add": (("estimate",), ("gain", "factor")),
}
# Formula -> the numbers and switches that it may have.
FORMULA_NUMBERS: dict[str, tuple[str, ...]] = {
    "ratio": ("background", "eps", "held_out_scale"),
    "residual": ("background",),
    "add": ("step", "positive"),
}

# Formula -> what its sums are called, in the backends' order.
SUMS: dict[str, tuple[str, str, str]] = {
    "copy": ("squared_change", "squared_result", ""),
    "ratio": ("i_divergence", "squared_residual", "held_out_squared_residual"),
    "multiply": ("squared_change", "squared_result", "change_product"),
    "residual": ("", "squared_residual", ""),
    "add": ("squared_change", "squared_result", "change_product"),
}

Box = tuple[tuple[int, int], ...]
Sides = tuple[tuple[bool, bool], ...]

LONGEST_LINE_PSF = 1 << 15  # a longer one takes one long transform: its segments would not fit the cache


def check_engine(engine: Any) -> tuple[str, float]:
    """The engine that a call's ``engine=`` names, and how far its PSF may be from the one given."""
    if isinstance(engine, tuple):
        if len(engine) != 2 or engine[0] != "separable":
            raise ValueError(
                f"engine: got {engine!r}, expected a name, or ('separable', tolerance) to let the PSF be "
                "replaced by a short sum of products of filters"
            )
        tolerance = _validate.number(engine[1], "engine[1]", minimum=0)
        if not 0 < tolerance < 1:
            raise ValueError(f"engine[1]: got {tolerance!r}, expected a tolerance between 0 and 1")
        return "separable", tolerance
    return _validate.choice(engine, "engine", ENGINES), 0.0


def predicted_costs(taps: _costs.Taps, layout: Geometry) -> dict[str, float]:
    """Nanoseconds per application of each engine that can apply these taps; see `_costs`."""
    shape = tuple(stop - start for start, stop in layout.estimate_box)
    return _costs.predicted_ns(
        taps,
        layout.transform,
        shape,
        line=is_line(layout),
        own=tuple(stop - start for start, stop in layout.own_box),
        mirrored=layout.mirrored,
        by_cosines=bool(layout.cosines),
        on_gpu=layout.on_gpu,
    )


def approximated(psf: np.ndarray, tolerance: float) -> tuple[np.ndarray, list[tuple[np.ndarray, ...]]]:
    """The shortest sum of products of filters within `tolerance` (see `product_terms`), and its terms."""
    terms = product_terms(psf, tolerance)
    if terms is None:
        raise ValueError(
            f"engine: got ('separable', {tolerance:g}), but no sum of at most {MOST_TERMS} products of "
            "filters is that close to the psf; expected a larger tolerance or another engine"
        )
    total = sum(product_of([line.astype(np.float64) for line in term]) for term in terms)
    return np.asarray(total, psf.dtype), terms


def choose_engine(engine: str, taps: _costs.Taps | None, layout: Geometry) -> tuple[str, str]:
    """The engine for these taps and layout, and why. Depends on shapes, PSF and constants only.

    Without taps only an engine that takes any.
    """
    if taps is None:
        return _validate.choice(engine, "engine", ("spectral", "direct")), AS_ASKED
    if engine == "separable" and not taps.terms:
        raise ValueError(
            "engine: got 'separable', but the psf is not a product of one filter per axis; "
            "('separable', tolerance) takes a short sum of such products within a tolerance"
        )
    if engine != "auto":
        return engine, AS_ASKED
    costs = predicted_costs(taps, layout)
    best = min(costs, key=costs.__getitem__)
    kind = "a product of filters" if taps.terms == 1 else "not a product of one filter per axis"
    others = ", ".join(f"{name} {cost / costs[best]:.2f}" for name, cost in costs.items() if name != best)
    return best, f"the psf is {kind}; predicted times of the others relative to it: {others}"


def real_axis(lengths: tuple[int, ...]) -> int | None:
    """The axis that is transformed first: y of a volume, the last one that is longer than 1 of others."""
    long_axes = [axis for axis, length in enumerate(lengths) if length > 1]
    return long_axes[1 if len(long_axes) == 3 else -1] if long_axes else None


def make_plan(
    engine: str,
    layout: Geometry,
    boundary: str,
    backend: ModuleType,
    dtype: np.dtype,
    *,
    symmetric: bool = False,
    mirrored: bool = False,
) -> tuple[Any, int]:
    """The engine's plan, and the bytes that one application takes beside input and output.

    `symmetric`: the PSF is `point_symmetric`; `mirrored`: it is `mirror_symmetric`, and the engine gains by
    it (`Geometry.mirrored_by`). A plan holds tables only: large buffers come with its transfers and chains.
    """
    boxes = (layout.estimate_box, layout.image_box)
    if engine == "spectral" and mirrored:
        plan = backend.CosinePlan(layout.cosines, dtype)
    elif engine == "separable":
        own = layout.own_box
        rule = boundary if boundary == "wrap" or own != layout.estimate_box else "zero"
        plan = backend.SeparablePlan(own, layout.image_box, rule, dtype, layout.estimate_box, mirrored)
    elif engine == "direct":
        plan = backend.DirectPlan(*boxes, boundary == "wrap", dtype)
    elif is_line(layout):
        plan = backend.OverlapPlan(*boxes, boundary == "wrap", dtype)
    else:
        plan = backend.SpectralPlan(layout.grid, *boxes, dtype, layout.reach, symmetric)
    extra = 0
    if boundary in FOLDED and not mirrored:
        extra = math.prod(stop - start for start, stop in layout.estimate_box) + math.prod(layout.shape)
    return plan, int(plan.workspace_bytes) + extra * np.dtype(dtype).itemsize


def choose_grid(lengths: tuple[int, ...], backend: ModuleType) -> tuple[int, ...]:
    """The cheapest FFT lengths that hold `lengths`; the real axis (y of a volume) is even: it packs."""
    real = real_axis(lengths)
    last = max((axis for axis, length in enumerate(lengths) if length > 1), default=None)
    return tuple(
        1 if length == 1 else backend.good_size(length, even=axis == real, last=axis == last)
        for axis, length in enumerate(lengths)
    )


def periodic_grid(
    psf_shape: tuple[int, ...], centre: tuple[int, ...], shape: tuple[int, ...], backend: ModuleType
) -> tuple[tuple[int, ...], Box]:
    """Grid of a periodic image, and how far the image is continued in it on each axis.

    Lengths with factors of 2, 3, 5 and 7 only (the real axis: even ones) are their own grid. Others would
    take a slow transform; continued by the PSF's reach, any longer grid gives the same.
    """
    cheap = choose_grid(tuple(n + k - 1 for n, k in zip(shape, psf_shape, strict=True)), backend)
    real = real_axis(shape)
    grid, reach = [], []
    for axis, (n, k, c) in enumerate(zip(shape, psf_shape, centre, strict=True)):
        own = _costs.is_cheap(n) and not (axis == real and n % 2)
        grid.append(n if own or n == 1 else cheap[axis])
        reach.append((0, 0) if own or n == 1 else (k - 1 - c, c))
    return tuple(grid), tuple(reach)


@dataclass(frozen=True)
class Geometry:
    """Where everything lies: the PSF's taps, the boxes in the grid, the padding of folded boundaries."""

    shape: tuple[int, ...]
    estimate_shape: tuple[int, ...]  # what the user sees
    taps: tuple[slice, ...]  # of the psf that are used
    centre: tuple[int, ...]  # in the taps used
    low: tuple[int, ...]  # padding before and behind the estimate; zeros unless folded
    high: tuple[int, ...]
    grid: tuple[int, ...]
    estimate_box: Box  # of the plan: includes the padding
    image_box: Box
    frame: tuple[slice, ...]  # the image's place in the estimate
    reach: Box = ()  # wrap: continued this far before and behind the image, where the grid is longer
    mirrored: bool = False  # the PSF and the boundary are symmetric: H is its own transpose
    cosines: tuple[int, ...] = ()  # mirrored: lengths of the cosine transforms, where they serve
    on_gpu: bool = False  # whose costs decide

    @property
    def transform(self) -> tuple[int, ...]:
        """Lengths of the spectral engine's transforms."""
        return self.cosines or self.grid

    @property
    def own_box(self) -> Box:
        """The estimate's, without padding."""
        sides = zip(self.estimate_box, self.low, self.high, strict=True)
        return tuple((start + a, stop - b) for (start, stop), a, b in sides)

    def mirrored_by(self, engine: str) -> bool:
        """Whether that engine needs neither padding nor folding because H is its own transpose."""
        return self.mirrored and (engine == "separable" or (engine == "spectral" and bool(self.cosines)))


def geometry(
    psf_shape: tuple[int, ...],
    shape: tuple[int, ...],
    boundary: str,
    backend: ModuleType,
    centre: tuple[int, ...] | None = None,
    open_sides: Sides | None = None,
    mirrored: bool = False,
) -> Geometry:
    """Lay out the operator; `centre` other than shape // 2 is for plain convolution.

    `mirrored`: the PSF is `mirror_symmetric`.

    `open_sides`: per axis, whether the image goes on before and behind it although it is not given there (a
    tile's sides inside a volume). Such a side is extended, whatever the boundary of the others is.
    """
    centre = tuple(k // 2 for k in psf_shape) if centre is None else centre
    axes = list(zip(shape, psf_shape, centre, strict=True))
    nothing = (0,) * len(shape)
    whole = tuple((0, n) for n in shape)
    taps = tuple(slice(0, k) for k in psf_shape)
    frame = tuple(slice(0, n) for n in shape)
    on_gpu = backend.NAME == "cuda"
    if boundary == "wrap":
        if any(k > n for n, k, _ in axes):
            raise ValueError(
                f"psf: got shape {tuple(psf_shape)}, expected at most the image's {tuple(shape)} on every "
                "axis under boundary='wrap'; crop it, or choose another boundary"
            )
        grid, reach = periodic_grid(psf_shape, centre, shape, backend)
        return Geometry(
            shape, shape, taps, centre, nothing, nothing, grid, whole, whole, frame, reach, on_gpu=on_gpu
        )
    going_on = open_sides or ((False, False),) * len(shape)
    if boundary == "zero" and not any(map(any, going_on)):
        taps = tuple(slice(max(0, c - (n - 1)), min(k, c + n)) for n, k, c in axes)
        centre = tuple(c - t.start for (_, _, c), t in zip(axes, taps, strict=True))
        spare = (max(c, t.stop - t.start - 1 - c) for c, t in zip(centre, taps, strict=True))
        grid = choose_grid(tuple(n + r for n, r in zip(shape, spare, strict=True)), backend)
        return Geometry(
            shape, shape, taps, centre, nothing, nothing, grid, whole, whole, frame, on_gpu=on_gpu
        )
    low = tuple(k - 1 - c for _, k, c in axes)
    reached = tuple(n + k - 1 for n, k, _ in axes)
    image_box = tuple((a, a + n) for a, n in zip(low, shape, strict=True))
    grid = choose_grid(reached, backend)
    estimated, boxes, padded, frame_of = [], [], [], []
    for n, a, length, sides in zip(shape, low, reached, going_on, strict=True):
        before, behind = (boundary == "extended" or side for side in sides)
        estimated.append(n + a * before + (length - n - a) * behind)
        frame_of.append(slice(a * before, a * before + n))
        folded = boundary in FOLDED
        boxes.append((0 if before or folded else a, length if behind or folded else a + n))
        padded.append((a * (folded and not before), (length - n - a) * (folded and not behind)))
    before_it, behind_it = (tuple(p[i] for p in padded) for i in (0, 1))
    mirrored = mirrored and boundary == "reflect" and not any(map(any, going_on))
    by_cosines = mirrored and sum(n > 1 for n in reached) > 1 and hasattr(backend, "CosinePlan")
    by_cosines = by_cosines and _costs.cosines_pay(shape, reached, grid)
    return Geometry(
        shape,
        tuple(estimated),
        taps,
        centre,
        before_it,
        behind_it,
        grid,
        tuple(boxes),
        image_box,
        tuple(frame_of),
        mirrored=mirrored,
        cosines=shape if by_cosines else (),
        on_gpu=on_gpu,
    )


def is_line(layout: Geometry) -> bool:
    """One axis is longer than 1: the spectral engine transforms overlapping segments of it."""
    taps = math.prod(t.stop - t.start for t in layout.taps)
    # A single voxel has no such axis: its segments could be of any.
    voxels = math.prod(layout.estimate_shape)
    return sum(n > 1 for n in layout.grid) == 1 and taps <= LONGEST_LINE_PSF and voxels > 1


def _opposite(
    back: np.ndarray, used: tuple[int, ...], centre: tuple[int, ...]
) -> tuple[np.ndarray, tuple[int, ...]]:
    """The taps whose transpose is the blur with `back`, as far as the taps `used` reach, and their centre.

    What an adjoint sweep applies is the transpose of what is stored. Of an even length the offset farthest
    before the centre is 0: the transpose of the blur does not reach it.
    """
    mirrored = np.flip(back[tuple(slice(1 - k % 2, None) for k in back.shape)])
    reach = tuple(min(k // 2, c, u - 1 - c) for k, c, u in zip(mirrored.shape, centre, used, strict=True))
    middle = tuple(slice(k // 2 - r, k // 2 + r + 1) for k, r in zip(mirrored.shape, reach, strict=True))
    return np.ascontiguousarray(mirrored[middle]), reach


class Operator:
    """A plan and an OTF (or filters) in one dtype; what `Blur` and `convolve` work with."""

    def __init__(
        self,
        psf: np.ndarray,
        layout: Geometry,
        boundary: str,
        backend: ModuleType,
        num_threads: int | None,
        engine: str = "spectral",
        terms: list[tuple[np.ndarray, ...]] | None = None,
        back: np.ndarray | None = None,
    ):
        self.engine = engine
        self.layout = layout
        self.boundary = boundary
        self.backend = backend
        self.num_threads = num_threads
        self.dtype = psf.dtype
        used = np.ascontiguousarray(psf[layout.taps])
        mirrored = layout.mirrored_by(engine)
        opposite: tuple[np.ndarray, tuple[int, ...]] | None = None
        if back is not None:
            opposite = _opposite(back.astype(psf.dtype), used.shape, layout.centre)
            mirrored = mirrored and mirror_symmetric(*opposite)[1]
        # Only transforms of a whole grid or line gain by it.
        symmetric = engine == "spectral" and not mirrored
        if symmetric:
            even, symmetric = point_symmetric(used, layout.centre)
            symmetric = symmetric and (opposite is None or point_symmetric(*opposite)[1])
        self.folded = boundary in FOLDED and not mirrored  # what adjoint sweeps give
        self.plan, self.workspace_bytes = make_plan(
            engine, layout, boundary, backend, psf.dtype, symmetric=symmetric, mirrored=mirrored
        )

        def transfer(taps: np.ndarray, centre: tuple[int, ...]) -> Any:
            if mirrored:
                return self.plan.transfer(mirror_symmetric(taps, centre)[0], num_threads)
            if symmetric:
                taps = even if taps is used else point_symmetric(taps, centre)[0]
            return self.plan.transfer(taps, centre, num_threads)

        if engine == "separable":
            if terms is None:
                lines = product_terms(used) or []
            else:
                lines = [
                    tuple(line[t].astype(psf.dtype) for line, t in zip(term, layout.taps, strict=True))
                    for term in terms
                ]
            if mirrored:
                lines = mirrored_terms(lines)
            self.transfer = self.plan.transfer(lines, layout.centre, num_threads)
        else:
            self.transfer = transfer(symmetrised(used)[0] if engine == "direct" else used, layout.centre)
        self.back_transfer = self.transfer if opposite is None else transfer(*opposite)
        # Wall times of the latest applications, for explain(). Appending is atomic: no lock in a sweep.
        self.seconds: deque[float] = deque(maxlen=64)

    @property
    def pads(self) -> bool:
        """Whether forward sweeps take a padded estimate; the separable engine reads by the rule itself."""
        return self.folded and self.engine != "separable"

    @property
    def padded_shape(self) -> tuple[int, ...]:
        return tuple(stop - start for start, stop in self.layout.estimate_box)

    def pad(self, x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """By the boundary's rule, as far as the PSF reaches."""
        return self.backend.pad(
            x, self.layout.low, self.layout.high, self.boundary, num_threads=self.num_threads, out=out
        )

    def fold(self, y: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        return self.backend.fold(
            y, self.layout.low, self.layout.high, self.boundary, num_threads=self.num_threads, out=out
        )

    def begin(self, x: np.ndarray, *, adjoint: bool = False) -> SweepChain:
        return SweepChain(self, x, adjoint=adjoint)

    def apply(self, x: np.ndarray, *, adjoint: bool = False) -> np.ndarray:
        """Hx, or (adjoint) the transpose, in a new array."""
        shape = self.layout.estimate_shape if adjoint else self.layout.shape
        out = _device.maker_beside(x, self.backend)(shape, self.dtype)
        self.begin(x, adjoint=adjoint).sweep("copy", adjoint=adjoint, keep=False, out=out)
        return out

    def apply_each(
        self, batch: np.ndarray, *, adjoint: bool = False, out: np.ndarray | None = None
    ) -> np.ndarray:
        """`apply` on every item along the first axis; plan, OTF and the chain's workspace serve them all."""
        shape = self.layout.estimate_shape if adjoint else self.layout.shape
        if out is None:
            out = _device.maker_beside(batch, self.backend)((len(batch), *shape), self.dtype)
        chain = self.begin(batch[0], adjoint=adjoint)
        for index, item in enumerate(batch):
            if index:
                chain.load(item, adjoint=adjoint)
            chain.sweep("copy", adjoint=adjoint, keep=False, out=out[index])
        return out


class LinesOperator(Operator):
    """An operator given by one filter per axis: the product of them, which may be huge, is never formed."""

    def __init__(
        self,
        lines: Sequence[np.ndarray],
        centre: tuple[int, ...],
        shape: tuple[int, ...],
        boundary: str,
        backend: ModuleType,
        num_threads: int | None = None,
    ) -> None:
        self.engine = "separable"
        self.layout = geometry(tuple(len(line) for line in lines), shape, boundary, backend, centre)
        self.boundary = boundary
        self.backend = backend
        self.num_threads = num_threads
        self.dtype = lines[0].dtype
        self.folded = boundary in FOLDED
        self.plan, self.workspace_bytes = make_plan("separable", self.layout, boundary, backend, self.dtype)
        used = tuple(line[taps] for line, taps in zip(lines, self.layout.taps, strict=True))
        self.transfer = self.back_transfer = self.plan.transfer([used], self.layout.centre, num_threads)
        self.seconds = deque(maxlen=1)


class SweepChain:
    """Sweeps that feed each other: the result of one, kept, is what the next one consumes.

    The sweeps of an iterative algorithm alternate: forward (estimate to image), adjoint (image to estimate),
    and so on. Arrays must be C-contiguous and of the operator's dtype; this is the algorithms' interface,
    `Blur.sweep` is the one that checks and converts.
    """

    def __init__(self, operator: Operator, x: np.ndarray, *, adjoint: bool = False) -> None:
        self._operator = operator
        self._chain = operator.plan.chain(operator.num_threads)
        self._empty = _device.maker_beside(x, operator.backend)
        self._rooms: dict[str, np.ndarray] | None = {} if isinstance(x, _device.DeviceArray) else None
        self.load(x, adjoint=adjoint)

    def _room(self, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """In GPU memory an array that stays for the next sweep: what is recorded must allocate nothing."""
        if self._rooms is None:
            return None
        if name not in self._rooms:
            self._rooms[name] = self._empty(shape, self._operator.dtype)
        return self._rooms[name]

    def _continued(self, x: np.ndarray) -> np.ndarray:
        # Where an adjoint sweep's result was: it is folded by then, and this is consumed before the next one.
        return self._operator.pad(x, self._room("padded", self._operator.padded_shape))

    def load(self, x: np.ndarray, *, adjoint: bool = False, **operands: Any) -> dict[str, float] | None:
        """Start again from `x`, in the same workspace.

        With operands previous, alpha, extrapolated (see `sweep`) from where `x` moves to beyond ``previous``;
        with sums=True returns squared_change, of x - previous, and squared_result.
        """
        operator = self._operator
        if operands and not adjoint and operator.pads:
            sums = operator.backend.apply_formula("copy", x, x, num_threads=operator.num_threads, **operands)
            self._chain.load(self._continued(operands.get("extrapolated", x)))
        else:
            padded = self._continued(x) if operator.pads and not adjoint else x
            sums = self._chain.load(padded, adjoint=adjoint, **operands)
        self._next_adjoint: bool | None = adjoint
        return _named_sums("copy", sums, operands)

    def sweep(
        self,
        formula: str,
        *,
        adjoint: bool = False,
        keep: bool = True,
        out: np.ndarray | None = None,
        **operands: Any,
    ) -> dict[str, float] | None:
        """Apply H (or its adjoint) and then `formula`.

        Parameters
        ----------
        formula : {"copy", "ratio", "multiply", "residual", "add"}
        adjoint : bool
            Must be the direction for which the chain was begun, and alternate from sweep to sweep.
        keep : bool
            Keep the result for the next sweep.
        out : ndarray, optional
            Where the result goes as well; under ``multiply`` it may be the estimate itself.
        **operands
            ``ratio``, ``residual``: image, weights, background, and for ``ratio`` eps, damping, held_out,
            held_out_scale. ``multiply``, ``add``: estimate, gain, factor, change, and for ``add`` step,
            positive.
            An array ``change`` gets new - estimate; what an earlier sweep left there enters the sums.
            With an array ``previous`` and a number ``alpha`` the next sweep gets
            max(new + alpha * (new - previous), 0), new being what goes to `out`; an array ``extrapolated``
            receives it as well. `out` may be ``previous``, ``extrapolated`` the estimate.
            sums=True: return the sums, of values times ``unit`` (default 1).

        Returns
        -------
        dict or None
            ``ratio``: i_divergence, squared_residual and held_out_squared_residual, each times the weights;
            ``residual``: squared_residual; ``multiply`` and ``add``: squared_change, squared_result and
            change_product; ``copy``: squared_change (with ``previous``) and squared_result.
        """
        if self._next_adjoint is not adjoint:
            state = "nothing is kept" if self._next_adjoint is None else "the kept array is on the other side"
            raise RuntimeError(f"adjoint: got {adjoint}, but {state}: forward and adjoint sweeps alternate")
        self._next_adjoint = None
        operator = self._operator
        begun = time.perf_counter()
        if adjoint and operator.folded:
            sums = self._folded_sweep(formula, keep, out, operands)
        else:
            transfer = operator.back_transfer if adjoint else operator.transfer
            sums = self._chain.sweep(transfer, formula, adjoint=adjoint, keep=keep, out=out, **operands)
            self._next_adjoint = (not adjoint) if keep else None
        operator.seconds.append(time.perf_counter() - begun)
        return _named_sums(formula, sums, operands)

    def _folded_sweep(
        self, formula: str, keep: bool, out: np.ndarray | None, operands: dict[str, Any]
    ) -> tuple[float, float, float] | None:
        operator = self._operator
        shape = operator.padded_shape
        padded = self._room("padded", shape)
        padded = self._empty(shape, operator.dtype) if padded is None else padded
        self._chain.sweep(operator.back_transfer, "copy", adjoint=True, keep=False, out=padded)
        folded = operator.fold(padded, self._room("folded", operator.layout.estimate_shape))
        result = folded if out is None else out
        if keep and operands.get("previous") is not None and operands.get("extrapolated") is None:
            operands["extrapolated"] = np.empty_like(folded)
        sums: tuple[float, float, float] | None = operator.backend.apply_formula(
            formula, folded, result, num_threads=operator.num_threads, **operands
        )
        if keep:
            ahead = operands.get("extrapolated")
            self.load(result if ahead is None else ahead)
        return sums


def _named_sums(
    formula: str, sums: tuple[float, float, float] | None, operands: dict[str, Any]
) -> dict[str, float] | None:
    if sums is None:
        return None
    named = dict(zip(SUMS[formula], sums, strict=True))
    needs = {"": "", "held_out_squared_residual": "held_out", "change_product": "change"}
    if formula == "copy":
        needs["squared_change"] = "previous"
    return {n: v for n, v in named.items() if n not in needs or operands.get(needs[n]) is not None}


class Blur:
    """The linear operator of a PSF on an image grid.

    Parameters
    ----------
    psf : array_like
        Point spread function with as many axes as the image, its centre at ``shape // 2``. Any real dtype; it
        never promotes the work.
    shape : tuple of int
        The image's shape, 1 to 3 axes in the order (z, y, x).
    boundary : {"extended", "zero", "reflect", "nearest", "mirror", "wrap"}
        What lies outside the image. "extended": the estimate covers the image plus the PSF's reach, see
        `estimate_shape`. "reflect" repeats the edge voxel (as in scipy.ndimage; np.pad's "symmetric"),
        "mirror" does not.
    engine : {"auto", "spectral", "separable", "direct"}
        How H is applied: by fused FFT passes; by one filter per axis, for a PSF that is the product of such
        filters (a Gaussian, a box); or as a sum over the taps, for small PSFs. "auto" takes what is predicted
        to be fastest. ``("separable", tolerance)`` replaces the PSF by the shortest sum, of at most 8 terms,
        of products of filters that leaves out no more than the share `tolerance` of its absolute values: no
        blurred value then moves by more than ``tolerance * sum(abs(psf)) * max(abs(image))``.
    backend : {"auto", "cpp", "numba", "reference", "cuda"}
        What computes it.
    dtype : {None, "float32", "float64"}
        Dtype of the work and of results. None: that of each array, by the library's rule (float64, 32- and
        64-bit integers: float64; everything else float32).
    normalize_psf : bool
        Divide the PSF by its sum.
    num_threads : int, optional
        Default: the library's setting, see `set_num_threads`.

    Attributes
    ----------
    shape, estimate_shape : tuple of int
        Of images and of estimates. They differ only for boundary="extended", by ``psf.shape[axis] - 1``.
    frame : tuple of slice
        The image's place in the estimate: ``estimate[blur.frame]`` has the image's shape.
    boundary, engine, backend : str
        What is used ("auto" resolved).
    dtype : numpy.dtype or None
    psf : numpy.ndarray
        The PSF in use (normalised), read-only; in float64 if `dtype` is None.
    psf_sum : float
        Its sum.
    grid : tuple of int
        Size of the transform.
    workspace_bytes : int
        Memory that one application takes beside input and output.

    Raises
    ------
    ValueError
        PSF with NaN or Inf, empty, of another rank, with a sum that is not positive, or larger than the image
        under boundary="wrap"; unknown option values.
    TypeError
        Complex, object or string values; numbers of the wrong kind.

    Examples
    --------
    >>> import numpy as np, medeconv_fast as mf
    >>> blur = mf.Blur(np.ones((3, 3)), (32, 40), boundary="reflect")
    >>> blurred = blur.forward(np.random.default_rng(0).random((32, 40)))
    """

    def __init__(
        self,
        psf: Any,
        shape: Any,
        *,
        boundary: str = "extended",
        engine: str = "auto",
        backend: str = "auto",
        dtype: Any = None,
        normalize_psf: bool = True,
        num_threads: int | None = None,
        _open_sides: Sides | None = None,
        _any_sum: bool = False,
    ) -> None:
        self.shape = _validate.shape(shape, "shape")
        self.boundary = _validate.choice(boundary, "boundary", BOUNDARIES)
        name, self._tolerance = check_engine(engine)
        self._backend = backends.resolve(backend)
        self.backend: str = self._backend.NAME
        expected = "expected None, 'float32' or 'float64'"
        try:
            kind = None if dtype is None else np.dtype(dtype)
        except (TypeError, ValueError) as error:
            raise TypeError(f"dtype: got {_validate.shown(dtype)}, {expected}") from error
        if kind is not None and kind not in (np.float32, np.float64):
            raise ValueError(f"dtype: got {dtype!r}, {expected}")
        self.dtype = None if kind is None else kind.newbyteorder("=")
        # Checked now, used at every call: None follows the library's setting at that time.
        resolve_num_threads(num_threads)
        self._num_threads = num_threads
        normalize = _validate.flag(normalize_psf, "normalize_psf")
        values, self.psf_sum = _arrays.as_psf(
            psf, len(self.shape), normalize=normalize, dtype=self.dtype or np.float64, any_sum=_any_sum
        )
        if not normalize:
            values = values.copy()  # it may be what was given; operators are made later, of what it was now
        self._given = values
        self._terms: list[tuple[np.ndarray, ...]] | None = None
        if self._tolerance:
            values, self._terms = approximated(values, self._tolerance)
        self.psf = values.view()
        self.psf.flags.writeable = False
        self._open_sides = _open_sides
        self._layout = geometry(
            values.shape,
            self.shape,
            self.boundary,
            self._backend,
            open_sides=_open_sides,
            mirrored=self.boundary == "reflect"
            and mirror_symmetric(values, tuple(k // 2 for k in values.shape))[1],
        )
        taps = self._taps() if name in ("auto", "separable") else None
        self.engine, self._engine_reason = choose_engine(name, taps, self._layout)
        if self._terms is not None and taps is not None:
            left_out = float(np.abs(self._given - self.psf).sum() / np.abs(self._given).sum())
            self._engine_reason += (
                f", {taps.terms} products of filters; they leave out {left_out:.2g} of the psf"
            )
        self.estimate_shape = self._layout.estimate_shape
        self.frame = self._layout.frame
        self._operators: dict[np.dtype, Operator] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return (
            f"Blur(psf of shape {self.psf.shape}, shape={self.shape}, boundary={self.boundary!r}, "
            f"engine={self.engine!r}, backend={self.backend!r}, dtype={self.dtype})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Plans are made anew where the copy is used.
        options = {
            "boundary": self.boundary,
            "engine": (self.engine, self._tolerance) if self._tolerance else self.engine,
            "backend": self.backend,
            "dtype": self.dtype,
            "normalize_psf": False,
            "num_threads": self._num_threads,
            "_open_sides": self._open_sides,
        }
        return _rebuild, (np.array(self._given), self.shape, options)

    def _taps(self) -> _costs.Taps:
        taps = taps_of(self.psf[self._layout.taps])
        return taps if self._terms is None else taps._replace(terms=len(self._terms))

    def operator(self, dtype: np.dtype, back: np.ndarray | None = None) -> Operator:
        """The plan and OTF of a dtype, for algorithms.

        With `back` (of the PSF's shape, its centre at ``shape // 2``) adjoint sweeps convolve with it instead
        of applying the transpose.
        """
        if back is None:
            return self._operator(dtype)
        psf = _arrays.computable(self.psf, dtype)
        options = (self.boundary, self._backend, self._num_threads)
        return Operator(psf, self._layout, *options, "spectral", back=back)

    def _operator(self, dtype: np.dtype) -> Operator:
        dtype = self.dtype or dtype
        with self._lock:
            if dtype not in self._operators:
                psf = _arrays.computable(self.psf, dtype)
                _validate.finite(psf, f"psf in {dtype}")
                if self.psf.any() and not psf.any():
                    raise ValueError(f"psf: all its values are 0 in {dtype}, the largest {self.psf.max():g}")
                self._operators[dtype] = Operator(
                    psf,
                    self._layout,
                    self.boundary,
                    self._backend,
                    self._num_threads,
                    self.engine,
                    self._terms,
                )
            return self._operators[dtype]

    def _take(
        self, value: Any, name: str, shape: tuple[int, ...], like: str, *, batch: bool = False
    ) -> tuple[np.ndarray, Any]:
        if _device.on_device(value):
            backends.resolve(self.backend, value)
        array, restore = _arrays.taken(value, name)
        if batch:
            _validate.same_shape_or_batch(array, name, shape, like)
        else:
            _validate.same_shape(array, name, shape, like)
        data = _arrays.in_dtype(array, self.dtype or _arrays.result_dtype(array.dtype))
        _arrays.finite(data, name)
        return data, restore

    @property
    def grid(self) -> tuple[int, ...]:
        return self._layout.transform

    @property
    def workspace_bytes(self) -> int:
        with self._lock:
            made = list(self._operators.values())
        return sum(o.workspace_bytes for o in made or [self._operator(np.dtype(np.float32))])

    def forward(self, x: Any) -> Any:
        """Blur an estimate: Hx.

        Parameters
        ----------
        x : array_like of shape `estimate_shape`, or a batch of shape ``(N, *estimate_shape)``
            The items of a batch are blurred one after the other; they share the OTF and the workspace.

        Returns
        -------
        array of `shape`, or ``(N, *shape)``, of the kind of `x`

        Raises
        ------
        ValueError, TypeError
            Another shape, NaN or Inf, values of the wrong kind.
        """
        return self._applied(x, "x", adjoint=False)

    def adjoint(self, y: Any) -> Any:
        """Apply the exact transpose of `forward`.

        Parameters
        ----------
        y : array_like of shape `shape`, or a batch of shape ``(N, *shape)``

        Returns
        -------
        array of `estimate_shape`, or ``(N, *estimate_shape)``, of the kind of `y`

        Raises
        ------
        ValueError, TypeError
            Another shape, NaN or Inf, values of the wrong kind.
        """
        return self._applied(y, "y", adjoint=True)

    def _applied(self, value: Any, name: str, *, adjoint: bool) -> Any:
        shape, like = (self.shape, "image") if adjoint else (self.estimate_shape, "estimate")
        data, restore = self._take(value, name, shape, like, batch=True)
        operator = self._operator(data.dtype)
        apply = operator.apply if data.ndim == len(shape) else operator.apply_each
        return restore(apply(data, adjoint=adjoint))

    def normalizer(self, weights: Any = None) -> Any:
        """The adjoint of `weights` (of ones if None): how much of each estimate voxel the image sees.

        Parameters
        ----------
        weights : array_like of shape `shape`, optional
            Not negative.

        Returns
        -------
        array of `estimate_shape`
            In float64 if neither `weights` nor the operator's `dtype` says otherwise.

        Raises
        ------
        ValueError, TypeError
            Another shape, NaN or Inf, values of the wrong kind, values below 0.
        """
        if weights is None:
            dtype = self.dtype or np.dtype(np.float64)
            return self._operator(dtype).apply(np.ones(self.shape, dtype), adjoint=True)
        data, restore = self._take(weights, "weights", self.shape, "image")
        _validate.non_negative(data, "weights", float(data.min()))
        return restore(self._operator(data.dtype).apply(data, adjoint=True))

    def sweep(
        self,
        x: Any,
        formula: str,
        *,
        adjoint: bool = False,
        out: Any = None,
        return_sums: bool = False,
        **operands: Any,
    ) -> Any:
        """Apply H (or its adjoint) to `x` and then a pointwise formula, in one go.

        With c = Hx (or the adjoint of x):

        ========  ================================================================================
        copy      c
        ratio     weights * image / max(c + background, eps)
        multiply  max(estimate * c * factor * gain, 0) where gain > 0, estimate elsewhere
        residual  weights * (image - (c + background))
        add       estimate + step * c * factor * gain, clipped at 0 if positive
        ========  ================================================================================

        Parameters
        ----------
        x : array_like
            Of `estimate_shape`, or of `shape` if `adjoint`.
        formula : {"copy", "ratio", "multiply", "residual", "add"}
        adjoint : bool
        out : numpy.ndarray, optional
            C-contiguous, of the result's shape and dtype; may be `x` or an operand, but not a part of one.
        return_sums : bool
            Return ``(result, sums)``, sums over all voxels that cost no pass of their own.
        **operands
            Arrays of the result's shape: ``image`` and optionally ``weights`` (ratio, residual),
            ``estimate`` and optionally ``gain`` and ``factor`` (multiply, add). Numbers: ``background``
            (default 0), ``eps`` (ratio; default: the library's smallest divisor for the image's largest
            value), ``step`` (add; default 1). ``positive`` (add; default False). ratio also takes
            ``damping``, 2 / threshold² per voxel: quotients that fit to within the threshold are drawn to 1
            (White 1994, N = 10), and ``held_out``, an image whose model is ``held_out_scale`` times that of
            `image`.

        Returns
        -------
        array of `shape` (of `estimate_shape` if `adjoint`); `out` if given
        sums : dict of str to float
            With `return_sums`. ratio: i_divergence (image·log(image/model) - image + model),
            squared_residual, held_out_squared_residual, each times the weights. residual: squared_residual.
            multiply, add: squared_change, squared_result. copy: squared_result.

        Raises
        ------
        ValueError, TypeError
            A formula that there is not, operands that it lacks or does not have, other shapes or dtypes, an
            `out` that shares a part of an operand's memory.
        """
        formula = _validate.choice(formula, "formula", tuple(FORMULAS))
        return_sums = _validate.flag(return_sums, "return_sums")
        adjoint = _validate.flag(adjoint, "adjoint")
        source, target = (self.shape, self.estimate_shape) if adjoint else (self.estimate_shape, self.shape)
        names = ("image", "estimate") if adjoint else ("estimate", "image")
        data, restore = self._take(x, "x", source, names[0])
        operator = self._operator(data.dtype)
        dtype = operator.dtype

        required, optional = FORMULAS[formula]
        numbers = FORMULA_NUMBERS.get(formula, ())
        for name in operands:
            if name not in (*required, *optional, *numbers):
                known = ", ".join((*required, *optional, *numbers)) or "no operands"
                raise TypeError(f"{name}: the formula {formula!r} takes {known}")
        prepared: dict[str, Any] = {}
        for name in (*required, *optional):
            if operands.get(name) is not None:
                prepared[name], _ = _arrays.as_operand(
                    operands[name], name, target, dtype, like=names[1], beside=data
                )
            elif name in required:
                raise TypeError(f"{name}: missing; the formula {formula!r} needs it")
        if "background" in numbers:
            prepared["background"] = _validate.number(
                operands.get("background", 0.0), "background", minimum=0
            )
        if "step" in numbers:
            prepared["step"] = _validate.number(operands.get("step", 1.0), "step")
            prepared["positive"] = _validate.flag(operands.get("positive", False), "positive")
        if "eps" in numbers:
            if operands.get("eps") is None:
                largest = max(float(prepared["image"].max()), -float(prepared["image"].min()))
                prepared["eps"] = self._backend.smallest_divisor(largest or 1.0, dtype)
            else:
                prepared["eps"] = _validate.number(operands["eps"], "eps", minimum=0)
        if out is None:
            result = _device.maker_beside(data, self._backend)(target, dtype)
        elif isinstance(data, _device.DeviceArray):
            result = _device.writable(out, data, target)
        else:
            fits = isinstance(out, np.ndarray) and out.shape == target and out.dtype == dtype
            result = out if fits and out.flags.c_contiguous and out.flags.writeable else None
        if result is None:
            kind = "NumPy array" if isinstance(data, np.ndarray) else "array in GPU memory"
            raise ValueError(
                f"out: got {_validate.shown(out)}, expected a writable C-contiguous {kind} of shape "
                f"{target} and dtype {dtype}"
            )
        if isinstance(result, np.ndarray) and out is not None:
            for name, array in {"x": data, **prepared}.items():
                # The very same array is fine: a value is read before it is written.
                partly = isinstance(array, np.ndarray) and _arrays.overlap(result, array)
                if partly and (array.ctypes.data, array.shape) != (result.ctypes.data, result.shape):
                    raise ValueError(f"out: shares a part of its memory with {name}, expected all or none")
        if "held_out_scale" in operands:
            prepared["held_out_scale"] = _validate.number(
                operands["held_out_scale"], "held_out_scale", minimum=0
            )
        sums = operator.begin(data, adjoint=adjoint).sweep(
            formula, adjoint=adjoint, keep=False, out=result, sums=return_sums, **prepared
        )
        made = out if out is not None else restore(result)
        return (made, sums) if return_sums else made

    def begin(self, x: np.ndarray, *, adjoint: bool = False) -> SweepChain:
        """Start a chain of sweeps from a checked, C-contiguous array; for algorithms (see `SweepChain`)."""
        return self._operator(x.dtype).begin(x, adjoint=adjoint)

    def smallest_divisor(self, scale: float, dtype: Any = None) -> float:
        """Lower bound of a ratio's divisor for an image whose largest value is `scale`."""
        return float(self._backend.smallest_divisor(scale, self.dtype or dtype or np.float64))

    def explain(self) -> str:
        """What was picked and why, predicted and measured times, and the memory it takes: a few lines."""
        layout = self._layout
        padded = tuple(stop - start for start, stop in layout.estimate_box)
        why = {
            "wrap": "the periodic image; axes of other lengths than 2^a 3^b 5^c 7^d continue by the PSF's "
            "reach",
            "zero": "the image, and zeros as far as the PSF reaches, up to the next cheap size",
            "extended": f"the estimate {padded} up to the next cheap size",
        }.get(
            self.boundary, f"the estimate padded by '{self.boundary}' to {padded}, up to the next cheap size"
        )
        if layout.cosines:
            why = "cosines of the image itself: it goes on as its mirror image, and so does what is blurred"
        dropped = tuple(s.stop - s.start for s in layout.taps)
        details = ", ".join(f"{key} {value}" for key, value in self._backend.describe().items())
        lines = [
            f"backend {self.backend} ({details})",
            f"engine {self.engine}: {self._engine_reason}",
            f"image {self.shape}, estimate {self.estimate_shape}, boundary {self.boundary}, "
            f"dtype {self.dtype or 'of each array'}",
            f"psf {self.psf.shape}, sum {self.psf_sum:g}"
            + (f", of which {dropped} can reach one voxel from another" if dropped != self.psf.shape else ""),
            (
                "overlapping segments of the line"
                if is_line(layout)
                else f"transform {layout.transform}: {why}"
            )
            if self.engine == "spectral"
            else "no transform: "
            + (
                "one filter per axis" + ("" if self._terms is None else f", {len(self._terms)} times")
                if self.engine == "separable"
                else "a sum over the taps"
            ),
            f"workspace {self.workspace_bytes / 1e6:.1f} MB",
            self._predictions(),
            *self._measurements(),
        ]
        return "\n".join(lines)

    def _predictions(self) -> str:
        threads = resolve_num_threads(self._num_threads)
        dtype = self.dtype or np.dtype(np.float32)
        isa = self._backend.describe().get("isa")
        predicted = predicted_costs(self._taps(), self._layout)
        times = {
            name: _costs.milliseconds(ns, dtype=dtype, isa=isa, threads=threads, on_gpu=self._layout.on_gpu)
            for name, ns in sorted(predicted.items(), key=lambda item: item[1])
        }
        shown = ", ".join(f"{name} {ms:.3g} ms" for name, ms in times.items())
        if self._layout.on_gpu:
            return f"predicted per application, {dtype}, on an {_costs.GPU}: {shown}"
        where = "" if self.backend == "cpp" else " (by backend 'cpp')"
        return f"predicted per application, {dtype}, {threads} threads: {shown}{where}"

    def _measurements(self) -> list[str]:
        with self._lock:
            made = list(self._operators.items())
        lines = []
        for dtype, operator in made:
            seconds = operator.seconds.copy()
            if seconds:
                ms = statistics.median(seconds) * 1e3
                lines.append(
                    f"measured per application, {dtype}: {self.engine} {ms:.3g} ms "
                    f"(median of the latest {len(seconds)})"
                )
        return lines


def _rebuild(psf: np.ndarray, shape: tuple[int, ...], options: dict[str, Any]) -> Blur:
    return Blur(psf, shape, **options)
