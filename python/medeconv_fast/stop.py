"""When an iteration has done enough: rules for ``stop=`` of `richardson_lucy`, and a plot of what they saw.

A rule holds settings only and may be used for any number of runs. What it needs is summed inside the sweeps
and costs no pass over memory of its own.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _binomial, _validate
from ._arrays import result_dtype
from ._extras import matplotlib_figure
from ._threads import resolve_num_threads

__all__ = [
    "Discrepancy",
    "IDivergenceSlope",
    "RelativeChange",
    "Rule",
    "Thinning",
    "TimeBudget",
    "noise_level",
    "plot",
]

# Voxels that are split with a random stream of their own, whatever the number of threads.
BLOCK = 1 << 16
# Details that a level of noise is told from, where the voxels seen leave so many of a kind.
FEWEST = 32
# Updates that predict no better before `Thinning` ends its run on a part of the counts.
PATIENCE = 8


@dataclass(frozen=True)
class Run:
    """What a rule may know of the run that it watches."""

    trust: float  # sum of the weights, or number of voxels
    noise: Callable[[], float]  # standard deviation of white noise, estimated from the image
    started: float  # time.perf_counter()


@dataclass(frozen=True)
class Rule:
    """Base of all rules.

    A run calls `watch` once, and of what that returns ``before(entry)`` between the two sweeps of each
    iteration, when the estimate as it stands has been blurred and compared with the image, and
    ``after(entry)`` once it is updated; each says whether to stop. ``entry`` is the iteration's line of
    ``info.trace``.
    """

    name = "rule"
    of_ratio = False  # needs i_divergence and squared_residual
    of_update = False  # needs relative_change

    def watch(self, run: Run) -> Watch:
        """A watcher for one run."""
        raise NotImplementedError


class Watch:
    """Watches one run for a rule; stops it never."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule

    def before(self, entry: dict[str, Any]) -> bool:
        """The estimate that the iteration starts from has been compared with the image: is it good enough?"""
        return False

    def after(self, entry: dict[str, Any]) -> bool:
        """The estimate has been updated: was that the last time?"""
        return False


@dataclass(frozen=True)
class RelativeChange(Rule):
    """Stop when an iteration changes the estimate by less than a share of it.

    Parameters
    ----------
    tolerance : float
        Of ``norm(new - old) / norm(new)``; under an acceleration old is the point that was extrapolated.

    Raises
    ------
    TypeError, ValueError
        `tolerance` is not a positive number.
    """

    tolerance: float = 1e-3
    name = "relative-change"
    of_update = True

    def __post_init__(self) -> None:
        _validate.number(self.tolerance, "tolerance", above=0)

    def watch(self, run: Run) -> Watch:
        return _RelativeChange(self)


class _RelativeChange(Watch):
    def __init__(self, rule: RelativeChange) -> None:
        super().__init__(rule)
        self._tolerance = rule.tolerance

    def after(self, entry: dict[str, Any]) -> bool:
        return bool(entry["relative_change"] < self._tolerance)


@dataclass(frozen=True)
class IDivergenceSlope(Rule):
    """Stop when an iteration brings the I-divergence down by less than a share of what all have brought.

    The I-divergence between image and model, ``sum(image log(image / model) - image + model)``, is what
    Richardson-Lucy descends (Csiszar 1991).

    Parameters
    ----------
    tolerance : float
        Share of the descent since the first estimate.

    Raises
    ------
    TypeError, ValueError
        `tolerance` is not a positive number.
    """

    tolerance: float = 1e-3
    name = "i-divergence"
    of_ratio = True

    def __post_init__(self) -> None:
        _validate.number(self.tolerance, "tolerance", above=0)

    def watch(self, run: Run) -> Watch:
        return _IDivergenceSlope(self)


class _IDivergenceSlope(Watch):
    def __init__(self, rule: IDivergenceSlope) -> None:
        super().__init__(rule)
        self._tolerance = rule.tolerance
        self._seen: list[float] = []

    def before(self, entry: dict[str, Any]) -> bool:
        self._seen.append(entry["i_divergence"])
        if len(self._seen) < 3:
            return False
        first, last, now = self._seen[0], self._seen[-2], self._seen[-1]
        return last - now <= self._tolerance * (first - now)


@dataclass(frozen=True)
class Discrepancy(Rule):
    """Stop when the model differs from the image by no more than the noise does.

    Parameters
    ----------
    noise : {"gaussian", "poisson"}
        "gaussian": the mean squared residual falls to ``factor * sigma**2`` (Morozov 1966). "poisson": twice
        the mean I-divergence falls to ``factor * gain``, what counts of that gain are expected to leave
        (Bertero et al. 2010); for images with fewer than about 5 counts per voxel that expectation is too
        large, and the rule stops early.
    sigma : float, optional
        Standard deviation of the noise, in the image's units; estimated from the image (`noise_level`) if not
        given.
    gain : float
        Image units per count ("poisson").
    factor : float

    Raises
    ------
    TypeError, ValueError
        Unknown noise; numbers that are not positive.

    Warns
    -----
    UserWarning
        In a run: the noise was estimated as 0.
    """

    noise: str = "gaussian"
    sigma: float | None = None
    gain: float = 1.0
    factor: float = 1.0
    name = "discrepancy"
    of_ratio = True

    def __post_init__(self) -> None:
        _validate.choice(self.noise, "noise", ("gaussian", "poisson"))
        if self.sigma is not None:
            _validate.number(self.sigma, "sigma", above=0)
        _validate.number(self.gain, "gain", above=0)
        _validate.number(self.factor, "factor", above=0)

    def watch(self, run: Run) -> Watch:
        return _Discrepancy(self, run)


class _Discrepancy(Watch):
    def __init__(self, rule: Discrepancy, run: Run) -> None:
        super().__init__(rule)
        self._sum = "i_divergence" if rule.noise == "poisson" else "squared_residual"
        if rule.noise == "poisson":
            self.level = 0.5 * rule.gain
        else:
            sigma = run.noise() if rule.sigma is None else rule.sigma
            if sigma == 0:
                warnings.warn(
                    "stop: the image's noise was estimated as 0: more than half of its finest details are 0 "
                    "(a background of zeros?), or no two neighbours have a weight, so that 'discrepancy' "
                    "hardly ever stops; expected sigma, mf.stop.Discrepancy(sigma=...)",
                    UserWarning,
                    stacklevel=4,
                )
            self.level = sigma**2
        self.level *= rule.factor * run.trust

    def before(self, entry: dict[str, Any]) -> bool:
        return bool(entry[self._sum] <= self.level)


@dataclass(frozen=True)
class Thinning(Rule):
    """Find the number of iterations on one part of the counts by how well it predicts the other.

    Each count goes to one of two images by the toss of a coin; they are independent Poisson images of the
    same object. The run on the first ends where its model predicts the second best (least squared residual);
    as many iterations are then run on all counts.

    Parameters
    ----------
    gain : float, optional
        Image units per count. May be left out for images of integers.
    fraction : float
        Share of the counts that is held out. With half of them the run on the others stops early, as there is
        less to be found in them; little is lost with 0.1.
    seed : int
    splits : int
        The residuals of so many splits, with the seeds that follow, are added: for small images, where those
        of one depend on the toss. All then run to the end of `num_iter`.

    Raises
    ------
    TypeError, ValueError
        A gain that is not positive, a fraction that is not between 0 and 1.
    """

    gain: float | None = None
    fraction: float = 0.5
    seed: int = 0
    splits: int = 1
    name = "thinning"
    of_ratio = True

    def __post_init__(self) -> None:
        if self.gain is not None:
            _validate.number(self.gain, "gain", above=0)
        fraction = _validate.number(self.fraction, "fraction", above=0)
        if fraction >= 1:
            raise ValueError(f"fraction: got {fraction:g}, expected a share between 0 and 1")
        _validate.integer(self.seed, "seed", minimum=0)
        _validate.integer(self.splits, "splits", minimum=1)

    def watch(self, run: Run) -> Watch:
        return Prediction(self) if self.splits == 1 else Watch(self)

    def check(self, image: np.ndarray) -> None:
        """Refuse an image that is neither of counts nor of a stated gain."""
        if self.gain is None and not np.array_equal(image, np.rint(image)):
            raise ValueError(
                "stop: thinning needs counts, but the image has values that are no integers; give the image "
                "units per count, mf.stop.Thinning(gain=...)"
            )

    def split(
        self, image: np.ndarray, number: int = 0, *, num_threads: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The image of the counts that are kept, and that of those held out, in the image's units.

        They do not depend on `num_threads`. Of an image of integers they are integers, with a `gain` float32,
        or float64 where the image needs it.
        """
        gain = 1.0 if self.gain is None else self.gain
        lowest, highest = _validate.finite(image, "image")
        fewest, most = (float(np.rint(value / gain)) for value in (lowest, highest))
        if most > 2**53:
            raise ValueError(f"gain: got {gain:g}, which makes {most:g} counts of a voxel: too many")
        if fewest < 0:
            raise ValueError(f"image: got values down to {lowest:g}, expected counts, which are not negative")
        dtype = image.dtype if self.gain is None else result_dtype(image.dtype)
        parts = [np.ascontiguousarray(image), *(np.empty(image.shape, dtype) for _ in range(2))]
        whole, kept, held = (part.reshape(-1) for part in parts)
        size = min(BLOCK, whole.size)
        blocks = range(-(-whole.size // size))
        threads = min(resolve_num_threads(num_threads), len(blocks))
        tables = _binomial.tables(self.fraction, int(most), whole.size)

        def work(first: int) -> None:
            coins = _binomial.Coins(self.fraction, tables, size)
            room, room_for_integers = np.empty(size), np.empty(size, np.int64)
            for block in blocks[first::threads]:
                at = slice(block * size, (block + 1) * size)
                values = whole[at]
                self.check(values)
                counts, tosses = room[: values.size], room_for_integers[: values.size]
                np.divide(values, gain, out=counts, dtype=np.float64)
                np.rint(counts, out=counts)
                np.copyto(tosses, counts, casting="unsafe")
                # The first block has the stream of the seed itself, the others those that follow from it.
                stream = np.random.SeedSequence(self.seed + number, spawn_key=(block,) if block else ())
                hits = coins.draw(np.random.default_rng(stream), tosses)
                counts -= hits
                np.multiply(counts, gain, out=kept[at], casting="unsafe")
                np.multiply(hits, gain, out=held[at], casting="unsafe")

        with ThreadPoolExecutor(threads) as pool:  # starts threads when it gets work
            for _ in (pool.map if threads > 1 else map)(work, range(threads)):
                pass
        return parts[1], parts[2]


class Prediction(Watch):
    """Stops some updates after the one whose model predicted best."""

    def __init__(self, rule: Thinning) -> None:
        super().__init__(rule)
        self._least = math.inf
        self._best = 0

    def before(self, entry: dict[str, Any]) -> bool:
        updates = entry["iteration"] - 1
        if entry["held_out_squared_residual"] < self._least:
            self._least, self._best = entry["held_out_squared_residual"], updates
        return bool(updates - self._best >= PATIENCE)


@dataclass(frozen=True)
class TimeBudget(Rule):
    """Stop before the iteration that would end after so many seconds of the call.

    Parameters
    ----------
    seconds : float
        The result then depends on the machine and its load.

    Raises
    ------
    TypeError, ValueError
        `seconds` is not a positive number.
    """

    seconds: float = 10.0
    name = "time"

    def __post_init__(self) -> None:
        _validate.number(self.seconds, "seconds", above=0)

    def watch(self, run: Run) -> Watch:
        return _TimeBudget(self, run)


class _TimeBudget(Watch):
    def __init__(self, rule: TimeBudget, run: Run) -> None:
        super().__init__(rule)
        self._seconds, self._started = rule.seconds, run.started
        self._slowest = 0.0

    def after(self, entry: dict[str, Any]) -> bool:
        self._slowest = max(self._slowest, entry["seconds"])
        return bool(entry["ended"] - self._started + self._slowest > self._seconds)


_NAMED: dict[str, Callable[[], Rule]] = {
    "relative-change": RelativeChange,
    "i-divergence": IDivergenceSlope,
    "discrepancy": Discrepancy,
    "thinning": Thinning,
}


def rule_of(stop: Any) -> Rule | None:
    """The rule that a call's ``stop=`` names."""
    if stop is None or isinstance(stop, Rule):
        return stop
    if isinstance(stop, tuple):
        if len(stop) != 2 or stop[0] != "time":
            raise ValueError(f"stop: got {stop!r}, expected the pair ('time', seconds)")
        _validate.number(stop[1], "stop[1]", above=0)
        return TimeBudget(stop[1])
    if not isinstance(stop, str):
        raise TypeError(
            f"stop: got {_validate.shown(stop)}, expected None, a name, ('time', seconds) or an object of "
            "mf.stop"
        )
    return _NAMED[_validate.choice(stop, "stop", tuple(_NAMED))]()


def noise_level(image: Any, *, seen: Any = None) -> float:
    """Standard deviation of white noise in an image, robustly, from its finest details (a Haar wavelet's).

    Details of an image that was blurred hold little but noise. Signal-dependent noise gives about its level
    where most of the image lies.

    Parameters
    ----------
    image : array_like
        1 to 3 axes.
    seen : array_like, optional
        Of the image's shape; 0 or False in voxels that say nothing, such as dead ones: no detail that they
        are part of counts. Where this leaves few, details along fewer axes do, which hold more of the
        image.

    Returns
    -------
    float
        In the image's units; 0 where no two neighbours are seen.

    Raises
    ------
    TypeError, ValueError
        No numeric array of 1 to 3 axes, or a masked one; NaN or Inf; no axis with two voxels; `seen` of
        another shape.

    References
    ----------
    D. L. Donoho and I. M. Johnstone, Biometrika 81, 425 (1994).
    """
    details = _validate.real(image, "image")
    _validate.rank(details, "image")
    details = details.astype(np.float64)
    _validate.finite(details, "image")
    axes = [axis for axis, n in enumerate(details.shape) if n > 1]
    if not axes:
        raise ValueError(f"image: got shape {details.shape}, expected an axis with at least two voxels")
    known = None if seen is None else _validate.real(seen, "seen") != 0
    if known is not None:
        _validate.same_shape(known, "seen", details.shape, "image")
    found = _details(details, axes) if known is None or known.all() else _details_seen(details, known, axes)
    return float(np.median(np.abs(found))) / 0.6744897501960817 if found.size else 0.0


def _details(values: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """The finest details along all of these axes."""
    for axis in axes:
        first, second = _pairs(values, axis)
        values = np.moveaxis((first - second) / math.sqrt(2), 0, axis)
    return values


def _details_seen(values: np.ndarray, seen: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Those of voxels that are all seen: along all axes, or along as many as leave enough of them."""
    found = np.empty(0)
    for count in range(len(axes), 0, -1):
        parts, blocks = [], 0
        for chosen in itertools.combinations(axes, count):
            whole = seen
            for axis in chosen:
                whole = np.moveaxis(np.logical_and(*_pairs(whole, axis)), 0, axis)
            parts.append(_details(values, chosen)[whole])
            blocks += whole.size
        found = np.concatenate(parts)
        if found.size >= min(FEWEST, blocks / 2):
            break
    return found


def _pairs(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """First and second of every pair of neighbours along the axis, which comes first."""
    lines = np.moveaxis(values, axis, 0)
    paired = lines[: len(lines) // 2 * 2]
    return paired[0::2], paired[1::2]


def plot(info: Any, values: Sequence[str] | None = None) -> Any:
    """Plot the trace of a run.

    Parameters
    ----------
    info : Info
        As `richardson_lucy` returns it with ``return_info=True``.
    values : sequence of str, optional
        Entries of the trace; default: all that it has of i_divergence, squared_residual, relative_change and
        held_out_squared_residual.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        The trace has nothing to show: a rule for stopping records what it needs.
    ImportError
        matplotlib is missing (``pip install "medeconv-fast[report]"``).
    """
    figures = matplotlib_figure("mf.stop.plot")
    known = ("i_divergence", "squared_residual", "relative_change", "held_out_squared_residual")
    trace = info["trace"]
    shown = [v for v in (known if values is None else values) if any(v in entry for entry in trace)]
    if not shown:
        raise ValueError(
            "info: its trace holds no sums; run with stop='i-divergence', 'relative-change' or another rule"
        )
    figure = figures.Figure(figsize=(6, 2.2 * len(shown)), layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(len(shown), 1, sharex=True)), shown, strict=True):
        at = [entry["iteration"] for entry in trace if name in entry]
        axes.plot(at, [entry[name] for entry in trace if name in entry], marker=".")
        axes.set_ylabel(name.replace("_", " "))
        axes.set_yscale("log")
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel(f"iteration (stopped by {info['stopped_by']})")
    return figure
