"""Optimizers: SGD, Adam, AdamW, Muon; numbers as torch's. All work in place, in the weights' dtype."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _validate
from ._schedules import as_schedule

AS_ADAM = 0.2  # the usual root mean square of Adam's steps, in learning rates
RANK, TINY = 1e-12, 1e-30  # squares of singular values: what counts as none beside the largest, and at all


class Optimizer:
    """Base: learning rate, clipping, and the state that a checkpoint holds.

    Attributes
    ----------
    updates : int
        Done so far.
    factor : float
        By which the schedule's rate is multiplied; `ReduceOnPlateau` lowers it.
    """

    slots: tuple[str, ...] = ()  # one array each per weight

    def __init__(self, learning_rate: Any, clip_norm: float | None, clip_value: float | None) -> None:
        self.schedule = as_schedule(learning_rate)
        self.clip_norm = None if clip_norm is None else _validate.number(clip_norm, "clip_norm", above=0)
        self.clip_value = None if clip_value is None else _validate.number(clip_value, "clip_value", above=0)
        self.updates = 0
        self.factor = 1.0
        self.state: dict[str, list[np.ndarray]] = {}
        self._of: list[np.ndarray] = []  # the weights that `state` belongs to

    @property
    def learning_rate(self) -> float:
        """Of the next update."""
        return float(self.schedule(self.updates) * self.factor)

    def describe(self) -> dict[str, Any]:
        """Kind and numbers, as JSON knows them."""
        changing = ("state", "updates", "factor", "schedule", "_of")
        plain = {k: v for k, v in vars(self).items() if k not in changing}
        schedule = {"kind": type(self.schedule).__name__, **vars(self.schedule)}
        return {"kind": type(self).__name__, **plain, "schedule": schedule}

    def reset(self, weights: Sequence[np.ndarray]) -> None:
        """Start anew for these weights."""
        self.updates, self.factor = 0, 1.0
        self._of = list(weights)
        self.state = {slot: [np.zeros_like(w) for w in weights] for slot in self.slots}

    def fits(self, weights: Sequence[np.ndarray]) -> bool:
        """Whether it was started for these very weights: others may have the same shapes."""
        return len(self._of) == len(weights) and all(a is b for a, b in zip(self._of, weights, strict=True))

    def update(self, weights: Sequence[np.ndarray], grads: Sequence[np.ndarray]) -> None:
        """Move `weights` by one step against `grads`; both are overwritten."""
        self._clip(grads)
        rate = self.learning_rate
        self.updates += 1
        for index, (weight, grad) in enumerate(zip(weights, grads, strict=True)):
            self._step(weight, grad, rate, index)

    def _clip(self, grads: Sequence[np.ndarray]) -> None:
        if self.clip_value is not None:
            for grad in grads:
                np.clip(grad, -self.clip_value, self.clip_value, out=grad)
        if self.clip_norm is not None:
            norm = math.sqrt(sum(float(np.square(g, dtype=np.float64).sum()) for g in grads))
            if norm > self.clip_norm:
                for grad in grads:
                    grad *= grad.dtype.type(self.clip_norm / norm)

    def _step(self, weight: np.ndarray, grad: np.ndarray, rate: float, index: int) -> None:
        raise NotImplementedError


class SGD(Optimizer):
    """Gradient descent, optionally with momentum.

    Parameters
    ----------
    learning_rate : float or schedule
    momentum : float
        Part of the last step that goes on, 0 to less than 1.
    nesterov : bool
        Look ahead by the momentum (Sutskever et al. 2013), which must not be 0.
    weight_decay : float
        Added to the gradient, times the weight.
    clip_norm : float, optional
        Largest norm of all gradients together; longer ones are shortened.
    clip_value : float, optional
        Largest absolute value of a gradient.

    Raises
    ------
    ValueError, TypeError
        Numbers out of their range.
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        super().__init__(learning_rate, clip_norm, clip_value)
        self.momentum = _fraction(momentum, "momentum")
        self.nesterov = _validate.flag(nesterov, "nesterov")
        self.weight_decay = _validate.number(weight_decay, "weight_decay", minimum=0)
        if self.nesterov and not self.momentum:
            raise ValueError(f"nesterov: got True with momentum {momentum!r}, expected a momentum above 0")
        if self.momentum:
            self.slots = ("velocity",)

    def _step(self, weight: np.ndarray, grad: np.ndarray, rate: float, index: int) -> None:
        if self.weight_decay:
            grad += weight * weight.dtype.type(self.weight_decay)
        if self.momentum:
            velocity = self.state["velocity"][index]
            velocity *= weight.dtype.type(self.momentum)
            velocity += grad
            grad = grad + velocity * weight.dtype.type(self.momentum) if self.nesterov else velocity
        weight -= grad * weight.dtype.type(rate)


class Adam(Optimizer):
    """Adam [1]_: steps of a size that the gradients' recent mean and mean square give.

    Parameters
    ----------
    learning_rate : float or schedule
    beta1, beta2 : float
        How long both are remembered.
    eps : float
        Added to the root of the mean square.
    weight_decay : float
        Added to the gradient, times the weight.
    clip_norm, clip_value : float, optional
        As in `SGD`.

    Raises
    ------
    ValueError, TypeError
        Numbers out of their range.

    References
    ----------
    .. [1] D. Kingma, J. Ba: Adam: a method for stochastic optimization. ICLR 2015, arXiv:1412.6980.
    """

    slots = ("mean", "square")
    _decoupled = False

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        super().__init__(learning_rate, clip_norm, clip_value)
        self.beta1, self.beta2 = _fraction(beta1, "beta1"), _fraction(beta2, "beta2")
        self.eps = _validate.number(eps, "eps", above=0)
        self.weight_decay = _validate.number(weight_decay, "weight_decay", minimum=0)

    def _step(self, weight: np.ndarray, grad: np.ndarray, rate: float, index: int) -> None:
        real = weight.dtype.type
        if self.weight_decay:
            if self._decoupled:
                weight *= real(1 - rate * self.weight_decay)
            else:
                grad += weight * real(self.weight_decay)
        mean, square = self.state["mean"][index], self.state["square"][index]
        mean += (grad - mean) * real(1 - self.beta1)
        square *= real(self.beta2)
        np.square(grad, out=grad)
        grad *= real(1 - self.beta2)
        square += grad
        root = np.sqrt(square)
        root /= real(math.sqrt(1 - self.beta2**self.updates))
        root += real(self.eps)
        np.divide(mean, root, out=root)
        root *= real(rate / (1 - self.beta1**self.updates))
        weight -= root


class AdamW(Adam):
    """Adam whose weight decay does not pass through the means [1]_.

    Parameters
    ----------
    learning_rate, beta1, beta2, eps, clip_norm, clip_value
        As in `Adam`.
    weight_decay : float
        Part of each weight, times the learning rate, that an update takes away.

    Raises
    ------
    ValueError, TypeError
        Numbers out of their range.

    References
    ----------
    .. [1] I. Loshchilov, F. Hutter: Decoupled weight decay regularization. ICLR 2019, arXiv:1711.05101.
    """

    _decoupled = True

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        super().__init__(
            learning_rate, beta1, beta2, eps, weight_decay, clip_norm=clip_norm, clip_value=clip_value
        )


class Muon(Adam):
    """Muon [1]_: of the gradients' recent mean only the directions count, all of them alike.

    The weights of a layer from and to several channels are taken for a matrix, of outputs (of a transposed
    convolution: inputs) and all else; a step is the orthogonal factor of its mean's polar decomposition, as
    long as Adam's would be [2]_. Biases and layers of one channel are left to Adam. Made for convolutions: a
    PSF that is trained would be taken for channels, too.

    Parameters
    ----------
    learning_rate : float or schedule
        Of both.
    momentum : float
        Part of the mean that goes on; the step looks ahead by it (Nesterov).
    clip_norm, clip_value : float, optional
        As in `SGD`.

    Raises
    ------
    ValueError, TypeError
        Numbers out of their range.

    References
    ----------
    .. [1] K. Jordan et al.: Muon: an optimizer for hidden layers in neural networks (2024),
       kellerjordan.github.io/posts/muon. There the factor is approached by iterations.
    .. [2] J. Liu et al.: Muon is scalable for LLM training. arXiv:2502.16982 (2025), section 2.2.
    """

    def __init__(
        self,
        learning_rate: Any = 5e-3,
        momentum: float = 0.95,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        super().__init__(learning_rate, clip_norm=clip_norm, clip_value=clip_value)
        self.momentum = _fraction(momentum, "momentum")

    def _step(self, weight: np.ndarray, grad: np.ndarray, rate: float, index: int) -> None:
        if weight.ndim < 2 or 1 in weight.shape[:2]:
            super()._step(weight, grad, rate, index)
            return
        mean = self.state["mean"][index]
        mean *= weight.dtype.type(self.momentum)
        mean += grad
        grad += mean * weight.dtype.type(self.momentum)
        step = _orthogonal(grad.reshape(len(grad), -1).astype(np.float64))
        step *= rate * AS_ADAM * math.sqrt(max(step.shape))
        weight -= step.reshape(weight.shape).astype(weight.dtype)


def _orthogonal(matrix: np.ndarray) -> np.ndarray:
    """The factor U of the polar decomposition P U, by the eigenvectors of the smaller square."""
    if len(matrix) > len(matrix.T):
        return _orthogonal(matrix.T).T
    values, vectors = np.linalg.eigh(matrix @ matrix.T)
    values = np.maximum(values, RANK * values[-1] + TINY)
    made: np.ndarray = (vectors / np.sqrt(values)) @ (vectors.T @ matrix)
    return made


def _fraction(value: Any, name: str) -> float:
    number = _validate.number(value, name, minimum=0)
    if number >= 1:
        raise ValueError(f"{name}: got {value!r}, expected less than 1")
    return number


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "muon": Muon}


def as_optimizer(value: Any, **options: Any) -> Optimizer:
    """The optimizer that ``optimizer=`` names, with what is not None of `options`, or one that was made."""
    given = {name: option for name, option in options.items() if option is not None}
    if isinstance(value, Optimizer):
        if given:
            raise ValueError(
                f"{next(iter(given))}: got {next(iter(given.values()))!r} beside an optimizer that was made, "
                "expected it among that one's arguments"
            )
        return value
    return OPTIMIZERS[_validate.choice(value, "optimizer", tuple(OPTIMIZERS))](**given)
