"""Stands in for ``skimage.restoration``: deconvolution.

Quirks are scikit-image's: Richardson-Lucy starts from 0.5, sees zeros outside the image, adds 1e-12 to the
blurred estimate, does not divide by the normalizer and does not normalise the psf; results are clipped to
[-1, 1]. The library's own `richardson_lucy` and `wiener` do none of this.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from ... import backends
from ..._blur import Geometry, Operator, geometry
from .._calls import HandBack, stand_in
from .._kernels import check_axes, check_dtype, computable, engine_for, is_finite

__all__ = ["richardson_lucy", "unsupervised_wiener", "wiener"]

EPS = 1e-12  # scikit-image's, added to the blurred estimate
# Our transforms have factors 2, 3, 5 and 7; any other one p costs p operations per voxel.
LARGEST_FACTOR = 1000


def _array(value: Any) -> np.ndarray:
    """scikit-image takes arrays only; every real dtype becomes float32 or float64 before anything else."""
    if type(value) not in (np.ndarray, np.memmap):
        raise HandBack("array kind")
    check_dtype(value)
    return np.asarray(value)


def _image_and_psf(image: Any, psf: Any) -> tuple[np.ndarray, np.ndarray]:
    data, response = _array(image), _array(psf)
    check_axes(data)
    check_axes(response)
    if data.ndim != response.ndim:
        raise HandBack("arguments")
    single = data.dtype.kind == "f" and data.dtype.itemsize <= 4
    dtype = np.float32 if single else np.float64
    with np.errstate(over="ignore"):
        data, response = computable(data, dtype), computable(response, dtype)
    if not (is_finite(data) and is_finite(response)):
        raise HandBack("not finite")
    return data, response


def _clipped(result: np.ndarray, clip: Any) -> np.ndarray:
    if clip:
        np.clip(result, -1, 1, out=result)
    return result


def _blur(psf: np.ndarray, layout: Geometry) -> Operator:
    # Rounding of a transform is relative to the largest value, and an iteration that drifts (an even-sized
    # psf) soon spans many orders of magnitude: few taps are summed, as in scikit-image's own convolutions.
    engine = engine_for(psf[layout.taps], layout)
    return Operator(psf, layout, "zero", backends.resolve(), None, engine)


@stand_in("skimage.restoration")
def richardson_lucy(
    image: Any, psf: Any, num_iter: int = 50, clip: bool = True, filter_epsilon: float | None = None
) -> Any:
    """Two fused sweeps per iteration; one that is not fused where values may be negative or are filtered."""
    data, response = _image_and_psf(image, psf)
    try:
        iterations = operator.index(num_iter)
    except TypeError as error:
        raise HandBack("arguments") from error
    if filter_epsilon is not None and not isinstance(filter_epsilon, int | float | np.number):
        raise HandBack("arguments")
    backend = backends.resolve()
    # scikit-image convolves with the flipped psf instead of transposing: for even sizes that is the transpose
    # of a psf whose centre lies one further on.
    forward = _blur(
        response,
        geometry(response.shape, data.shape, "zero", backend, tuple((k - 1) // 2 for k in response.shape)),
    )
    backward = forward
    if any(k % 2 == 0 for k in response.shape):
        backward = _blur(response, geometry(response.shape, data.shape, "zero", backend))
    estimate = np.full(data.shape, 0.5, data.dtype)
    # The fused update clamps at zero, which only rounding can reach where nothing is negative.
    if filter_epsilon or data.min() < 0 or response.min() < 0:
        _iterate(data, forward, backward, estimate, iterations, filter_epsilon)
    else:
        _iterate_fused(data, forward, backward, estimate, iterations)
    return _clipped(estimate, clip)


# No lower bound of the divisor: scikit-image has none but the EPS that it adds.
_RATIO: dict[str, Any] = {"background": EPS, "eps": -math.inf}


def _iterate_fused(
    data: np.ndarray, forward: Operator, backward: Operator, estimate: np.ndarray, iterations: int
) -> None:
    if iterations <= 0:
        return
    chain = forward.begin(estimate)
    if forward is backward:
        for left in range(iterations - 1, -1, -1):
            chain.sweep("ratio", image=data, **_RATIO)
            chain.sweep("multiply", adjoint=True, keep=left > 0, out=estimate, estimate=estimate)
        return
    quotient = np.empty_like(data)
    back = None
    for iteration in range(iterations):
        if iteration:
            chain.load(estimate)
        chain.sweep("ratio", keep=False, out=quotient, image=data, **_RATIO)
        if back is None:
            back = backward.begin(quotient, adjoint=True)
        else:
            back.load(quotient, adjoint=True)
        back.sweep("multiply", adjoint=True, keep=False, out=estimate, estimate=estimate)


def _iterate(
    data: np.ndarray,
    forward: Operator,
    backward: Operator,
    estimate: np.ndarray,
    iterations: int,
    filter_epsilon: float | None,
) -> None:
    for _ in range(iterations):
        blurred = forward.apply(estimate)
        blurred += blurred.dtype.type(EPS)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            quotient = data / blurred
        if filter_epsilon:
            quotient[blurred < filter_epsilon] = 0
        estimate *= backward.apply(quotient, adjoint=True)


def _transfer(plan: Any, response: np.ndarray) -> Any:
    return plan.transfer(response, tuple(k // 2 for k in response.shape), None)


def _largest_factor(n: int) -> int:
    largest, factor = 1, 2
    while factor * factor <= n:
        while n % factor == 0:
            largest, n = factor, n // factor
        factor += 1
    return max(largest, n)


def _filtered_by_taps(
    data: np.ndarray, response: np.ndarray, penalty: np.ndarray, balance: float
) -> np.ndarray:
    """The Wiener filter as a periodic convolution with its own impulse response, which any longer grid gives.

    For sizes that our transforms take in time that grows with the factor. NumPy makes the impulse response.
    """

    def spectrum(taps: np.ndarray) -> np.ndarray:
        padded = np.zeros(data.shape)
        padded[tuple(slice(0, k) for k in taps.shape)] = taps
        axes = tuple(range(data.ndim))
        return np.fft.rfftn(np.roll(padded, [-(k // 2) for k in taps.shape], axes))

    otf = spectrum(response)
    gain = otf.conj() / (np.abs(otf) ** 2 + balance * np.abs(spectrum(penalty)) ** 2)
    taps = computable(np.fft.irfftn(gain, data.shape, tuple(range(data.ndim))), data.dtype)
    backend = backends.resolve()
    layout = geometry(taps.shape, data.shape, "wrap", backend, (0,) * data.ndim)
    return Operator(taps, layout, "wrap", backend, None, "spectral").apply(data)


def _even_part(reg: np.ndarray) -> np.ndarray:
    """The part of an impulse response that is symmetric about ``shape // 2``: scikit-image drops what the
    imaginary part of its transform stands for."""
    odd = np.pad(reg, [(0, 1 - k % 2) for k in reg.shape])
    return np.ascontiguousarray((odd + np.flip(odd)) / 2)


def _balance(dtype: np.dtype, balance: Any) -> tuple[np.dtype, float]:
    """The dtype that NumPy gives to the product of an array of `dtype` and `balance`, and `balance` in it.

    It is the result's: a float64 that is NumPy's promotes float32, Python's does not.
    """
    try:
        product = np.result_type(dtype, balance)
        with np.errstate(over="ignore"):
            weight = float(product.type(balance))
    except OverflowError as error:  # an integer beyond float64
        raise HandBack("arguments") from error
    if product.itemsize > 8:
        raise HandBack("longdouble")
    return product, weight


def _laplacian(ndim: int) -> np.ndarray:
    reg = np.zeros((3,) * ndim)
    centre = np.array((1,) * ndim)
    for axis in range(ndim):
        for step in (-1, 1):
            at = centre.copy()
            at[axis] += step
            reg[tuple(at)] = -1
    reg[tuple(centre)] = 2.0 * ndim
    return reg


@stand_in("skimage.restoration")
def wiener(
    image: Any, psf: Any, balance: Any, reg: Any = None, is_real: bool = True, clip: bool = True
) -> Any:
    """One fused filter: transform, gain, and back.

    Where a regularizer that was given is zero at a frequency at which the psf's spectrum is, scikit-image
    divides 0 by 0; here rounding decides that frequency's gain.
    """
    if isinstance(psf, np.ndarray) and np.iscomplexobj(psf):
        raise HandBack("transfer function")
    if isinstance(reg, np.ndarray) and np.iscomplexobj(reg):
        raise HandBack("transfer function")
    data, response = _image_and_psf(image, psf)
    # A psf as large as half a spectrum passes for a transfer function.
    if not is_real or response.shape == (*data.shape[:-1], data.shape[-1] // 2 + 1):
        raise HandBack("transfer function")
    if not isinstance(balance, int | float | np.integer | np.floating):
        raise HandBack("arguments")
    penalty = _laplacian(data.ndim) if reg is None else _array(reg)
    if penalty.ndim != data.ndim or penalty.size == 0:
        raise HandBack("arguments")
    # The part of the regularizer that counts is of odd size.
    odd = tuple(k + 1 - k % 2 for k in penalty.shape)
    for taps_shape in (response.shape, odd):
        if any(k > n for n, k in zip(data.shape, taps_shape, strict=True)):
            raise HandBack("arguments")
    penalty = computable(penalty, data.dtype if penalty.dtype.kind == "f" else np.float64)
    if not is_finite(penalty):
        raise HandBack("not finite")
    penalty = computable(_even_part(penalty), data.dtype)
    dtype, weight = _balance(data.dtype, balance)
    data, response, penalty = (computable(a, dtype) for a in (data, response, penalty))
    # The Laplacian is blind to a constant; only the psf answers for it.
    if not 0 < weight < math.inf or abs(response.sum(dtype=np.float64)) <= 1e-6 * np.abs(response).sum(
        dtype=np.float64
    ):
        raise HandBack("filter without bounds")
    if any(_largest_factor(n) > LARGEST_FACTOR for n in data.shape):
        return _clipped(_filtered_by_taps(data, response, penalty, weight), clip)
    whole = tuple((0, n) for n in data.shape)
    plan = backends.resolve().SpectralPlan(data.shape, whole, whole, data.dtype)
    transfer = plan.wiener_transfer(_transfer(plan, response), _transfer(plan, penalty), weight)
    result = np.empty_like(data)
    chain = plan.chain(None)
    chain.load(data)
    chain.sweep(transfer, "copy", keep=False, out=result)
    return _clipped(result, clip)


@stand_in("skimage.restoration")
def unsupervised_wiener(
    image: Any,
    psf: Any,
    reg: Any = None,
    user_params: Any = None,
    is_real: bool = True,
    clip: bool = True,
    *,
    rng: Any = None,
) -> Any:
    """Handed back always."""
    raise HandBack("random spectrum")
