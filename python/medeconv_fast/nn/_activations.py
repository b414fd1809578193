"""ReLU, LeakyReLU and Softplus: inside of convolutions and as layers of their own.

The derivative of each follows from its result, so the argument need not be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _validate
from ._engine import Engine
from ._layer import Gradients, Layer, Tape


class _Activation(Layer):
    """A layer of a function that `apply` computes in place and `differentiate` takes back."""

    def apply(self, x: np.ndarray) -> None:
        raise NotImplementedError

    def differentiate(self, grad: np.ndarray, result: np.ndarray) -> None:
        """Multiply `grad` by the derivative where the function gave `result`."""
        raise NotImplementedError

    def forward(self, inputs: Sequence[np.ndarray], engine: Engine, tape: Tape | None) -> np.ndarray:
        (x,) = inputs
        out = engine.empty(x.shape, x.dtype)

        def both(source: np.ndarray, target: np.ndarray) -> None:
            target[...] = source
            self.apply(target)

        engine.pointwise(both, x, out)
        if tape is not None:
            tape["out"] = out
        return out

    def backward(
        self, grad: np.ndarray, tape: Tape, engine: Engine, gradients: Gradients, needs: Sequence[bool]
    ) -> Sequence[np.ndarray | None]:
        engine.pointwise(self.differentiate, grad, tape["out"])
        return (grad,)


class ReLU(_Activation):
    """max(x, 0); its derivative at 0 counts as 0.

    Parameters
    ----------
    name : str, optional
    """

    def apply(self, x: np.ndarray) -> None:
        np.maximum(x, 0, out=x)

    def differentiate(self, grad: np.ndarray, result: np.ndarray) -> None:
        np.multiply(grad, result > 0, out=grad)


class LeakyReLU(_Activation):
    """x where it is positive, slope * x elsewhere.

    Parameters
    ----------
    slope : float
        Greater than 0 (that is `ReLU`).
    name : str, optional

    Raises
    ------
    ValueError, TypeError
        Another slope.
    """

    def __init__(self, slope: float = 0.01, name: str | None = None) -> None:
        super().__init__(name)
        self.slope = _validate.number(slope, "slope", above=0)

    def options(self) -> dict[str, Any]:
        return {"slope": self.slope}

    # Multiplications and comparisons of whole arrays: `where=` takes thirty times as long.
    def apply(self, x: np.ndarray) -> None:
        other = x * x.dtype.type(self.slope)
        (np.maximum if self.slope <= 1 else np.minimum)(x, other, out=x)

    def differentiate(self, grad: np.ndarray, result: np.ndarray) -> None:
        negative = result <= 0
        factor = negative * grad.dtype.type(self.slope)
        np.maximum(factor, ~negative, out=factor)
        grad *= factor


class Softplus(_Activation):
    """log(1 + exp(x)): positive, and x itself where x is large.

    Parameters
    ----------
    name : str, optional
    """

    def apply(self, x: np.ndarray) -> None:
        np.logaddexp(x, 0, out=x)

    def differentiate(self, grad: np.ndarray, result: np.ndarray) -> None:
        # 1 / (1 + exp(-x)) = 1 - exp(-softplus(x))
        np.multiply(grad, -np.expm1(-result), out=grad)


ACTIVATIONS: dict[str, type[_Activation]] = {"relu": ReLU, "leaky_relu": LeakyReLU, "softplus": Softplus}


def activation(name: Any) -> _Activation | None:
    """The function that a layer's ``activation=`` names."""
    if name is None:
        return None
    return ACTIVATIONS[_validate.choice(name, "activation", tuple(ACTIVATIONS))]()
