"""Projected gradient steps on half the weighted squared residual, plain or accelerated: two sweeps each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _device, _validate
from ._linear_model import LinearModel


def step_of(step: Any, model: LinearModel) -> tuple[float, float]:
    """The step that a call's ``step=`` names, and the bound of |H' weights H| that it was measured by."""
    if not isinstance(step, str):
        step = _validate.number(step, "step", above=0)
    elif step != "auto":
        raise ValueError(f"step: got {step!r}, expected 'auto' or a number greater than 0")
    bound = model.norm_bound()
    return (1 / bound if isinstance(step, str) else step), bound


def descend(
    model: LinearModel, estimate: np.ndarray, step: float, *, non_negative: bool
) -> tuple[np.ndarray, str]:
    """At most so many steps from `estimate`, which is overwritten; what ended them.

    x <- x + step H' weights (image - background - H x), and what is negative to 0 if `non_negative`.
    """
    rule = model.watch.rule
    residual = model.residual()
    chain = model.operator.begin(estimate)
    for iteration in range(1, model.iterations + 1):
        begun = time.perf_counter()
        entry: dict[str, Any] = {"iteration": iteration}
        if model.seen(entry, chain.sweep("residual", **residual)):
            return estimate, rule.name
        last = iteration == model.iterations
        sums = chain.sweep(
            "add",
            adjoint=True,
            keep=not last,
            out=estimate,
            estimate=estimate,
            step=step,
            positive=non_negative,
            sums=rule.of_update,
            unit=model.unit,
        )
        ended_by = model.updated(entry, begun, estimate, sums)
        if ended_by is not None and not last:
            return estimate, ended_by
    return estimate, "num_iter"


def descend_accelerated(
    model: LinearModel, estimate: np.ndarray, step: float, proximal: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, str]:
    """The same from a point beyond the estimate, each step followed by `proximal`, which may overwrite and
    return what it is given.

    A. Beck and M. Teboulle, SIAM J. Imaging Sci. 2, 183 (2009): t <- (1 + sqrt(1 + 4 t^2)) / 2, the next step
    from x + (t_before - 1) / t (x - x_before).
    """
    rule = model.watch.rule
    residual = model.residual()
    ahead, moved = estimate.copy(), np.empty_like(estimate)
    t = 1.0
    chain = model.operator.begin(ahead)
    for iteration in range(1, model.iterations + 1):
        begun = time.perf_counter()
        entry: dict[str, Any] = {"iteration": iteration}
        if model.seen(entry, chain.sweep("residual", **residual)):
            return estimate, rule.name
        last = iteration == model.iterations
        chain.sweep("add", adjoint=True, keep=False, out=moved, estimate=ahead, step=step)
        before, estimate = estimate, proximal(moved)
        t_before, t = t, (1 + math.sqrt(1 + 4 * t * t)) / 2
        change = np.subtract(estimate, before, out=before)
        sums = None
        if rule.of_update:
            sums = {
                name: _device.dot(a, a)
                for name, a in (("squared_change", change), ("squared_result", estimate))
            }
        ended_by = model.updated(entry, begun, estimate, sums)
        if ended_by is not None and not last:
            return estimate, ended_by
        if not last:
            np.multiply(change, change.dtype.type((t_before - 1) / t), out=ahead)
            ahead += estimate
            chain.load(ahead)
            if estimate is moved:
                moved = change  # its values are no longer needed
    return estimate, "num_iter"
