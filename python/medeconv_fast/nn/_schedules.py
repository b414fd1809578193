"""Learning rates that change from update to update."""

from __future__ import annotations

import math
from typing import Any

from .. import _validate


class Constant:
    """The same learning rate throughout.

    Parameters
    ----------
    rate : float
    """

    def __init__(self, rate: float) -> None:
        self.rate = _validate.number(rate, "learning_rate", above=0)

    def __call__(self, update: int) -> float:
        return self.rate


class ExponentialDecay:
    """``rate * factor ** (update / every)``, in steps where `staircase`.

    Parameters
    ----------
    rate : float
        Of the first update.
    every : int
        Updates after which `factor` is reached.
    factor : float
        Between 0 and 1.
    staircase : bool
        Keep the rate in between.

    Raises
    ------
    ValueError, TypeError
        Numbers out of their range.
    """

    def __init__(self, rate: float, every: int, factor: float = 0.5, staircase: bool = False) -> None:
        self.rate = _validate.number(rate, "rate", above=0)
        self.every = _validate.integer(every, "every", minimum=1)
        self.factor = _validate.number(factor, "factor", above=0)
        if self.factor > 1:
            raise ValueError(f"factor: got {factor!r}, expected at most 1")
        self.staircase = _validate.flag(staircase, "staircase")

    def __call__(self, update: int) -> float:
        power = update // self.every if self.staircase else update / self.every
        return float(self.rate * self.factor**power)


class CosineDecay:
    """Down a half cosine from `rate` to ``final * rate`` (Loshchilov and Hutter 2017), after a linear rise.

    Parameters
    ----------
    rate : float
    updates : int
        Until the end; the rate stays there.
    final : float
        Part of `rate` that is left, 0 to 1.
    warmup : int
        Updates of the rise from 0.

    Raises
    ------
    ValueError, TypeError
        Numbers out of their range.

    References
    ----------
    I. Loshchilov, F. Hutter: SGDR: stochastic gradient descent with warm restarts. ICLR 2017.
    """

    def __init__(self, rate: float, updates: int, final: float = 0.0, warmup: int = 0) -> None:
        self.rate = _validate.number(rate, "rate", above=0)
        self.updates = _validate.integer(updates, "updates", minimum=1)
        self.final = _validate.number(final, "final", minimum=0)
        if self.final > 1:
            raise ValueError(f"final: got {final!r}, expected at most 1")
        self.warmup = _validate.integer(warmup, "warmup", minimum=0, maximum=self.updates)

    def __call__(self, update: int) -> float:
        if update < self.warmup:
            return self.rate * (update + 1) / self.warmup
        if update >= self.updates:
            return self.rate * self.final
        done = (update - self.warmup) / (self.updates - self.warmup)
        return self.rate * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * done)))


SCHEDULES = (Constant, ExponentialDecay, CosineDecay)


def as_schedule(value: Any) -> Any:
    if isinstance(value, SCHEDULES):
        return value
    if callable(value):
        raise TypeError(
            f"learning_rate: got {_validate.shown(value)}, expected a number, nn.ExponentialDecay or "
            "nn.CosineDecay"
        )
    return Constant(_validate.number(value, "learning_rate", above=0))
