"""Blind Richardson-Lucy deconvolution: image and PSF are estimated in turn, each by its own iterations."""

from __future__ import annotations

import time
import warnings as python_warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _arrays, _validate, backends
from .._blur import Blur, check_engine
from .._threads import resolve_num_threads
from ..stop import Rule, Run, Thinning, Watch, noise_level, rule_of
from . import _options
from ._blind_psf import continued_estimate, doubts_of, exchanged, first_psf, gain_of, improved_psf
from ._iteration import Model, Penalty, iterate, overshooting, unit_of
from ._start import (
    INITIAL,
    NEGATIVE,
    SMALLEST_NORMALIZER,
    counts_of,
    first_estimate,
    level_of,
    note_of_reach,
    out_of_reach,
)

DEFAULT_ITERATIONS = 30


def blind_richardson_lucy(
    image: Any,
    psf: Any,
    num_iter: int | None = None,
    *,
    psf_iterations: int = 1,
    image_iterations: int = 1,
    support: Any = None,
    symmetry: Any = None,
    boundary: str = "extended",
    background: float = 0.0,
    weights: Any = None,
    regularizer: Any = None,
    stop: Any = None,
    initial: Any = "flat",
    negative: str = "raise",
    voxel_size: Any = None,
    psf_voxel_size: Any = None,
    callback: Callable[[int, Any, Any], Any] | None = None,
    return_info: bool = False,
    backend: str = "auto",
    engine: str = "auto",
    num_threads: int | None = None,
) -> Any:
    """Restore an image whose PSF is known only roughly: estimate the image and the PSF in turn.

    Each iteration improves the image with the PSF as it stands, as `richardson_lucy` does, and then the PSF
    with the image as it stands, by the same formula with the roles exchanged:

        estimate <- estimate * H'(weights * image / (H estimate + background)) / H' weights
        psf      <- psf * X'(weights * image / (X psf + background)) / X' weights

    with H the blur by the PSF and X the estimate as an operator on the PSF. The PSF is then confined to its
    support and symmetry and brought to sum 1, the estimate taking the factor; none of this makes the image
    less likely.

    Parameters
    ----------
    image : array_like
        Measured image with 1 to 3 axes in the order (z, y, x), finite and not negative (see `negative`).
    psf : array_like, int or tuple of int
        First PSF, not negative, its centre at ``shape // 2``, not larger than the image; voxels that are zero
        stay zero. Better too wide than too narrow. Or only its shape: then a Gaussian whose full width at
        half maximum is a third of it.
    num_iter : int, optional
        Iterations, or the most of them with `stop`; default 30.
    psf_iterations, image_iterations : int
        Updates of the PSF and of the image in each iteration.
    support : array_like, optional
        Mask of the PSF's shape: True where it may be positive. Default: everywhere.
    symmetry : str, int or tuple, optional
        What holds for the PSF: "point", ``psf[c + r] == psf[c - r]`` about the centre c; "axial", mirrored
        along every axis; an axis, mirrored along it; or a tuple of these. Voxels without a partner (the first
        ones along an axis of even length) are outside the support.
    boundary : {"extended", "zero", "reflect", "nearest", "mirror", "wrap"}
        What lies outside the image, as in `richardson_lucy`.
    background : float
        Known constant that was added to the blurred object, in the image's units; not part of the estimate.
    weights : array_like, optional
        Trust in each image voxel, not negative; 0 for dead voxels. Only their ratios count.
    regularizer : tuple (kind, weight), optional
        Of the image, as in `richardson_lucy`.
    stop : str, tuple or object of `medeconv_fast.stop`, optional
        As in `richardson_lucy`, but for "thinning"; an iteration is one of image and PSF. The relative change
        is the image's.
    initial : {"flat", "image"} or array_like
        First estimate, as in `richardson_lucy`.
    negative : {"raise", "clip", "shift"}
        For images with negative values, as in `richardson_lucy`.
    voxel_size, psf_voxel_size : float or sequence of float, optional
        Voxel sizes (z, y, x) of image and first PSF in one unit. Where both are given and differ, the PSF is
        resampled to the image's voxels.
    callback : callable, optional
        Called as ``callback(iteration, estimate, psf)`` after every iteration, counted from 1, with copies;
        the run ends when it returns True.
    return_info : bool
        Return ``(estimate, psf, info)``.
    backend : {"auto", "cpp", "numba", "reference", "cuda"}
    engine : {"auto", "spectral", "direct"}
        Of the image's iterations, see `Blur`. An estimated PSF is no product of filters. "auto" sums where
        the first estimate leaves light out of reach, as in `richardson_lucy`.
    num_threads : int, optional
        Results do not depend on it.

    Returns
    -------
    estimate : array of the image's shape and kind
        float64 for float64 and for 32- and 64-bit integers, else float32; never rescaled.
    psf : array of the PSF's shape and the estimate's kind and dtype
        Not negative, sum 1, centre at ``shape // 2``.
    info : Info
        With `return_info`: num_iter, stopped_by, trace (with psf_change, the sum of the PSF's absolute
        changes in each iteration), settings, engine, backend, bytes, seconds, warnings.

    Raises
    ------
    ValueError
        What `richardson_lucy` refuses; starts that lead nowhere: a constant image, one that does not rise
        above the background, a PSF with a single positive voxel; a PSF that is negative or larger than the
        image.
    TypeError
        Complex, object, string or masked arrays; options of the wrong type.

    Warns
    -----
    UserWarning
        Nearly all of the PSF found is in one voxel, or much of it at the border of its array; a first PSF
        that loses more than 1 % to support and symmetry; light out of reach with engine="spectral".

    Notes
    -----
    A single image does not determine its PSF: the image itself with a PSF of one voxel explains it best. What
    is found depends on where the iteration begins and how long it goes on, and on what support and symmetry
    exclude.

    References
    ----------
    D. A. Fish, A. M. Brinicombe, E. R. Pike and J. G. Walker, J. Opt. Soc. Am. A 12, 58 (1995); T. J.
    Holmes, J. Opt. Soc. Am. A 9, 1052 (1992), with constraints.

    Examples
    --------
    >>> import numpy as np, medeconv_fast as mf
    >>> image = np.random.default_rng(0).poisson(20.0, (24, 32)).astype(np.float32)
    >>> estimate, psf = mf.blind_richardson_lucy(image, (5, 5), 10, symmetry="axial")
    >>> estimate.shape, psf.shape
    ((24, 32), (5, 5))
    """
    started = time.perf_counter()
    iterations = _validate.integer(
        DEFAULT_ITERATIONS if num_iter is None else num_iter, "num_iter", minimum=1
    )
    psf_iterations = _validate.integer(psf_iterations, "psf_iterations", minimum=1)
    image_iterations = _validate.integer(image_iterations, "image_iterations", minimum=1)
    background = _validate.number(background, "background", minimum=0)
    negative = _validate.choice(negative, "negative", NEGATIVE)
    return_info = _validate.flag(return_info, "return_info")
    smoothing = _options.regularizer_of(regularizer)
    rule = rule_of(stop)
    if isinstance(rule, Thinning):
        raise ValueError("stop: thinning fits a known PSF; expected another rule")
    if isinstance(initial, str):
        _validate.choice(initial, "initial", INITIAL)
    if callback is not None and not callable(callback):
        raise TypeError(
            f"callback: got {_validate.shown(callback)}, expected a function of (iteration, estimate, psf)"
        )

    if check_engine(engine)[0] == "separable":
        raise ValueError(
            f"engine: got {engine!r}, but an estimated psf is no product of filters; expected 'auto', "
            "'spectral' or 'direct'"
        )

    kernels = backends.resolve(backend, image)
    data, restore, (lowest, highest, _) = _arrays.as_image(image)
    notes: list[str] = []
    kernel, form, psf_settings = first_psf(
        psf, data.shape, support, symmetry, voxel_size, psf_voxel_size, notes
    )

    def blur_of(kernel: np.ndarray, engine: Any) -> Blur:
        return Blur(
            kernel,
            data.shape,
            boundary=boundary,
            engine=engine,
            backend=kernels.NAME,
            dtype=data.dtype,
            num_threads=num_threads,
        )

    blur = blur_of(kernel, engine)
    trust = _options.weights_of(weights, data)
    given = data
    data, (lowest, highest) = _options.trusted(data, trust, (lowest, highest))
    if lowest == highest:
        raise ValueError(f"image: all values are {lowest:g}; a constant image says nothing about its psf")
    data, _, offset, clipped = counts_of(data, lowest, negative)
    highest = highest + offset if offset else max(highest, 0.0)
    _validate.scale(highest, "image", data.dtype)
    if clipped:
        notes.append(f"image: {clipped} negative values (smallest {lowest:g}) were set to zero")
    if offset:
        notes.append(f"image: shifted by {offset:g} to be non-negative; the estimate was shifted back")
    mean = level_of(data, trust, background)
    estimate, level = first_estimate(initial, data, mean, offset, blur)
    if estimate is None:
        raise ValueError(
            f"image: no value rises above the background {background:g}; nothing is left to find a psf from"
        )
    if smoothing is not None:
        said = overshooting(
            *smoothing, highest / mean, psf_settings["voxel_size"], data.shape, accelerated=False
        )
        if said is not None:
            notes.append(said)
            python_warnings.warn(said, UserWarning, stacklevel=2)
    model = Model(
        image=data,
        weights=trust,
        background=background,
        eps=blur.smallest_divisor(highest),
        unit=unit_of(highest),
    )
    named = initial if isinstance(initial, str) else None
    # A first PSF may be a product of filters, and be summed, that those after it are not.
    transforms = blur if blur.engine != "separable" else blur_of(kernel, "spectral")
    beyond = out_of_reach(model, estimate, blur, transforms.operator(data.dtype), initial=named)
    if beyond and engine == "auto":
        engine = "direct"
        blur = blur_of(kernel, engine)
        notes.append(note_of_reach("direct", beyond))
    elif beyond:
        notes.append(note_of_reach("spectral", beyond))
        python_warnings.warn(notes[-1], UserWarning, stacklevel=2)
    counted = float(data.size) if trust is None else float(trust.sum(dtype=np.float64))
    run = Run(counted, lambda: noise_level(np.maximum(given, 0) if clipped else given, seen=trust), started)
    watch = Watch(Rule()) if rule is None else rule.watch(run)

    def cropped(estimate: np.ndarray) -> np.ndarray:
        inside = np.array(estimate[blur.frame], order="C")
        if offset:
            inside -= inside.dtype.type(offset)
        return inside

    trace: list[dict[str, Any]] = []
    stopped_by = "num_iter"
    workspace = 0
    for iteration in range(1, iterations + 1):
        begun = time.perf_counter()
        operator = blur.operator(data.dtype)
        gain = gain_of(kernel, blur, operator, data, trust)
        penalty = smoothing and Penalty(*smoothing, mean, psf_settings["voxel_size"], operator)
        steps: list[dict[str, Any]] = []
        estimate, ended_by = iterate(
            operator,
            model,
            estimate,
            image_iterations,
            steps,
            gain=gain,
            penalty=penalty,
            watch=_OncePerRound(watch, iteration),
        )
        if ended_by != "num_iter":
            stopped_by = ended_by
            break
        # Sums are of the first step, the change is of the last one.
        entry = steps[0] | {"iteration": iteration}
        entry |= {name: steps[-1][name] for name in ("relative_change",) if name in entry}
        roles = exchanged(continued_estimate(estimate, blur, operator), kernel.shape, operator)
        workspace = max(workspace, operator.workspace_bytes + roles.workspace_bytes)
        improved = improved_psf(kernel, roles, model, form, psf_iterations)
        # The model stays as it is: the factor that the PSF gives away the estimate takes.
        total = float(improved.sum())
        improved /= total
        estimate *= estimate.dtype.type(total)
        entry["psf_change"] = float(np.abs(improved - kernel).sum())
        del operator, penalty, roles  # their memory goes before the next ones take theirs
        kernel, blur = improved, blur_of(improved, engine)
        ended = time.perf_counter()
        entry["seconds"] = ended - begun
        trace.append(entry)
        answer = callback is not None and callback(
            iteration, restore(cropped(estimate)), restore(kernel.astype(data.dtype))
        )
        if iteration == iterations:
            break
        if isinstance(answer, bool | np.bool_) and answer:
            stopped_by = "callback"
            break
        if watch.after(entry | {"ended": ended}):
            stopped_by = watch.rule.name
            break

    doubts = doubts_of(kernel)
    notes += doubts
    for note in doubts:
        python_warnings.warn(note, UserWarning, stacklevel=2)
    found = restore(kernel.astype(data.dtype))
    result = restore(cropped(estimate))
    if not return_info:
        return result, found
    held = [a for a in (estimate, gain) if a is not None]
    info = _options.Info(
        num_iter=len(trace),
        stopped_by=stopped_by,
        trace=trace,
        settings={
            "method": "blind_richardson_lucy",
            "num_iter": iterations,
            "psf_iterations": psf_iterations,
            "image_iterations": image_iterations,
            "psf_shape": kernel.shape,
            "support": None if support is None else "array",
            "symmetry": symmetry,
            "boundary": boundary,
            "background": background,
            "weights": None if trust is None else "array",
            "regularizer": regularizer,
            "stop": None if rule is None else repr(rule),
            "initial": initial if isinstance(initial, str) else "array",
            "initial_level": level,
            "negative": negative,
            "clipped": clipped,
            "offset": offset,
            "eps": model.eps,
            "smallest_normalizer": SMALLEST_NORMALIZER,
            **psf_settings,
            "shape": blur.shape,
            "estimate_shape": blur.estimate_shape,
            "grid": blur.grid,
            "dtype": str(data.dtype),
            "num_threads": resolve_num_threads(num_threads),
        },
        engine=blur.engine,
        backend=blur.backend,
        bytes=workspace + sum(a.nbytes for a in held),
        seconds=time.perf_counter() - started,
        warnings=notes,
    )
    return result, found, info


class _OncePerRound(Watch):
    """Shows a run's watch the first of several image iterations only."""

    def __init__(self, watch: Watch, iteration: int) -> None:
        super().__init__(watch.rule)
        self._watch, self._iteration = watch, iteration

    def before(self, entry: dict[str, Any]) -> bool:
        return entry["iteration"] == 1 and self._watch.before(entry | {"iteration": self._iteration})
