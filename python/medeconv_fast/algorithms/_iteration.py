"""The Richardson-Lucy iteration over sweeps, with acceleration, regularizer and rule for stopping."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _device
from .._blur import Operator, SweepChain
from ..stop import Rule, Watch
from ._acceleration import BiggsAndrews, HeavyBall


@dataclass(frozen=True)
class Model:
    """The image and what is known of it; the ratio of an iteration is image / (blurred + background)."""

    image: np.ndarray
    weights: np.ndarray | None
    background: float
    eps: float
    unit: float  # power of two by which values are multiplied before they are squared and summed
    partial: np.ndarray | None = None  # part of the background that differs from voxel to voxel
    damping: np.ndarray | None = None
    held_out: np.ndarray | None = None
    held_out_scale: float = 1.0

    def operands(self) -> dict[str, Any]:
        """Of the sweep with the formula ``ratio``."""
        given = {
            "image": self.image,
            "weights": self.weights,
            "partial": self.partial,
            "damping": self.damping,
            "held_out": self.held_out,
        }
        named: dict[str, Any] = {name: array for name, array in given.items() if array is not None}
        if self.held_out is not None:
            named["held_out_scale"] = self.held_out_scale
        return named | {"background": self.background, "eps": self.eps}


def unit_of(highest: float) -> float:
    """The power of two that brings `highest` to between 1/2 and 1: squares of such values fit any dtype."""
    return math.ldexp(1.0, -math.frexp(highest)[1]) if highest > 0 else 1.0


# Levels between which the squares of an estimate's gradients, and of what counts as none, fit any dtype.
SQUARES_FIT = (1e-10, 1e10)


SMALLEST_GRADIENT = 1e-5  # of the level, in the kernels' total variation


class Penalty:
    """A regularizer: the factor of each correction, from the estimate that is corrected."""

    def __init__(
        self,
        kind: str,
        weight: float,
        level: float,
        spacing: tuple[float, ...] | None,
        operator: Operator,
        acceleration: str | None = None,
    ) -> None:
        self._unit = 1.0 if SQUARES_FIT[0] < level < SQUARES_FIT[1] else unit_of(level)
        if kind == "tv":
            # The kernel smooths |grad x| below 1e-5 of its level. The estimate that the factor comes from is
            # one step late: where the penalty is steeper than this the step overshoots, and rounding grows
            # into ripples on what is flat, sooner where a momentum of its own goes on. An axis of one voxel
            # has no gradient.
            axes = sum(n > 1 for n in operator.layout.estimate_shape)
            steepest = 4 if acceleration == "heavy-ball" else 2
            level *= max(1.0, steepest * axes * weight / SMALLEST_GRADIENT)
        self._kind, self._weight, self._level = kind, weight, level * self._unit
        self._spacing = spacing
        self._operator = operator
        self._out: np.ndarray | None = None

    def factor(self, estimate: np.ndarray) -> np.ndarray:
        if self._out is None:
            self._out = np.empty_like(estimate)
        if self._unit != 1:  # the factor does not depend on the unit
            estimate = estimate * estimate.dtype.type(self._unit)
        operator = self._operator
        operator.backend.penalty(
            self._kind,
            estimate,
            self._out,
            self._spacing or (1.0,) * estimate.ndim,
            self._weight,
            self._level,
            num_threads=operator.num_threads,
        )
        return self._out


def overshooting(
    kind: str,
    weight: float,
    reach: float,
    spacing: tuple[float, ...] | None,
    shape: tuple[int, ...],
    *,
    accelerated: bool,
) -> str | None:
    """What is to be said of a regularizer so strong that its corrections overshoot, or None.

    `reach` is the largest value over the mean. A pattern of voxels that alternate, of which the blur passes
    nothing, is multiplied by 1 - k in every iteration: the weight times dU/dx, linearised about a value.
    Beyond 1 the quotient of the correction enlarges it, with momentum beyond a third.
    """
    sizes = [(spacing or (1.0,) * len(shape))[axis] for axis, n in enumerate(shape) if n > 1]
    if kind == "tv" or not sizes:
        return None
    curvature = 8 * sum((min(sizes) / size) ** 2 for size in sizes)
    per_weight = {"tikhonov": curvature * reach, "good-roughness": curvature, "entropy": 1.0}[kind]
    most = (1 / 3 if accelerated else 1.0) / per_weight
    if weight <= most:
        return None
    where = f" where values reach {reach:.3g} times their mean" if kind == "tikhonov" else ""
    return (
        f"regularizer: got ({kind!r}, {weight:g}), expected a weight of at most {most:.2g} here: beyond it "
        f"corrections overshoot{where}, and rounding may grow into patterns"
    )


def iterate(
    operator: Operator,
    model: Model,
    estimate: np.ndarray,
    iterations: int,
    trace: list[dict[str, Any]],
    *,
    gain: np.ndarray | None,
    penalty: Penalty | None = None,
    scheme: BiggsAndrews | HeavyBall | None = None,
    watch: Watch | None = None,
    report: Callable[[int, np.ndarray], bool] | None = None,
) -> tuple[np.ndarray, str]:
    """At most `iterations` updates; returns the estimate and what ended them, and appends to `trace`.

    `estimate` is overwritten; the one returned may be another array.
    """
    ruled = watch is not None
    watch = Watch(Rule()) if watch is None else watch
    measured = isinstance(scheme, BiggsAndrews)  # how far to go is known when the update is complete
    moving = estimate if scheme is None else estimate.copy()  # where H is applied
    other = estimate if scheme is None else np.empty_like(estimate)
    change = np.zeros_like(estimate) if measured else None
    chain = operator.begin(moving)
    first = 1
    if isinstance(estimate, _device.DeviceArray) and not (ruled or scheme or penalty or report):
        first = iterations  # nothing on the host depends on the values: all but the last iteration at once
        _repeat(chain, model, estimate, iterations - 1, trace, gain)
    for iteration in range(first, iterations + 1):
        begun = time.perf_counter()
        entry: dict[str, Any] = {"iteration": iteration}
        sums = chain.sweep("ratio", sums=watch.rule.of_ratio, unit=model.unit, **model.operands())
        if sums is not None:
            entry |= {
                name: value / model.unit ** (2 if name.endswith("squared_residual") else 1)
                for name, value in sums.items()
            }
        if watch.before(entry):
            return estimate, watch.rule.name
        last = iteration == iterations
        operands: dict[str, Any] = {"estimate": moving, "gain": gain, "unit": model.unit}
        if penalty is not None:
            operands["factor"] = penalty.factor(moving)
        if isinstance(scheme, HeavyBall) and not last:
            operands |= {"previous": estimate, "alpha": scheme.alpha(iteration), "extrapolated": moving}
        if measured:
            operands["change"] = change
        estimate, other = other, estimate
        sums = chain.sweep(
            "multiply",
            adjoint=True,
            keep=not (last or measured),
            out=estimate,
            sums=measured or watch.rule.of_update,
            **operands,
        )
        if isinstance(scheme, BiggsAndrews):
            assert sums is not None
            entry["alpha"] = scheme.alpha(sums["change_product"], sums["squared_change"])
            if not last:
                chain.load(estimate, previous=other, alpha=entry["alpha"], extrapolated=moving)
        if watch.rule.of_update and sums is not None:
            entry["relative_change"] = _root_of_ratio(sums["squared_change"], sums["squared_result"])
        if ruled:
            _device.settle(estimate)  # a rule goes by time
        ended = time.perf_counter()
        entry["seconds"] = ended - begun
        trace.append(entry)
        if report is not None and report(iteration, estimate) and not last:
            return estimate, "callback"
        if watch.after(entry | {"ended": ended}) and not last:
            return estimate, watch.rule.name
    return estimate, "num_iter"


def _repeat(
    chain: SweepChain,
    model: Model,
    estimate: np.ndarray,
    iterations: int,
    trace: list[dict[str, Any]],
    gain: np.ndarray | None,
) -> None:
    """Plain iterations on a GPU, as a graph. Their time is that of giving it the work."""

    def update() -> None:
        chain.sweep("ratio", **model.operands())
        chain.sweep("multiply", adjoint=True, out=estimate, estimate=estimate, gain=gain)

    begun = time.perf_counter()
    _device.repeat(update, iterations, estimate)
    seconds = (time.perf_counter() - begun) / max(iterations, 1)
    trace += [{"iteration": i, "seconds": seconds} for i in range(1, iterations + 1)]


def _root_of_ratio(a: float, b: float) -> float:
    return math.sqrt(a / b) if b > 0 else 0.0
