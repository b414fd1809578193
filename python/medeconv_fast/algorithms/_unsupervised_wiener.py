"""Wiener deconvolution that finds the levels of noise and of structure by itself, by Gibbs sampling."""

from __future__ import annotations

import functools
import math
import time
import warnings as python_warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from .. import _validate
from .._threads import resolve_num_threads
from . import _border_error, _cross_validation, _filters
from ._cross_validation import AMPLIFIED, GROWN, TINY, Growth, is_amplified_noise

BLOCK = 1 << 16  # frequencies that one random stream serves, whatever the number of threads


def unsupervised_wiener(
    image: Any,
    psf: Any,
    *,
    regularizer: Any = "laplacian",
    boundary: str = "reflect",
    num_iter: int = 200,
    burn_in: int = 15,
    tolerance: float = 0.01,
    seed: int = 0,
    normalize_psf: bool = True,
    voxel_size: Any = None,
    psf_voxel_size: Any = None,
    return_info: bool = False,
    backend: str = "auto",
    engine: str = "auto",
    num_threads: int | None = None,
) -> Any:
    """Restore an image blurred by a known PSF with the Wiener-Hunt filter, its balance inferred.

    The model is ``image = H x + noise`` with white noise of precision g_n and a Gaussian prior of precision
    g_x on R x, both precisions unknown (Jeffreys' prior). Gibbs sampling draws in turn, from what each is
    given the others, x (in frequency space, independent per frequency) and the two precisions (gamma
    distributed). The estimate is the mean of x over the samples.

    Parameters
    ----------
    image : array_like
        Measured image with 1 to 3 axes in the order (z, y, x); negative values are welcome.
    psf : array_like
        Point spread function with as many axes, its centre at ``shape // 2``.
    regularizer : {"laplacian", "identity"} or array_like
        R, as in `wiener`.
    boundary : {"reflect", "nearest", "mirror", "wrap", "zero"}
        As in `wiener`.
    num_iter : int
        The most samples that are drawn.
    burn_in : int
        Samples left out of the mean.
    tolerance : float
        After at least ``2 * burn_in`` samples the run ends once the standard error of the mean balance,
        g_x / g_n, as of independent draws, is below this share of it. 0: never.
    seed : int
        Of the random draws; same seed, same result.
    normalize_psf : bool
        Divide the PSF by its sum.
    voxel_size, psf_voxel_size : float or sequence of float, optional
        As in `richardson_lucy`.
    return_info : bool
        Return ``(estimate, info)``.
    backend : {"auto", "cpp", "numba", "reference", "cuda"}
    engine : {"auto", "spectral"}
    num_threads : int, optional
        Results do not depend on it.

    Returns
    -------
    estimate : array of the image's shape and kind
        float64 for float64 and for 32- and 64-bit integers, else float32; neither rescaled nor clipped.
    info : Info
        With `return_info`. ``info["chains"]``: lists "noise" and "prior" of the precisions drawn (1 over the
        variance per voxel, of the noise and of R x). ``info["settings"]``: their means after the burn-in,
        "noise_sigma" and "balance" (which `wiener` takes), and "balance_spread", its standard deviation.

    Raises
    ------
    ValueError, TypeError
        As `wiener`; fewer samples than the burn-in needs.

    Warns
    -----
    UserWarning
        The estimate is little but noise, as the image's noise is not white; or, where there is hardly any,
        the error of what continues the image beyond its border.

    Notes
    -----
    Differs from the paper, and from scikit-image's function of that name, in three ways. The estimate
    averages the mean of x given the precisions instead of x itself: it has the same expectation and less
    variance (Rao-Blackwell). Unless the boundary is "wrap" the precisions are found on the image less its
    mean under a Hann window, as in `wiener`, for the jump between opposite edges passes for detail. The
    chain starts at the most probable balance, x and g_n integrated out, instead of at precisions of 1, which
    mean something else for every scale of the image and may take more samples to leave than are drawn.

    Random numbers and sums over the spectrum are NumPy's, 2 per frequency and sample: they, not the
    transforms, take the time. `wiener` with balance="auto" answers the same question at a fraction of it.

    References
    ----------
    F. Orieux, J.-F. Giovannelli and T. Rodet, J. Opt. Soc. Am. A 27, 1593 (2010), with a known PSF.

    Examples
    --------
    >>> import numpy as np, medeconv_fast as mf
    >>> image = np.random.default_rng(0).random((24, 32))
    >>> mf.unsupervised_wiener(image, np.ones((3, 3))).shape
    (24, 32)
    """
    num_iter = _validate.integer(num_iter, "num_iter", minimum=1)
    burn_in = _validate.integer(burn_in, "burn_in", minimum=0)
    if num_iter <= burn_in:
        raise ValueError(f"num_iter: got {num_iter}, expected more than the burn_in of {burn_in}")
    tolerance = _validate.number(tolerance, "tolerance", minimum=0)
    seed = _validate.integer(seed, "seed", minimum=0)
    call = _filters.FilterCall(
        "unsupervised_wiener",
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
    penalty = _filters.impulse_response(
        regularizer, call.data.ndim, call.data.dtype, without="inverse_filter"
    )
    settings: dict[str, Any] = {
        "regularizer": regularizer if isinstance(regularizer, str) else "array",
        "num_iter": num_iter,
        "burn_in": burn_in,
        "tolerance": tolerance,
        "seed": seed,
    }
    chains = Chains([], [])
    trace: list[dict[str, Any]] = []
    otf = call.spectrum(call.psf)
    if call.lowest == call.highest:
        # Nothing to infer the precisions from; any of them gives the same.
        call.warnings.append("image: all values are equal; no precision was inferred")
        weight = np.abs(otf) ** 2 + np.abs(call.spectrum(penalty)) ** 2
        mean_filter = np.divide(1, weight, out=np.zeros_like(weight), where=weight > 0)
        stopped_by = "constant image"
    else:
        sampler, share = _sampler(call, otf, penalty, seed)
        chains, stopped_by, trace = sampler.run(num_iter, burn_in, tolerance, num_threads)
        mean_filter = sampler.mean_filter(len(chains.noise) - burn_in)
        del sampler  # room for what follows
        chains = Chains([g * share for g in chains.noise], [g * share for g in chains.prior])
        settings |= _summary(chains, burn_in)
    np.conjugate(otf, out=otf)
    otf *= mean_filter
    del mean_filter
    result = call.apply(call.transfer_from(otf))
    if call.lowest != call.highest and (note := _outgrown(call, result, settings["balance"])):
        call.warnings.append(note)
        python_warnings.warn(note, UserWarning, stacklevel=2)
    return call.finish(
        result,
        settings,
        extra_bytes=5 * otf.nbytes,
        num_iter=len(trace),
        stopped_by=stopped_by,
        trace=trace,
        chains={"noise": chains.noise, "prior": chains.prior},
    )


def _outgrown(call: _filters.FilterCall, result: Any, balance: float) -> str | None:
    """What is to be said of an estimate that is mostly something else than the scene."""
    image = call.on_host(call.data)
    if is_amplified_noise(result, image, call.psf_sum):
        return (
            "image: its noise, grown beyond the image, is most of the estimate: it is not white, as "
            "unsupervised_wiener assumes; use wiener or tikhonov with a weight chosen by eye"
        )
    if call.boundary == "wrap":
        return None
    grown = Growth(image, call.psf_sum, _border_error.reach(call.psf)).of(result)
    if grown <= (GROWN if balance < TINY * call.psf_sum**2 else AMPLIFIED):
        return None
    return (
        "image: noise that is not white, or without any what continues the image beyond its border, has "
        "grown beyond the image and is most of the estimate; use wiener or tikhonov instead"
    )


def _sampler(
    call: _filters.FilterCall, otf: np.ndarray, penalty: np.ndarray, seed: int
) -> tuple[Sampler, float]:
    """Of the image that the precisions are found on, and the share of white noise that is left in it, per
    frequency of the grid.
    """
    observed, share = call.on_host(call.data).astype(np.float64), 1.0
    if call.boundary != "wrap":
        observed = _cross_validation.windowed(observed)
        share = math.prod(np.square(_cross_validation.window(n)).sum() for n in call.data.shape)
        share /= math.prod(call.grid)
    power = np.abs(call.spectrum(observed, (0,) * observed.ndim))
    del observed
    power **= 2
    power /= math.prod(call.grid)
    structure = np.abs(call.spectrum(penalty))
    structure **= 2
    return Sampler(np.abs(otf), structure, power, call.grid, seed), share


class Chains(NamedTuple):
    """Precisions drawn, one after the other."""

    noise: list[float]
    prior: list[float]

    def balances(self, burn_in: int) -> np.ndarray:
        return np.array(self.prior[burn_in:]) / np.array(self.noise[burn_in:])


def _summary(chains: Chains, burn_in: int) -> dict[str, float]:
    balances = chains.balances(burn_in)
    return {
        "noise_sigma": 1 / math.sqrt(float(np.mean(chains.noise[burn_in:]))),
        "balance": float(balances.mean()),
        "balance_spread": float(balances.std()),
    }


class Sampler:
    """Draws the precisions; x itself is drawn frequency by frequency, up to phases on which nothing depends.

    With h = |H|, r = |R|, Y the transform (unitary) and p = g_n h^2 + g_x r^2, x has the mean
    ``g_n conj(H) Y / p`` and the variance 1 / p. Turned by the phase of conj(H) Y the deviation e from that
    mean is distributed as before, and

        |Y - H x|^2 = (|Y| g_x r^2 / p - h Re e)^2 + (h Im e)^2
        |R x|^2     = r^2 ((g_n h |Y| / p + Re e)^2 + (Im e)^2).
    """

    def __init__(
        self, h: np.ndarray, r2: np.ndarray, power: np.ndarray, grid: tuple[int, ...], seed: int
    ) -> None:
        counts = _counts(grid)
        used = counts > 0
        self._shape, self._used = h.shape, used
        self._counts = counts[used]
        self._h, self._r2 = h[used], r2[used]
        self._size = np.sqrt(power[used])
        # Where neither blur nor regularizer says anything, x stays 0.
        most = max(float(self._h.max()) ** 2, float(self._r2.max()))
        self._known = self._h**2 + self._r2 > 1e-30 * most
        self._sum = np.zeros(self._h.size)  # of g_n / p
        self._freedom = float(self._counts.sum())
        # R's null space (the mean, for a Laplacian) carries no information on g_x.
        self._seen = self._r2 > 1e-24 * float(self._r2.max())
        self._prior_freedom = float(self._counts[self._seen].sum())
        blocks = range(0, self._h.size, BLOCK)
        self._blocks = [slice(start, start + BLOCK) for start in blocks]
        streams = np.random.SeedSequence(seed).spawn(len(self._blocks) + 1)
        self._rng, *self._streams = (np.random.default_rng(s) for s in streams)

    def run(
        self, num_iter: int, burn_in: int, tolerance: float, num_threads: int | None
    ) -> tuple[Chains, str, list[dict[str, Any]]]:
        """The precisions drawn, what ended the run, and its trace."""
        chains = Chains([], [])
        trace: list[dict[str, Any]] = []
        with ThreadPoolExecutor(resolve_num_threads(num_threads)) as pool:
            balance = 10.0 ** self._likeliest(pool)
            noise = self._prior_freedom / float(self._sums_given(balance, pool)[1])
            prior = balance * noise
            for iteration in range(1, num_iter + 1):
                begun = time.perf_counter()
                draw = functools.partial(self._draw, noise, prior, iteration > burn_in)
                sums = np.sum(list(pool.map(draw, range(len(self._blocks)))), axis=0)
                noise = self._rng.gamma(self._freedom / 2, 2 / sums[0])
                prior = self._rng.gamma(self._prior_freedom / 2, 2 / sums[1])
                chains.noise.append(float(noise))
                chains.prior.append(float(prior))
                trace.append({"iteration": iteration, "seconds": time.perf_counter() - begun})
                kept = chains.balances(burn_in)
                if iteration >= 2 * burn_in and kept.size > 1:
                    error = float(kept.std(ddof=1)) / math.sqrt(kept.size)
                    if error < tolerance * float(kept.mean()):
                        return chains, "tolerance", trace
        return chains, "num_iter", trace

    def _likeliest(self, pool: ThreadPoolExecutor) -> float:
        """Exponent of the most probable balance; the smallest where all are as probable, not what rounding
        makes of them."""
        coarse = self._scores(_cross_validation.SEARCH, pool)
        if _cross_validation.is_flat(coarse, self._prior_freedom, np.float64):
            return float(_cross_validation.SEARCH[0])
        return _cross_validation.minimise(lambda e: self._scores(e, pool), coarse)[0]

    def _scores(self, exponents: np.ndarray, pool: ThreadPoolExecutor) -> np.ndarray:
        """Minus the logarithm of the probability of balances 10^exponent, but for a constant.

        With x integrated out |Y|^2 has the mean s / g_n, s = 1 + h^2 / (balance r^2); g_n as well:
        ``1/2 sum(log s) + N/2 log(sum(|Y|^2 / s))``.
        """
        sums = np.array([self._sums_given(10.0**e, pool) for e in exponents])
        return np.asarray(0.5 * (sums[:, 0] + self._prior_freedom * np.log(sums[:, 1])))

    def _sums_given(self, balance: float, pool: ThreadPoolExecutor) -> np.ndarray:
        """Sums of log s and of |Y|^2 / s."""

        def of_block(at: slice) -> tuple[float, float]:
            seen = self._seen[at]
            ratio = np.zeros(seen.size)
            np.divide(self._h[at] ** 2, balance * self._r2[at], out=ratio, where=seen)
            counts = self._counts[at] * seen
            left = counts * self._size[at] ** 2 / (1 + ratio)
            return float((counts * np.log1p(ratio)).sum()), float(left.sum())

        return np.sum(list(pool.map(of_block, self._blocks)), axis=0)

    def _draw(self, noise: float, prior: float, keep: bool, block: int) -> tuple[float, float]:
        """|Y - H x|^2 and |R x|^2 of one block's x, drawn given the precisions."""
        at = self._blocks[block]
        counts, h, r2, size, known = (
            a[at] for a in (self._counts, self._h, self._r2, self._size, self._known)
        )
        inverse = np.zeros(h.size)
        np.divide(1, noise * h**2 + prior * r2, out=inverse, where=known)
        if keep:
            self._sum[at] += noise * inverse
        real, imaginary = self._streams[block].standard_normal((2, h.size))
        # A frequency that is its own opposite is real; others share the variance between two parts.
        alone = counts == 1
        deviation = np.sqrt(inverse * np.where(alone, 1.0, 0.5))
        real *= deviation
        imaginary *= np.where(alone, 0.0, deviation)
        residual = (size * prior * r2 * inverse - h * real) ** 2 + (h * imaginary) ** 2
        structure = r2 * ((noise * h * size * inverse + real) ** 2 + imaginary**2)
        return float((counts * residual).sum()), float((counts * structure).sum())

    def mean_filter(self, samples: int) -> np.ndarray:
        """The mean of g_n / p over the samples kept, on the half spectrum."""
        made = np.zeros(self._shape)
        made[self._used] = self._sum / samples
        return _completed(made, self._used)


def _opposite(lengths: tuple[int, ...]) -> np.ndarray:
    """Flat index of -k for each frequency k of axes of these lengths."""
    index = np.arange(math.prod(lengths)).reshape(lengths)
    for axis, n in enumerate(lengths):
        index = index.take(-np.arange(n) % n, axis)
    return index


def _counts(grid: tuple[int, ...]) -> np.ndarray:
    """For how many frequencies an entry of the half spectrum stands: 2, 1 (its own opposite), 0 (counted)."""
    counts = np.full((*grid[:-1], grid[-1] // 2 + 1), 2.0)
    opposite = _opposite(grid[:-1])
    index = np.arange(opposite.size).reshape(opposite.shape)
    plane = np.where(index < opposite, 2.0, np.where(index == opposite, 1.0, 0.0))
    counts[..., 0] = plane
    if grid[-1] % 2 == 0:
        counts[..., -1] = plane
    return counts


def _completed(values: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Entries that are not used take the value of their opposite."""
    opposite = _opposite(values.shape[:-1]).ravel()
    lines = values.reshape(opposite.size, -1)
    return np.where(used.reshape(lines.shape), lines, lines[opposite]).reshape(values.shape)
