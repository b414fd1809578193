"""Richardson-Lucy deconvolution: two sweeps per iteration."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
import warnings as python_warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _arrays, _device, _validate, backends
from .._blur import Blur, check_engine
from .._threads import resolve_num_threads
from ..stop import Rule, Run, Thinning, TimeBudget, noise_level, rule_of
from . import _back_projectors as unmatched
from . import _in_tiles, _options
from ._acceleration import acceleration_of
from ._back_projectors import back_projector_of
from ._iteration import Model, Penalty, iterate, overshooting, unit_of
from ._start import (
    INITIAL,
    NEGATIVE,
    SMALLEST_NORMALIZER,
    counts_of,
    first_estimate,
    gain_of,
    level_of,
    note_of_reach,
    out_of_reach,
    sharpness,
)
from ._tile import Numbers

DEFAULT_ITERATIONS = 30
MOST_ITERATIONS = 200  # with a rule for stopping


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
        Iterations, or the most of them with `stop`; default 30, with `stop` 200, 2 with an unmatched back
        projector.
    boundary : {"extended", "zero", "reflect", "nearest", "mirror", "wrap"}
        What lies outside the image. "extended" assumes nothing: the estimate covers the image plus the PSF's
        reach, and is cropped at the end.
    background : float
        Known constant that was added to the blurred object (offset, autofluorescence), in the image's units;
        not part of the estimate.
    weights : array_like, optional
        Trust in each image voxel, not negative; 0 for dead voxels, whose values then do not count. Only their
        ratios count.
    readout_variance : float or array_like, optional
        Variance of the camera's Gaussian noise, in counts squared, the image being in counts (Snyder et al.
        1993; as READOUT of MATLAB's deconvlucy): added to image and model.
    damping : float or array_like, optional
        Threshold in standard deviations of Poisson noise, the image being in counts: voxels that differ from
        the model by less, as judged by their I-divergence, are corrected less (White 1994; DAMPAR of MATLAB's
        deconvlucy). For an image of another `gain` in units per count, times sqrt(gain). 0 damps nothing.
    regularizer : tuple (kind, weight), optional
        Each correction is divided by ``max(1 + weight * dU/dx, 0.1)`` with the penalty U: "tv", total
        variation (Dey et al. 2006; weights around 0.002); "tikhonov", squared gradients relative to the mean
        (Dey et al. 2004); "good-roughness" (Verveer and Jovin 1997); "entropy" relative to the mean (Frieden
        1972).
        Gradients are per `voxel_size`, in units of the smallest; per voxel without it. "tv" takes no
        direction from gradients below ``2 * ndim * weight`` of the mean (4 with "heavy-ball"): a step so
        steep would overshoot.
        The others overshoot beyond weights of about ``mean / (8 * ndim * largest value)`` ("tikhonov"),
        ``1 / (8 * ndim)`` ("good-roughness") and 1 ("entropy"), with an acceleration a third of these:
        warned of.
    acceleration : {None, "biggs-andrews", "heavy-ball"}
        Start each iteration from a point beyond the estimate (Biggs and Andrews 1997; Wang and Miller 2014):
        a third to a half of the iterations for 1.2 to 1.5 times the work of each, and 3 or 2 more arrays.
    back_projector : str or array_like
        "matched", "gaussian", "butterworth", "wiener-butterworth", "otf-masked-wiener" or an array: what
        carries the ratio back. Anything but "matched", the transpose, needs very few iterations and does not
        converge: more than 5 warn. An array of the PSF's shape, its centre at ``shape // 2``; its sum does
        not count. See Guo et al. 2020, Ruan et al. 2024.
    stop : str, tuple or object of `medeconv_fast.stop`, optional
        "relative-change", "i-divergence", "discrepancy", "thinning", ("time", seconds), or a rule with its
        own settings.
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
    backend : {"auto", "cpp", "numba", "reference", "cuda"}
    engine : {"auto", "spectral", "separable", "direct"}
        See `Blur`. "auto" sums over the PSF's taps where `initial`, or a PSF off its centre at a border of
        zeros, leaves light out of reach: its ratios would take the digits of the others in transforms.
    num_threads : int, optional
        Results do not depend on it.

    Returns
    -------
    estimate : array of the image's shape and kind
        float64 for float64 and for 32- and 64-bit integers, else float32; never rescaled.
    info : Info
        With `return_info`: num_iter, stopped_by, trace, settings, engine, backend, bytes, seconds, warnings.
        ``settings["tiles"]`` is None, or counts, core and halo of the tiles.

    Raises
    ------
    ValueError
        NaN or Inf, negative values (unless `negative` says what to do), empty or mismatched arrays, a PSF
        whose sum is not positive, unknown option values.
    TypeError
        Complex, object, string or masked arrays; options of the wrong type.
    MemoryError
        The GPU's memory does not hold what the run needs, and it cannot be cut into tiles: the message names
        need and have.

    Warns
    -----
    UserWarning
        More than 5 iterations with an unmatched back projector; a regularizer that overshoots; a background
        above all values of the image; an image cut into tiles because the GPU's memory does not hold it.

    Notes
    -----
    A voxel of the estimate whose normalizer is below 1 % of its largest possible value, that is, one that the
    image hardly sees, keeps its initial value. The divisor is never smaller than a fixed fraction of the
    image's largest value (1e-6 in float32, 1e-12 in float64), so the result scales with the image.

    An image on the host that the GPU's free memory does not hold (backend="cuda") is restored in tiles, each
    with a halo of real data, as in `restore_volume`: the result differs from that of the whole image by less
    than 1e-3 of its range (docs/volumes.md). All tiles share the numbers of the whole image; but where a rule
    stops the run or "biggs-andrews" accelerates it, the number of iterations and the factors are those of the
    brightest tile, as if it had been the image. Tiles know no callback, no time budget and no `initial` of
    another shape than the image's.

    References
    ----------
    W. H. Richardson, J. Opt. Soc. Am. 62, 55 (1972); L. B. Lucy, Astron. J. 79, 745 (1974). Extended boundary
    with normalizer: M. Bertero and P. Boccacci, Astron. Astrophys. 437, 369 (2005). Readout noise: D. L.
    Snyder et al., J. Opt. Soc. Am. A 10, 1014 (1993). Total variation: N. Dey et al., Microsc. Res. Tech. 69,
    260 (2006). Roughness: P. J. Verveer and T. M. Jovin, J. Opt. Soc. Am. A 14, 1696 (1997).

    Examples
    --------
    >>> import numpy as np, medeconv_fast as mf
    >>> image = np.random.default_rng(0).poisson(20.0, (24, 32)).astype(np.float32)
    >>> mf.richardson_lucy(image, np.ones((3, 3)), 10).shape
    (24, 32)
    """
    started = time.perf_counter()
    iterations = None if num_iter is None else _validate.integer(num_iter, "num_iter", minimum=1)
    background = _validate.number(background, "background", minimum=0)
    negative = _validate.choice(negative, "negative", NEGATIVE)
    return_info = _validate.flag(return_info, "return_info")
    rule = rule_of(stop)
    scheme = acceleration_of(acceleration)
    smoothing = _options.regularizer_of(regularizer)
    if isinstance(initial, str):
        _validate.choice(initial, "initial", INITIAL)
    else:
        _validate.axes(initial, "initial")
    _options.check_callback(callback)

    kernels = backends.resolve(backend, image)
    data, restore, (lowest, highest, total) = _arrays.as_image(image, resident=True)
    psf, psf_settings = _options.psf_on_grid(psf, data.ndim, voxel_size, psf_voxel_size)
    blur_by = functools.partial(
        Blur,
        psf,
        data.shape,
        boundary=boundary,
        backend=kernels.NAME,
        dtype=data.dtype,
        normalize_psf=normalize_psf,
        num_threads=num_threads,
    )
    blur = blur_by(engine=engine)
    projector, back = back_projector_of(back_projector, blur.psf)
    warnings: list[str] = []
    if back is None:
        iterations = iterations or (DEFAULT_ITERATIONS if rule is None else MOST_ITERATIONS)
    else:
        iterations = iterations or unmatched.DEFAULT_ITERATIONS
        _check_unmatched(projector, iterations, acceleration, regularizer, rule, engine, warnings)
    operator = blur.operator(data.dtype, back)

    beside = {None: 0, "heavy-ball": 2, "biggs-andrews": 3}[acceleration] + (smoothing is not None)
    arrays = 2 + beside  # estimate and gain
    needed = (
        operator.workspace_bytes * (1 if back is None else 2)
        + arrays * math.prod(blur.estimate_shape) * data.itemsize
    )
    # What options add to the image: themselves, and what is made of them.
    images = int(lowest < 0 or readout_variance is not None)
    images += _validate.axes(readout_variance, "readout_variance") > 0
    images += 2 * (weights is not None) + 2 * (damping is not None)
    needed += images * data.nbytes
    obstacle = _obstacle(callback, rule, initial, data.shape)
    cut = _in_tiles.is_cut(data, needed, kernels.NAME == "cuda", obstacle)
    if not cut:
        data = kernels.resident(data)
        _device.ensure_memory(data, needed, "richardson_lucy")
    trust = _options.weights_of(weights, data)
    given = data
    data, (lowest, highest) = _options.trusted(data, trust, (lowest, highest))
    seen = data
    readout = _operand(readout_variance, "readout_variance", data)
    threshold = _operand(damping, "damping", data)
    image, data, offset, clipped = counts_of(data, lowest, negative, readout)
    highest = highest + offset if offset else max(highest, 0.0)
    _validate.scale(highest, "image", data.dtype)
    _options.check_psf_sum(blur.psf_sum, highest, data.dtype, squared=False)
    if clipped:
        warnings.append(f"image: {clipped} negative values (smallest {lowest:g}) were set to zero")
    if offset:
        warnings.append(f"image: shifted by {offset:g} to be non-negative; the estimate was shifted back")
    if isinstance(rule, Thinning) and offset:
        raise ValueError("stop: thinning splits Poisson counts; it does not go with negative='shift'")
    eps = blur.smallest_divisor(highest)
    mean = level_of(data, trust, background, total if data is given else None)

    def noise() -> float:
        # Told from neighbours, robustly: a constant in place of dead voxels would hide it.
        values = _device.host(given)
        values = np.maximum(values, 0) if clipped and readout is None else values
        return noise_level(values, seen=None if trust is None else _device.host(trust))

    def cropped(estimate: np.ndarray, *, copy: bool = False) -> np.ndarray:
        inside = _options.cropped(estimate, blur, copy=copy)
        if offset:
            inside -= inside.dtype.type(offset / blur.psf_sum)
        return inside

    def report(iteration: int, estimate: np.ndarray) -> bool:
        assert callback is not None
        answer = callback(iteration, restore(cropped(estimate, copy=True)))
        return isinstance(answer, bool | np.bool_) and bool(answer)

    trace: list[dict[str, Any]] = []
    thinned: dict[str, Any] | None = None
    tiling: dict[str, Any] | None = None
    level: float | None = mean / blur.psf_sum if isinstance(initial, str) and initial == "flat" else None
    taken = operator.workspace_bytes
    if smoothing is not None and mean > 0:
        said = overshooting(
            *smoothing,
            highest / mean,
            psf_settings["voxel_size"],
            blur.shape,
            accelerated=acceleration is not None,
        )
        if said is not None:
            warnings.append(said)
            python_warnings.warn(said, UserWarning, stacklevel=2)
    if mean == 0:
        # No voxel rises above the background: zero is the maximum-likelihood estimate itself.
        level = 0.0
        if highest > 0:
            note = f"image: no value rises above the background {background:g}; the estimate is zero"
            warnings.append(note)
            python_warnings.warn(note, UserWarning, stacklevel=2)
        result = _device.full_beside(data, data.shape, -offset / blur.psf_sum if offset else 0.0)
        stopped_by = "nothing above background"
    elif cut:
        operands = {
            "weights": trust,
            "readout_variance": readout,
            "damping": threshold,
            "initial": initial if isinstance(initial, str) else _options.initial_array(initial, blur, data),
        }
        options_of_tiles = {
            "boundary": boundary,
            "background": background,
            "regularizer": regularizer,
            "back_projector": back_projector,
            "negative": negative,
            "voxel_size": voxel_size,
            "normalize_psf": normalize_psf,
            "backend": kernels.NAME,
            "engine": engine,
        } | {name: value for name, value in operands.items() if not isinstance(value, np.ndarray | None)}
        made = _in_tiles.run(
            _in_tiles.Work(
                data=seen,
                numbers=Numbers(
                    "richardson_lucy", options_of_tiles, highest=highest, level=mean, offset=offset
                ),
                psf=_in_tiles.trimmed_psf(psf, data.ndim, back_projector),
                arrays={name: array for name, array in operands.items() if isinstance(array, np.ndarray)},
                kernels=kernels,
                estimates=arrays,
                images=images,
                num_threads=num_threads,
            ),
            iterations,
            acceleration,
            rule,
            needed,
            richardson_lucy,
            warnings,
        )
        result, tiling, thinned = made.image, made.tiling, made.found.thinned
        iterations, stopped_by, trace = made.found.iterations, made.found.stopped_by, made.trace
        taken = made.bytes
    else:
        # What is needed for the gain adds nothing to the peak before the estimate is there.
        gain = gain_of(blur, operator, data, trust, matched=back is None)
        estimate, _ = first_estimate(initial, data, mean, offset, blur)
        assert estimate is not None
        model = Model(
            image=image,
            weights=trust,
            background=background + (readout if isinstance(readout, float) else 0.0),
            partial=None if readout is None or isinstance(readout, float) else readout,
            damping=None if threshold is None else sharpness(threshold, data),
            eps=eps,
            unit=unit_of(highest),
        )
        named = initial if isinstance(initial, str) else None
        beyond = out_of_reach(model, estimate, blur, operator, initial=named)
        if beyond and engine == "auto" and back is None:
            blur = blur_by(engine="direct")
            operator = blur.operator(data.dtype)
            gain = gain_of(blur, operator, data, trust, matched=True)
            taken = operator.workspace_bytes
            warnings.append(note_of_reach("direct", beyond))
        elif beyond:
            note = note_of_reach("spectral", beyond)
            warnings.append(note)
            python_warnings.warn(note, UserWarning, stacklevel=2)
        held = [a for a in (estimate, gain, model.partial, model.damping) if a is not None]
        taken += sum(a.nbytes for a in [*held, *[estimate] * beside])

        def penalty_of(share: float) -> Penalty | None:
            """The regularizer of an image that holds this share of the light."""
            if smoothing is None:
                return None
            # The level of other kinds only says which gradients are none.
            light = (share if smoothing[0] in _options.RELATIVE else 1.0) * mean / blur.psf_sum
            return Penalty(*smoothing, light, psf_settings["voxel_size"], operator, acceleration)

        counted = float(data.size) if trust is None else float(trust.sum(dtype=np.float64))
        run = Run(counted, noise, started)
        loop = functools.partial(iterate, operator, gain=gain)
        if isinstance(rule, Thinning):
            if readout is not None:
                # What the readout variance makes of counts is as good as counts, but no integers.
                rule.check(data)
                rule = dataclasses.replace(rule, gain=1.0 if rule.gain is None else rule.gain)
            loop_of_part = functools.partial(loop, penalty=penalty_of(1 - rule.fraction))
            thinned = _thin(rule, run, model, estimate, iterations, loop_of_part, acceleration, num_threads)
            iterations = thinned["num_iter"]
        estimate, stopped_by = loop(
            model,
            estimate,
            iterations,
            trace,
            penalty=penalty_of(1.0),
            scheme=scheme,
            watch=None if rule is None or thinned is not None else rule.watch(run),
            report=None if callback is None else report,
        )
        if thinned is not None and stopped_by == "num_iter":
            stopped_by = "thinning"
        result = cropped(estimate)

    if not return_info:
        return restore(result)
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
            "readout_variance": readout if readout is None or isinstance(readout, float) else "array",
            "damping": threshold if threshold is None or isinstance(threshold, float) else "array",
            "regularizer": regularizer,
            "acceleration": acceleration,
            "back_projector": projector,
            "stop": None if rule is None else repr(rule),
            "thinning": thinned,
            "initial": initial if isinstance(initial, str) else "array",
            "initial_level": level,
            "negative": negative,
            "clipped": clipped,
            "offset": offset,
            "eps": eps,
            "smallest_normalizer": SMALLEST_NORMALIZER if back is None else unmatched.SMALLEST_DIVISOR,
            "normalize_psf": bool(normalize_psf),
            "psf_sum": blur.psf_sum,
            "psf_shape": blur.psf.shape,
            **psf_settings,
            "shape": blur.shape,
            "estimate_shape": blur.estimate_shape,
            "grid": blur.grid,
            "dtype": str(data.dtype),
            "num_threads": resolve_num_threads(num_threads),
            "tiles": tiling,
        },
        engine=operator.engine,
        backend=blur.backend,
        bytes=taken,
        seconds=time.perf_counter() - started,
        warnings=warnings,
    )
    return restore(result), info


def _obstacle(callback: Any, rule: Rule | None, initial: Any, shape: tuple[int, ...]) -> str | None:
    """What of a call's options cannot be had in tiles."""
    if callback is not None:
        return "a callback"
    if isinstance(rule, TimeBudget):
        return "a time budget"
    if not isinstance(initial, str) and tuple(np.shape(initial)) != shape:
        return "an initial estimate of another shape than the image's"
    return None


def _check_unmatched(
    projector: str,
    iterations: int,
    acceleration: Any,
    regularizer: Any,
    rule: Rule | None,
    engine: Any,
    notes: list[str],
) -> None:
    for name, value in (("acceleration", acceleration), ("regularizer", regularizer)):
        if value is not None:
            raise ValueError(
                f"{name}: got {value!r} together with back_projector={projector!r}, whose iterations do not "
                "converge; expected None"
            )
    if isinstance(rule, Thinning):
        raise ValueError(f"stop: thinning does not go with back_projector={projector!r}")
    if check_engine(engine)[0] in ("separable", "direct"):
        raise ValueError(f"engine: got {engine!r}, but back_projector={projector!r} needs transforms")
    if note_iterations(projector, iterations, notes):
        python_warnings.warn(notes[-1], UserWarning, stacklevel=3)


def note_iterations(projector: str, iterations: int, notes: list[str]) -> bool:
    """Note more iterations than a back projector that is no adjoint can have."""
    if iterations <= unmatched.MOST_ITERATIONS:
        return False
    notes.append(
        f"num_iter: {iterations} iterations with back_projector={projector!r}; it needs about "
        f"{unmatched.DEFAULT_ITERATIONS}, and beyond {unmatched.MOST_ITERATIONS} noise runs away"
    )
    return True


def _thin(
    rule: Thinning,
    run: Run,
    model: Model,
    estimate: np.ndarray,
    iterations: int,
    loop: Callable[..., tuple[np.ndarray, str]],
    acceleration: str | None,
    num_threads: int | None,
) -> dict[str, Any]:
    """The number of iterations after which a part of the counts predicts the others best."""
    share = 1 - rule.fraction
    fewer = functools.partial(np.multiply, estimate.dtype.type(share))
    traces: list[list[dict[str, Any]]] = []
    for number in range(rule.splits):
        halves = rule.split(_device.host(model.image), number, num_threads=num_threads)
        kept, held = (_device.beside(model.image, half) for half in halves)
        part = dataclasses.replace(
            model,
            image=kept,
            background=model.background * share,
            partial=None if model.partial is None else fewer(model.partial),
            held_out=held,
            held_out_scale=rule.fraction / share,
        )
        traces.append([])
        scheme = acceleration_of(acceleration)
        loop(part, fewer(estimate), iterations, traces[-1], scheme=scheme, watch=rule.watch(run))
    # An iteration begins with how well the updates before it predict; the first, with how well none does.
    residuals = np.sum([[e["held_out_squared_residual"] for e in t] for t in traces], axis=0)
    return {"num_iter": max(int(np.argmin(residuals)), 1), "residuals": residuals.tolist()}


def _operand(value: Any, name: str, data: np.ndarray) -> float | np.ndarray | None:
    """A number or an array of the image's shape, not negative; None and 0 are nothing."""
    if value is None:
        return None
    if _validate.axes(value, name) == 0:
        return _validate.fits(_validate.number(value, name, minimum=0), name, data.dtype) or None
    array, (lowest, highest) = _arrays.as_operand(value, name, data.shape, data.dtype, beside=data)
    _validate.non_negative(array, name, lowest)
    return array if highest > 0 else None
