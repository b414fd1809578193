"""What iterations on ``image = H estimate + background + noise`` share: arguments, steps, the way back."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _arrays, _device, _validate, backends
from .._blur import BOUNDARIES, FOLDED, Blur
from .._threads import resolve_num_threads
from ..stop import Discrepancy, IDivergenceSlope, Rule, Run, Thinning, Watch, noise_level, rule_of
from . import _options
from ._iteration import unit_of

INITIAL = ("flat", "image", "zero")


class LinearModel:
    """One call's checked arguments, its operator, and the way from the last estimate to the result."""

    def __init__(
        self,
        method: str,
        image: Any,
        psf: Any,
        num_iter: int | None,
        *,
        usual: tuple[int, int],
        boundary: Any,
        background: Any,
        weights: Any,
        initial: Any,
        stop: Any,
        normalize_psf: Any,
        voxel_size: Any,
        psf_voxel_size: Any,
        callback: Callable[[int, Any], Any] | None,
        return_info: Any,
        backend: Any,
        engine: Any,
        num_threads: int | None,
        boundaries: tuple[str, ...] = BOUNDARIES,
    ) -> None:
        """`usual`: the default number of iterations, and the most with a rule for stopping."""
        self._started = time.perf_counter()
        self._method = method
        iterations = None if num_iter is None else _validate.integer(num_iter, "num_iter", minimum=1)
        self.background = _validate.number(background, "background")
        self._return_info = _validate.flag(return_info, "return_info")
        self.rule = _rule(stop, method)
        self.iterations = iterations or usual[self.rule is not None]
        if isinstance(initial, str):
            _validate.choice(initial, "initial", INITIAL)
        _options.check_callback(callback)
        self._callback = callback
        boundary = _validate.choice(boundary, "boundary", boundaries)

        kernels = backends.resolve(backend, image)
        self.data, self._restore, found = _arrays.as_image(image, resident=True)
        self._extremes = (found.lowest, found.highest)
        self.data = kernels.resident(self.data)
        self.weights = _options.weights_of(weights, self.data)
        given = self.data
        # Van Cittert never corrects a voxel of weight 0: what stands there in a first estimate is its result.
        if not (method == "van_cittert" and isinstance(initial, str) and initial == "image"):
            self.data, self._extremes = _options.trusted(self.data, self.weights, self._extremes)
        self._total = found.sum if self.data is given else None
        largest = max(-self._extremes[0], self._extremes[1])
        _validate.scale(largest, "image", self.data.dtype)
        _validate.fits(self.background, "background", self.data.dtype)
        psf, self._psf_settings = _options.psf_on_grid(psf, self.data.ndim, voxel_size, psf_voxel_size)
        self.blur = Blur(
            psf,
            self.data.shape,
            boundary=boundary,
            engine=engine,
            backend=kernels.NAME,
            dtype=self.data.dtype,
            normalize_psf=normalize_psf,
            num_threads=num_threads,
        )
        _options.check_psf_sum(self.blur.psf_sum, largest, self.data.dtype, squared=True)
        self.operator = self.blur.operator(self.data.dtype)
        self.unit = unit_of(largest)
        self.warnings: list[str] = []
        self.may_diverge = False
        self.trace: list[dict[str, Any]] = []
        self._initial = initial
        self._num_threads = num_threads
        counted = float(self.data.size)
        if self.weights is not None:
            counted = float(self.weights.sum(dtype=np.float64))
        # Told from neighbours, robustly: a constant in place of dead voxels would hide it.
        trust = self.weights

        def noise() -> float:
            return noise_level(_device.host(given), seen=None if trust is None else _device.host(trust))

        run = Run(counted, noise, self._started)
        self.watch = Watch(Rule()) if self.rule is None else self.rule.watch(run)

    @property
    def steepness(self) -> tuple[float, ...]:
        """What differences along each axis are multiplied by: the smallest voxel length over the axis's."""
        return _options.steepness(self._psf_settings["voxel_size"], self.blur.estimate_shape)

    def residual(self) -> dict[str, Any]:
        """Operands of a sweep with the formula ``residual``."""
        named: dict[str, Any] = {"image": self.data, "background": self.background, "unit": self.unit}
        if self.weights is not None:
            named["weights"] = self.weights
        return named | {"sums": self.watch.rule.of_ratio}

    def start(self) -> np.ndarray:
        """The first estimate, a new array."""
        initial, blur, data = self._initial, self.blur, self.data
        if isinstance(initial, str) and initial != "image":
            level = 0.0
            if initial == "flat":
                mean = _options.weighted_mean(data, self.weights, self._total)
                level = (mean - self.background) / blur.psf_sum
            made: np.ndarray = _device.full_beside(data, blur.estimate_shape, level)
            return made
        if isinstance(initial, str):
            return _options.framed(data - data.dtype.type(self.background), blur)
        return _options.framed(_options.initial_array(initial, blur, data), blur)

    def warn_of_signed_scale(self) -> None:
        """For an estimate that is to be non-negative although nobody asked for it."""
        lowest, highest = (value - self.background for value in self._extremes)
        if lowest < 0 and -lowest > _options.SIGNED * highest:
            below = f" beside a background of {self.background:g}" if self.background else ""
            note = (
                f"image: values from {self._extremes[0]:g} to {self._extremes[1]:g}{below} are a signed "
                f"scale, of which the estimate keeps what is above {self.background:g} only; pass "
                "non_negative=False"
            )
            self.warnings.append(note)
            warnings.warn(note, UserWarning, stacklevel=3)

    def norm_bound(self) -> float:
        """An upper bound of the largest eigenvalue of H' weights H.

        Of a matrix without negative entries no eigenvalue exceeds the largest row sum (Frobenius), which one
        application says: 1 for a normalised PSF, unless the boundary repeats voxels. With negative taps: the
        largest squared value of the transfer function, times how often the boundary repeats a voxel, times
        the largest weight.
        """
        operator = self.operator
        if float(self.blur.psf.min()) >= 0:
            blurred = operator.apply(_device.full_beside(self.data, self.blur.estimate_shape, 1.0))
            if self.weights is not None:
                blurred *= self.weights
            return float(operator.apply(blurred, adjoint=True).max())
        bound = float(np.abs(spectrum_of(self.blur.psf)).max()) ** 2
        for k in self.blur.psf.shape:
            # Between samples a trigonometric polynomial of degree m rises by 1 / cos(pi m / samples) at most
            # (Ehlich and Zeller 1964).
            bound /= math.cos(math.pi * (k // 2) / _samples(k)) ** 2
        if self.blur.boundary in FOLDED:
            ones = _device.full_beside(self.data, self.data.shape, 1.0)
            bound *= float(operator.fold(operator.pad(ones)).max())
        return bound * (1.0 if self.weights is None else float(self.weights.max()))

    def seen(self, entry: dict[str, Any], sums: dict[str, float] | None) -> bool:
        """The estimate has been compared with the image: whether that is good enough."""
        if sums is not None:
            entry["squared_residual"] = sums["squared_residual"] / self.unit**2
        return self.watch.before(entry)

    def updated(
        self, entry: dict[str, Any], begun: float, estimate: np.ndarray, sums: dict[str, float] | None
    ) -> str | None:
        """The estimate has been updated: what ends the run now, if anything does."""
        if sums is not None:
            square = sums["squared_result"]
            if not math.isfinite(square):
                self._refuse_divergence(entry["iteration"])
            entry["relative_change"] = math.sqrt(sums["squared_change"] / square) if square > 0 else 0.0
        if self.rule is not None:
            _device.settle(estimate)  # a rule goes by time
        ended = time.perf_counter()
        entry["seconds"] = ended - begun
        self.trace.append(entry)
        if self._callback is not None:
            inside = _options.cropped(estimate, self.blur, copy=True)
            answer = self._callback(entry["iteration"], self._restore(inside))
            if isinstance(answer, bool | np.bool_) and bool(answer):
                return "callback"
        return self.watch.rule.name if self.watch.after(entry | {"ended": ended}) else None

    def _refuse_divergence(self, iteration: int) -> None:
        raise FloatingPointError(
            f"{self._method}: the estimate of iteration {iteration} is not finite any more, the iteration "
            "diverges; take a smaller step or fewer iterations"
        )

    def finish(
        self,
        estimate: np.ndarray,
        stopped_by: str,
        settings: dict[str, Any],
        *,
        held: int,
        extra_bytes: int = 0,
    ) -> Any:
        """What the caller gets; `held` arrays of the estimate's shape were in use."""
        result = _options.cropped(estimate, self.blur)
        if self.may_diverge and not np.isfinite(_device.host(result)).all():
            self._refuse_divergence(len(self.trace))
        if not self._return_info:
            return self._restore(result)
        blur = self.blur
        info = _options.Info(
            num_iter=len(self.trace),
            stopped_by=stopped_by,
            trace=self.trace,
            settings={
                "method": self._method,
                "num_iter": self.iterations,
                "boundary": blur.boundary,
                "background": self.background,
                "weights": None if self.weights is None else "array",
                "initial": self._initial if isinstance(self._initial, str) else "array",
                "stop": None if self.rule is None else repr(self.rule),
                **settings,
                "psf_sum": blur.psf_sum,
                "psf_shape": blur.psf.shape,
                **self._psf_settings,
                "shape": blur.shape,
                "estimate_shape": blur.estimate_shape,
                "grid": blur.grid,
                "dtype": str(self.data.dtype),
                "num_threads": resolve_num_threads(self._num_threads),
            },
            engine=self.operator.engine,
            backend=blur.backend,
            bytes=self.operator.workspace_bytes + held * estimate.nbytes + extra_bytes,
            seconds=time.perf_counter() - self._started,
            warnings=self.warnings,
        )
        return self._restore(result), info


def spectrum_of(psf: np.ndarray) -> np.ndarray:
    """The transfer function on a finer grid than the PSF's own, which may miss its extremes."""
    placed = np.zeros([_samples(k) for k in psf.shape])
    placed[tuple(slice(0, k) for k in psf.shape)] = psf
    return np.fft.rfftn(np.roll(placed, [-(k // 2) for k in psf.shape], tuple(range(psf.ndim))))


def _rule(stop: Any, method: str) -> Rule | None:
    rule = rule_of(stop)
    poisson = isinstance(rule, Discrepancy) and rule.noise == "poisson"
    if poisson or isinstance(rule, IDivergenceSlope | Thinning):
        raise ValueError(
            f"stop: got {stop!r}, which follows the I-divergence; {method} descends squared residuals: "
            "expected 'relative-change', 'discrepancy' (of Gaussian noise) or ('time', seconds)"
        )
    return rule


def _samples(taps: int) -> int:
    return 1 if taps == 1 else max(2 * taps, 64)
