"""FixedBlur and RichardsonLucyStep: the operator of a known PSF inside of networks, with its
exact adjoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, TypeAlias, TypeVar

import numpy as np

from .. import _arrays, _validate, backends, ops
from .._blur import ENGINES, Blur, Operator
from ._engine import Engine
from ._layer import Gradients, Layer, Result, Signal, Tape

BOUNDARIES = ("reflect", "zero", "nearest", "mirror", "wrap")
_PAD_MODE = {
    "zero": "constant",
    "reflect": "symmetric",
    "nearest": "edge",
    "mirror": "reflect",
    "wrap": "wrap",
}
_KEPT = 4  # operators: a few sizes and dtypes


Made = TypeVar("Made")
Store: TypeAlias = list[tuple[tuple[Any, ...], Made]]


def kept(store: Store[Made], key: tuple[Any, ...], make: Callable[[], Made]) -> Made:
    """What `make` made for this key, among the latest few. Other threads may change the list meanwhile.

    Keys are compared, not hashed: they hold a filter's bytes.
    """
    for entry in reversed(store[:]):
        if entry[0] == key:
            if store[-1] is not entry:
                store[:] = [other for other in store if other is not entry] + [entry]
            return entry[1]
    made = make()
    store.append((key, made))
    del store[:-_KEPT]
    return made


class _Filter:
    """The operators of one filter on the grids that come by."""

    def __init__(self, boundary: str, engine: str, *, any_sum: bool = False) -> None:
        self._boundary, self._engine, self._any_sum = boundary, engine, any_sum
        self._operators: Store[Operator] = []
        self._normalizers: Store[np.ndarray] = []
        self._gains: Store[np.ndarray] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_operators": [], "_normalizers": [], "_gains": []}  # plans do not travel

    def operator(self, taps: np.ndarray, shape: tuple[int, ...], dtype: np.dtype, engine: Engine) -> Operator:
        def make() -> Operator:
            blur = Blur(
                taps,
                shape,
                boundary=self._boundary,
                engine=self._engine,
                dtype=dtype,  # what is a product of filters in it need not be one in float64
                normalize_psf=False,
                _any_sum=self._any_sum,
                **engine.options,
            )
            return blur.operator(dtype)

        return kept(self._operators, (taps.tobytes(), shape, dtype, engine), make)

    def normalizer(self, taps: np.ndarray, x: np.ndarray, engine: Engine) -> np.ndarray:
        """The adjoint of ones, of shape (1, 1, *spatial), at least a tenth of its largest value."""

        def make() -> np.ndarray:
            ones = np.ones((1, 1, *x.shape[2:]), x.dtype)
            made = self.apply(taps, ones, engine, adjoint=True)
            return np.maximum(made, made.dtype.type(0.1) * made.max(), out=made)

        key = (taps.tobytes(), x.shape[2:], x.dtype, engine)
        return kept(self._normalizers, key, make)

    def gain(self, taps: np.ndarray, x: np.ndarray, engine: Engine) -> np.ndarray:
        """1 over the normalizer, of the image's shape."""
        key = (taps.tobytes(), x.shape[2:], x.dtype, engine)
        return kept(self._gains, key, lambda: (1 / self.normalizer(taps, x, engine)).reshape(x.shape[2:]))

    def apply(
        self,
        taps: np.ndarray,
        x: np.ndarray,
        engine: Engine,
        *,
        adjoint: bool = False,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """On every channel of every image."""
        operator = self.operator(taps, x.shape[2:], x.dtype, engine)
        rows = (-1, *x.shape[2:])
        to = None if out is None else out.reshape(rows)
        return operator.apply_each(x.reshape(rows), adjoint=adjoint, out=to).reshape(x.shape)

    def to_taps(self, taps: np.ndarray, grad: np.ndarray, x: np.ndarray, engine: Engine) -> np.ndarray:
        """The gradient of <blur of x, grad> to the taps: a correlation of both over the taps' offsets.

        y[i] = sum over j of h[j] x[i - (j - c)] is a cross-correlation of the padded x by the reversed taps.
        """
        low = [k - 1 - k // 2 for k in taps.shape]
        high = [k // 2 for k in taps.shape]
        rows = (-1, 1, *x.shape[2:])
        widths = [(0, 0), (0, 0), *zip(low, high, strict=True)]
        padded = np.pad(x.reshape(rows), widths, mode=_PAD_MODE[self._boundary])  # type: ignore[call-overload]
        made = ops.conv_weight_grad(grad.reshape(rows), padded, (1, 1, *taps.shape), **engine.options)
        return np.ascontiguousarray(np.flip(made[0, 0]))


def _check_taps(value: Any, name: str, *, normalize: bool, any_sum: bool = False) -> np.ndarray:
    array, _ = _arrays.to_numpy(value, name)
    taps, _ = _arrays.as_psf(
        value, array.ndim, normalize=normalize, name=name, any_sum=any_sum and not normalize
    )
    return taps


class _BlurLayer(Layer):
    """What holds a PSF: its check, its reach, and its place among the weights."""

    any_sum = False  # a filter that is not normalised need not have a positive sum

    def __init__(
        self, psf: Any, boundary: str, engine: str, trainable: bool, normalize_psf: bool, name: str | None
    ) -> None:
        super().__init__(name)
        self.boundary = _validate.choice(boundary, "boundary", BOUNDARIES)
        self.engine = _validate.choice(engine, "engine", ENGINES)
        self.trainable = _validate.flag(trainable, "trainable")
        normalize = _validate.flag(normalize_psf, "normalize_psf")
        self._start = {"psf": _check_taps(psf, "psf", normalize=normalize, any_sum=self.any_sum)}

    def options(self) -> dict[str, Any]:
        # The values come with the weights; a description only says how large they are.
        return {
            "psf": {"shape": self._start["psf"].shape},
            "boundary": self.boundary,
            "engine": self.engine,
        }

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: taps.shape for name, taps in self._start.items()}

    def initialize(self, generator: np.random.Generator, dtype: np.dtype) -> None:
        self.weights = {name: taps.astype(dtype) for name, taps in self._start.items()}

    def connect(self, signals: Sequence[Signal]) -> Result:
        first = signals[0]
        taps = self._start["psf"]
        if taps.ndim != first.ndim:
            raise ValueError(f"psf: got {taps.ndim} axes, expected {first.ndim} as the network's images have")
        self.channels = first.channels
        return Result(first.channels, (Fraction(1),) * first.ndim, self._reach(taps))

    def _reach(self, taps: np.ndarray) -> tuple[float, ...]:
        if self.boundary == "wrap":  # what lies beyond one edge stands at the other
            return tuple(math.inf if k > 1 else 0.0 for k in taps.shape)
        return tuple(float(k // 2) for k in taps.shape)

    def _taps(self, name: str, x: np.ndarray) -> np.ndarray:
        return self.weights[name].astype(x.dtype, copy=False)


def _given(value: Any) -> Any:
    """A PSF, or of a description a placeholder that the weights will replace."""
    if isinstance(value, dict):
        taps = np.zeros(value["shape"])
        taps[tuple(k // 2 for k in taps.shape)] = 1
        return taps
    return value


class FixedBlur(_BlurLayer):
    """Blur every channel by one PSF, as `medeconv_fast.Blur` does.

    Parameters
    ----------
    psf : array_like
        As many axes as the images, centre at ``shape // 2``.
    boundary : {"reflect", "zero", "nearest", "mirror", "wrap"}
    engine : {"auto", "spectral", "separable", "direct"}
    trainable : bool
        Let training change the PSF; it is not normalised again.
    normalize_psf : bool
        Divide the PSF by its sum first. With False, and after training, its sum need not be positive.
    name : str, optional

    Raises
    ------
    ValueError, TypeError
        A PSF or options that `Blur` refuses, but for what `normalize_psf` says.
    """

    any_sum = True

    def __init__(
        self,
        psf: Any,
        boundary: str = "reflect",
        engine: str = "auto",
        *,
        trainable: bool = False,
        normalize_psf: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(_given(psf), boundary, engine, trainable, normalize_psf, name)
        self._filter = _Filter(self.boundary, self.engine, any_sum=True)

    def forward(
        self,
        inputs: Sequence[np.ndarray],
        engine: Engine,
        tape: Tape | None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        (x,) = inputs
        if tape is not None:
            tape["x"] = x
        return self._filter.apply(self._taps("psf", x), x, engine, out=out)

    def backward(
        self, grad: np.ndarray, tape: Tape, engine: Engine, gradients: Gradients, needs: Sequence[bool]
    ) -> Sequence[np.ndarray | None]:
        taps = self._taps("psf", grad)
        if self.trainable:
            gradients.add(self, "psf", self._filter.to_taps(taps, grad, tape["x"], engine))
        return (self._filter.apply(taps, grad, engine, adjoint=True) if needs[0] else None,)


class RichardsonLucyStep(_BlurLayer):
    """One Richardson-Lucy iteration, of inputs estimate e and image y.

    ``e * B(y / max(He + background, eps)) / B1``, not below 0, with B the transpose of H or of the blur with
    `back`. eps is `floor` times the largest value of each image, at least the library's smallest divisor for
    it. B1 is at least a tenth of its largest value. In gradients both bounds count as constants: they are
    safeguards, and do not follow the values that they are taken from.

    Parameters
    ----------
    psf : array_like
        As many axes as the images, centre at ``shape // 2``.
    back : array_like, optional
        Another filter for the way back, of odd lengths: B is the exact transpose of the blur with it.
    boundary, engine, trainable
        As in `FixedBlur`; training changes `back` too, and stops where a sum is no longer positive.
    background : float
        Added to the blurred estimate.
    floor : float
        Share of the image's largest value that divisors are at least. With another filter on the way back a
        divisor near 0 spoils its neighbours too.
    normalize_psf : bool
        Divide PSF and `back` by their sums first.
    name : str, optional

    Raises
    ------
    ValueError, TypeError
        A PSF or options that `Blur` refuses.

    References
    ----------
    W. H. Richardson, J. Opt. Soc. Am. 62, 55 (1972); L. B. Lucy, Astron. J. 79, 745 (1974). Other filters for
    the way back: M. Guo et al., Nat. Biotechnol. 38, 1337 (2020).
    """

    arity = 2

    def __init__(
        self,
        psf: Any,
        back: Any = None,
        boundary: str = "reflect",
        engine: str = "auto",
        *,
        background: float = 0.0,
        floor: float = 0.0,
        trainable: bool = False,
        normalize_psf: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(_given(psf), boundary, engine, trainable, normalize_psf, name)
        self.background = _validate.number(background, "background", minimum=0)
        self.floor = _validate.number(floor, "floor", minimum=0)
        if back is not None:
            taps = _check_taps(_given(back), "back", normalize=normalize_psf)
            if any(k % 2 == 0 for k in taps.shape):
                raise ValueError(f"back: got shape {taps.shape}, expected odd lengths")
            self._start["back"] = taps
        self.way = "psf" if back is None else "back"
        self._filters = {name: _Filter(self.boundary, self.engine) for name in self._start}
        self._both: Store[Operator | None] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_both": []}

    def options(self) -> dict[str, Any]:
        back = self._start.get("back")
        made = super().options() | {"background": self.background, "floor": self.floor}
        return made | ({} if back is None else {"back": {"shape": back.shape}})

    def connect(self, signals: Sequence[Signal]) -> Result:
        estimate, image = signals
        if estimate.channels != image.channels or estimate.scale != image.scale:
            raise ValueError(
                f"got an estimate of {estimate.channels} channels and an image of {image.channels}, "
                "expected as "
                "many, on one grid"
            )
        made = super().connect(signals)
        back = self._start[self.way]
        if back.ndim != estimate.ndim:
            raise ValueError(f"back: got {back.ndim} axes, expected {estimate.ndim} as the psf has")
        reach = tuple(r + more for r, more in zip(made.reach, self._reach(back), strict=True))
        return made._replace(reach=reach)

    def forward(
        self,
        inputs: Sequence[np.ndarray],
        engine: Engine,
        tape: Tape | None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        estimate, image = inputs
        if estimate.shape != image.shape:
            raise ValueError(
                f"got an estimate of {estimate.shape} and an image of {image.shape}, expected one shape"
            )
        taps, back = self._taps("psf", estimate), self._taps(self.way, estimate)
        forward, backward = self._filters["psf"], self._filters[self.way]
        eps = self._smallest_divisors(image, engine)
        if tape is None:
            if out is None:
                out = engine.empty(estimate.shape, estimate.dtype)
            self._in_two_sweeps(estimate, image, taps, back, eps, engine, out)
            return out
        normalizer = backward.normalizer(back, estimate, engine)
        offset = estimate.dtype.type(self.background)
        divisor = forward.apply(taps, estimate, engine)  # with background and bound below
        ratio = engine.empty(image.shape, image.dtype)

        for least, *arrays in zip(eps.ravel(), ratio, divisor, image, strict=True):

            def divide(target: np.ndarray, below: np.ndarray, above: np.ndarray, least: Any = least) -> None:
                np.add(below, offset, out=below)
                np.maximum(below, least, out=below)
                np.divide(above, below, out=target)

            engine.pointwise(divide, *arrays)
        correction = backward.apply(back, ratio, engine, adjoint=True)
        out = np.multiply(estimate, correction, out=out)
        out /= normalizer
        np.maximum(out, 0, out=out)
        tape.update(
            estimate=estimate,
            divisor=divisor,
            eps=eps,
            ratio=ratio,
            correction=correction,
            normalizer=normalizer,
            out=out,
        )
        return out

    def _in_two_sweeps(
        self,
        estimate: np.ndarray,
        image: np.ndarray,
        taps: np.ndarray,
        back: np.ndarray,
        eps: np.ndarray,
        engine: Engine,
        out: np.ndarray,
    ) -> None:
        """Where no backward pass follows: the same, and what is pointwise is done as values are written."""
        spatial = estimate.shape[2:]
        gain = self._filters[self.way].gain(back, estimate, engine)
        both = self._both_ways(taps, back, spatial, estimate.dtype, engine)
        if both is None:
            there = self._filters["psf"].operator(taps, spatial, estimate.dtype, engine)
            back_again = self._filters[self.way].operator(back, spatial, estimate.dtype, engine)
            ratio = engine.empty(spatial, estimate.dtype)
        for e, y, least, updated in zip(estimate, image, eps.ravel(), out, strict=True):
            for own, measured, result in zip(e, y, updated, strict=True):
                divided = {"image": measured, "background": self.background, "eps": float(least)}
                if both is not None:
                    chain = both.begin(own)
                    chain.sweep("ratio", **divided)
                else:
                    there.begin(own).sweep("ratio", keep=False, out=ratio, **divided)
                    chain = back_again.begin(ratio, adjoint=True)
                chain.sweep("multiply", adjoint=True, keep=False, out=result, estimate=own, gain=gain)

    def _both_ways(
        self, taps: np.ndarray, back: np.ndarray, shape: tuple[int, ...], dtype: np.dtype, engine: Engine
    ) -> Operator | None:
        """One operator whose sweeps hand the spectrum on; None where the ways have engines of their own, or
        what is padded and folded lies between them."""

        def make() -> Operator | None:
            blur = Blur(
                taps,
                shape,
                boundary=self.boundary,
                engine=self.engine,
                dtype=dtype,
                normalize_psf=False,
                **engine.options,
            )
            odd = all(k % 2 for k in taps.shape)
            reached = odd and all(b <= k for b, k in zip(back.shape, taps.shape, strict=True))
            if blur.engine != "spectral" or not reached:
                return None
            # Its adjoint sweeps blur with what they are given, not with the transpose.
            made = blur.operator(dtype, None if self.way == "psf" else np.flip(back))
            return None if made.folded else made

        return kept(self._both, (taps.tobytes(), back.tobytes(), shape, dtype, engine), make)

    def fault(self) -> str | None:
        """It divides by what the filters make of ones."""
        for name, taps in self.weights.items():
            try:
                _validate.psf_sum(taps, name)
            except ValueError as error:
                return str(error)
        return None

    def misfit(self, estimate: np.ndarray, image: np.ndarray, engine: Engine) -> float:
        """Mean squared difference of the blurred estimate and the image, of shape (C, *spatial) both."""
        operator = self._filters["psf"].operator(
            self._taps("psf", estimate), estimate.shape[1:], estimate.dtype, engine
        )
        total = 0.0
        left = engine.empty(estimate.shape[1:], estimate.dtype)
        highest = float(image.max())
        unit = 1 / highest if highest > 0 else 1.0
        for own, measured in zip(estimate, image, strict=True):
            sums = operator.begin(own).sweep(
                "residual",
                keep=False,
                out=left,
                image=measured,
                background=self.background,
                sums=True,
                unit=unit,
            )
            assert sums is not None
            total += sums["squared_residual"] / unit**2
        return total / estimate.size

    def misfit_of_noise(self) -> float:
        """What white noise of variance 1 has to its own blur, where it is all that an image holds."""
        taps = self.weights["psf"].astype(np.float64)
        centre = taps[tuple(k // 2 for k in taps.shape)]
        return float(1 - 2 * centre + np.square(taps).sum())

    def smallest_share(self, dtype: np.dtype, backend: str = "auto") -> float:
        """Of an image's largest value: what divisors are at least."""
        return max(float(backends.resolve(backend).smallest_divisor(1.0, dtype)), self.floor)

    def _smallest_divisors(self, image: np.ndarray, engine: Engine) -> np.ndarray:
        """Of each image of the batch by itself, of shape (N, 1, 1, ...)."""
        highest = image.max(tuple(range(1, image.ndim)), keepdims=True)
        share = image.dtype.type(self.smallest_share(image.dtype, engine.backend))
        # An image of zeros gives zeros; any divisor will do.
        return np.where(highest > 0, share * highest, image.dtype.type(1))

    def backward(
        self, grad: np.ndarray, tape: Tape, engine: Engine, gradients: Gradients, needs: Sequence[bool]
    ) -> Sequence[np.ndarray | None]:
        estimate, ratio, divisor = tape["estimate"], tape["ratio"], tape["divisor"]
        correction, normalizer = tape["correction"], tape["normalizer"]
        taps, back = self._taps("psf", grad), self._taps(self.way, grad)
        forward, backward = self._filters["psf"], self._filters[self.way]
        grad *= tape["out"] > 0
        grad /= normalizer
        to_correction = grad * estimate
        to_estimate = np.multiply(grad, correction, out=grad)
        to_ratio = backward.apply(back, to_correction, engine)
        to_image = to_ratio / divisor
        to_blurred = to_image * ratio
        np.negative(to_blurred, out=to_blurred)
        to_blurred *= divisor > tape["eps"]
        if self.trainable:
            gradients.add(self, "psf", forward.to_taps(taps, to_blurred, estimate, engine))
            # <to_correction, transpose of B to ratio> and the same of the normalizer's ones.
            gradients.add(self, self.way, backward.to_taps(back, ratio, to_correction, engine))
            to_normalizer = (to_correction * correction).sum((0, 1), keepdims=True)
            to_normalizer /= -normalizer
            to_normalizer *= normalizer > normalizer.max() * normalizer.dtype.type(0.1)
            ones = np.ones_like(to_normalizer)
            gradients.add(self, self.way, backward.to_taps(back, ones, to_normalizer, engine))
        if needs[0]:
            to_estimate += forward.apply(taps, to_blurred, engine, adjoint=True)
        return (to_estimate if needs[0] else None, to_image if needs[1] else None)
