"""Train an RLNet that corrects once, partly on coarser grids: the network that ships with the package.

    python examples/pretrain_rlnet.py -o net.safetensors                # 13 to 16 minutes of two processors
    python examples/measure_rlnet.py net.safetensors                    # against the best-stopped plain RL

Iterations and filters come before all that is learnt, so they are run once per volume, and what is trained is
the correction alone, on all PSFs at once: Gaussian and confocal ones, and a third of other shapes, half of
these as if they had been measured. Volumes are those of measure_rlnet.py; thin folds inside of an outline, as
scans of a body show them; filaments; dead leaves; and clouds. Widths of Gaussians and the confocal wavelength
that are measured are not among those trained on. For research, not a medical device.
"""

import argparse
import functools
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
from measure_rlnet import SIZE, UNSEEN, confocal, field, image_of, objects, tissue
from scipy import ndimage

import medeconv_fast as mf

STEPS, FILTERS, DEPTH, LEVELS, FINISHING = 3, 8, 1, 2, 1
CROP = (24, 24, 24)  # of a scene; trained on whole, so that borders are those of images
# Half over the root mean square of what the network sees: differences of images, the last estimate, noise.
GAINS = (8.0, 16.0, 40.0, 1.5, 12.0, 10.0, 7.0, 3.0, 1.0)
BATCH = 8
POOL = 768  # volumes at hand
FRESH = 24  # of them new in every round, in which all are gone through once
TOGETHER = 3  # volumes of one PSF
PHOTONS = (40, 10000)  # at the brightest blurred voxel
UPDATES = 36000
RATE = 5e-3  # after 1536 updates 2e-3 was 0.08 dB worse, 1e-2 0.39 dB
WARMUP = 200
SHAPE = (21, 17, 17)  # of PSFs that end nowhere
NOISE = (0.001, 0.02)  # of a PSF that was measured, relative to its largest value
APART = 0.15  # voxels between widths trained on and widths measured


def scene(shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """What is trained on, by its share, slightly smoothed; the largest value is 1."""
    kinds = (objects, objects, tissue, body, body, filaments, leaves, leaves, clouds)
    kind = kinds[int(rng.integers(len(kinds)))]
    smoothest = 0.6 if kind in (objects, tissue) else 0.9
    made = ndimage.gaussian_filter(kind(shape, rng), rng.uniform(0, smoothest)).clip(0)
    return np.asarray(made / made.max(), np.float32)


def view(rng: np.random.Generator) -> np.ndarray:
    """A part of a scene: what lies at its borders is cut as an image cuts it."""
    made = scene((SIZE,) * 3, rng)
    starts = [int(rng.integers(n - c + 1)) for n, c in zip(made.shape, CROP, strict=True)]
    made = made[tuple(slice(s, s + c) for s, c in zip(starts, CROP, strict=True))]
    return made / made.max()


def leaves(shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """Dead leaves: balls of all sizes, one before the other, with texture; real scenes have such statistics.

    A. B. Lee, D. Mumford, J. Huang: Occlusion models for natural images. Int. J. Comput. Vis. 41, 35 (2001).
    """
    made = np.full(shape, rng.uniform(0, 1))
    grid = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij")
    small, large = rng.uniform(1.2, 3), rng.uniform(8, 20)
    texture = 1 + rng.uniform(0, 0.25) * field(shape, rng, rng.uniform(0.5, 2))
    for _ in range(int(rng.integers(40, 160))):
        radius = (small**-2 - rng.random() * (small**-2 - large**-2)) ** -0.5
        centre, radii = rng.uniform(-4, np.add(shape, 4)), radius * np.exp(rng.normal(0, 0.35, 3))
        low = np.maximum(np.floor(centre - radii), 0).astype(int)
        high = np.minimum(np.ceil(centre + radii) + 1, shape).astype(int)
        part = tuple(slice(a, max(a, b)) for a, b in zip(low, high, strict=True))
        distance = sum(((g[part] - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True))
        made[part][distance < 1] = rng.uniform(0.05, 1)
    return np.abs(made * texture.clip(0) + rng.normal(0, rng.uniform(0, 0.05), shape))


def clouds(shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """A field of one power, bent to positive values in one of three ways, at times inside of an outline."""
    made = field(shape, rng, rng.uniform(1.0, 2.2))
    bent = int(rng.integers(3))
    if bent == 0:
        made = np.exp(rng.uniform(0.3, 1) * made)
    elif bent == 1:
        made = (made + rng.uniform(0, 3)).clip(0)
    else:
        made = np.abs(made) + rng.uniform(0, 0.5)
    made /= np.percentile(made, 99.5)
    if rng.integers(2):
        made *= np.where(field(shape, rng, 3) > rng.uniform(-1, 0.3), 1, rng.uniform(0, 0.2))
    return np.abs(made + rng.normal(0, rng.uniform(0, 0.05), shape))


def body(shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """Thin folds of tissues inside of an outline, little outside, and a scanner's noise."""
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    centre, radii = rng.uniform(-0.7, 0.7, 3), rng.uniform(0.6, 2.0, 3)
    distance = sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True))
    distance = distance + 0.15 * field(shape, rng, 2.5)
    kinds, power = int(rng.integers(2, 6)), rng.uniform(1.2, 2.6)
    labels = np.argmax([field(shape, rng, power) for _ in range(kinds)], axis=0)
    made = rng.uniform(0.2, 1, kinds)[labels]
    made = made * (1 + rng.uniform(0, 0.3) * field(shape, rng, rng.uniform(0.3, 2))).clip(0)
    made[distance > 1] *= rng.uniform(0, 0.15)
    made[(distance > 0.9) & (distance < 1)] *= rng.uniform(0.2, 2.5)
    made *= np.exp(rng.uniform(0, 0.3) * field(shape, rng, 3))
    return np.abs(made + rng.normal(0, rng.uniform(0, 0.04), shape))


def filaments(shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """Walks that turn slowly, in bundles of one thickness."""
    made = np.full(shape, rng.uniform(0, 0.1))
    for _ in range(int(rng.integers(1, 4))):
        lines = np.zeros(shape)
        for _ in range(int(rng.integers(1, 8))):
            turns = rng.standard_normal(3) + np.cumsum(rng.normal(0, 0.2, (96, 3)), axis=0)
            steps = 0.5 * turns / np.linalg.norm(turns, axis=1, keepdims=True)
            path = rng.uniform(0, shape) + np.cumsum(steps, axis=0)
            inside = path[((path >= 0) & (path < shape)).all(1)].astype(int)
            lines[tuple(inside.T)] = rng.uniform(0.3, 1)
        lines = ndimage.gaussian_filter(lines, rng.uniform(0.3, 1.5))
        made += rng.uniform(0.2, 1) * lines / max(lines.max(), 1e-9)
    return made


@functools.cache
def confocals() -> list[np.ndarray]:
    """Those that are trained on."""
    return [
        confocal(wavelength, wavelength + 40, 1.2, (ratio * voxel, voxel, voxel))
        for wavelength in (445.0, 488.0, 640.0)
        for voxel, ratio in ((0.055, 2.5), (0.07, 3.0), (0.095, 2.5), (0.11, 2.0))
    ]


def gaussian(rng: np.random.Generator) -> np.ndarray:
    """Of widths apart from those measured."""
    while True:
        axial, lateral = rng.uniform(1.5, 7.5), rng.uniform(1.3, 5.0)
        apart = all(max(abs(axial - a), abs(lateral - b)) > APART for a, b in UNSEEN)
        if axial > 0.8 * lateral and apart:
            return mf.psf.gaussian(fwhm=(axial, lateral, lateral), voxel_size=(1.0, 1.0, 1.0))


def microscope(rng: np.random.Generator) -> np.ndarray:
    """Wide-field, confocal or light-sheet, with the aberrations of an oil objective that looks into water."""
    na, wavelength, index = rng.uniform(0.4, 1.1), rng.uniform(0.45, 0.7), 1.33
    lateral = 0.51 * wavelength / na / rng.uniform(1.5, 4.5)
    axial = 0.89 * wavelength / (index - np.sqrt(index**2 - na**2)) / rng.uniform(2.0, 8.0)
    voxels, planes = (axial, lateral, lateral), SHAPE[0]
    deep = rng.uniform(0, 12) * wavelength / na**2
    psf = mf.psf.gibson_lanni(
        wavelength, na, voxels, (2 * planes - 1, *SHAPE[1:]), depth=deep, specimen_index=index
    )
    brightest = int(np.argmax(psf.max((1, 2))))  # aberrations move the focus
    first = min(max(brightest - planes // 2, 0), planes - 1)
    psf = psf[first : first + planes]
    kind = int(rng.integers(3))
    if kind == 0:
        return psf / psf.sum()
    if kind == 1:  # confocal, as if both wavelengths were one
        return psf**2 / np.square(psf).sum()
    return mf.psf.light_sheet(psf, voxels, wavelength, waist=rng.uniform(2, 6) * axial)


def askew(rng: np.random.Generator) -> np.ndarray:
    """A Gaussian that lies in any direction, longer on one side than on the other."""
    axes = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    offsets = np.indices(SHAPE) - np.reshape(SHAPE, (3, 1, 1, 1)) // 2
    along = np.tensordot(axes, offsets, 1) / (rng.uniform(1.5, 5.0, 3) / 2.355).reshape(3, 1, 1, 1)
    along[0] /= np.where(along[0] > 0, rng.uniform(1, 2), 1)
    psf = np.exp(-np.square(along).sum(0) / 2)
    return psf / psf.sum()


def halo(rng: np.random.Generator) -> np.ndarray:
    """A core, and around it what is scattered."""
    width, share = rng.uniform(1.5, 4.0), rng.uniform(0.1, 0.5)
    widths = width * np.array([rng.uniform(1, 1.6), 1, 1])
    core, wide = (
        mf.psf.gaussian(tuple(factor * widths), (1.0, 1.0, 1.0), SHAPE) for factor in (1, rng.uniform(2, 4))
    )
    return (1 - share) * core + share * wide


def off_centre(psf: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    psf = ndimage.shift(psf, rng.uniform(-0.5, 0.5, 3), order=3).clip(0)
    return psf / psf.sum()


def as_measured(psf: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What is known of a PSF that was measured: noise, and no more than a frame around its middle."""
    widths = np.minimum(mf.psf.fwhm(psf), psf.shape)
    reach = [
        int(min(round(rng.uniform(1.2, 2.5) * w), n // 2)) for w, n in zip(widths, psf.shape, strict=True)
    ]
    frame = psf[tuple(slice(n // 2 - r, n // 2 + r + 1) for n, r in zip(psf.shape, reach, strict=True))]
    noise = np.exp(rng.uniform(*np.log(NOISE))) * psf.max() * rng.standard_normal(frame.shape)
    known = (frame + noise).clip(0)
    return known / known.sum()


def training_psf(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """What blurs the image, and what the network is told of it: the same, or as if it had been measured.

    Most are Gaussian or confocal. What is learnt from these alone is wild for blurs of other shapes.
    """
    chance = rng.random()
    if chance < 0.2:
        psf = confocals()[int(rng.integers(len(confocals())))]
        return psf, psf
    if chance < 0.65:
        psf = gaussian(rng)
        return psf, psf
    psf = (gaussian, microscope, askew, halo)[int(rng.integers(4))](rng)
    if rng.integers(2):
        return psf, psf
    psf = off_centre(psf, rng)
    return psf, as_measured(psf, rng)


def fresh(net: mf.nn.RLNet, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """What the correction is made of, (N, channels, z, y, x), and what it should be, (N, 1, z, y, x)."""
    known, missing = [], []
    for _ in range(count // TOGETHER):
        psf, told = training_psf(rng)
        own = net.with_psf(told)
        truths = np.array([view(rng) for _ in range(TOGETHER)])[:, None]
        photons = np.exp(rng.uniform(*np.log(PHOTONS), TOGETHER))
        images = [
            image_of(truth[0], psf, level, int(rng.integers(1 << 30)))
            for truth, level in zip(truths, photons, strict=True)
        ]
        known.append(mf.nn.Model(own.inputs[0], own.known).predict(np.array(images)[:, None]))
        missing.append(truths - known[-1][:, STEPS : STEPS + 1])
    return prepared(np.concatenate(known)), np.concatenate(missing)


def mixing() -> np.ndarray:
    """Of image, estimates, noise and filtered images: differences, each made about as large as the others.

    Training is faster with them. One row for each channel that is made, one column for each that there is.
    """
    channels, last, noise = len(GAINS), STEPS, STEPS + 1
    made = np.eye(channels)
    made[:last, last] = -1
    made[noise + 1, 0] = -1  # the smoothest of the filtered images, from the image itself
    for finer in range(noise + 2, channels):
        made[finer, finer - 1] = -1
    return np.asarray(np.array(GAINS)[:, None] * made)


def prepared(known: np.ndarray) -> np.ndarray:
    mixed = np.einsum("mk,nk...->nm...", mixing().astype(known.dtype), known, optimize=True)
    return np.ascontiguousarray(mixed)


def carry_over(trained: mf.nn.Graph, own: mf.nn.Graph) -> None:
    """Weights for what was `prepared` become weights for images and estimates themselves."""
    for (_, source), (_, target) in zip(trained.leaves(), own.leaves(), strict=True):
        for name, weight in source.weights.items():
            if weight.shape[1] == len(GAINS):  # a convolution of what is known itself
                weight = np.moveaxis(np.tensordot(weight, mixing(), (1, 0)), -1, 1)
            target.weights[name][...] = weight


def decibels(prediction: np.ndarray, target: np.ndarray, engine: Any, weights: Any = None) -> Any:
    """Mean squared error of each volume in dB, so that all photon levels and contrasts weigh the same."""
    difference = prediction - target
    errors = np.square(difference).mean((1, 2, 3, 4), dtype=np.float64) + 1e-9
    factor = 20 / np.log(10) / (len(errors) * difference[0].size * errors)
    difference *= factor.astype(difference.dtype).reshape(-1, 1, 1, 1, 1)
    return float(10 * np.log10(errors).mean()), difference


def untrained(seed: int) -> mf.nn.RLNet:
    psf = mf.psf.gaussian(fwhm=2.0, voxel_size=(1.0, 1.0, 1.0), shape=(5, 5, 5))  # the smallest file
    return mf.nn.RLNet(psf, STEPS, FILTERS, seed=seed, depth=DEPTH, levels=LEVELS, finishing=FINISHING)


class Supply:
    """A process of its own that makes the next round's volumes while this one trains."""

    def __init__(self, seed: int) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy threads' locks
        self._process = ProcessPoolExecutor(1, context, _begin, (seed,))
        self.cpu_seconds = 0.0
        self.order(POOL)

    def order(self, count: int) -> None:
        self._coming = self._process.submit(_more, count)

    def take(self) -> tuple[np.ndarray, np.ndarray]:
        known, missing, self.cpu_seconds = self._coming.result()
        return known, missing

    def close(self) -> None:
        self._process.shutdown(cancel_futures=True)


def _begin(seed: int) -> None:
    _supplied.update(net=untrained(seed), rng=np.random.default_rng(seed))


def _more(count: int) -> tuple[np.ndarray, np.ndarray, float]:
    return *fresh(_supplied["net"], count, _supplied["rng"]), time.process_time()


_supplied: dict[str, Any] = {}  # in the process that makes volumes


def train(seed: int, updates: int, output: str) -> None:
    supply = Supply(seed)
    net, twin = untrained(seed), untrained(seed)
    assert net.correction is not None and twin.correction is not None
    start = mf.nn.Input(len(GAINS), 3)
    core = mf.nn.Model(start, twin.correction(start), seed=seed)
    core.compile(mf.nn.Muon(mf.nn.CosineDecay(RATE, updates, warmup=min(WARMUP, updates))), decibels)
    rounds = -(-updates * BATCH // POOL)
    known, missing = supply.take()
    for number in range(1, rounds + 1):
        if number > 1:
            some = np.arange(FRESH) + (number * FRESH) % POOL
            known[some], missing[some] = supply.take()
        if number < rounds:
            supply.order(FRESH)
        history = core.fit(
            known, missing, 1, BATCH, augment=mf.nn.Augmentation(), seed=number, progress=False
        )
        net.notes = {
            "seed": seed,
            "updates": number * POOL // BATCH,
            "photons": list(PHOTONS),
            "cpu_minutes": round((time.process_time() + supply.cpu_seconds) / 60, 1),
        }
        if number % 4 == 0 or number == rounds:
            print(f"round {number} of {rounds}: {history['loss'][0]:.3f} dB; {net.notes}", flush=True)
            carry_over(twin.correction, net.correction)
            net.save(output, overwrite=True)
    supply.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", metavar="FILE", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--updates", type=int, default=UPDATES)
    arguments = parser.parse_args()
    train(arguments.seed, arguments.updates, arguments.output)


if __name__ == "__main__":
    main()
