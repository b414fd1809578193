"""The PSF's side of blind Richardson-Lucy: where it begins, what it is confined to, and one step of it."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .. import _arrays, _validate
from .. import psf as psf_module
from .._blur import FOLDED, Blur, Operator
from .._convolution import window_of_full
from . import _options, _start
from ._iteration import Model
from ._start import SMALLEST_NORMALIZER

SYMMETRIES = ("point", "axial")
# A PSF that is given by its shape begins as a Gaussian whose full width is this part of it.
START_WIDTH = 1 / 3
# Up to so many taps the PSF's correction is a sum over them; beyond, transforms are faster. On a line, of an
# image, of a volume.
MOST_SUMMED_TAPS = (4096, 256, 150)
COLLAPSED = 0.9  # of the PSF in one voxel: the trivial solution
AT_BORDER = 0.25  # of the largest value: the PSF goes on beyond its array


@dataclass(frozen=True)
class Form:
    """What the PSF is confined to: where it may be positive, and the sets of axes that mirror it together."""

    allowed: np.ndarray
    mirrors: tuple[tuple[int, ...], ...]

    def tied(self, values: np.ndarray) -> np.ndarray:
        """Means over the voxels that the mirrors make equal; exactly symmetric inside the support."""
        for axes in self.mirrors:
            values = (values + _mirrored(values, axes)) / 2
        return values


def _mirrored(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """About ``shape // 2``; zeros where an axis of even length has no partner."""
    inner = tuple(slice(int(a in axes and n % 2 == 0), None) for a, n in enumerate(values.shape))
    result = np.zeros_like(values)
    result[inner] = np.flip(values[inner], axes)
    return result


def _mirrors(symmetry: Any, ndim: int) -> tuple[tuple[int, ...], ...]:
    """The sets of axes of a call's ``symmetry=``."""
    if symmetry is None:
        return ()
    found: list[tuple[int, ...]] = []
    for item in symmetry if isinstance(symmetry, tuple) else (symmetry,):
        if isinstance(item, str):
            kind = _validate.choice(item, "symmetry", SYMMETRIES)
            found += [tuple(range(ndim))] if kind == "point" else [(axis,) for axis in range(ndim)]
        else:
            found.append((_validate.integer(item, "symmetry", minimum=-ndim, maximum=ndim - 1) % ndim,))
    return tuple(dict.fromkeys(found))


def first_psf(
    psf: Any,
    shape: tuple[int, ...],
    support: Any,
    symmetry: Any,
    voxel_size: Any,
    psf_voxel_size: Any,
    notes: list[str],
) -> tuple[np.ndarray, Form, dict[str, Any]]:
    """The PSF to begin with (float64, sum 1), its form, and the settings of voxel sizes."""
    ndim = len(shape)
    lengths = _lengths(psf, ndim)
    if lengths is None:
        values, _ = _arrays.as_psf(psf, ndim, normalize=True)
        _validate.non_negative(values, "psf", float(values.min()))
        values, settings = _options.psf_on_grid(values, ndim, voxel_size, psf_voxel_size)
        values = np.maximum(values, 0)  # resampling rings a little
    else:
        if psf_voxel_size is not None:
            raise ValueError("psf_voxel_size: got one together with only the shape of a psf, expected None")
        widths = tuple(START_WIDTH * n if n > 1 else 0.0 for n in lengths)
        values, settings = _options.psf_on_grid(
            psf_module.gaussian(widths, (1.0,) * ndim, lengths), ndim, voxel_size, None
        )
    if any(k > n for k, n in zip(values.shape, shape, strict=True)):
        raise ValueError(f"psf: got shape {values.shape}, expected at most the image's {shape} on every axis")
    allowed = np.ones(values.shape, bool)
    if support is not None:
        mask, _ = _arrays.to_numpy(support, "support")
        _validate.same_shape(mask, "support", values.shape, "psf")
        allowed = mask != 0
    mirrors = _mirrors(symmetry, ndim)
    for axes in mirrors:
        allowed = allowed & _mirrored(allowed, axes)
    form = Form(allowed, mirrors)
    inside = np.where(allowed, values, 0)
    kept = float(inside.sum() / values.sum())
    if np.count_nonzero(inside) < 2:
        raise ValueError(
            f"psf: got {np.count_nonzero(inside)} positive voxels within its support, expected at least two: "
            "a psf of one voxel stays one"
        )
    if lengths is None and kept < 0.99:
        note = f"psf: {100 * (1 - kept):.1f} % of it lies outside its support and symmetry and is left out"
        notes.append(note)
        warnings.warn(note, UserWarning, stacklevel=3)
    inside = form.tied(inside)
    return inside / inside.sum(), form, settings


def _lengths(psf: Any, ndim: int) -> tuple[int, ...] | None:
    """The shape that stands for a PSF: a number, or a tuple of as many as the image has axes."""
    if isinstance(psf, int | np.integer):
        psf = (psf,) * ndim
    elif not isinstance(psf, tuple) or len(psf) != ndim or any(np.ndim(n) for n in psf):
        return None
    return tuple(_validate.integer(n, f"psf[{axis}]", minimum=1) for axis, n in enumerate(psf))


def doubts_of(kernel: np.ndarray) -> list[str]:
    """What speaks against the PSF that was found."""
    peak = float(kernel.max())
    if peak > COLLAPSED:
        return [
            f"psf: {100 * peak:.0f} % of it came to lie in one voxel: the image explains itself. Begin with "
            "a wider psf or end earlier, unless the image is not blurred at all"
        ]
    edge = np.zeros(kernel.shape, bool)
    for axis, n in enumerate(kernel.shape):
        if n > 2:
            np.moveaxis(edge, axis, 0)[[0, -1]] = True
    highest = float(kernel[edge].max(initial=0.0))
    if highest > AT_BORDER * peak:
        return [
            f"psf: at the border of its {kernel.shape} voxels it still has {100 * highest / peak:.0f} % of "
            "its largest value; a larger array may be needed"
        ]
    return []


# ---------------------------------------------------------------- one step of the PSF


class Roles(Protocol):
    """The estimate as an operator on the PSF."""

    continued: np.ndarray
    workspace_bytes: int

    def correction(self, kernel: np.ndarray, operands: dict[str, Any]) -> np.ndarray:
        """The transpose of weights * image / model."""

    def transpose(self, values: np.ndarray) -> np.ndarray:
        """From the image's shape to the PSF's."""


class _Transforms:
    """By a spectral plan whose transfer function is the estimate's transform."""

    def __init__(self, continued: np.ndarray, psf_shape: tuple[int, ...], operator: Operator) -> None:
        starts = tuple(k - 1 for k in psf_shape)
        lengths = tuple(n - start for n, start in zip(continued.shape, starts, strict=True))
        layout = window_of_full(psf_shape, continued.shape, starts, lengths, operator.backend)
        self.continued = continued
        self._operator = Operator(continued, layout, "zero", operator.backend, operator.num_threads)
        self.workspace_bytes = self._operator.workspace_bytes + continued.nbytes

    def correction(self, kernel: np.ndarray, operands: dict[str, Any]) -> np.ndarray:
        chain = self._operator.begin(kernel)
        chain.sweep("ratio", **operands)
        result = np.empty_like(kernel)
        chain.sweep("copy", adjoint=True, keep=False, out=result)
        return result

    def transpose(self, values: np.ndarray) -> np.ndarray:
        return self._operator.apply(values, adjoint=True)


class _Sums:
    """By the kernels of networks, whose convolution is a correlation with the mirrored PSF."""

    def __init__(self, continued: np.ndarray, psf_shape: tuple[int, ...], operator: Operator) -> None:
        self.continued = continued
        self._input = continued[None, None]
        self._backend, self._num_threads = operator.backend, operator.num_threads
        axes = len(psf_shape)
        self._plan = self._backend.ConvPlan(
            self._input.shape,
            (1, 1, *psf_shape),
            (1,) * axes,
            ((0, 0),) * axes,
            (1,) * axes,
            1,
            "zeros",
            continued.dtype,
            True,
        )
        self._blurred = np.empty(self._plan.output_shape, continued.dtype)
        self.workspace_bytes = self._plan.workspace_bytes + continued.nbytes + 2 * self._blurred.nbytes

    def correction(self, kernel: np.ndarray, operands: dict[str, Any]) -> np.ndarray:
        mirrored = np.ascontiguousarray(np.flip(kernel))[None, None]
        self._plan.forward(self._input, mirrored, None, self._blurred, num_threads=self._num_threads)
        ratio = self._blurred[0, 0]
        self._backend.apply_formula("ratio", ratio, ratio, num_threads=self._num_threads, **operands)
        return self.transpose(ratio)

    def transpose(self, values: np.ndarray) -> np.ndarray:
        result = np.empty(self._plan.weight_shape, values.dtype)
        self._plan.weight_grad(values[None, None], self._input, result, num_threads=self._num_threads)
        return np.flip(result[0, 0])


def exchanged(continued: np.ndarray, psf_shape: tuple[int, ...], operator: Operator) -> Roles:
    """By whichever way is faster; depends on shapes only."""
    axes = max(sum(n > 1 for n in continued.shape), 1)
    kind = _Sums if math.prod(psf_shape) <= MOST_SUMMED_TAPS[axes - 1] else _Transforms
    return kind(continued, psf_shape, operator)


def continued_estimate(estimate: np.ndarray, blur: Blur, operator: Operator) -> np.ndarray:
    """As far beyond the image as the PSF reaches: what every voxel of the image is a sum of."""
    if blur.boundary == "extended":
        return estimate
    if blur.boundary in FOLDED:
        return operator.pad(estimate)
    reach = [(k - 1 - k // 2, k // 2) for k in blur.psf.shape]
    if blur.boundary == "wrap":
        return np.pad(estimate, reach, mode="wrap")
    return np.pad(estimate, reach)


def _window_sums(values: np.ndarray, counts: tuple[int, ...]) -> np.ndarray:
    """Sums over the windows that begin at each of the first `counts` voxels and leave as many less 1 out."""
    sums = values
    for axis, count in enumerate(counts):
        lines = np.moveaxis(sums, axis, 0)
        n = len(lines) - count + 1
        inside = lines[count - 1 : n].sum(axis=0, dtype=np.float64)
        windows = np.broadcast_to(inside, (count, *inside.shape)).copy()
        # What only some windows hold: the lines before the part that all have, and those behind it.
        windows[:-1] += np.cumsum(lines[: count - 1][::-1], axis=0, dtype=np.float64)[::-1]
        windows[1:] += np.cumsum(lines[n:], axis=0, dtype=np.float64)
        sums = np.moveaxis(windows, 0, axis)
    return sums


def gain_of(
    kernel: np.ndarray, blur: Blur, operator: Operator, data: np.ndarray, trust: np.ndarray | None
) -> np.ndarray | None:
    """What `_start.gain_of` gives, by sums of the PSF where it can: it changes with every update."""
    if trust is not None or blur.boundary not in ("extended", "zero"):
        return _start.gain_of(blur, operator, data, trust, matched=True)
    # A voxel near the border misses the part of the PSF that reaches outside: a sum over a box of it.
    sums = kernel
    rows = []
    for axis, (k, n) in enumerate(zip(kernel.shape, blur.shape, strict=True)):
        zero = np.zeros_like(np.take(sums, [0], axis))
        cumulated = np.moveaxis(np.concatenate([zero, np.cumsum(sums, axis)], axis), axis, 0)
        # From the last value of the PSF alone to all of it, and from all but the last to the first alone.
        ends = [cumulated[k:] - cumulated[k - 1 :: -1], cumulated[k - 1 : 0 : -1]]
        sums = np.moveaxis(np.concatenate(ends), 0, axis)
        place = np.arange(n + k - 1)
        rows.append(np.where(place < n, np.minimum(place, k - 1), place - n + k))
    seen = sums >= SMALLEST_NORMALIZER
    gain = np.divide(1, sums, out=np.zeros_like(sums), where=seen).astype(operator.dtype)
    for axis, row in enumerate(rows):
        if blur.boundary == "zero":
            before = kernel.shape[axis] - 1 - kernel.shape[axis] // 2
            row = row[before : before + blur.shape[axis]]
        gain = np.take(gain, row, axis)
    return np.ascontiguousarray(gain)


def improved_psf(kernel: np.ndarray, roles: Roles, model: Model, form: Form, count: int) -> np.ndarray:
    """The PSF after `count` updates with the same estimate; not brought to sum 1."""
    if model.weights is None:
        seen = np.flip(_window_sums(roles.continued, kernel.shape))
    else:
        seen = roles.transpose(model.weights)
    seen = form.tied(seen.astype(np.float64))
    known = seen >= SMALLEST_NORMALIZER * float(seen.max())
    for _ in range(count):
        correction = roles.correction(kernel.astype(roles.continued.dtype), model.operands())
        tied = np.maximum(form.tied(correction.astype(np.float64)), 0)
        # Voxels that are equal take the same step: their correction over all that they see.
        factor = np.divide(tied, seen, out=np.ones_like(seen), where=known)
        kernel = np.where(form.allowed, kernel * factor, 0)
    return kernel
