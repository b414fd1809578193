"""Richardson-Lucy deconvolution: two sweeps per iteration."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _arrays, _validate
from .._blur import Blur
from .._threads import resolve_num_threads
from . import _options

DEFAULT_ITERATIONS = 30
# Below this share of the largest possible normalizer a voxel is hardly seen by the image: its corrections are
# noise divided by almost nothing, so it keeps its initial value.
SMALLEST_NORMALIZER = 0.01
NEGATIVE = ("raise", "clip", "shift")
INITIAL = ("flat", "image")


def richardson_lucy(
    image: Any,
    psf: Any,
    num_iter: int | None = None,
    *,
    boundary: str = "extended",
    background: float = 0.0,
    weights: Any = None,
    readout_variance: Any = None,
    damping: Any = None,
    regularizer: Any = None,
    acceleration: str | None = None,
    back_projector: Any = "matched",
    stop: Any = None,
    initial: Any = "flat",
    negative: str = "raise",
    voxel_size: Any = None,
    psf_voxel_size: Any = None,
    normalize_psf: bool = True,
    callback: Callable[[int, Any], Any] | None = None,
    return_info: bool = False,
    backend: str = "auto",
    engine: str = "auto",
    num_threads: int | None = None,
) -> Any:
    """Restore an image blurred by a known PSF, by Richardson-Lucy iterations.

    The maximum-likelihood estimate under Poisson noise is approached by

        estimate <- estimate * H'(weights * image / (H estimate + background)) / H' weights

    with H the blur and H' its exact transpose.

    Parameters
    ----------
    image : array_like
        Measured image with 1 to 3 axes in the order (z, y, x), finite and not negative (see `negative`).
    psf : array_like
        Point spread function with as many axes, its centre at ``shape // 2``; it may be larger than the
        image, except under boundary="wrap".
    num_iter : int, optional
        Iterations; default 30.
    boundary : {"extended", "zero", "reflect", "nearest", "mirror", "wrap"}
        What lies outside the image. "extended" assumes nothing: the estimate covers the image plus the PSF's
        reach, and is cropped at the end.
    background : float
        Known constant that was added to the blurred object (offset, autofluorescence), in the image's units;
        not part of the estimate.
    weights : array_like, optional
        Trust in each image voxel, not negative; 0 for dead voxels. Only their ratios count.
    readout_variance, damping, regularizer, acceleration, back_projector, stop
        Part of the interface, not built yet: anything but the default raises NotImplementedError.
    initial : {"flat", "image"} or array_like
        First estimate. "flat": the image's weighted mean less the background. "image": the image itself, its
        edge repeated outside; voxels that start at zero stay zero. An array of the image's shape (edge
        repeated outside) or of the estimate's, finite, not negative.
    negative : {"raise", "clip", "shift"}
        For images with negative values. "clip" sets them to zero. "shift" restores ``image - image.min()``
        and subtracts the offset afterwards.
    voxel_size, psf_voxel_size : float or sequence of float, optional
        Voxel sizes (z, y, x) of image and PSF in one unit. Where both are given and differ, the PSF is
        resampled to the image's voxels.
    normalize_psf : bool
        Divide the PSF by its sum.
    callback : callable, optional
        Called as ``callback(iteration, estimate)`` after every iteration, counted from 1, with a copy of the
        estimate in the image's frame; the run ends when it returns True.
    return_info : bool
        Return ``(estimate, info)``.
    backend : {"auto", "cpp", "numba", "reference"}
    engine : {"auto", "spectral", "separable", "direct"}
        See `Blur`.
    num_threads : int, optional
        Results do not depend on it.

    Returns
    -------
    estimate : array of the image's shape and kind
        float64 for float64 and for 32- and 64-bit integers, else float32; never rescaled.
    info : Info
        With `return_info`: num_iter, stopped_by, trace, settings, engine, backend, bytes, seconds, warnings.

    Raises
    ------
    ValueError
        NaN or Inf, negative values (unless `negative` says what to do), empty or mismatched arrays, a PSF
        whose sum is not positive, unknown option values.
    TypeError
        Complex, object, string or masked arrays; options of the wrong type.
    NotImplementedError
        Options that are not built yet.

    Notes
    -----
    A voxel of the estimate whose normalizer is below 1 % of its largest possible value, that is, one that the
    image hardly sees, keeps its initial value. The divisor is never smaller than a fixed fraction of the
    image's largest value (1e-6 in float32, 1e-12 in float64), so the result scales with the image.

    References
    ----------
    W. H. Richardson, J. Opt. Soc. Am. 62, 55 (1972); L. B. Lucy, Astron. J. 79, 745 (1974). Extended boundary
    with normalizer: M. Bertero and P. Boccacci, Astron. Astrophys. 437, 369 (2005).

    Examples
    --------
    >>> import numpy as np, medeconv_fast as mf
    >>> image = np.random.default_rng(0).poisson(20.0, (24, 32)).astype(np.float32)
    >>> mf.richardson_lucy(image, np.ones((3, 3)), 10).shape
    (24, 32)
    """
    started = time.perf_counter()
    _options.refuse_unbuilt(
        readout_variance=readout_variance,
        damping=damping,
        regularizer=regularizer,
        acceleration=acceleration,
        back_projector=back_projector,
        stop=stop,
    )
    iterations = (
        DEFAULT_ITERATIONS if num_iter is None else _validate.integer(num_iter, "num_iter", minimum=1)
    )
    background = _validate.number(background, "background", minimum=0)
    negative = _validate.choice(negative, "negative", NEGATIVE)
    return_info = _validate.flag(return_info, "return_info")
    if isinstance(initial, str):
        _validate.choice(initial, "initial", INITIAL)
    if callback is not None and not callable(callback):
        raise TypeError(
            f"callback: got {_validate.shown(callback)}, expected a function of (iteration, estimate)"
        )

    data, restore, (lowest, highest) = _arrays.as_image(image)
    psf, psf_settings = _options.psf_on_grid(psf, data.ndim, voxel_size, psf_voxel_size)
    blur = Blur(
        psf,
        data.shape,
        boundary=boundary,
        engine=engine,
        backend=backend,
        dtype=data.dtype,
        normalize_psf=normalize_psf,
        num_threads=num_threads,
    )
    trust = _weights(weights, data)
    data, offset, clipped = _treat_negative(data, lowest, negative)
    highest = highest + offset if offset else max(highest, 0.0)
    _validate.scale(highest, "image", data.dtype)

    warnings: list[str] = []
    if clipped:
        warnings.append(f"image: {clipped} negative values (smallest {lowest:g}) were set to zero")
    if offset:
        warnings.append(f"image: shifted by {offset:g} to be non-negative; the estimate was shifted back")
    eps = blur.smallest_divisor(highest)
    gain = _gain(
        blur, trust
    )  # before the estimate is there: what it takes meanwhile adds nothing to the peak
    estimate, level = _first_estimate(initial, data, trust, background, offset, blur)

    trace: list[dict[str, Any]] = []
    if estimate is None:
        # No voxel rises above the background: zero is the maximum-likelihood estimate itself.
        if highest > 0:
            warnings.append(
                f"image: no value rises above the background {background:g}; the estimate is zero"
            )
        result = np.full(data.shape, -offset / blur.psf_sum if offset else 0.0, data.dtype)
        stopped_by = "nothing above background"
    else:

        def cropped(copy: bool) -> np.ndarray:
            inside = (
                np.array(estimate[blur.frame], order="C")
                if copy
                else np.ascontiguousarray(estimate[blur.frame])
            )
            if offset:
                inside -= inside.dtype.type(offset / blur.psf_sum)
            return inside

        stopped_by = "num_iter"
        chain = blur.begin(estimate)
        for iteration in range(1, iterations + 1):
            begun = time.perf_counter()
            chain.sweep("ratio", image=data, weights=trust, background=background, eps=eps)
            chain.sweep(
                "multiply",
                adjoint=True,
                keep=iteration < iterations,
                out=estimate,
                estimate=estimate,
                gain=gain,
            )
            trace.append({"iteration": iteration, "seconds": time.perf_counter() - begun})
            if callback is not None:
                answer = callback(iteration, restore(cropped(copy=True)))
                if isinstance(answer, bool | np.bool_) and answer and iteration < iterations:
                    stopped_by = "callback"
                    break
        del chain
        result = cropped(copy=False)

    if not return_info:
        return restore(result)
    held = [a for a in (estimate, gain) if a is not None]
    info = _options.Info(
        num_iter=len(trace),
        stopped_by=stopped_by,
        trace=trace,
        settings={
            "method": "richardson_lucy",
            "num_iter": iterations,
            "boundary": boundary,
            "background": background,
            "weights": None if trust is None else "array",
            "initial": initial if isinstance(initial, str) else "array",
            "initial_level": level,
            "negative": negative,
            "clipped": clipped,
            "offset": offset,
            "eps": eps,
            "smallest_normalizer": SMALLEST_NORMALIZER,
            "normalize_psf": bool(normalize_psf),
            "psf_sum": blur.psf_sum,
            "psf_shape": blur.psf.shape,
            **psf_settings,
            "shape": blur.shape,
            "estimate_shape": blur.estimate_shape,
            "grid": blur.grid,
            "dtype": str(data.dtype),
            "num_threads": resolve_num_threads(num_threads),
        },
        engine=blur.engine,
        backend=blur.backend,
        bytes=blur.workspace_bytes + sum(a.nbytes for a in held),
        seconds=time.perf_counter() - started,
        warnings=warnings,
    )
    return restore(result), info


def _weights(weights: Any, data: np.ndarray) -> np.ndarray | None:
    if weights is None:
        return None
    trust, (lowest, highest) = _arrays.as_operand(weights, "weights", data.shape, data.dtype)
    _validate.non_negative(trust, "weights", lowest)
    if highest == 0:
        raise ValueError("weights: all are zero, expected at least one positive")
    return trust


def _treat_negative(data: np.ndarray, lowest: float, negative: str) -> tuple[np.ndarray, float, int]:
    """The non-negative image, the offset added to it, and how many values were clipped."""
    if lowest >= 0:
        return data, 0.0, 0
    count = int((data < 0).sum())
    if negative == "raise":
        raise ValueError(
            f"image: {count} of {data.size} values are negative, the smallest {lowest:g}; Richardson-Lucy "
            "expects none below 0. negative='clip' sets them to zero (noise around an offset), "
            "negative='shift' restores image - image.min() and shifts back (signed scales such as CT "
            "numbers)"
        )
    if negative == "clip":
        return np.maximum(data, 0), 0.0, count
    return data - data.dtype.type(lowest), -lowest, 0


def _weighted_mean(data: np.ndarray, weights: np.ndarray | None) -> float:
    if weights is None:
        return float(data.mean(dtype=np.float64))
    # einsum widens block by block: no float64 copy of the volume.
    total = np.einsum("i,i->", data.ravel(), weights.ravel(), dtype=np.float64)
    return float(total) / float(weights.sum(dtype=np.float64))


def _first_estimate(
    initial: Any, data: np.ndarray, weights: np.ndarray | None, background: float, offset: float, blur: Blur
) -> tuple[np.ndarray | None, float | None]:
    """A new array of the estimate's shape, and the level of a flat one; None if the estimate must be zero."""
    level = _weighted_mean(data, weights) - background
    if level <= 0:
        level = _weighted_mean(np.maximum(data - data.dtype.type(background), 0), weights)
    if level == 0:
        return None, 0.0
    if isinstance(initial, str) and initial == "flat":
        level /= blur.psf_sum
        return np.full(blur.estimate_shape, level, data.dtype), level
    if isinstance(initial, str):
        first = data
    else:
        array, _ = _arrays.to_numpy(initial, "initial")
        if array.shape not in (data.shape, blur.estimate_shape):
            allowed = f"{data.shape} (the image's)"
            if blur.estimate_shape != data.shape:
                allowed += f" or {blur.estimate_shape} (the estimate's)"
            raise ValueError(f"initial: got shape {array.shape}, expected {allowed}")
        first = _arrays.computable(array, data.dtype)
        _validate.finite(first, "initial")
        if offset:
            first = first + first.dtype.type(offset / blur.psf_sum)
        lowest, highest = float(first.min()), float(first.max())
        _validate.non_negative(first, "initial", lowest)
        if highest == 0:
            raise ValueError("initial: all values are zero and would stay so, expected positive ones")
    if first.shape == blur.estimate_shape:
        return np.array(first, order="C"), None
    around = [(s.start, n - s.stop) for s, n in zip(blur.frame, blur.estimate_shape, strict=True)]
    return np.pad(first, around, mode="edge"), None


def _gain(blur: Blur, weights: np.ndarray | None) -> np.ndarray | None:
    """1 / normalizer, 0 where the estimate is to keep its initial value; None if it is 1 everywhere."""
    if blur.boundary == "wrap" and weights is None and blur.psf_sum == 1:
        return None
    largest = blur.psf_sum * (1.0 if weights is None else float(weights.max()))
    gain = blur.normalizer(weights)
    seen = gain >= gain.dtype.type(SMALLEST_NORMALIZER * largest)
    np.divide(1, gain, out=gain, where=seen)
    np.copyto(gain, 0, where=~seen)
    return gain
