"""Accelerated iterations: each starts from a point beyond the latest estimate, where that is moving.

``y = max(x + alpha (x - x_before), 0)``; the schemes differ in alpha.
"""

from __future__ import annotations

from collections.abc import Sequence

from .. import _validate

ACCELERATIONS = ("biggs-andrews", "heavy-ball")


class BiggsAndrews:
    """alpha = <g, g_before> / <g_before, g_before>, g being what an iteration added to the point it began at.

    D. S. C. Biggs and M. Andrews, Appl. Opt. 36, 1766 (1997), first-order extrapolation. Known only when
    the iteration is complete, so the next one begins with a pass that extrapolates.
    """

    LARGEST = 0.999

    def __init__(self) -> None:
        self._last = 0.0

    def alpha(self, change_product: float, squared_change: float) -> float:
        before, self._last = self._last, squared_change
        if before <= 0:
            return 0.0
        return min(max(change_product / before, 0.0), self.LARGEST)


class HeavyBall:
    """alpha = (k - 1) / (k + 2) after iteration k.

    The step of Richardson-Lucy, a gradient scaled by the estimate, taken from the extrapolated point:
    H. Wang and P. C. Miller, IEEE Trans. Image Process. 23, 848 (2014), with Nesterov's sequence.
    """

    def alpha(self, iteration: int) -> float:
        return (iteration - 1) / (iteration + 2)


class Prescribed(HeavyBall):
    """Factors that are known before the run, whatever scheme they come from: those of a whole volume for each
    of its tiles. `alphas` has one after each iteration but the last."""

    def __init__(self, alphas: Sequence[float]) -> None:
        self._alphas = tuple(alphas)

    def alpha(self, iteration: int) -> float:
        return self._alphas[iteration - 1]


def acceleration_of(name: object) -> BiggsAndrews | HeavyBall | None:
    """The scheme that a call's ``acceleration=`` names."""
    if name is None:
        return None
    kind = _validate.choice(name, "acceleration", ACCELERATIONS)
    return BiggsAndrews() if kind == "biggs-andrews" else HeavyBall()
