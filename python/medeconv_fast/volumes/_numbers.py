"""What depends on the data, resolved once for all tiles of a channel.

Each tile on its own would find other numbers than its neighbours, and show it at the seam: Biggs-Andrews
factors alone cost 5e-4 of the range.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np

from .. import _arrays, _validate
from .._grid import trimmed
from ..algorithms import _back_projectors as unmatched
from ..algorithms import richardson_lucy
from ..algorithms._acceleration import HeavyBall
from ..algorithms._border_error import no_border
from ..algorithms._options import psf_on_grid
from ..algorithms._restore import choose, defaults_of
from ..algorithms._richardson_lucy import DEFAULT_ITERATIONS, note_iterations
from ..algorithms._start import level_of
from ..algorithms._tile import FILTERS, Numbers, counted
from ..stop import Thinning, TimeBudget, rule_of
from ._sample import Sample

ONE = np.ones(1)
Trial = tuple[np.ndarray, dict[str, Any]]  # a part of the sample, and its maps

METHODS = ("auto", "richardson-lucy", "richardson_lucy", "rl", "wiener", "tikhonov")
RL_OPTIONS = {
    "num_iter", "boundary", "background", "readout_variance", "damping", "regularizer", "acceleration",
    "back_projector", "stop", "initial", "negative", "voxel_size", "psf_voxel_size", "normalize_psf",
    "backend", "engine",
}  # fmt: skip
FILTER_OPTIONS = {
    "wiener": {
        "balance", "regularizer", "boundary", "noise_to_signal", "normalize_psf", "voxel_size",
        "psf_voxel_size", "backend", "engine",
    },
    "tikhonov": {
        "weight", "regularizer", "prior", "boundary", "normalize_psf", "voxel_size", "psf_voxel_size",
        "backend", "engine",
    },
}  # fmt: skip
# Options that may be arrays in a run on an image.
OF_THE_IMAGE = ("readout_variance", "damping", "prior", "back_projector", "regularizer")


def check_options(method: str, options: dict[str, Any], maps: Collection[str] = ()) -> None:
    """Refuse what a run in tiles cannot have, and what the method does not know."""
    for name in OF_THE_IMAGE:
        if isinstance(options.get(name), np.ndarray | list):
            raise ValueError(
                f"{name}: got {_validate.shown(options[name])}, but in tiles it must be a number or a name; "
                "arrays are not cut into tiles"
            )
    for name in ("callback", "return_info", "noise_power", "signal_power"):
        if name in options:
            raise ValueError(f"{name}: is not for a volume that is restored in tiles; expected it left out")
    if "weights" in maps and options.get("back_projector", "matched") != "matched":
        projector = options["back_projector"]
        raise ValueError(
            f"weights: got them together with back_projector={projector!r}, whose divisor is "
            "relative to its largest value in the whole image; expected one of them"
        )
    if isinstance(rule_of(options.get("stop")), TimeBudget):
        raise ValueError(
            "stop: got a time budget, which would end in each tile after another number of iterations; "
            "expected a number of iterations or a rule that the sample can follow"
        )
    known = (
        RL_OPTIONS | FILTER_OPTIONS["wiener"] if method == "auto" else FILTER_OPTIONS.get(method, RL_OPTIONS)
    )
    unknown = [name for name in options if name not in known]
    if unknown:
        raise TypeError(
            f"{unknown[0]}: the method {method} has no such option in tiles; it takes {sorted(known)}"
        )


@contextlib.contextmanager
def _noting(notes: list[str]) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        if str(warning.message) not in notes:
            notes.append(str(warning.message))


def _note(notes: list[str], info: dict[str, Any]) -> None:
    """Take over what a trial notes, but for its own values: a run counts those of all tiles."""
    notes += [text for text in info["warnings"] if text not in notes and not text.startswith("image: ")]


def resolve(
    sample: Sample,
    psf: np.ndarray,
    method: str,
    options: dict[str, Any],
    num_threads: int | None,
    unit: str | None = None,
) -> Numbers:
    """The numbers of a channel, from its sample; `unit`: what the source says that its values count."""
    notes: list[str] = []
    if method == "auto":
        given = {**options, **sample.maps_of(0)}
        method, why = choose(given, lambda: sample.extremes, unit)
        automatic = method != "wiener"
        if why:
            notes.append(why)
    else:
        automatic = False
    if method in FILTERS:
        if sample.maps_of(0):
            raise TypeError(
                f"{next(iter(sample.maps_of(0)))}: the method {method} has no such option in tiles"
            )
        numbers = _of_filter(sample, psf, method, options, notes, num_threads)
    else:
        numbers = _of_richardson_lucy(sample, psf, automatic, options, notes, num_threads)
    return numbers


def _of_filter(
    sample: Sample, psf: np.ndarray, method: str, options: dict[str, Any], notes: list[str], num_threads: Any
) -> Numbers:
    function, name = FILTERS[method]
    found = []
    # A whole volume has its own border; blocks of a larger one have none.
    with _noting(notes), contextlib.nullcontext() if sample.whole else no_border():
        for part in (sample.parts[i] for i in sample.trials):
            _, info = function(part, psf, return_info=True, num_threads=num_threads, **options)
            found.append(info["settings"][name])
            _note(notes, info)
    settled = dict(options)
    if "noise_to_signal" not in options:
        # Weights are searched on a scale of powers of ten.
        positive = [math.log(w) for w in found if w > 0]
        settled[name] = math.exp(statistics.median(positive)) if positive else 0.0
        if len(set(found)) == 1:
            settled[name] = found[0]
    return Numbers(method, settled, warnings=notes)


def _of_richardson_lucy(
    sample: Sample,
    psf: np.ndarray,
    automatic: bool,
    options: dict[str, Any],
    notes: list[str],
    num_threads: Any,
) -> Numbers:
    options = {"negative": "clip", **options}
    lowest, highest = sample.extremes
    noise: dict[str, float] | None = None
    chosen: dict[str, Any] = {}
    if automatic:
        found, chosen = defaults_of(sample.parts, lowest, highest, options, seen=sample.seen)
        noise = found._asdict()
        chosen = {name: value for name, value in chosen.items() if name not in options}
    settled = {**chosen, **options}
    background = _validate.number(settled.get("background", 0.0), "background", minimum=0)
    offset = -lowest if settled["negative"] == "shift" and lowest < 0 else 0.0
    readout = settled.get("readout_variance")
    parts = [counted(part, settled["negative"], offset, readout).measured for part in sample.parts]
    weights = sample.weights
    level = level_of(_joined(parts), None if weights is None else _joined(weights), background)
    if level <= 0 and not sample.whole:
        raise ValueError(
            f"source: nothing in its sample ({len(parts)} blocks of {parts[0].shape}) rises above the "
            f"background {background:g}; expected something to restore, or another seed="
        )
    if level <= 0 and highest + offset > 0:
        notes.append(f"source: no value rises above the background {background:g}; the result is zero")

    firsts = [maps.get("initial", ONE) for maps in sample.maps]
    if level > 0 and not offset and firsts and not any(first.max() > 0 for first in firsts):
        seen = "" if sample.whole else f" in the sample ({len(parts)} blocks of {parts[0].shape})"
        raise ValueError(
            f"initial: all values are zero{seen} and would stay so, expected positive ones"
            + ("" if sample.whole else ", or another seed=")
        )

    rule = rule_of(settled.pop("stop", None))
    psf_sum = 1.0 if settled.get("normalize_psf", True) else float(psf.sum())
    trials = [
        (part, maps)
        for part, maps in (_shifted(sample, i, offset, psf_sum) for i in sample.trials)
        if float(part.max()) > background and maps.get("initial", ONE).max() > 0
    ]

    def tried(trial: Trial, **more: Any) -> Any:
        part, maps = trial
        info = richardson_lucy(part, psf, return_info=True, num_threads=num_threads, **maps, **more)[1]
        _note(notes, info)
        return info

    with _noting(notes):
        if rule is not None:
            runs = [tried(trial, stop=rule, **settled) for trial in trials]
            iterations = _iterations(runs, rule)
        else:
            matched = settled.get("back_projector", "matched") == "matched"
            usual = DEFAULT_ITERATIONS if matched else unmatched.DEFAULT_ITERATIONS
            iterations = _validate.integer(settled.get("num_iter", usual), "num_iter", minimum=1)
            runs = []
        settled["num_iter"] = iterations
        alphas = None
        if settled.get("acceleration") is not None:
            alphas = _alphas(trials, runs, settled, tried)
        elif not runs and trials:
            # Options are checked by the algorithm itself, at once rather than in the first tile.
            tried(trials[0], **{**settled, "num_iter": 1})
            projector = settled.get("back_projector", "matched")
            if projector != "matched":
                note_iterations(projector, iterations, notes)
    return Numbers(
        "richardson_lucy",
        settled,
        highest=highest + offset,
        level=level,
        offset=offset,
        highest_weight=1.0 if weights is None else max(float(w.max()) for w in weights),
        fill=sample.fill,
        alphas=alphas,
        noise=noise,
        chosen={name: str(value) for name, value in chosen.items()},
        warnings=notes,
    )


def _shifted(sample: Sample, number: int, offset: float, psf_sum: float) -> Trial:
    """A part and its maps as a run on the whole volume shifts them, not by the part's own smallest value."""
    part, maps = sample.parts[number], sample.maps_of(number)
    if not offset:
        return part, maps
    if "initial" in maps:
        maps = {**maps, "initial": maps["initial"] + part.dtype.type(offset / psf_sum)}
    return part + part.dtype.type(offset), maps


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([part.ravel() for part in parts])


def _iterations(runs: list[Any], rule: Any) -> int:
    """Of the median trial; with held-out counts, where their residuals added up are least."""
    done = [info for info in runs if info["num_iter"]]
    if not done:
        return 1
    if isinstance(rule, Thinning):
        curves = [info["settings"]["thinning"]["residuals"] for info in done]
        if len({len(curve) for curve in curves}) == 1:
            return max(int(np.argmin(np.sum(curves, axis=0))), 1)
    return max(1, round(statistics.median(info["num_iter"] for info in done)))


def _alphas(
    trials: list[Trial], runs: list[Any], settled: dict[str, Any], tried: Callable[..., Any]
) -> list[float]:
    """After each iteration the mean of what the trials took."""
    number = settled["num_iter"]
    if settled["acceleration"] == "heavy-ball":
        return [HeavyBall().alpha(i) for i in range(1, number + 1)]
    if not trials:
        return [0.0] * number
    if any(info["num_iter"] != number for info in runs) or not runs:
        runs = [tried(trial, **settled) for trial in trials]
    return [statistics.fmean(info["trace"][i].get("alpha", 0.0) for info in runs) for i in range(number)]


def channel_psfs(
    psf: Any, channels: int, ndim: int, voxel_size: Any, psf_voxel_size: Any
) -> list[np.ndarray]:
    """One PSF per channel on the volume's grid: of a list one each, else the same for all."""
    several = isinstance(psf, list | tuple) and len(psf) > 0 and all(np.ndim(p) == ndim for p in psf)
    given = list(psf) if several else [psf] * channels
    if len(given) != channels:
        raise ValueError(
            f"psf: got {len(given)} of them, expected one, or one for each of {channels} channels"
        )
    made = []
    for each in given:
        on_grid, _ = psf_on_grid(each, ndim, voxel_size, psf_voxel_size)
        made.append(trimmed(_arrays.as_psf(on_grid, ndim, normalize=False)[0]))
    return made
