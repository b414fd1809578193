"""The readable backend: NumPy only, the executable specification of all others.

Every transform runs in float64, whatever the plan's dtype; a float32 plan rounds the blurred array to float32
before the formula and stores float32, so its results are those of an ideal float32 engine. ``num_threads`` is
accepted and ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

NAME = "reference"
Sums = tuple[float, float, float]


def is_available() -> bool:
    return True


def unavailable_reason() -> str | None:
    return None


def describe() -> dict[str, Any]:
    return {"numpy": np.__version__}


def release_memory() -> None:
    """Nothing is kept."""


def good_size(n: int, *, even: bool = False, last: bool = False) -> int:
    """Smallest length >= n with no prime factor above 7."""
    length = max(int(n), 1)
    while True:
        rest = length
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1 and not (even and length % 2):
            return length
        length += 1


def smallest_divisor(scale: float, dtype: Any) -> float:
    """Lower bound of the ratio's divisor for an image whose largest value is `scale`."""
    return float(scale) * (1e-6 if np.dtype(dtype) == np.float32 else 1e-12)


def _window(box: tuple[tuple[int, int], ...]) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop in box)


class Transfer:
    """A transfer function on the half spectrum of `numpy.fft.rfftn`."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values


class SpectralPlan:
    """Grid and boxes; makes transfers (OTFs) and chains.

    Parameters
    ----------
    grid : tuple of int
        Lengths of the circular transform, 1 to 3 axes.
    estimate_box, image_box : tuple of (start, stop)
        Where the estimate and the image lie in the grid; everything else is zero.
    dtype : dtype
        float32 or float64.
    reach : sequence of (low, high), optional
        For periodic axes of another length than the grid's, whose boxes start at 0: how many values H reads
        before and behind the box. What is loaded is continued that far, into the grid's end and beginning.
    symmetric : bool
        All PSFs are symmetric about their centre: other backends keep the real part of the OTF only, which
        serves sweeps and nothing else.
    """

    def __init__(
        self,
        grid: tuple[int, ...],
        estimate_box: Any,
        image_box: Any,
        dtype: Any,
        reach: Any = (),
        symmetric: bool = False,
    ) -> None:
        self.reach = tuple(reach) or ((0, 0),) * len(grid)
        self.grid = tuple(int(n) for n in grid)
        self.estimate_box = tuple((int(a), int(b)) for a, b in estimate_box)
        self.image_box = tuple((int(a), int(b)) for a, b in image_box)
        self.dtype = np.dtype(dtype)
        for box in (self.estimate_box, self.image_box):
            if len(box) != len(self.grid) or any(
                not 0 <= a < b <= n for (a, b), n in zip(box, self.grid, strict=False)
            ):
                raise ValueError(f"box: got {box}, expected non-empty ranges inside the grid {self.grid}")

    @property
    def workspace_bytes(self) -> int:
        """One OTF and one spectrum in flight."""
        return 2 * 16 * math.prod(self.grid[:-1]) * (self.grid[-1] // 2 + 1)

    def transfer(self, psf: np.ndarray, centre: tuple[int, ...], num_threads: int | None = None) -> Transfer:
        """OTF of `psf`: tap j at grid index (j - centre) mod grid, summed where taps meet."""
        placed = np.zeros(self.grid)
        at = [(np.arange(k) - c) % n for k, c, n in zip(psf.shape, centre, self.grid, strict=True)]
        np.add.at(placed, np.ix_(*at), psf)
        return Transfer(np.fft.rfftn(placed))

    def wiener_transfer(
        self, psf_transfer: Transfer, regularizer_transfer: Transfer, balance: float
    ) -> Transfer:
        """conj(H) / (|H|^2 + balance |R|^2), and 0 where that has no finite value."""
        otf, reg = psf_transfer.values, regularizer_transfer.values
        divisor = np.abs(otf) ** 2 + balance * np.abs(reg) ** 2
        return Transfer(np.divide(otf.conj(), divisor, out=np.zeros_like(otf), where=divisor > 0))

    def gcv(
        self,
        image: np.ndarray,
        psf_transfer: Transfer,
        regularizer_transfer: Transfer,
        balances: np.ndarray,
        num_threads: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """For each balance b the sums over all frequencies of g²|Y|² and of g, g = b|R|² / (|H|² + b|R|²)."""
        placed = np.zeros(self.grid)
        placed[_window(self.image_box)] = image
        power = np.abs(np.fft.rfftn(placed)) ** 2
        h2, r2 = np.abs(psf_transfer.values) ** 2, np.abs(regularizer_transfer.values) ** 2
        # The half spectrum stands for both signs of the last frequency, except where they are the same one.
        count = np.full(power.shape[-1], 2.0)
        count[0] = 1
        if self.grid[-1] % 2 == 0:
            count[-1] = 1
        sums = []
        for balance in np.asarray(balances, dtype=np.float64):
            divisor = h2 + balance * r2
            g = np.divide(balance * r2, divisor, out=np.zeros_like(h2), where=divisor > 0)
            sums.append((float((count * g**2 * power).sum()), float((count * g).sum())))
        numerator, denominator = np.array(sums).T
        return numerator, denominator

    def chain(self, num_threads: int | None = None) -> Chain:
        return Chain(self)


class Chain:
    """The array that the next sweep consumes."""

    def __init__(self, plan: SpectralPlan) -> None:
        self._plan = plan
        self._loaded: np.ndarray | None = None

    def load(self, x: np.ndarray, *, adjoint: bool = False, **operands: Any) -> Sums | None:
        """Take `x`, an estimate or (adjoint) an image; with `previous`, what lies beyond it."""
        x, sums = _finish("copy", x, np.empty_like(x), **operands)
        plan = self._plan
        box = plan.image_box if adjoint else plan.estimate_box
        self._loaded = np.zeros(plan.grid)
        self._loaded[_window(box)] = x
        for axis, ((low, high), (_, stop), n) in enumerate(zip(plan.reach, box, plan.grid, strict=True)):
            if adjoint:  # the transpose reads as far in the other direction
                low, high = high, low
            lines = np.moveaxis(self._loaded, axis, 0)
            if low + high:
                lines[stop : stop + high] = lines[:high]
                lines[n - low :] = lines[stop - low : stop]
        return sums

    def sweep(
        self,
        transfer: Transfer,
        formula: str,
        *,
        adjoint: bool = False,
        keep: bool = True,
        out: np.ndarray | None = None,
        **operands: Any,
    ) -> Sums | None:
        """Apply `transfer` (its adjoint), then `formula`; the result goes to `out` and the next sweep."""
        if self._loaded is None:
            raise RuntimeError("nothing is loaded: call load() first, or keep=True in the sweep before")
        plan = self._plan
        otf = transfer.values.conj() if adjoint else transfer.values
        axes = tuple(range(len(plan.grid)))
        blurred = np.fft.irfftn(np.fft.rfftn(self._loaded) * otf, plan.grid, axes)
        box = plan.estimate_box if adjoint else plan.image_box
        result = np.ascontiguousarray(blurred[_window(box)], dtype=plan.dtype)
        kept, sums = _finish(formula, result, result if out is None else out, **operands)
        self._loaded = None
        if keep:
            self.load(kept, adjoint=not adjoint)
        return sums


class CosinePlan:
    """An image that goes on as its own mirror image (the edge voxel twice), for PSFs that are symmetric along
    every axis: the operator is diagonal in cosine transforms (DCT-II), each a dense matrix here.

    Parameters
    ----------
    shape : tuple of int
        Of the image, 1 to 3 axes; estimates have the same.
    dtype : dtype
        float32 or float64.

    References
    ----------
    S. A. Martucci: Symmetric convolution and the discrete sine and cosine transforms. IEEE Trans. Signal
    Process. 42, 1038 (1994).
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.dtype = np.dtype(dtype)
        self._transforms = []
        for n in self.shape:
            rows = np.cos(np.pi / n * np.outer(np.arange(n), np.arange(n) + 0.5)) * math.sqrt(2 / n)
            rows[0] /= math.sqrt(2)
            self._transforms.append(rows)

    @property
    def workspace_bytes(self) -> int:
        """One transfer function and one spectrum, in float64."""
        return 2 * 8 * math.prod(self.shape)

    def transfer(self, psf: np.ndarray, num_threads: int | None = None) -> np.ndarray:
        """H(k) = sum over offsets d of psf(d) cos(pi k d / n) for each axis.

        `psf` has odd lengths and is symmetric about its centre along every axis.
        """
        if any(k % 2 == 0 for k in psf.shape):
            raise ValueError("psf: expected odd lengths")
        values = psf.astype(np.float64)
        for axis, (n, k) in enumerate(zip(self.shape, psf.shape, strict=True)):
            cosines = np.cos(np.pi / n * np.outer(np.arange(n), np.arange(k) - k // 2))
            values = _along(cosines, values, axis)
        return values

    def apply(self, x: np.ndarray, transfer: np.ndarray, adjoint: bool) -> np.ndarray:
        """There, times H, and back, in float64; the operator is its own transpose."""
        made = x.astype(np.float64)
        for axis, rows in enumerate(self._transforms):
            made = _along(rows, made, axis)
        made = made * transfer
        for axis, rows in enumerate(self._transforms):
            made = _along(rows.T, made, axis)
        return made

    def chain(self, num_threads: int | None = None) -> ArrayChain:
        return ArrayChain(self)


def _along(matrix: np.ndarray, x: np.ndarray, axis: int) -> np.ndarray:
    return np.moveaxis(np.tensordot(matrix, x, (1, axis)), 0, axis)


class SeparablePlan:
    """Boxes of an operator whose PSF is a sum of products of one filter per axis, each a dense matrix here.

    Parameters
    ----------
    estimate_box, image_box : tuple of (start, stop)
        In a common grid.
    boundary : {"zero", "wrap", "reflect", "nearest", "mirror"}
        What lies outside the estimate.
    dtype : dtype
        float32 or float64.
    padded_box : tuple of (start, stop), optional
        The estimate's continued by the boundary as far as the filters reach, under reflect, nearest and
        mirror: what an adjoint sweep writes. The caller adds what lies outside the estimate to what it
        stands for (`fold`).
    mirrored : bool
        Not so, because the boundary is reflect and all filters are symmetric about their centre: H is its
        own transpose, and an adjoint sweep writes the estimate.
    """

    def __init__(
        self,
        estimate_box: Any,
        image_box: Any,
        boundary: str,
        dtype: Any,
        padded_box: Any = None,
        mirrored: bool = False,
    ) -> None:
        self.estimate_box = tuple((int(a), int(b)) for a, b in estimate_box)
        self.image_box = tuple((int(a), int(b)) for a, b in image_box)
        unfolded = estimate_box if mirrored or padded_box is None else padded_box
        self._unfolded = tuple((int(a), int(b)) for a, b in unfolded)
        self.boundary = boundary
        self.dtype = np.dtype(dtype)

    @property
    def workspace_bytes(self) -> int:
        """Two arrays in float64."""
        return 2 * 8 * math.prod(stop - start for start, stop in self._unfolded)

    def transfer(
        self, terms: Any, centre: tuple[int, ...], num_threads: int | None = None
    ) -> tuple[list[list[np.ndarray]], list[list[np.ndarray]]]:
        """Per term one matrix for each axis: image from estimate, and image from what is not folded yet.

        psf[z, y, x] = sum over terms of taps[0][z] taps[1][y] taps[2][x].
        """
        there = [self._matrices(taps, centre, self.estimate_box, self.boundary) for taps in terms]
        if self._unfolded == self.estimate_box:
            return there, there
        return there, [self._matrices(taps, centre, self._unfolded, "zero") for taps in terms]

    def _matrices(self, taps: Any, centre: tuple[int, ...], box: Any, boundary: str) -> list[np.ndarray]:
        matrices = []
        for line, c, (e0, e1), (i0, i1) in zip(taps, centre, box, self.image_box, strict=True):
            matrix = np.zeros((i1 - i0, e1 - e0))
            for j, tap in enumerate(np.asarray(line, np.float64)):
                rows = np.arange(i1 - i0)
                first, n = i0 - e0 - (j - c), e1 - e0
                columns = rows + first
                if boundary != "zero":
                    columns = sources(n, -first, first + len(rows) - n, boundary)
                inside = (columns >= 0) & (columns < n)
                np.add.at(matrix, (rows[inside], columns[inside]), tap)
            matrices.append(matrix)
        return matrices

    def apply(
        self, x: np.ndarray, transfer: tuple[list[list[np.ndarray]], list[list[np.ndarray]]], adjoint: bool
    ) -> np.ndarray:
        """The filters (their transposes) axis by axis, in float64; summed over terms."""
        total: Any = 0.0
        for term in transfer[adjoint]:
            blurred = x.astype(np.float64)
            for axis, matrix in enumerate(term):
                matrix = matrix.T if adjoint else matrix
                blurred = _along(matrix, blurred, axis)
            total = total + blurred
        return np.asarray(total)

    def chain(self, num_threads: int | None = None) -> ArrayChain:
        return ArrayChain(self)


class DirectPlan:
    """Boxes of an operator that is a sum over the PSF's taps, each a shifted copy of the array.

    Parameters
    ----------
    estimate_box, image_box : tuple of (start, stop)
        In a common grid; nothing but zeros outside.
    periodic : bool
        Both boxes are the whole grid, which wraps around.
    dtype : dtype
        float32 or float64.
    """

    def __init__(self, estimate_box: Any, image_box: Any, periodic: bool, dtype: Any) -> None:
        self.estimate_box = tuple((int(a), int(b)) for a, b in estimate_box)
        self.image_box = tuple((int(a), int(b)) for a, b in image_box)
        self.periodic = periodic
        self.dtype = np.dtype(dtype)

    @property
    def workspace_bytes(self) -> int:
        """Two arrays in float64."""
        return 2 * 8 * math.prod(stop - start for start, stop in self.estimate_box)

    def transfer(
        self, psf: np.ndarray, centre: tuple[int, ...], num_threads: int | None = None
    ) -> tuple[np.ndarray, tuple[int, ...]]:
        return psf.astype(np.float64), tuple(centre)

    def apply(self, x: np.ndarray, transfer: tuple[np.ndarray, tuple[int, ...]], adjoint: bool) -> np.ndarray:
        """y[i] = sum over j of h[j] x[i - (j - c)], its transpose reads x[i + (j - c)]; in float64."""
        psf, centre = transfer
        sides = (self.image_box, self.estimate_box) if adjoint else (self.estimate_box, self.image_box)
        blurred = np.zeros([stop - start for start, stop in sides[1]])
        source = x.astype(np.float64)
        for tap in np.ndindex(psf.shape):
            shift = [c - j if not adjoint else j - c for j, c in zip(tap, centre, strict=True)]
            if self.periodic:
                blurred += psf[tap] * np.roll(source, [-s for s in shift], tuple(range(source.ndim)))
                continue
            to, take = [], []
            for (s0, s1), (d0, d1), s in zip(*sides, shift, strict=True):
                # destination i (in the grid) takes source i + s, as far as both exist
                first, last = max(d0, s0 - s), min(d1, s1 - s)
                last = max(first, last)
                to.append(slice(first - d0, last - d0))
                take.append(slice(first + s - s0, last + s - s0))
            if all(t.stop > t.start for t in to):
                blurred[tuple(to)] += psf[tap] * source[tuple(take)]
        return blurred

    def chain(self, num_threads: int | None = None) -> ArrayChain:
        return ArrayChain(self)


class OverlapPlan(DirectPlan):
    """Boxes of which one axis is longer than 1; other backends cut it into overlapping segments."""

    def apply(self, x: np.ndarray, transfer: tuple[np.ndarray, tuple[int, ...]], adjoint: bool) -> np.ndarray:
        """As `DirectPlan.apply`, in one call of `numpy.convolve` or `numpy.correlate`."""
        psf, centres = transfer
        axis = int(np.argmax([stop - start for start, stop in self.estimate_box]))
        source_box, box = (
            (self.image_box, self.estimate_box) if adjoint else (self.estimate_box, self.image_box)
        )
        (s0, s1), (d0, d1) = source_box[axis], box[axis]
        before = centres[axis] if adjoint else psf.size - 1 - centres[axis]
        at = np.arange(d0 - before, d1 - before + psf.size - 1) - s0
        source = x.astype(np.float64).ravel()[at % (s1 - s0)]
        if not self.periodic:
            source = np.where((at >= 0) & (at < s1 - s0), source, 0.0)
        along = np.correlate if adjoint else np.convolve
        return along(source, psf.ravel(), "valid").reshape([stop - start for start, stop in box])


class ArrayChain:
    """The array that the next sweep consumes."""

    def __init__(self, plan: CosinePlan | SeparablePlan | DirectPlan) -> None:
        self._plan = plan
        self._loaded: np.ndarray | None = None

    def load(self, x: np.ndarray, *, adjoint: bool = False, **operands: Any) -> Sums | None:
        """Take `x`, an estimate or (adjoint) an image; with `previous`, what lies beyond it."""
        self._loaded, sums = _finish("copy", x, np.empty_like(x), **operands)
        return sums

    def sweep(
        self,
        transfer: Any,
        formula: str,
        *,
        adjoint: bool = False,
        keep: bool = True,
        out: np.ndarray | None = None,
        **operands: Any,
    ) -> Sums | None:
        """Apply `transfer` (its adjoint), then `formula`; the result goes to `out` and the next sweep."""
        if self._loaded is None:
            raise RuntimeError("nothing is loaded: call load() first, or keep=True in the sweep before")
        blurred = self._plan.apply(self._loaded, transfer, adjoint)
        result = np.ascontiguousarray(blurred, dtype=self._plan.dtype)
        kept, sums = _finish(formula, result, result if out is None else out, **operands)
        self._loaded = kept if keep else None
        return sums


def apply_formula(
    formula: str, c: np.ndarray, out: np.ndarray, *, num_threads: int | None = None, **operands: Any
) -> Sums | None:
    """The pointwise formula alone; `c` is the blurred array, or under ``multiply`` the correction."""
    return _finish(formula, c, out, **operands)[1]


def _finish(
    formula: str,
    c: np.ndarray,
    out: np.ndarray,
    *,
    previous: np.ndarray | None = None,
    alpha: float = 0.0,
    extrapolated: np.ndarray | None = None,
    partial: np.ndarray | None = None,
    sums: bool = False,
    unit: float = 1.0,
    **operands: Any,
) -> tuple[np.ndarray, Sums | None]:
    """The formula; what the next sweep gets: the result, or where it moves to beyond `previous`; the sums.

    Sums are of values times `unit`. ratio: I-divergence, squared residual, I-divergence of the held-out
    image, times the weights; residual: 0 and the squared residual; multiply, add: squared change, squared
    result, change times earlier change; copy: squared difference from `previous`, squared result.
    """
    if extrapolated is not None and previous is None:
        raise ValueError("extrapolated: needs previous")
    earlier = None if previous is None else previous.copy()  # it may be `out`
    if partial is not None:  # known before: other terms, a background that varies
        c = c + partial
    terms = _FORMULAS[formula](c, out, **operands)
    ahead = out
    if earlier is not None:
        ahead = np.maximum(out + c.dtype.type(alpha) * (out - earlier), 0)
        if extrapolated is not None:
            extrapolated[...] = ahead
            ahead = extrapolated
    if not sums:
        return ahead, None
    if formula == "copy":
        return ahead, Terms(squares=((0.0 if earlier is None else out - earlier), out)).summed(unit)
    return ahead, terms().summed(unit)


class Terms(NamedTuple):
    """What a formula has to say to stopping rules, voxel by voxel; squares and products of pairs."""

    linear: Any = 0.0
    squares: tuple[Any, Any] = (0.0, 0.0)
    product: tuple[Any, Any] = (0.0, 0.0)
    weights: Any = 1.0

    def summed(self, unit: float) -> Sums:
        def total(values: Any) -> float:
            return float(np.sum(np.asarray(values, np.float64) * self.weights))

        squares = [total(np.square(np.multiply(x, unit, dtype=np.float64))) for x in self.squares]
        if np.ndim(self.linear):
            return total(self.linear) * unit, squares[1], squares[0]
        a, b = self.product
        product = np.multiply(a, unit, dtype=np.float64) * np.multiply(b, unit, dtype=np.float64)
        return squares[0], squares[1], float(np.sum(product))


def _divergence(image: np.ndarray, model: np.ndarray) -> np.ndarray:
    """image log(image / model) - image + model, without cancellation where they agree."""
    image, model = image.astype(np.float64), model.astype(np.float64)
    difference = (image - model) / model
    with np.errstate(divide="ignore", invalid="ignore"):
        far = np.where(image > 0, (1 + difference) * np.log1p(difference), 0.0) - difference
    # (1 + d) log(1 + d) - d = d²/2 - d³/6 + d⁴/12 - ...
    near = difference**2 * (1 / 2 - difference / 6 + difference**2 / 12)
    return model * np.where(np.abs(difference) < 1e-4, near, far)


def _copy(c: np.ndarray, out: np.ndarray) -> Callable[[], Terms]:
    out[...] = c
    return Terms


def _ratio(
    c: np.ndarray,
    out: np.ndarray,
    *,
    image: np.ndarray,
    weights: np.ndarray | None = None,
    background: float = 0.0,
    eps: float = 0.0,
    damping: np.ndarray | None = None,
    held_out: np.ndarray | None = None,
    held_out_scale: float = 1.0,
) -> Callable[[], Terms]:
    kind = c.dtype.type
    model = np.maximum(c + kind(background), kind(eps))
    ratio = image / model
    if damping is not None:  # R. L. White, ASP Conf. Ser. 61, 292 (1994), with N = 10
        u = np.minimum(_divergence(image, model) * damping, 1)
        ratio = (1 + u**9 * (10 - 9 * u) * (ratio - 1)).astype(c.dtype)
    out[...] = ratio if weights is None else weights * ratio
    return lambda: Terms(
        linear=_divergence(image, model),
        squares=(0.0 if held_out is None else held_out - model * kind(held_out_scale), image - model),
        weights=1.0 if weights is None else weights,
    )


def _multiply(
    c: np.ndarray,
    out: np.ndarray,
    *,
    estimate: np.ndarray,
    gain: np.ndarray | None = None,
    factor: np.ndarray | None = None,
    change: np.ndarray | None = None,
) -> Callable[[], Terms]:
    if factor is not None:
        c = c * factor
    # FFT rounding can push a correction slightly below zero; the estimate stays non-negative.
    updated = np.maximum(estimate * (c if gain is None else c * gain), 0)
    return _moved(updated if gain is None else np.where(gain > 0, updated, estimate), estimate, change, out)


def _moved(
    updated: np.ndarray, estimate: np.ndarray, change: np.ndarray | None, out: np.ndarray
) -> Callable[[], Terms]:
    with np.errstate(invalid="ignore"):  # kernels say nothing of Inf and NaN either
        now = updated - estimate
    earlier = 0.0 if change is None else change.copy()
    if change is not None:
        change[...] = now
    out[...] = updated
    return lambda: Terms(squares=(now, updated), product=(now, earlier))


def _residual(
    c: np.ndarray,
    out: np.ndarray,
    *,
    image: np.ndarray,
    weights: np.ndarray | None = None,
    background: float = 0.0,
) -> Callable[[], Terms]:
    residual = image - (c + c.dtype.type(background))
    out[...] = residual if weights is None else weights * residual
    return lambda: Terms(squares=(0.0, residual), weights=1.0 if weights is None else weights)


def _add(
    c: np.ndarray,
    out: np.ndarray,
    *,
    estimate: np.ndarray,
    gain: np.ndarray | None = None,
    factor: np.ndarray | None = None,
    change: np.ndarray | None = None,
    step: float = 1.0,
    positive: bool = False,
) -> Callable[[], Terms]:
    if factor is not None:
        c = c * factor
    updated = estimate + c.dtype.type(step) * (c if gain is None else c * gain)
    return _moved(np.maximum(updated, 0) if positive else updated, estimate, change, out)


_FORMULAS: dict[str, Callable[..., Callable[[], Terms]]] = {
    "copy": _copy,
    "ratio": _ratio,
    "multiply": _multiply,
    "residual": _residual,
    "add": _add,
}


def penalty(
    kind: str,
    x: np.ndarray,
    out: np.ndarray,
    spacing: tuple[float, ...],
    weight: float,
    level: float,
    *,
    num_threads: int | None = None,
) -> None:
    """What a regularizer multiplies a correction by: out = 1 / max(1 + weight dU/dx, 0.1).

    Gradients are in units of the smallest of `spacing`, the voxel size; beyond the array lies its edge.

    ==============  ========================  ============================  ======================
    kind            U                         dU/dx
    ==============  ========================  ============================  ======================
    tv              sum |grad x|              -div(grad x / |grad x|)       Dey et al. 2006
    tikhonov        sum |grad x|² / level     -2 laplacian(x) / level       Dey et al. 2004
    good-roughness  sum |grad x|² / x         -4 laplacian(sqrt x) / sqrt x Verveer and Jovin 1997
    entropy         sum x log(x / level) - x  log(x / level)                Frieden 1972
    ==============  ========================  ============================  ======================
    """
    wide = x.astype(np.float64)
    real = [axis for axis in range(x.ndim) if x.shape[axis] > 1]
    smallest = min((spacing[axis] for axis in real), default=1.0)
    inverse = {axis: smallest / spacing[axis] for axis in real}

    def forward(a: np.ndarray, axis: int) -> np.ndarray:  # 0 at the far edge
        return np.diff(a, axis=axis, append=np.take(a, [-1], axis)) * inverse[axis]

    def backward(g: np.ndarray, axis: int) -> np.ndarray:  # minus the transpose of `forward`
        return np.diff(g, axis=axis, prepend=0.0) * inverse[axis]

    def laplacian(a: np.ndarray) -> Any:
        return sum(backward(forward(a, axis), axis) for axis in real)

    slope: Any
    if kind == "tv":
        gradient = [forward(wide, axis) for axis in real]
        length = np.sqrt(sum((g**2 for g in gradient), (1e-5 * level) ** 2))
        slope = -sum((backward(g / length, axis) for g, axis in zip(gradient, real, strict=True)), 0.0)
    elif kind == "tikhonov":
        slope = -2 / level * laplacian(wide)
    elif kind == "good-roughness":
        root = np.sqrt(np.maximum(wide, 1e-6 * level))
        slope = -4 * laplacian(root) / root
    elif kind == "entropy":
        slope = np.log(np.maximum(wide / level, 1e-6))
    else:
        raise ValueError(f"kind: got {kind!r}, expected tv, tikhonov, good-roughness or entropy")
    out[...] = 1 / np.maximum(1 + weight * slope, 0.1)


def denoised(
    z: np.ndarray,
    dual: np.ndarray,
    out: np.ndarray,
    weight: tuple[float, ...],
    lowest: float,
    *,
    num_threads: int | None = None,
) -> None:
    """out = max(z + div(weight * dual), lowest): the image that a total-variation dual stands for.

    `dual` has the components of one vector per voxel along its first axis, one for each axis of `z` longer
    than 1; `weight` has a number for every axis. A component is 0 where its axis ends.
    """
    wide = z.astype(np.float64)
    for component, axis in zip(dual, _long_axes(z), strict=True):
        wide += weight[axis] * np.diff(component.astype(np.float64), axis=axis, prepend=0.0)
    np.maximum(wide, lowest, out=out, casting="same_kind")


def denoise_step(
    z: np.ndarray,
    ahead: np.ndarray,
    dual: np.ndarray,
    weight: tuple[float, ...],
    step: tuple[float, ...],
    momentum: float,
    lowest: float,
    *,
    num_threads: int | None = None,
) -> None:
    """One step of fast gradient projection (Beck and Teboulle 2009), in place: from `ahead` along the
    gradient of what it stands for (`denoised`) times `step`, projected onto vectors of length at most 1, to
    the new `dual`; the new `ahead` lies `momentum` times the change beyond it.
    """
    x = np.empty(z.shape)
    denoised(z, ahead, x, weight, lowest)
    moved = ahead.astype(np.float64)
    for component, axis in zip(moved, _long_axes(z), strict=True):
        component += step[axis] * np.diff(x, axis=axis, append=np.take(x, [-1], axis))
    moved /= np.maximum(np.sqrt(np.square(moved).sum(axis=0)), 1)
    change = moved - dual
    dual[...] = moved
    ahead[...] = moved + momentum * change


def _long_axes(array: np.ndarray) -> list[int]:
    return [axis for axis, n in enumerate(array.shape) if n > 1]


def sources(n: int, low: int, high: int, boundary: str) -> np.ndarray:
    """For each index of the padded axis, the index inside it that it repeats."""
    i = np.arange(-low, n + high)
    if boundary == "nearest" or (boundary == "mirror" and n == 1):
        return np.clip(i, 0, n - 1)
    if boundary == "wrap":
        return i % n
    if boundary == "reflect":  # d c b a | a b c d | d c b a
        i = i % (2 * n)
        return np.where(i < n, i, 2 * n - 1 - i)
    if boundary == "mirror":  # d c b | a b c d | c b a
        i = i % (2 * n - 2)
        return np.where(i < n, i, 2 * n - 2 - i)
    raise ValueError(f"boundary: got {boundary!r}, expected reflect, nearest, mirror or wrap")


def resident(array: np.ndarray) -> np.ndarray:
    """The array where the backend computes."""
    return array


def pad(
    x: np.ndarray,
    low: tuple[int, ...],
    high: tuple[int, ...],
    boundary: str,
    num_threads: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """`x` continued by `low` voxels before and `high` behind each axis, as `boundary` says."""
    for axis, (a, b) in enumerate(zip(low, high, strict=True)):
        x = np.take(x, sources(x.shape[axis], a, b, boundary), axis=axis)
    return _placed(x, out)


def _placed(made: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    if out is None:
        return np.ascontiguousarray(made)
    out[...] = made
    return out


def fold(
    y: np.ndarray,
    low: tuple[int, ...],
    high: tuple[int, ...],
    boundary: str,
    num_threads: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The exact transpose of `pad`: every padded voxel is added to the one that it repeats."""
    for axis, (a, b) in enumerate(zip(low, high, strict=True)):
        padded = np.moveaxis(y, axis, 0)
        n = len(padded) - a - b
        folded = np.zeros((n, *padded.shape[1:]), y.dtype)
        for i, source in enumerate(sources(n, a, b, boundary)):
            folded[source] += padded[i]
        y = np.moveaxis(folded, 0, axis)
    return _placed(y, out)


_NUMPY_MODES: dict[str, Any] = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Memory for a result."""
    return np.empty(shape, dtype)


# NaN and Inf spread through convolutions as they do through any sum, without a warning.
_quiet = np.errstate(over="ignore", invalid="ignore")


class ConvPlan:
    """Convolution of networks (cross-correlation) and its two transposes.

    ``out[n, o, p] = bias[o] + sum over c, k of w[o, c, k] * padded[n, c, p * stride + k * dilation]``

    Parameters
    ----------
    input_shape : tuple of int
        (N, C, *spatial), 1 to 3 spatial axes.
    weight_shape : tuple of int
        (O, C / groups, *kernel).
    stride, dilation : tuple of int
        Per spatial axis.
    padding : tuple of (low, high)
        Per spatial axis, not negative.
    groups : int
    padding_mode : {"zeros", "reflect", "replicate", "circular"}
        "reflect" does not repeat the edge.
    dtype : dtype
        float32 or float64: of all arrays.
    exact : bool
        Other backends then keep to kernel families that sum the products as they are.
    """

    family = "reference"

    def __init__(
        self,
        input_shape: tuple[int, ...],
        weight_shape: tuple[int, ...],
        stride: tuple[int, ...],
        padding: tuple[tuple[int, int], ...],
        dilation: tuple[int, ...],
        groups: int,
        padding_mode: str,
        dtype: Any,
        exact: bool = False,
    ) -> None:
        self.input_shape = tuple(input_shape)
        self.weight_shape = tuple(weight_shape)
        self.dtype = np.dtype(dtype)
        self._stride, self._padding, self._dilation = tuple(stride), tuple(padding), tuple(dilation)
        self._groups, self._mode = groups, padding_mode
        self._padded = tuple(
            low + n + high for n, (low, high) in zip(self.input_shape[2:], self._padding, strict=True)
        )
        self._lengths = tuple(
            (n - d * (k - 1) - 1) // s + 1
            for n, d, k, s in zip(
                self._padded, self._dilation, self.weight_shape[2:], self._stride, strict=True
            )
        )
        self.output_shape = (self.input_shape[0], self.weight_shape[0], *self._lengths)

    @property
    def workspace_bytes(self) -> int:
        """Padded input and result in float64."""
        padded = math.prod((*self.input_shape[:2], *self._padded))
        return 8 * (padded + math.prod(self.output_shape))

    def _taps(self) -> Any:
        """Each tap of the kernel, and the window of the padded input that it is multiplied with."""
        for tap in np.ndindex(self.weight_shape[2:]):
            yield (
                tap,
                tuple(
                    slice(k * d, k * d + s * (n - 1) + 1, s)
                    for k, d, s, n in zip(tap, self._dilation, self._stride, self._lengths, strict=True)
                ),
            )

    def _grouped(self, x: np.ndarray) -> np.ndarray:
        """(N, channels, *spatial) -> (N, groups, channels per group, *spatial), in float64."""
        groups = self._groups
        return x.astype(np.float64).reshape(len(x), groups, x.shape[1] // groups, *x.shape[2:])

    def _sources(self, axis: int) -> np.ndarray:
        """For each index of the padded axis, the index inside it that it repeats."""
        return np.pad(np.arange(self.input_shape[2 + axis]), self._padding[axis], _NUMPY_MODES[self._mode])

    def _pad(self, x: np.ndarray) -> np.ndarray:
        before = x.ndim - len(self._padding)
        if self._mode == "zeros":
            return np.pad(x, ((0, 0),) * before + self._padding)
        for axis in range(len(self._padding)):
            x = np.take(x, self._sources(axis), axis=before + axis)
        return x

    def _fold(self, y: np.ndarray) -> np.ndarray:
        """The exact transpose of `_pad`."""
        before = y.ndim - len(self._padding)
        for axis, (low, _) in enumerate(self._padding):
            n = self.input_shape[2 + axis]
            padded = np.moveaxis(y, before + axis, 0)
            if self._mode == "zeros":
                folded = padded[low : low + n]
            else:
                folded = np.zeros((n, *padded.shape[1:]))
                np.add.at(folded, self._sources(axis), padded)
            y = np.moveaxis(folded, 0, before + axis)
        return y

    @_quiet
    def forward(
        self,
        x: np.ndarray,
        w: np.ndarray,
        bias: np.ndarray | None,
        out: np.ndarray,
        *,
        relu: bool = False,
        addend: np.ndarray | None = None,
        slope: float = 0.0,
        num_threads: int | None = None,
    ) -> None:
        """The convolution of `x`; `out` is overwritten."""
        padded = self._pad(self._grouped(x))
        weight = w.astype(np.float64).reshape(self._groups, -1, *w.shape[1:])
        total = np.zeros((len(x), self._groups, w.shape[0] // self._groups, *self._lengths))
        for tap, window in self._taps():
            total += np.einsum("ngc...,goc->ngo...", padded[(..., *window)], weight[(..., *tap)])
        _store(total, bias, out, relu, addend, slope)

    @_quiet
    def input_grad(
        self,
        grad: np.ndarray,
        w: np.ndarray,
        bias: np.ndarray | None,
        out: np.ndarray,
        *,
        relu: bool = False,
        addend: np.ndarray | None = None,
        slope: float = 0.0,
        num_threads: int | None = None,
    ) -> None:
        """The exact transpose of `forward` in `x`: a transposed convolution, with a bias of its own."""
        y = self._grouped(grad)
        weight = w.astype(np.float64).reshape(self._groups, -1, *w.shape[1:])
        total = np.zeros((len(grad), self._groups, w.shape[1], *self._padded))
        for tap, window in self._taps():
            total[(..., *window)] += np.einsum("ngo...,goc->ngc...", y, weight[(..., *tap)])
        _store(self._fold(total), bias, out, relu, addend, slope)

    @_quiet
    def weight_grad(
        self, grad: np.ndarray, x: np.ndarray, out: np.ndarray, *, num_threads: int | None = None
    ) -> None:
        """The gradient of ``sum(forward(x) * grad)`` to `w`."""
        padded, y = self._pad(self._grouped(x)), self._grouped(grad)
        total = np.empty((self._groups, out.shape[0] // self._groups, *out.shape[1:]))
        axes = "xyz"[: len(self._lengths)]
        for tap, window in self._taps():
            total[(..., *tap)] = np.einsum(f"ngo{axes},ngc{axes}->goc", y, padded[(..., *window)])
        out[...] = total.reshape(out.shape)


def _store(
    total: np.ndarray,
    bias: np.ndarray | None,
    out: np.ndarray,
    relu: bool,
    addend: np.ndarray | None,
    slope: float,
) -> None:
    result = total.reshape(out.shape)
    if bias is not None:
        result = result + bias.astype(np.float64).reshape(-1, *(1,) * (out.ndim - 2))
    out[...] = result
    if addend is not None:
        out += addend.reshape(out.shape)
    if relu:
        negative = out < 0
        out[negative] = out[negative] * out.dtype.type(slope) if slope else 0  # 0 times infinity is no number


@_quiet
def sum_channels(x: np.ndarray, out: np.ndarray, *, num_threads: int | None = None) -> None:
    """Sum over all axes but the second: (N, C, *spatial) -> (C,)."""
    out[...] = x.sum(axis=(0, *range(2, x.ndim)), dtype=np.float64)
