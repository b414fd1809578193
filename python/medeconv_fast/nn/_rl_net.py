"""RLNet: unrolled Richardson-Lucy, with projectors that are learnt or known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from .. import _arrays, _validate
from ..algorithms._back_projectors import BACK_PROJECTORS, back_projector_of
from ._activations import ReLU
from ._blur_layers import BOUNDARIES, FixedBlur, RichardsonLucyStep, _given
from ._convolutions import Conv, ConvTranspose
from ._deviation import LocalDeviation
from ._engine import Engine
from ._graph import Graph
from ._joining import Add, Concat, Crop, Divide, Multiply
from ._layer import Input, Signal
from ._model import Model

SHIPPED = Path(__file__).with_name("rlnet.safetensors")
FLOOR = 0.003  # of the image's largest value: about one photon of an image of few
MOST_LEVELS = 4
USUAL_SHIFT, USUAL_SQUARES = 0.015, 2.0  # of sums of values, and of squares: else a result is looked at
MISFIT = 1.05  # of images that are noise alone, a good result may be at 1
LEAST_BLUR = 0.01  # of noise that a blur changes: less of a blur tells nothing
# What continues the convolutions of a correction, by what lies outside the image.
OUTSIDE = {
    "reflect": "replicate",
    "nearest": "replicate",
    "mirror": "replicate",
    "zero": "zeros",
    "wrap": "circular",
}
BALANCES = (1e-1, 1e-2, 1e-3, 1e-4)  # of the noise of an image to its detail


def _learnt_step(filters: int, ndim: int) -> Graph:
    """estimate * back(image / forward(estimate)), both projectors three convolutions of 3."""
    estimate, image = Input(1, ndim), Input(1, ndim)

    def projector(signal: Signal, which: str) -> Signal:
        signal = Conv(filters, 3, activation="relu", name=f"{which}_1")(signal)
        signal = Conv(filters, 3, activation="relu", name=f"{which}_2")(signal)
        return Conv(1, 3, activation="softplus", init="glorot", name=f"{which}_3")(signal)

    ratio = Divide(name="ratio")(image, projector(estimate, "forward"))
    updated = Multiply(name="update")(estimate, projector(ratio, "back"))
    return Graph([estimate, image], updated, recompute=True, name="step")


def _correction(channels: int, ndim: int, filters: int, levels: int, depth: int, padding_mode: str) -> Graph:
    """From what is known, as channels, to what is added to the last estimate.

    On the image's own grid every value is looked at by itself, and together with its neighbours once, at the
    end; in between are coarser grids with twice the channels, where convolutions are cheap and see far. All
    without biases. A ReLU there may come to give 0 for any image, and learns nothing any more: hence leaky.
    Where images go on as `padding_mode` says, a border is no edge.
    """
    known = Input(channels, ndim)
    halves = [(0, 1)] * ndim  # a length that is odd is rounded up
    wide = 2 * filters

    def features(signal: Signal, name: str) -> Signal:
        for number in range(1, depth + 1):
            signal = Conv(
                wide,
                3,
                bias=False,
                activation="leaky_relu",
                name=f"{name}_{number}",
                padding_mode=padding_mode,
            )(signal)
        return signal

    grids = [Conv(filters, 1, bias=False, name="own_grid")(known)]
    signal: Signal = known
    for level in range(1, levels + 1):
        signal = Conv(wide, 2, 2, halves, bias=False, name=f"down_{level}", padding_mode=padding_mode)(signal)
        signal = features(signal, f"coarser_{level}")
        grids.append(signal)
    for level in range(levels, 0, -1):
        width = wide if level > 1 else filters
        signal = ConvTranspose(width, 2, 2, bias=False, name=f"up_{level}")(signal)
        finer = grids[level - 1]
        signal = Crop(name=f"cut_{level}")(signal, finer)
        if level > 1:
            signal = features(Add(name=f"joined_{level}")(finer, signal), f"finer_{level}")
        else:
            signal = Add("relu", name="joined_1")(finer, signal)
    return Graph(
        known,
        Conv(1, 3, bias=False, init="zeros", name="last", padding_mode=padding_mode)(signal),
        name="correction",
    )


def _inverses(psf: np.ndarray) -> list[np.ndarray]:
    """Taps of the Wiener filters conj(H) / (|H|² + balance), each of sum 1; lengths are odd.

    They reach twice as far as the PSF: the smaller the balance, the longer they ring, and what is cut off
    may be more than their sum. It is spread over the taps: divided by what is left of the sum, a filter would
    amplify detail that much more, or change its sign.
    """
    shape = [2 * k - 1 for k in psf.shape]
    grid = [2 * k for k in shape]
    placed = np.zeros(grid)
    placed[tuple(slice(k) for k in psf.shape)] = psf
    spectrum = np.fft.rfftn(np.roll(placed, [-(k // 2) for k in psf.shape], range(psf.ndim)))
    power = np.square(np.abs(spectrum))
    made = []
    for balance in BALANCES:
        taps = np.fft.irfftn(spectrum.conj() / (power + balance), s=grid, axes=range(psf.ndim))
        taps = np.roll(taps, [k // 2 for k in shape], range(psf.ndim))[tuple(slice(k) for k in shape)]
        taps *= 1 + balance  # the whole response's sum is 1
        made.append(taps + (1 - taps.sum()) / taps.size)
    return made


class RLNet(Model):
    """Unrolled Richardson-Lucy iterations with learnt projectors, after Li et al. [1]_.

    Without a PSF both projectors are learnt: each step is ``e * B(y / F(e))`` with F and B three convolutions
    each, the same in every step (15 618 weights in three dimensions). The network then knows the one blur
    that it was trained on.

    With a PSF the steps are `RichardsonLucyStep` with the known blur and an unmatched back projector [2]_,
    and what is learnt is a correction: after each step two convolutions without biases of image, estimate and
    the estimate before; or, with `levels`, after the last step a network on coarser grids, too, of the image,
    all estimates, the noise (`LocalDeviation` of the image), and the image through Wiener filters of four
    balances [4]_, which the network weighs against each other. It is added; below 0 the sum counts as 0.
    `finishing` iterations, which nothing is learnt for, may follow.
    Nothing that is learnt depends on the PSF, so the network can be given another one (`with_psf`), and
    without biases it is homogeneous: images of any scale give results of that scale [3]_.

    Parameters
    ----------
    psf : array_like, optional
        As many axes as the images, centre at ``shape // 2``.
    steps : int
        Iterations.
    filters : int
        Channels inside.
    ndim : int, optional
        Spatial axes of the images; default: the PSF's, without one 3.
    seed : int
    depth : int
        With a PSF: convolutions of a correction, 2 or more; with `levels` of each coarser grid on the way
        down, and as many on the way up but for the coarsest, 1 or more.
    levels : int
        With a PSF: how often the correction's network halves the resolution; there it has twice the
        `filters`. 0: corrections after every step, on the image's own grid.
    finishing : int
        With a PSF: iterations with the matched back projector after all corrections. They bring the result
        nearer to the image again, and so to the truth where a correction was wrong.
    back_projector : str or array_like
        With a PSF, as in `richardson_lucy`; "matched" too. Arrays and PSFs of odd lengths.
    boundary : {"reflect", "zero", "nearest", "mirror", "wrap"}
        With a PSF: what lies outside the image; convolutions of corrections are padded to match.
    dtype, backend, num_threads
        As in `Model`.

    Attributes
    ----------
    known : Signal or None
        With `levels`: image, estimates, noise and filtered images, as channels.
    correction : Graph or None
        With `levels`: what is learnt, from `known` to what is added to the last estimate.

    Raises
    ------
    ValueError, TypeError
        A PSF that `Blur` refuses; options out of their range. From `predict` also for images with negative
        values, and for such as `richardson_lucy` refuses as too small or too large, where there is a PSF.

    References
    ----------
    .. [1] Y. Li et al.: Incorporating the image formation process into deep learning improves network
       performance. Nature Methods 19, 1427 (2022).
    .. [2] M. Guo et al.: Rapid image deconvolution and multiview fusion for optical microscopy. Nature
       Biotechnology 38, 1337 (2020).
    .. [3] S. Mohan et al.: Robust and interpretable blind image denoising via bias-free convolutional neural
       networks. ICLR 2020, arXiv:1906.05478.
    .. [4] J. Dong, S. Roth, B. Schiele: Deep Wiener deconvolution: Wiener meets deep learning for image
       deblurring. NeurIPS 2020, arXiv:2103.09962.
    """

    def __init__(
        self,
        psf: Any = None,
        steps: int = 2,
        filters: int = 16,
        ndim: int | None = None,
        seed: int = 0,
        *,
        depth: int = 2,
        levels: int = 0,
        finishing: int = 0,
        back_projector: Any = "wiener-butterworth",
        boundary: str = "reflect",
        dtype: Any = "float32",
        backend: str = "auto",
        num_threads: int | None = None,
    ) -> None:
        steps = _validate.integer(steps, "steps", minimum=1)
        levels = _validate.integer(levels, "levels", minimum=0, maximum=MOST_LEVELS)
        depth = _validate.integer(depth, "depth", minimum=1 if levels else 2)
        finishing = _validate.integer(finishing, "finishing", minimum=0)
        boundary = _validate.choice(boundary, "boundary", BOUNDARIES)
        filters = _validate.integer(filters, "filters", minimum=1)
        if psf is None:
            for name, value in (("levels", levels), ("finishing", finishing)):
                if value:
                    raise ValueError(f"{name}: got {value} without a psf, expected 0")
        if psf is None:  # of no use there, but a name that is wrong is one
            _validate.choice(back_projector, "back_projector", ("matched", *BACK_PROJECTORS))
        self._arguments: dict[str, Any] = {
            "steps": steps,
            "filters": filters,
            "ndim": ndim,
            "depth": depth,
            "levels": levels,
            "finishing": finishing,
            "boundary": boundary,
            "back_projector": back_projector if isinstance(back_projector, str) else "array",
        }
        self._computing: dict[str, Any] = {"backend": backend, "num_threads": num_threads}
        self.known: Signal | None = None
        self.correction: Graph | None = None
        if psf is None:
            ndim = 3 if ndim is None else ndim
            image = Input(1, ndim)
            signal: Signal = image
            step = _learnt_step(filters, image.ndim)
            for _ in range(steps):
                signal = step(signal, image)
            self._arguments["psf"] = None
        else:
            taps, back = _projectors(psf, back_projector)
            if ndim not in (None, taps.ndim):
                raise ValueError(f"ndim: got {ndim}, expected {taps.ndim} as the psf has, or None")
            self._arguments["psf"] = {"shape": list(taps.shape), "matched": back is None}
            image = Input(1, taps.ndim)
            signal = image
            estimates: list[Signal] = []
            for number in range(1, steps + 1):
                updated = RichardsonLucyStep(
                    taps,
                    back,
                    boundary,
                    floor=0.0 if back is None else FLOOR,
                    name=f"iteration_{number}",
                )(signal, image)
                estimates.append(updated)
                signal = updated if levels else self._corrected(image, updated, signal, number)
            if levels:
                noise = LocalDeviation(name="noise")(image)
                filtered = [
                    FixedBlur(inverse, boundary, normalize_psf=False, name=f"inverse_{number}")(image)
                    for number, inverse in enumerate(_inverses(taps), 1)
                ]
                self.known = Concat(name="known")(image, *estimates, noise, *filtered)
                self.correction = _correction(
                    self.known.channels, taps.ndim, filters, levels, depth, OUTSIDE[boundary]
                )
                signal = Add("relu", name="sum")(signal, self.correction(self.known))
            for number in range(1, finishing + 1):
                signal = RichardsonLucyStep(taps, None, boundary, name=f"finish_{number}")(signal, image)
        self._arguments["ndim"] = image.ndim
        super().__init__(image, signal, seed=seed, dtype=dtype, **self._computing)
        self.positive = psf is not None
        if psf is None:
            self._start_at_one()

    def _doubt(self, image: np.ndarray, result: np.ndarray, engine: Engine) -> str | None:
        """Blurred again, a result must be nearer to the image than the image is that is blurred once more.

        What is learnt may be wild for a PSF or an image unlike those it was trained on; a blur tells it from
        noise, whose share of the second difference follows from the taps. Sums tell where to look.
        """
        if not self.positive:
            return None
        step = next(layer for _, layer in self.leaves() if isinstance(layer, RichardsonLucyStep))
        noise = step.misfit_of_noise()
        if noise < LEAST_BLUR:
            return None
        for own, made in zip(image, result, strict=True):
            totals = [(float(a.sum()), float(np.vdot(a, a))) for a in (own, made)]
            (total, square), (made_total, made_square) = totals
            usual = abs(made_total - total) <= USUAL_SHIFT * total and made_square <= USUAL_SQUARES * square
            if usual or total <= 0:
                continue
            missed, bound = step.misfit(made, own, engine), step.misfit(own, own, engine)
            bound *= MISFIT / noise
            if missed > bound:
                return (
                    "the network's result, blurred by the psf, is farther from the image than the image "
                    f"itself (mean squared differences {missed:.3g} and {bound:.3g}): it was not trained for "
                    "such a psf or image; use richardson_lucy or restore instead"
                )
        return None

    def _corrected(self, image: Signal, updated: Signal, before: Signal, number: int) -> Signal:
        """The estimate of a step with its own correction, on the image's grid."""
        known = [image, updated] if number == 1 else [image, updated, before]
        inner: Signal = Concat(name=f"known_{number}")(*known)
        filters, outside = self._arguments["filters"], OUTSIDE[self._arguments["boundary"]]
        for layer in range(1, self._arguments["depth"]):
            name = f"features_{number}_{layer}"
            inner = Conv(filters, 3, bias=False, activation="relu", padding_mode=outside, name=name)(inner)
        inner = Conv(1, 3, bias=False, init="zeros", padding_mode=outside, name=f"correction_{number}")(inner)
        return ReLU(name=f"estimate_{number}")(Add(name=f"sum_{number}")(updated, inner))

    def _start_at_one(self) -> None:
        """A correction of about 1 for a ratio of 1: the last layer's bias is where softplus gives it."""
        for path, layer in self.leaves():
            if path.endswith("back_3"):
                layer.weights["weight"] *= 0.1
                layer.weights["bias"][...] = math.log(math.e - 1)

    @classmethod
    def pretrained(cls, psf: Any, *, backend: str = "auto", num_threads: int | None = None) -> RLNet:
        """The network that ships with the package, for blurs of volumes, best for Gaussian and confocal ones.

        Trained on generated phantoms by examples/pretrain_rlnet.py; docs/nets.md shows where it gains over
        Richardson-Lucy and where it loses.

        Parameters
        ----------
        psf : array_like
            Three axes of odd lengths.
        backend, num_threads
            As in `Model`.

        Returns
        -------
        RLNet

        Raises
        ------
        ValueError, TypeError
            A PSF that does not fit.
        ImportError
            safetensors is not installed (extra nn).
        """
        array, _ = _arrays.to_numpy(psf, "psf")
        _validate.rank(array, "psf", ndim=3, like="network's images")
        net: RLNet = cls.load(SHIPPED, backend=backend, num_threads=num_threads)
        return net.with_psf(psf)

    def with_psf(self, psf: Any, *, share: bool = False) -> RLNet:
        """The same network for another blur.

        Parameters
        ----------
        psf : array_like
            As many axes as before.
        share : bool
            Use the same arrays for what is learnt: training one trains the other. For training on many blurs.

        Returns
        -------
        RLNet

        Raises
        ------
        ValueError
            A network without a PSF, or a PSF that does not fit.
        """
        if self._arguments["psf"] is None:
            raise ValueError(
                "with_psf: the network has learnt the one blur that it was trained on, and has no psf"
            )
        if self._arguments["back_projector"] == "array":
            raise ValueError("with_psf: the back projector was given as an array, expected one by name")
        options = {k: v for k, v in self._arguments.items() if k != "psf"}
        made = RLNet(psf, **options, dtype=self.dtype, seed=self.seed, **self._computing)
        for (_, own), (_, other) in zip(self.leaves(), made.leaves(), strict=True):
            if not isinstance(own, RichardsonLucyStep | FixedBlur):
                other.weights = dict(own.weights) if share else {n: w.copy() for n, w in own.weights.items()}
        for (_, own), (_, other) in zip(self._freezable(), made._freezable(), strict=True):
            other.trainable = own.trainable
        made.notes = dict(self.notes)
        return made

    def arguments(self) -> dict[str, Any]:
        return self._arguments

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any], **options: Any) -> Model:
        given = dict(arguments)
        psf = given.pop("psf")
        if psf is not None:
            # PSF and back projector come with the weights.
            if not psf["matched"]:
                given["back_projector"] = _given(psf)
            else:
                given["back_projector"] = "matched"
            made = cls(_given(psf), **given, **options)
            made._arguments["back_projector"] = arguments["back_projector"]
            return made
        return cls(None, **{k: v for k, v in given.items() if k != "back_projector"}, **options)


def _projectors(psf: Any, back_projector: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """The PSF, and the filter whose blur is the transpose of the way back (None: the PSF's own)."""
    array, _ = _arrays.to_numpy(psf, "psf")
    taps, _ = _arrays.as_psf(psf, array.ndim)
    if isinstance(back_projector, str):
        _validate.choice(back_projector, "back_projector", ("matched", *BACK_PROJECTORS))
        if back_projector == "matched":
            return taps, None
    if any(k % 2 == 0 for k in taps.shape):
        raise ValueError(
            f"psf: got shape {taps.shape}, expected odd lengths with an unmatched back projector"
        )
    _, back = back_projector_of(back_projector, taps)
    assert back is not None
    # An adjoint correlates: what convolves with `back` is the adjoint of the blur with its mirror image.
    return taps, np.ascontiguousarray(np.flip(back))
