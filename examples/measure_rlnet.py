"""Measure the RLNet that ships with the package, or others, against the best-stopped plain Richardson-Lucy.

    python examples/measure_rlnet.py                                     # the one that ships
    python examples/measure_rlnet.py seed0.safetensors seed1.safetensors # of one seed each: mean and spread

One phantom and two MR scans; four Gaussian PSFs and a confocal one (excitation times emission, Born and
Wolf), of widths that pretrain_rlnet.py does not train on; two numbers of photons. Then the same with PSFs of
other shapes, in a table of their own. Where plain iterations are best only the truth can tell. For research,
not a medical device.
"""

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

import medeconv_fast as mf
from medeconv_fast.demo import scan_path

SHIPPED = Path(mf.nn.__file__).with_name("rlnet.safetensors")
MOST_ITERATIONS = 5000
SIZE = 32  # voxels each way: as many objects as are drawn are for such a volume


def phantom(shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """Sparse objects or dense tissue, at even odds; the largest value is 1."""
    made = objects(shape, rng) if rng.integers(2) else tissue(shape, rng)
    made = ndimage.gaussian_filter(made, rng.uniform(0, 0.6)).clip(0)
    return np.asarray(made / made.max(), np.float32)


def field(shape: tuple[int, int, int], rng: np.random.Generator, power: float) -> np.ndarray:
    """A random field whose amplitude falls with that power of the frequency; mean 0, deviation 1."""
    frequencies = np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij")
    radius = np.sqrt(sum(f**2 for f in frequencies))
    radius.flat[0] = np.inf
    made = np.fft.ifftn(np.fft.fftn(rng.standard_normal(shape)) / radius**power).real
    return (made - made.mean()) / made.std()


def tissue(shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """Regions that fold into each other, each with its level and texture, some of them empty."""
    kinds = int(rng.integers(3, 7))
    labels = np.argmax([field(shape, rng, rng.uniform(1.8, 3)) for _ in range(kinds)], axis=0)
    levels = rng.uniform(0.05, 1, kinds) * (rng.random(kinds) > 0.2)
    levels[0] = 1
    texture = 1 + rng.uniform(0, 0.25) * field(shape, rng, rng.uniform(0.5, 2))
    return np.asarray(levels[labels] * texture.clip(0))


def objects(shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """Balls, shells, tubes and points on a dim ground."""
    grid = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij")
    made = np.full(shape, rng.uniform(0.0, 0.1), np.float32)
    for _ in range(int(rng.integers(4, 16) * np.prod(shape) / SIZE**3)):
        centre, radii = rng.uniform(0, shape), rng.uniform(1, 9, 3)
        distance = np.sqrt(sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True)))
        kind, level = rng.integers(4), rng.uniform(0.1, 1)
        if kind == 0:
            made[distance < 1] = level
        elif kind == 1:
            made[(distance < 1) & (distance > 0.7)] += level
        elif kind == 2:  # a tube
            direction = rng.standard_normal(3)
            direction /= np.linalg.norm(direction)
            along = sum(d * (g - c) for g, c, d in zip(grid, centre, direction, strict=True))
            square = sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) - along**2
            made[square < rng.uniform(0.6, 2.5) ** 2] += level
        else:
            places = tuple(rng.integers(0, n, 20) for n in shape)
            made[places] += rng.uniform(0.3, 1, 20)
    cloud = ndimage.gaussian_filter(rng.standard_normal(shape), rng.uniform(0.7, 4))
    made *= 1 + rng.uniform(0, 0.4) * (cloud / cloud.std()).clip(-2, 2).astype(np.float32)
    return made


def confocal(excitation: float, emission: float, na: float, voxels: tuple[float, ...]) -> np.ndarray:
    """Excitation times emission; wavelengths in nm, voxels in µm."""
    shape = (15, 13, 13)
    both = [
        mf.psf.born_wolf(
            na=na, wavelength=wavelength / 1000, refractive_index=1.33, voxel_size=voxels, shape=shape
        )
        for wavelength in (excitation, emission)
    ]
    return both[0] * both[1]


def unseen_psfs() -> dict[str, np.ndarray]:
    made = {
        f"Gaussian {w[0]} x {w[1]}": mf.psf.gaussian(fwhm=(*w, w[1]), voxel_size=(1.0, 1.0, 1.0))
        for w in UNSEEN
    }
    return made | {"confocal 561 nm": confocal(561.0, 600.0, 1.2, (0.2, 0.08, 0.08))}


UNSEEN = ((2.7, 2.0), (4.2, 3.0), (5.8, 4.0), (3.0, 3.0))


def other_psfs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Neither Gaussian nor confocal: what blurs, and what is known of it, which differ where it is measured.

    The last two are of shapes that pretrain_rlnet.py does not train on at all.
    """
    oil = mf.psf.gibson_lanni(
        na=0.9, wavelength=0.52, voxel_size=(0.25, 0.1, 0.1), shape=(33, 33, 33), depth=3.0
    )
    oil = mf.psf.recentre(oil, threshold=0.25)[8:25, 6:27, 6:27]
    bead = np.random.default_rng(3).poisson(2 + 300 * oil / oil.max())  # photons, on a ground of 2
    wide = mf.psf.born_wolf(
        na=0.8, wavelength=0.52, refractive_index=1.33, voxel_size=(0.4, 0.2, 0.2), shape=(25, 21, 21)
    )
    z, y, x = (np.indices((17, 15, 15)) - np.reshape((8, 7, 7), (3, 1, 1, 1))).astype(float)
    sheared = np.exp(-((z / 2) ** 2 + ((y - 0.4 * z) / 1.2) ** 2 + (x / np.where(x > 0, 2.2, 1.1)) ** 2) / 2)
    core, halo = (mf.psf.gaussian((1.3 * w, w, w), (1.0, 1.0, 1.0), (21, 17, 17)) for w in (2.5, 8.0))
    fine = np.indices((35, 35, 35)).reshape(3, 7, 5, 7, 5, 7, 5) - 17  # five points a voxel each way
    ball = (np.square(fine).sum(0) < 15**2).mean((1, 3, 5))
    tails = (1 + (z / 1.8) ** 2 + (y / 1.2) ** 2 + (x / 1.2) ** 2) ** -2
    made = {
        "measured bead": (oil, mf.psf.remove_background(bead.astype(float))),
        "wide-field": (wide, wide),
        "sheared, skew": (sheared, sheared),
        "core and halo": (0.7 * core + 0.3 * halo,) * 2,
        "ball of radius 3": (ball, ball),
        "long tails": (tails, tails),
    }
    return {name: (psf / psf.sum(), known / known.sum()) for name, (psf, known) in made.items()}


def image_of(truth: np.ndarray, psf: np.ndarray, photons: float, seed: int) -> np.ndarray:
    return mf.simulate(truth, psf, noise="poisson", photons=photons, seed=seed).astype(np.float32)


def best_plain(image: np.ndarray, psf: np.ndarray, truth: np.ndarray) -> tuple[float, int]:
    """PSNR and iterations of plain Richardson-Lucy stopped where it is nearest to the truth."""
    best = (-np.inf, 0)

    def watch(iteration: int, estimate: np.ndarray, *_: object) -> bool:
        nonlocal best
        best = max(best, (mf.metrics.psnr(truth, estimate), iteration))
        return iteration > 20 + 1.2 * best[1]  # it rises to its best, and falls

    mf.richardson_lucy(image, psf, MOST_ITERATIONS, callback=watch)
    assert best[1] < MOST_ITERATIONS
    return best


def seconds_of(*runs) -> list[float]:
    """The least of five times each, in turns, so that other work on the machine hits all alike."""
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(6):
        for run, own in zip(runs, times, strict=True):
            begun = time.perf_counter()
            run()
            if turn:
                own.append(time.perf_counter() - begun)
    return [min(own) for own in times]


def scans() -> dict[str, np.ndarray]:
    head = mf.io.read(scan_path("anatomical.nii")).array.astype(np.float32)
    brain = mf.io.read(scan_path("example4d.nii.gz")).array[0].astype(np.float32)
    brain = brain[:, 16:80, 32:96]
    return {"MR anatomical": head - head.min(), "MR example4d": brain - brain.min()}


def measure(
    nets: list[mf.nn.RLNet], psfs: dict[str, tuple[np.ndarray, np.ndarray]], timed: bool
) -> list[dict[str, Any]]:
    """Every case: PSNR of image, of the best-stopped iterations and of each network, and times."""
    truths = {"phantom": phantom((64, 64, 64), np.random.default_rng(12345)), **scans()}
    rows = []
    for name, truth in truths.items():
        for photons in (200, 2000):
            for psf_name, (blurs, psf) in psfs.items():
                image = image_of(truth, blurs, photons, 7)
                plain, count = best_plain(image, psf, truth)
                own = [net.with_psf(psf) for net in nets]
                made, warned = [], []
                for net in own:
                    with warnings.catch_warnings(record=True) as caught:
                        warnings.simplefilter("always")
                        made.append(net.predict(image[None, None])[0, 0])
                    warned.append(len(caught))
                row = {
                    "truth": name,
                    "photons": photons,
                    "psf": psf_name,
                    "image_db": mf.metrics.psnr(truth, image),
                    "plain_db": plain,
                    "iterations": count,
                    "gains": [mf.metrics.psnr(truth, result) - plain for result in made],
                    "warned": warned,
                }
                if timed:
                    plain_s, net_s = seconds_of(
                        lambda image=image, psf=psf, count=count: mf.richardson_lucy(image, psf, count),
                        lambda image=image, net=own[0]: net.predict(image[None, None]),
                    )
                    row |= {"plain_ms": 1e3 * plain_s, "net_ms": 1e3 * net_s}
                rows.append(row)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """The tables of docs/nets.md."""
    gains = np.array([row["gains"] for row in rows])
    share = np.array([row["net_ms"] / row["plain_ms"] for row in rows])

    def cells(some: list[int]) -> str:
        per_net = gains[some].mean(0)
        return (
            f"{per_net.mean():+.2f} ± {per_net.std(ddof=1) if len(per_net) > 1 else 0:.2f} dB | "
            f"{gains[some].min():+.2f} to {gains[some].max():+.2f} dB | {np.median(share[some]):.2f}"
        )

    print("truth | photons | mean gain, spread of seeds | smallest and largest | time, median")
    for name, photons in dict.fromkeys((row["truth"], row["photons"]) for row in rows):
        some = [i for i, row in enumerate(rows) if (row["truth"], row["photons"]) == (name, photons)]
        print(f"{name} | {photons} | {cells(some)}")
    print(f"all | | {cells(list(range(len(rows))))}")
    print("\ntruth | psf | photons | image dB | plain dB (iterations, ms) | gains dB (ms) | time")
    for row, part in zip(rows, share, strict=True):
        print(
            f"{row['truth']} | {row['psf']} | {row['photons']} | {row['image_db']:.2f} | "
            f"{row['plain_db']:.2f} ({row['iterations']}, {row['plain_ms']:.1f}) | "
            f"{' '.join(f'{g:+.2f}' for g in row['gains'])} "
            f"({row['net_ms']:.1f}) | {part:.2f}"
        )
    total = sum(row["net_ms"] for row in rows) / sum(row["plain_ms"] for row in rows)
    named = set(scans())
    of_scans = gains[[row["truth"] in named for row in rows]]
    print(
        f"mean gain of each network: {' '.join(f'{g:+.3f}' for g in gains.mean(0))} dB, on scans alone "
        f"{' '.join(f'{g:+.3f}' for g in of_scans.mean(0))} dB; at least 0.5 dB in "
        f"{np.mean(gains >= 0.5):.0%} of cases, below 0 in {np.mean(gains < 0):.0%}; at most a fifth of the "
        f"time in {np.mean(share <= 0.2):.0%}, all cases together {total:.2f}"
    )


def show_others(rows: list[dict[str, Any]]) -> None:
    """Of PSFs of other shapes, over all truths and photons: docs/nets.md."""
    gains = np.array([row["gains"] for row in rows])
    warned = np.array([row["warned"] for row in rows])
    print("\ntruth | other psf | photons | image dB | plain dB (iterations) | gains dB (* warned)")
    for row in rows:
        marked = " ".join(f"{g:+.2f}{'*' * w}" for g, w in zip(row["gains"], row["warned"], strict=True))
        print(
            f"{row['truth']} | {row['psf']} | {row['photons']} | {row['image_db']:.2f} | "
            f"{row['plain_db']:.2f} ({row['iterations']}) | {marked}"
        )
    print("\nother psf | mean gain of each network | smallest and largest | below 0 | warned")
    for name in [*dict.fromkeys(row["psf"] for row in rows), "all"]:
        some = [i for i, row in enumerate(rows) if name in (row["psf"], "all")]
        print(
            f"{name} | {' '.join(f'{g:+.2f}' for g in gains[some].mean(0))} dB | "
            f"{gains[some].min():+.2f} to {gains[some].max():+.2f} dB | {np.mean(gains[some] < 0):.0%} | "
            f"{np.mean(warned[some] > 0):.0%}"
        )


def show_costs(net: mf.nn.RLNet) -> None:
    """Times of whole volumes, in plain iterations."""
    for psf_name, psf in list(unseen_psfs().items())[1::3]:
        own = net.with_psf(psf)
        for size in (64, 128):
            image = image_of(objects((size,) * 3, np.random.default_rng(1)), psf, 500, 1)
            plain, made = seconds_of(
                lambda image=image, psf=psf: mf.richardson_lucy(image, psf, 20),
                lambda image=image, own=own: own.predict(image[None, None]),
            )
            print(
                f"{psf_name}, {size} cubed: {1e3 * made:.1f} ms, as {20 * made / plain:.1f} plain iterations"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", metavar="FILE", nargs="*", default=[SHIPPED], help="of one seed each")
    parser.add_argument("--json", metavar="FILE", help="write what was measured")
    arguments = parser.parse_args()
    nets = [mf.nn.RLNet.load(path) for path in arguments.networks]
    rows = measure(nets, {name: (psf, psf) for name, psf in unseen_psfs().items()}, timed=True)
    show(rows)
    show_costs(nets[0])
    others = measure(nets, other_psfs(), timed=False)
    show_others(others)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows + others, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
