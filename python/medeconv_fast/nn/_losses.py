"""Losses: a number to be made small, and its gradient to the prediction."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _validate, ops
from ._engine import Engine

# (prediction, target, engine, weights) -> value, gradient. Weights count the squares (or the like) of single
# values: 0 leaves a value out.
Loss = Callable[[np.ndarray, np.ndarray, Engine, np.ndarray | None], tuple[float, np.ndarray]]

SSIM_WINDOW = 7
_K1, _K2 = 0.01, 0.03


def _mean_of(values: np.ndarray, weights: np.ndarray | None, total: float) -> float:
    if weights is not None:
        values = values * weights
    return float(values.sum(dtype=np.float64)) / total


def _total(prediction: np.ndarray, weights: np.ndarray | None) -> float:
    if weights is None:
        return float(prediction.size)
    return max(float(weights.sum(dtype=np.float64)), np.finfo(np.float64).tiny)


def mean_squared_error(
    prediction: np.ndarray, target: np.ndarray, engine: Engine, weights: np.ndarray | None = None
) -> tuple[float, np.ndarray]:
    """mean((prediction - target)²)"""
    total = _total(prediction, weights)
    difference = prediction - target
    value = _mean_of(difference * difference, weights, total)
    difference *= prediction.dtype.type(2 / total)
    if weights is not None:
        difference *= weights
    return value, difference


def mean_absolute_error(
    prediction: np.ndarray, target: np.ndarray, engine: Engine, weights: np.ndarray | None = None
) -> tuple[float, np.ndarray]:
    """mean(|prediction - target|)"""
    total = _total(prediction, weights)
    difference = prediction - target
    value = _mean_of(np.abs(difference), weights, total)
    grad = np.sign(difference)
    grad *= prediction.dtype.type(1 / total)
    if weights is not None:
        grad *= weights
    return value, grad


def poisson(
    prediction: np.ndarray, target: np.ndarray, engine: Engine, weights: np.ndarray | None = None
) -> tuple[float, np.ndarray]:
    """mean(p - t log p), the negative logarithm of the likelihood of counts t under means p.

    Below eps, a thousandth of the mean count, the logarithm goes on as its tangent, and p as |p|, rounded
    within eps of 0: the gradient stays finite and leads back to positive values, where no count is to 0.
    """
    lowest = float(target.min())
    _validate.non_negative(target, "y under loss='poisson'", lowest)
    total = _total(prediction, weights)
    mean = float(target.mean(dtype=np.float64))
    # Of targets without counts any eps will do.
    eps = prediction.dtype.type(max(1e-3 * mean, np.finfo(np.float32).tiny) if mean else 1)
    inside = np.maximum(prediction, eps)
    logarithm = np.log(inside) + np.minimum(prediction - eps, 0) / eps
    slope = np.clip(prediction, -eps, eps) / eps
    size = np.maximum(np.abs(prediction), (prediction * slope + eps) / 2)
    value = _mean_of(size - target * logarithm, weights, total)
    grad = slope - target / inside
    grad *= prediction.dtype.type(1 / total)
    if weights is not None:
        grad *= weights
    return value, grad


class StructuralSimilarity:
    """1 - the mean structural similarity over all complete windows of 7 (see `metrics.ssim`).

    Parameters
    ----------
    data_range : float, optional
        Default: that of each batch of targets.
    """

    def __init__(self, data_range: float | None = None) -> None:
        self.data_range = (
            data_range if data_range is None else _validate.number(data_range, "data_range", above=0)
        )

    def describe(self) -> dict[str, Any]:
        """What a resumed training must have in common."""
        return {} if self.data_range is None else {"data_range": self.data_range}

    def range_of(self, target: np.ndarray) -> float:
        found = float(np.ptp(target)) if self.data_range is None else self.data_range
        if not found > 0:  # NaN as well
            return 1.0
        return found

    def __call__(
        self, prediction: np.ndarray, target: np.ndarray, engine: Engine, weights: np.ndarray | None = None
    ) -> tuple[float, np.ndarray]:
        if weights is not None:
            raise ValueError(
                "loss: 'ssim' compares whole windows, expected 'mse', 'mae' or 'poisson' with masks"
            )
        similarity, grad = self.similarity(prediction, target, engine)
        np.negative(grad, out=grad)
        return 1 - similarity, grad

    def similarity(
        self, prediction: np.ndarray, target: np.ndarray, engine: Engine
    ) -> tuple[float, np.ndarray]:
        """The mean structural similarity and its gradient."""
        spatial = prediction.shape[2:]
        if min(spatial) < SSIM_WINDOW:
            raise ValueError(
                f"y: got images of {spatial}, expected at least {SSIM_WINDOW} along every axis under "
                "an SSIM loss"
            )
        dtype = prediction.dtype
        count = SSIM_WINDOW ** len(spatial)
        sample = dtype.type(count / (count - 1))
        window = np.full((1, 1, *(SSIM_WINDOW,) * len(spatial)), 1 / count, dtype)
        rows = (-1, 1, *spatial)
        # Around a common mean, the squares stay small.
        offset = dtype.type(target.mean(dtype=np.float64))
        a, b = (target - offset).reshape(rows), (prediction - offset).reshape(rows)

        def mean(values: np.ndarray) -> np.ndarray:
            return np.asarray(ops.conv(values, window, **engine.options))

        def spread(values: np.ndarray) -> np.ndarray:
            return np.asarray(ops.conv_input_grad(values, window, a.shape, **engine.options))

        ma, mb = mean(a), mean(b)
        va = sample * (mean(a * a) - ma * ma)
        vb = sample * (mean(b * b) - mb * mb)
        vab = sample * (mean(a * b) - ma * mb)
        peak = self.range_of(target)
        c1, c2 = dtype.type((_K1 * peak) ** 2), dtype.type((_K2 * peak) ** 2)
        xa, xb = ma + offset, mb + offset
        light = (2 * xa * xb + c1, xa * xa + xb * xb + c1)
        shape = (2 * vab + c2, va + vb + c2)
        score = light[0] * shape[0] / (light[1] * shape[1])
        value = float(score.mean(dtype=np.float64))
        # Derivatives of the score to the mean, the variance and the covariance of each window.
        per = dtype.type(1 / score.size)
        to_light = (score / light[0], -score / light[1])
        to_vab = 2 * score / shape[0] * sample * per
        to_vb = -score / shape[1] * sample * per
        to_mean = (2 * xa * to_light[0] + 2 * xb * to_light[1]) * per
        # vb = sample (mean(b²) - mb²), vab = sample (mean(ab) - ma mb)
        to_mean -= to_vab * ma + 2 * to_vb * mb
        grad = spread(to_mean) + a * spread(to_vab) + 2 * b * spread(to_vb)
        return value, np.ascontiguousarray(grad.reshape(prediction.shape))


class RichardsonLucyNetworkLoss(StructuralSimilarity):
    """mean squared error / range² - log((1 + SSIM) / 2), after Li et al. 2022.

    References
    ----------
    Y. Li et al.: Incorporating the image formation process into deep learning improves network performance.
    Nature Methods 19, 1427 (2022).
    """

    def __call__(
        self, prediction: np.ndarray, target: np.ndarray, engine: Engine, weights: np.ndarray | None = None
    ) -> tuple[float, np.ndarray]:
        if weights is not None:
            raise ValueError(
                "loss: 'rln' compares whole windows, expected 'mse', 'mae' or 'poisson' with masks"
            )
        square = self.range_of(target) ** 2
        error, grad = mean_squared_error(prediction, target, engine)
        similarity, to_similarity = self.similarity(prediction, target, engine)
        grad *= prediction.dtype.type(1 / square)
        to_similarity *= prediction.dtype.type(-1 / (1 + similarity))
        grad += to_similarity
        return error / square - math.log((1 + similarity) / 2), grad


LOSSES: dict[str, Callable[[], Loss]] = {
    "mse": lambda: mean_squared_error,
    "mae": lambda: mean_absolute_error,
    "ssim": StructuralSimilarity,
    "poisson": lambda: poisson,
    "rln": RichardsonLucyNetworkLoss,
}


def as_loss(value: Any) -> Loss:
    """The loss that ``loss=`` names, or a function like those of this module."""
    if callable(value):
        try:
            signature = inspect.signature(value)
        except ValueError:  # as of some functions that are not Python's
            signature = None
        try:
            if signature is not None:
                signature.bind(*"ptew")
        except TypeError:
            raise TypeError(
                f"loss: got {_validate.shown(value)} with the arguments {signature}, expected a function of "
                "(prediction, target, engine, weights) that returns (value, gradient)"
            ) from None
        made: Loss = value
        return made
    return LOSSES[_validate.choice(value, "loss", tuple(LOSSES))]()
