"""Training with little or no data: pairs made from volumes and a PSF, and images that are their
own targets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _arrays, _validate
from .._blur import Blur
from .._simulate import MOST_COUNTS, NOISES
from ..algorithms._noise import noise_of
from ._blur_layers import BOUNDARIES, FixedBlur
from ._data import Change, Pair, PatchSampler, changed
from ._engine import Engine
from ._graph import register
from ._history import History
from ._layer import Gradients, Input, Layer, Tape
from ._model import Model


def _range(value: Any, name: str) -> tuple[float, float]:
    """(lowest, highest) from one number or two."""
    if np.ndim(value) == 0:
        number = _validate.number(value, name, above=0)
        return number, number
    if len(value) != 2:
        raise ValueError(f"{name}: got {len(value)} values, expected a number or (lowest, highest)")
    low, high = (_validate.number(v, f"{name}[{i}]", above=0) for i, v in enumerate(value))
    if low > high:
        raise ValueError(f"{name}: got {(low, high)}, expected the lowest first")
    return low, high


def _between(limits: tuple[float, float], generator: np.random.Generator) -> float:
    """A number between the limits, its logarithm evenly distributed."""
    return math.exp(generator.uniform(math.log(limits[0]), math.log(limits[1])))


class SimulatedPairs(PatchSampler):
    """Patches of volumes as targets, and their blurred and noisy images: y = x * h + e.

    The volumes are blurred once; the noise of every patch is drawn anew.

    Parameters
    ----------
    truths : sequence of array_like
        Volumes, taken for sharp, of as many axes as the PSF.
    psf : array_like
        Centre at ``shape // 2``.
    patch : tuple of int
        Shape of a patch.
    samples : int
        Patches of one epoch.
    noise : {"poisson", "gaussian", None}
    photons : float or (lowest, highest)
        Poisson: expected counts at a volume's brightest blurred voxel.
    sigma : float or (lowest, highest)
        Gaussian: standard deviation, in the volumes' unit.
    boundary : {"reflect", "zero", "nearest", "mirror", "wrap"}
        What lies outside the volumes.
    units : sequence of float, optional
        By what each volume has been divided: `sigma` is then in the unit that all had before.

    Raises
    ------
    ValueError, TypeError
        Volumes, PSF or numbers that do not fit; negative values under Poisson noise.
    """

    def __init__(
        self,
        truths: Sequence[Any],
        psf: Any,
        patch: Any,
        samples: int = 256,
        *,
        noise: str | None = "poisson",
        photons: Any = 1000.0,
        sigma: Any = None,
        boundary: str = "reflect",
        units: Sequence[float] | None = None,
    ) -> None:
        boundary = _validate.choice(boundary, "boundary", BOUNDARIES)
        self._noise = None if noise is None else _validate.choice(noise, "noise", NOISES)
        self._photons = _range(photons, "photons")
        if self._photons[1] > MOST_COUNTS:
            raise ValueError(f"photons: got {photons!r}, expected at most {MOST_COUNTS:g} counts")
        if self._noise == "gaussian" and sigma is None:
            raise ValueError("sigma: got None, expected the noise's standard deviation for noise='gaussian'")
        self._sigma = None if sigma is None else _range(sigma, "sigma")
        targets, images = [], []
        for i, truth in enumerate(truths):
            data, _, (lowest, *_) = _arrays.as_image(truth, f"truths[{i}]")
            if self._noise == "poisson":
                _validate.non_negative(data, f"truths[{i}]", lowest)
            targets.append(data)
            images.append(Blur(psf, data.shape, boundary=boundary).forward(data))
        super().__init__(images, targets, patch, samples)
        if units is not None and len(units) != len(images):
            raise ValueError(f"units: got {len(units)} numbers, expected {len(images)}, one per volume")
        given = (1.0,) * len(images) if units is None else units
        self._units = [_validate.number(unit, f"units[{i}]", above=0) for i, unit in enumerate(given)]
        self._highest = [float(image.max()) for image in images]

    def measured(self, number: int, generator: np.random.Generator) -> np.ndarray:
        return super().pair(number, generator)[0]

    def pair(self, number: int, generator: np.random.Generator) -> Pair:
        x, y = super().pair(number, generator)
        if self._noise == "poisson":
            gain = _between(self._photons, generator) / max(self._highest[number % len(self._highest)], 1e-30)
            x = generator.poisson(np.maximum(x, 0).astype(np.float64) * gain) / gain
        elif self._noise == "gaussian":
            assert self._sigma is not None
            sigma = _between(self._sigma, generator) / self._units[number % len(self._units)]
            x = x + generator.normal(0.0, sigma, x.shape)
        return x, y


class _MaskedPatches(PatchSampler):
    """Patches whose masked voxels hold their neighbours' mean; the patch itself is the target there alone."""

    def __init__(self, images: Sequence[Any], patch: Any, samples: int, masked: float) -> None:
        super().__init__(images, images, patch, samples)
        self._masked = masked

    def pair(self, number: int, generator: np.random.Generator) -> Pair:
        return self._hidden(super().pair(number, generator)[0], generator)

    def changed_pair(self, number: int, generator: np.random.Generator, augment: Change) -> Pair:
        # Before voxels are hidden: what hides them stays beside them.
        y, _ = super().pair(number, generator)
        return self._hidden(changed(augment, y, y, generator)[0], generator)

    def _hidden(self, y: np.ndarray, generator: np.random.Generator) -> Pair:
        y = y.astype(np.float64)
        mask = generator.random(y.shape) < self._masked
        mask.flat[int(generator.integers(mask.size))] = True  # never none
        padded = np.pad(y, [(0, 0)] + [(1, 1)] * (y.ndim - 1), mode="symmetric")
        inner = (slice(1, -1),) * (y.ndim - 1)
        total = np.zeros_like(y)
        for axis in range(1, y.ndim):
            for start in (0, 2):
                cut = list(inner)
                cut[axis - 1] = slice(start, start + y.shape[axis])
                total += padded[(slice(None), *cut)]
        return np.where(mask, total / (2 * (y.ndim - 1)), y), y, mask.astype(np.float64)


class _Penalized(Layer):
    """Passes images on; on the way back it adds the gradient of their total variation, mean over voxels.

    |grad x| counts as sqrt(|grad x|² + eps²), with forward differences.
    """

    _EPS = 1e-3  # of images of unit scale: below it edges are not told from noise

    def __init__(self, weight: float, name: str | None = None) -> None:
        super().__init__(name)
        self._weight = weight

    def options(self) -> dict[str, Any]:
        return {"weight": self._weight}

    def forward(self, inputs: Sequence[np.ndarray], engine: Engine, tape: Tape | None) -> np.ndarray:
        if tape is not None:
            tape["x"] = inputs[0]
        return inputs[0].copy()

    def backward(
        self, grad: np.ndarray, tape: Tape, engine: Engine, gradients: Gradients, needs: Sequence[bool]
    ) -> Sequence[np.ndarray | None]:
        grad += self.gradient(tape["x"])
        return (grad,)

    def gradient(self, x: np.ndarray) -> np.ndarray:
        """Of the penalty to `x`."""
        axes = range(2, x.ndim)
        steps = [np.diff(x, axis=axis, append=np.take(x, [-1], axis)) for axis in axes]
        length = np.sqrt(sum(step * step for step in steps) + x.dtype.type(self._EPS**2))
        made = np.zeros_like(x)
        for axis, step in zip(axes, steps, strict=True):
            unit = step / length
            made -= unit
            behind = [slice(None)] * x.ndim
            ahead = list(behind)
            behind[axis], ahead[axis] = slice(None, -1), slice(1, None)
            made[tuple(ahead)] += unit[tuple(behind)]
        made *= x.dtype.type(self._weight / x.size)
        return made


register(_Penalized)


def fit_without_truth(
    net: Model,
    images: Sequence[Any],
    psf: Any,
    epochs: int = 10,
    batch_size: int = 8,
    *,
    patch: Any,
    samples: int = 128,
    masked: float = 0.1,
    smoothness: float | str = "auto",
    boundary: str = "reflect",
    optimizer: Any = "adam",
    loss: str = "mse",
    learning_rate: Any = None,
    **options: Any,
) -> History:
    """Train a network on blurred, noisy images alone.

    Some voxels of each patch are replaced by their neighbours' mean; what the network makes of the patch,
    blurred again by the PSF, is compared with the voxels that were hidden. The noise of a hidden voxel cannot
    be foretold from the others, the signal can, so the noise is not learnt [1]_; and what is compared is the
    blurred result, so it is the sharp one that is learnt [2]_.

    Parameters
    ----------
    net : Model
        One channel in and out, scale 1; an `RLNet` with the same PSF learns fastest. Trained in place.
    images : sequence of array_like
        Images of as many axes as the PSF, on the scale of `net`.
    psf : array_like
        Centre at ``shape // 2``.
    epochs, batch_size, samples, patch
        As in `Model.fit` and `PatchSampler`; patches should be several PSFs wide.
    masked : float
        Part of the voxels that is hidden.
    smoothness : float or "auto"
        Weight of the result's mean total variation beside the loss (which the history does not count). The
        blur takes away fine noise before the comparison, so something else must speak against it. "auto": the
        variance of the noise, estimated from the images; right for "mse" and images of unit scale.
    boundary : {"reflect", "zero", "nearest", "mirror", "wrap"}
        What the blur takes to lie outside a patch.
    optimizer, loss, learning_rate
        As in `Model.compile`; the losses "mse", "mae" and "poisson".
    **options
        To `Model.fit`: callbacks, augment (of the image alone), seed, checkpoint, resume, overwrite,
        progress. What `load` reads from the checkpoint is a `Model` of `net` and the blur behind it; `net`
        itself is had by resuming, or from ``net.save``.

    Returns
    -------
    History

    Raises
    ------
    ValueError, TypeError
        Images, PSF or network that do not fit; images with values below 0 where the network is `positive`.

    References
    ----------
    .. [1] J. Batson, L. Royer: Noise2Self: blind denoising by self-supervision. ICML 2019, arXiv:1901.11365.
    .. [2] H. Kobayashi et al.: Image deconvolution via noise-tolerant self-supervised inversion.
       arXiv:2006.06156 (2020).
    """
    masked = _validate.number(masked, "masked", above=0)
    if masked >= 1:
        raise ValueError(f"masked: got {masked!r}, expected less than 1")
    if net.channels != 1 or net.output.channels != 1 or any(s != 1 for s in net.scale):
        raise ValueError(f"net: got {net!r}, expected one channel in and out, and scale 1")
    checked = []
    for i, image in enumerate(images):
        data, _, (lowest, *_) = _arrays.as_image(image, f"images[{i}]")
        if net.positive:
            _validate.non_negative(data, f"images[{i}]", lowest)
        checked.append(data)
    if not checked:
        raise ValueError("images: got none, an empty data set; expected at least one")
    start = Input(1, net.ndim)
    if smoothness == "auto":
        found = [noise_of(image).at(max(float(image.mean()), 0.0)) ** 2 for image in checked]
        weight = float(np.mean(found))
    else:
        weight = _validate.number(smoothness, "smoothness", minimum=0)
    blurred = FixedBlur(psf, boundary, name="blur")(_Penalized(weight)(net(start)))
    whole = Model(
        start,
        blurred,
        seed=net.seed,
        dtype=net.dtype,
        backend=net.engine.backend,
        num_threads=net.engine.num_threads,
    )
    whole.positive = net.positive
    whole.compile(optimizer, loss, learning_rate=learning_rate)
    pairs = _MaskedPatches(checked, patch, samples, masked)
    return whole.fit(pairs, None, epochs, batch_size, **options)
