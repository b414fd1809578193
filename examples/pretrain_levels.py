"""Train an RLNet that corrects once, partly on coarser grids, and is told how strong the noise is.

    python examples/pretrain_levels.py --seed 0 -o levels.safetensors     # 2.4 minutes of one core
    python examples/pretrain_rlnet.py --measure levels.safetensors        # against the best-stopped plain RL

The iterations come before all that is learnt, so they are run once per volume, and what is trained is the
correction alone, on all PSFs at once. Volumes are those of pretrain_rlnet.py; thin folds inside of an
outline, as scans of a body show them; and filaments. Widths and wavelengths that are measured are not among
those trained on. For research, not a medical device.
"""

import argparse
import functools
import time
from typing import Any

import numpy as np
from pretrain_rlnet import SIZE, UNSEEN, confocal, field, image_of, objects, tissue
from scipy import ndimage

import medeconv_fast as mf

STEPS, FILTERS, DEPTH, LEVELS = 3, 8, 1, 1
CROP = (24, 24, 24)  # of which is trained on
ENLARGED = 4.0
BATCH = 8
POOL = 384  # volumes at hand
FRESH = 24  # of them new in every round, in which all are gone through once
TOGETHER = 3  # volumes of one PSF
PHOTONS = (20, 20000)  # at the brightest blurred voxel
UPDATES = 1632
RATE = 6e-3
APART = 0.15  # voxels between widths trained on and widths measured


def scene(shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """What is trained on: one of four kinds, slightly smoothed; the largest value is 1."""
    kinds = (objects, tissue, body, filaments)
    made = kinds[int(rng.integers(len(kinds)))](shape, rng)
    made = ndimage.gaussian_filter(made, rng.uniform(0, 0.8)).clip(0)
    return np.asarray(made / made.max(), np.float32)


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


def training_psf(rng: np.random.Generator) -> np.ndarray:
    """A Gaussian of widths apart from those measured, or a confocal PSF of another wavelength."""
    if rng.random() < 0.25:
        return confocals()[int(rng.integers(len(confocals())))]
    while True:
        axial, lateral = rng.uniform(1.5, 7.5), rng.uniform(1.3, 5.0)
        apart = all(max(abs(axial - a), abs(lateral - b)) > APART for a, b in UNSEEN)
        if axial > 0.8 * lateral and apart:
            return mf.psf.gaussian(fwhm=(axial, lateral, lateral), voxel_size=(1.0, 1.0, 1.0))


def fresh(net: mf.nn.RLNet, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """What the correction is made of, (N, channels, z, y, x), and what it should be, (N, 1, z, y, x)."""
    known, missing = [], []
    for _ in range(count // TOGETHER):
        psf = training_psf(rng)
        own = net.with_psf(psf)
        truths = np.array([scene((SIZE,) * 3, rng) for _ in range(TOGETHER)])[:, None]
        photons = np.exp(rng.uniform(*np.log(PHOTONS), TOGETHER))
        images = [
            image_of(truth[0], psf, level, int(rng.integers(1 << 30)))
            for truth, level in zip(truths, photons, strict=True)
        ]
        known.append(mf.nn.Model(own.inputs[0], own.known).predict(np.array(images)[:, None]))
        missing.append(truths - known[-1][:, STEPS : STEPS + 1])
    return prepared(np.concatenate(known)), np.concatenate(missing)


def prepared(known: np.ndarray) -> np.ndarray:
    """Differences from the last estimate, which are small, enlarged: training is faster with them."""
    last = known[:, STEPS : STEPS + 1]
    return np.concatenate([ENLARGED * (known[:, :STEPS] - last), last, ENLARGED * known[:, STEPS + 1 :]], 1)


def carry_over(trained: mf.nn.Graph, own: mf.nn.Graph) -> None:
    """Weights for what was `prepared` become weights for image and estimates themselves."""
    for (_, source), (_, target) in zip(trained.leaves(), own.leaves(), strict=True):
        for name, weight in source.weights.items():
            target.weights[name][...] = weight
    first = own.layers[0].weights["weight"]
    first[:, :STEPS] *= ENLARGED
    first[:, STEPS + 1 :] *= ENLARGED
    first[:, STEPS] -= first[:, :STEPS].sum(1)


def decibels(prediction: np.ndarray, target: np.ndarray, engine: Any, weights: Any = None) -> Any:
    """Mean squared error of each volume in dB, so that all photon levels and contrasts weigh the same."""
    difference = prediction - target
    errors = np.square(difference).mean((1, 2, 3, 4), dtype=np.float64) + 1e-9
    factor = 20 / np.log(10) / (len(errors) * difference[0].size * errors)
    difference *= factor.astype(difference.dtype).reshape(-1, 1, 1, 1, 1)
    return float(10 * np.log10(errors).mean()), difference


def train(seed: int, updates: int, output: str) -> None:
    rng = np.random.default_rng(seed)
    psf = mf.psf.gaussian(fwhm=2.0, voxel_size=(1.0, 1.0, 1.0), shape=(5, 5, 5))  # the smallest file
    net, twin = (mf.nn.RLNet(psf, STEPS, FILTERS, seed=seed, depth=DEPTH, levels=LEVELS) for _ in range(2))
    assert net.correction is not None and twin.correction is not None
    start = mf.nn.Input(STEPS + 2, 3)
    core = mf.nn.Model(start, twin.correction(start), seed=seed)
    core.compile(mf.nn.Adam(mf.nn.CosineDecay(RATE, updates, warmup=min(50, updates))), decibels)
    rounds = -(-updates * BATCH // POOL)
    known, missing = fresh(net, POOL, rng)
    for number in range(1, rounds + 1):
        if number > 1:
            some = np.arange(FRESH) + (number * FRESH) % POOL
            known[some], missing[some] = fresh(net, FRESH, rng)
        history = core.fit(
            known, missing, 1, BATCH, augment=mf.nn.Augmentation(crop=CROP), seed=number, progress=False
        )
        net.notes = {
            "seed": seed,
            "updates": number * POOL // BATCH,
            "photons": list(PHOTONS),
            "cpu_minutes": round(time.process_time() / 60, 1),
        }
        if number % 4 == 0 or number == rounds:
            print(f"round {number} of {rounds}: {history['loss'][0]:.3f} dB; {net.notes}", flush=True)
            carry_over(twin.correction, net.correction)
            net.save(output, overwrite=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", metavar="FILE", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--updates", type=int, default=UPDATES)
    arguments = parser.parse_args()
    train(arguments.seed, arguments.updates, arguments.output)


if __name__ == "__main__":
    main()
