"""What looks on while a network is trained: early stopping, and a rate that falls where nothing improves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _validate

if TYPE_CHECKING:
    from ._training import Training


class Callback:
    """Base: does nothing. `state` goes into checkpoints, so that a resumed run goes on alike."""

    def begin(self, training: Training) -> None:
        """Before the first epoch; not again when resumed."""

    def epoch_end(self, training: Training, logs: dict[str, float]) -> None:
        """After every epoch; ``training.stop("reason")`` ends the training."""

    def end(self, training: Training) -> None:
        """After the last epoch."""

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Numbers and arrays that change."""
        return {}, {}

    def restore(self, numbers: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Take back what `state` gave."""


class FunctionCallback(Callback):
    """A function of (epoch, logs)."""

    def __init__(self, function: Callable[[int, dict[str, float]], Any]) -> None:
        self._function = function

    def epoch_end(self, training: Training, logs: dict[str, float]) -> None:
        self._function(training.epoch, dict(logs))


class _Watching(Callback):
    """Keeps the best value of one number."""

    def __init__(self, monitor: str | None, patience: int, min_delta: float) -> None:
        if monitor is not None and not isinstance(monitor, str):
            raise TypeError(f"monitor: got {_validate.shown(monitor)}, expected a name such as 'val_loss'")
        self.monitor = monitor
        self.patience = _validate.integer(patience, "patience", minimum=1)
        self.min_delta = _validate.number(min_delta, "min_delta", minimum=0)

    def begin(self, training: Training) -> None:
        self.best, self.waited = math.inf, 0

    def improves(self, logs: dict[str, float]) -> bool:
        name = self.monitor or ("val_loss" if "val_loss" in logs else "loss")
        if name not in logs:
            raise ValueError(f"monitor: got {name!r}, expected one of {', '.join(map(repr, logs))}")
        value = -logs[name] if name.endswith("psnr") else logs[name]
        if value < self.best - self.min_delta:
            self.best, self.waited = value, 0
            return True
        self.waited += 1
        return False

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        return {"best": self.best, "waited": self.waited}, {}

    def restore(self, numbers: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        # None: nothing yet, as files written earlier have it.
        self.best = math.inf if numbers["best"] is None else numbers["best"]
        self.waited = numbers["waited"]


class EarlyStopping(_Watching):
    """Stop when nothing has improved for a while, and go back to the best weights.

    Parameters
    ----------
    monitor : str, optional
        What to watch: "loss", "psnr", "val_loss", "val_psnr". Default: the validation loss where there is
        one.
    patience : int
        Epochs without improvement after which to stop.
    min_delta : float
        What counts as improvement.
    restore_best : bool
        At the end, also where all epochs were run, put back the weights of the best epoch.

    Raises
    ------
    ValueError, TypeError
        Numbers out of their range.
    """

    def __init__(
        self,
        monitor: str | None = None,
        patience: int = 10,
        min_delta: float = 0.0,
        restore_best: bool = True,
    ) -> None:
        super().__init__(monitor, patience, min_delta)
        self.restore_best = _validate.flag(restore_best, "restore_best")

    def begin(self, training: Training) -> None:
        super().begin(training)
        self.best_epoch = 0
        self._weights: list[np.ndarray] = []

    def epoch_end(self, training: Training, logs: dict[str, float]) -> None:
        if self.improves(logs):
            self.best_epoch = training.epoch
            if self.restore_best:
                self._weights = [weight.copy() for weight in training.weights]
        elif self.waited >= self.patience:
            training.stop("early stopping")

    def end(self, training: Training) -> None:
        for weight, best in zip(training.weights, self._weights, strict=False):
            weight[...] = best

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        numbers, _ = super().state()
        return {**numbers, "best_epoch": self.best_epoch}, {str(i): w for i, w in enumerate(self._weights)}

    def restore(self, numbers: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        super().restore(numbers, arrays)
        self.best_epoch = numbers["best_epoch"]
        self._weights = [arrays[str(i)] for i in range(len(arrays))]


class ReduceOnPlateau(_Watching):
    """Multiply the learning rate by `factor` when nothing has improved for a while.

    Parameters
    ----------
    monitor : str, optional
    patience : int
    factor : float
        Between 0 and 1.
    min_delta : float
        All but `factor` as in `EarlyStopping`.

    Raises
    ------
    ValueError, TypeError
        Numbers out of their range.
    """

    def __init__(
        self, monitor: str | None = None, patience: int = 5, factor: float = 0.5, min_delta: float = 0.0
    ) -> None:
        super().__init__(monitor, patience, min_delta)
        self.factor = _validate.number(factor, "factor", above=0)
        if self.factor >= 1:
            raise ValueError(f"factor: got {factor!r}, expected less than 1")

    def epoch_end(self, training: Training, logs: dict[str, float]) -> None:
        if not self.improves(logs) and self.waited >= self.patience:
            training.optimizer.factor *= self.factor
            self.waited = 0


def as_callback(value: Any) -> Callback:
    if isinstance(value, Callback):
        return value
    if callable(value) and not isinstance(value, type):  # a class is not what it makes
        return FunctionCallback(value)
    raise TypeError(
        f"callbacks: got {_validate.shown(value)}, expected nn.EarlyStopping(), another nn.Callback or a "
        "function of (epoch, logs)"
    )
