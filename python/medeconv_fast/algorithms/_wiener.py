"""Wiener deconvolution: one sweep with the filter as its transfer function."""

from __future__ import annotations

import math
import warnings as python_warnings
from typing import Any

import numpy as np

from .. import _arrays, _device, _validate
from . import _border_error, _cross_validation, _filters
from ._cross_validation import AMPLIFIED, GROWN, OUTGROWN, TINY, Growth, is_amplified_noise, is_quiet


def wiener(
    image: Any,
    psf: Any,
    balance: Any = "auto",
    *,
    regularizer: Any = "laplacian",
    boundary: str = "reflect",
    noise_to_signal: Any = None,
    noise_power: Any = None,
    signal_power: Any = None,
    normalize_psf: bool = True,
    voxel_size: Any = None,
    psf_voxel_size: Any = None,
    return_info: bool = False,
    backend: str = "auto",
    engine: str = "auto",
    num_threads: int | None = None,
) -> Any:
    """Restore an image blurred by a known PSF with the Wiener filter.

    In frequency space the estimate is ``conj(H) Y / (|H|^2 + balance |R|^2)``, with H the PSF's transfer
    function, R the regularizer's and Y the image's transform (Wiener-Hunt); or, where the powers of noise and
    signal are known, ``conj(H) Y / (|H|^2 + noise / signal)``.

    Parameters
    ----------
    image : array_like
        Measured image with 1 to 3 axes in the order (z, y, x); negative values are welcome.
    psf : array_like
        Point spread function with as many axes, its centre at ``shape // 2``.
    balance : float or "auto"
        Weight of the regularizer, at least 0, with scikit-image's meaning. "auto": the minimiser of
        generalised cross-validation.
    regularizer : {"laplacian", "identity"} or array_like
        What is penalised: the Laplacian (2 ndim at the centre, -1 at the neighbours), the image itself, or
        the response to an impulse response given as an array with its centre at ``shape // 2``.
    boundary : {"reflect", "nearest", "mirror", "wrap", "zero"}
        The image is continued by this rule beyond the PSF's reach, to a cheap transform size, filtered
        periodically, and cropped. "wrap": no padding.
    noise_to_signal : float, optional
        Ratio of the powers of noise and signal, the same at all frequencies (NSR of MATLAB's deconvwnr);
        instead of balance and regularizer.
    noise_power, signal_power : float or array_like, optional
        Power spectra, both or neither, instead of balance and regularizer. A number is the same at all
        frequencies; an array has the image's shape and the order of `numpy.fft.fftn`, such as
        ``abs(numpy.fft.fftn(x))**2``, and is interpolated between frequencies where the image is padded. Only
        their ratio counts: both need the same normalisation, in which white noise of variance v beside that
        example has the power ``v * image.size``.
    normalize_psf : bool
        Divide the PSF by its sum.
    voxel_size, psf_voxel_size : float or sequence of float, optional
        As in `richardson_lucy`.
    return_info : bool
        Return ``(estimate, info)``; ``info["settings"]["balance"]`` is the balance used.
    backend : {"auto", "cpp", "numba", "reference", "cuda"}
    engine : {"auto", "spectral"}
    num_threads : int, optional

    Returns
    -------
    estimate : array of the image's shape and kind
        float64 for float64 and for 32- and 64-bit integers, else float32; neither rescaled nor clipped.
    info : Info
        With `return_info`.

    Raises
    ------
    ValueError, TypeError
        As `richardson_lucy`; a regularizer that is zero; boundary="extended", which has no closed form; more
        than one of balance, noise_to_signal and the powers; a power spectrum that is negative, zero
        everywhere or not symmetric.
    MemoryError
        The GPU's memory holds neither the image nor tiles of it, or powers that are arrays forbid these.

    Warns
    -----
    UserWarning
        "auto" found a balance that amplifies noise, or the border's error, beyond the image; the image was
        cut into tiles.

    Notes
    -----
    With backend="cuda" what the GPU's memory does not hold is filtered in tiles with a halo as far as the
    filter's response matters (see `restore_volume`), "auto" taking the balance of the brightest tile;
    ``info["settings"]["tiles"]`` describes them.

    "auto" minimises ``N sum(g^2 |Y|^2) / sum(g)^2`` with ``g = balance |R|^2 / (|H|^2 + balance |R|^2)`` over
    the balance, on a grid of powers of ten and then by golden-section search; the sums run over all N
    frequencies, and Y is the transform of the image less its mean under a Hann window. Without the window the
    jump between opposite edges, which no blur explains, passes for image detail, and the balance comes out
    orders of magnitude too small. White noise is assumed; where it is not (reconstructed, interpolated or
    compressed images) that minimum lies at next to no balance, and the result would be nothing but noise: the
    balance is then raised until the finest details are below 0.02 of the image's standard deviation, with a
    warning. So it is where the score falls to the end of the searched range, or to 1e-10, and nine tenths of
    the result's values, or of those along a side, spread 1.5 times as wide as the image's, and for any
    balance where they spread 20 times as wide: without noise nothing holds back the error of what continues
    the image. Fine textures without noise can be taken for it. Where all balances have the same score, as
    with a PSF of one voxel and the identity, the smallest is taken. Frequencies where filter and regularizer
    both vanish are set to zero.

    How the image goes on beyond its border no cross-validation can see. Where more than 0.4 of the voxels
    lie within the PSF's reach of it (small volumes), or little noise asks for a balance below 1e-4 and the
    border for ten times as much or more, the balance is raised by a factor that a simulation finds,
    ``info["settings"]["border_factor"]``: the restored image is blurred, given noise, cut along its border
    and restored with ten balances, twenty more passes over the image, or with more of them while the largest
    is the best. Not for boundary="wrap".

    With powers the mean is treated like any other frequency: it shrinks unless the signal's power at
    frequency 0 says that it is large.

    References
    ----------
    N. Wiener, Extrapolation, Interpolation, and Smoothing of Stationary Time Series (1949). B. R. Hunt, IEEE
    Trans. Comput. C-22, 805 (1973). Generalised cross-validation: G. H. Golub, M. Heath and G. Wahba,
    Technometrics 21, 215 (1979). Parametric bootstrap: B. Efron and R. J. Tibshirani, An Introduction to the
    Bootstrap (1993).
    """
    if not isinstance(balance, str):
        balance = _validate.number(balance, "balance", minimum=0)
    elif balance != "auto":
        raise ValueError(f"balance: got {balance!r}, expected 'auto' or a number of at least 0")
    _check_exclusive(balance, regularizer, noise_to_signal, noise_power, signal_power)
    if noise_to_signal is not None:
        noise_to_signal = _validate.number(noise_to_signal, "noise_to_signal", minimum=0)
    call = _filters.FilterCall(
        "wiener",
        image,
        psf,
        boundary=boundary,
        normalize_psf=normalize_psf,
        voxel_size=voxel_size,
        psf_voxel_size=psf_voxel_size,
        return_info=return_info,
        backend=backend,
        engine=engine,
        num_threads=num_threads,
    )
    ndim, dtype = call.data.ndim, call.data.dtype
    noise = _power(noise_power, "noise_power", call.data.shape)
    signal = _power(signal_power, "signal_power", call.data.shape)
    if isinstance(noise, float) and isinstance(signal, float):
        noise_to_signal = noise / signal
    if call.is_cut:
        from . import _in_tiles  # which stands on this module

        options = {"balance": balance, "regularizer": regularizer, "noise_to_signal": noise_to_signal}
        powers = noise is not None and noise_to_signal is None
        return _in_tiles.filtered(call, options, "arrays of powers" if powers else None)
    settings: dict[str, Any] = {
        "balance": None,
        "balance_searched": False,
        "gcv_score": None,
        "border_factor": None,
    }
    if noise is not None and noise_to_signal is None:
        transfer = call.transfer_from(_filter_of_powers(call, noise, signal))
        settings["regularizer"] = "powers"
    else:
        if noise_to_signal is None:
            penalty = _filters.impulse_response(regularizer, ndim, dtype, without="balance=0")
            settings["regularizer"] = regularizer if isinstance(regularizer, str) else "array"
        else:
            penalty, balance = _filters.identity(ndim, dtype), noise_to_signal
            settings["regularizer"] = "identity"
        transfer = weighted_transfer(call, penalty, balance, "balance", settings)
    return call.finish(call.apply(transfer), settings)


def weighted_transfer(
    call: _filters.FilterCall,
    penalty: np.ndarray,
    weight: Any,
    name: str,
    settings: dict[str, Any],
    *,
    centre: tuple[int, ...] | None = None,
    data: Any = None,
) -> Any:
    """conj(H) / (|H|^2 + weight |R|^2) with R of the impulse response `penalty`, its weight given or "auto".

    Says in `settings`, under the argument's `name`, which weight it is. Cross-validation looks at `data`,
    the image if not given.
    """
    otf, penalty_transfer = call.transfer(call.psf), call.transfer(penalty, centre)
    searched = isinstance(weight, str)
    score: float | None = None
    border = 1.0
    if searched:
        data = call.data if data is None else data
        on_host = call.on_host(data)
        under_window = _device.beside(data, _cross_validation.windowed(on_host))
        unit = call.psf_sum**2  # |H|^2, which the weight stands beside, is that large at most
        exponent, score, at_end, is_flat = _cross_validation.search(
            call.plan, under_window, otf, penalty_transfer, call.num_threads, unit=unit
        )
        weight = found = unit * 10.0**exponent

        def result(weight: float) -> Any:
            return call.apply(call.plan.wiener_transfer(otf, penalty_transfer, weight), data)

        varied = call.lowest != call.highest
        least = at_end or weight < TINY * unit
        # Before the border raises it: a raise that stops short of what is quiet hides the noise from this.
        first = _device.host(result(weight)) if varied else on_host
        noisy = varied and is_amplified_noise(first, on_host, call.psf_sum)
        grown = 1.0
        if varied and weight < _border_error.LITTLE * unit:
            growth = Growth(on_host, call.psf_sum, _border_error.reach(call.psf))
            grown = growth.of(first)
        unheld = grown > (GROWN if least else OUTGROWN) and not is_flat and call.boundary != "wrap"

        def beside_border(weight: float) -> float:
            return _border_error.factor(
                call,
                data,
                under_window,
                otf,
                penalty,
                centre,
                penalty_transfer,
                weight,
                always=unheld,
                grown=grown > AMPLIFIED,
            )

        if varied and not (at_end or unheld):
            border = beside_border(weight)
            weight = found = border * weight
        if noisy or unheld:
            largest = unit * 10.0 ** _cross_validation.SEARCH[-1]
            made = first if border == 1 else _device.host(result(weight))
            while weight < largest:
                left = growth.of(made) if unheld else 0.0
                # A texture never gets quiet: it is flattened in the end.
                if left <= GROWN and (is_quiet(made, on_host, call.psf_sum) or (unheld and left < 1)):
                    break
                weight *= math.sqrt(10)
                made = _device.host(result(weight))
            if unheld:
                border = beside_border(weight)
                weight *= border
            cause = (
                "noise outgrows the image: it is not white"
                if noisy
                else "what continues the image, or noise that is not white, outgrows it"
            )
            note = (
                f"{name}: generalised cross-validation found {found:g}, with which {cause}. {weight:g} is "
                f"taken instead; choose the {name} by eye"
            )
            call.warnings.append(note)
            python_warnings.warn(note, UserWarning, stacklevel=3)
            at_end = False
        if is_flat and call.lowest != call.highest:
            call.warnings.append(
                f"{name}: generalised cross-validation says nothing, as what is penalised is what the blur "
                f"lets through: every {name} has the same score. The smallest, {found:g}, is taken; choose "
                f"the {name} by eye"
            )
        elif at_end and call.lowest != call.highest:
            call.warnings.append(
                f"{name}: generalised cross-validation has its minimum at the end of the searched range, "
                f"{weight:g}; the noise is not white, or there is none: choose the {name} by eye"
            )
    settings |= {
        name: float(weight),
        f"{name}_searched": searched,
        "gcv_score": score,
        "border_factor": border,
    }
    return call.plan.wiener_transfer(otf, penalty_transfer, weight)


def _check_exclusive(
    balance: Any, regularizer: Any, noise_to_signal: Any, noise_power: Any, signal_power: Any
) -> None:
    for given, other in (("noise_power", "signal_power"), ("signal_power", "noise_power")):
        values = {"noise_power": noise_power, "signal_power": signal_power}
        if values[given] is not None and values[other] is None:
            raise ValueError(
                f"{other}: missing; {given} needs it (a ratio alone is noise_to_signal, the weight of a "
                "regularizer balance)"
            )
    ways = [("noise_to_signal", noise_to_signal), ("noise_power", noise_power)]
    named = [name for name, value in ways if value is not None]
    if len(named) > 1:
        raise ValueError("noise_to_signal: got it together with noise_power and signal_power; expected one")
    if named and balance != "auto":
        raise ValueError(f"balance: got {balance:g} together with {named[0]}; expected one of them")
    if named and not (isinstance(regularizer, str) and regularizer == "laplacian"):
        raise ValueError(
            f"regularizer: got {_validate.shown(regularizer)} together with {named[0]}, which has none; "
            "expected it left out"
        )


def _power(value: Any, name: str, shape: tuple[int, ...]) -> float | np.ndarray | None:
    """A number above 0 (noise: of at least 0), or a power spectrum of the image's shape."""
    if value is None:
        return None
    if _validate.axes(value, name) == 0:
        if name == "noise_power":
            return _validate.number(value, name, minimum=0)
        return _validate.number(value, name, above=0)
    power, (lowest, highest) = _arrays.as_operand(value, name, shape, np.float64)
    _validate.non_negative(power, name, lowest)
    if highest == 0:
        raise ValueError(f"{name}: all values are zero, expected a power spectrum")
    opposite = np.roll(np.flip(power), 1, tuple(range(power.ndim)))
    if float(np.abs(power - opposite).max()) > 1e-3 * highest:
        raise ValueError(
            f"{name}: it is not symmetric, expected the power spectrum of a real image in the order of "
            "numpy.fft.fftn: frequency 0 at index 0 (numpy.fft.ifftshift undoes fftshift)"
        )
    return power


def _filter_of_powers(call: _filters.FilterCall, noise: Any, signal: Any) -> np.ndarray:
    """conj(H) / (|H|^2 + noise / signal) on the half spectrum; 0 where that has no finite value."""
    otf = call.spectrum(call.psf)
    noise, signal = (p if isinstance(p, float) else _on_grid(p, call.grid) for p in (noise, signal))
    divisor = np.abs(otf) ** 2 * signal + noise
    return np.divide(otf.conj() * signal, divisor, out=np.zeros_like(otf), where=divisor > 0)


def _on_grid(power: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """Interpolated linearly from the image's frequencies to the half spectrum of the grid's."""
    for axis, (n, length) in enumerate(zip(power.shape, grid, strict=True)):
        wanted = length if axis < power.ndim - 1 else length // 2 + 1
        if n == length:
            power = power.take(np.arange(wanted), axis) if wanted < n else power
            continue
        at = np.arange(wanted) * n / length
        below = np.floor(at).astype(int)
        share = (at - below).reshape([-1 if a == axis else 1 for a in range(power.ndim)])
        before, behind = (power.take((below + step) % n, axis) for step in (0, 1))
        power = before * (1 - share) + behind * share
    return power
