"""A line on stderr while a network is trained."""

from __future__ import annotations

import sys
import time
from typing import Any

from .. import _validate


class ProgressBar:
    """Loss, PSNR and time left; drawn where stderr is a terminal, or where `shown` says so."""

    def __init__(self, epochs: int, batches: int, shown: Any) -> None:
        self._shown = sys.stderr.isatty() if shown is None else _validate.flag(shown, "progress")
        self._epochs, self._batches = epochs, batches
        self._begun = self._drawn = time.monotonic()
        self._steps = 0

    def step(self, epoch: int, batch: int, loss: float, psnr: float) -> None:
        """After batch number `batch` (from 1) of epoch number `epoch` (from 1)."""
        self._steps += 1
        now = time.monotonic()
        if not self._shown or (now - self._drawn < 0.1 and batch < self._batches):
            return
        self._drawn = now
        remaining = (self._epochs - epoch) * self._batches + self._batches - batch
        seconds = round((now - self._begun) / self._steps * remaining)
        filled = 20 * batch // self._batches
        sys.stderr.write(
            f"\repoch {epoch}/{self._epochs} [{'#' * filled}{'-' * (20 - filled)}] loss {loss:.4g}, "
            f"PSNR {psnr:.2f} dB, {seconds // 60}:{seconds % 60:02d} left\x1b[K"
        )
        sys.stderr.flush()

    def epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        if not self._shown:
            return
        text = ", ".join(f"{name} {value:.4g}" for name, value in logs.items())
        sys.stderr.write(f"\repoch {epoch}/{self._epochs}: {text}\x1b[K\n")
        sys.stderr.flush()
