"""Five ways into deconvolution, one per kind of scan: CT, PET, MR, ultrasound, radiograph.

    python examples/recipes.py docs/recipes            # all, one picture each
    python examples/recipes.py docs/recipes pet mr     # some

Each recipe makes a blurred and noisy image of a known truth, as such a scanner would, restores it, and prints
what was gained. Replace the first half by `mf.io.read` of your scan. For research, not a medical device.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import medeconv_fast as mf

BARS = (2.4, 1.8, 1.2, 0.9, 0.75)  # mm per pair of lines of the radiograph's pattern


class Result(NamedTuple):
    """Planes to look at, (title, plane), on one grey scale; height over width of a pixel; what was gained."""

    planes: list[tuple[str, np.ndarray]]
    window: tuple[float, float]
    aspect: float
    gained: dict[str, tuple[float, float]]


def ct() -> Result:
    """A stack of thick CT slices: the slice profile blurs along z, the reconstruction a little in-plane.

    Values are Hounsfield units, a signed scale: Richardson-Lucy adds a constant first and takes it off after
    (``negative="shift"``).
    """
    voxels = (2.0, 0.8, 0.8)  # mm
    rng = np.random.default_rng(1)
    z, y, x = _grid((40, 110, 130), voxels)
    truth = np.full(z.shape, -1000.0)
    truth[(x / 46) ** 2 + (y / 38) ** 2 < 1] = 40  # soft tissue
    for side in (-1, 1):
        truth[((x - 20 * side) / 15) ** 2 + ((y + 4) / 22) ** 2 < 1] = -850  # lungs
    for _ in range(60):  # vessels and nodules in the lungs
        place = rng.uniform([-30, -18, 8], [30, 12, 32]) * [1, 1, rng.choice([-1, 1])]
        ball = (z - place[0]) ** 2 + (y - place[1]) ** 2 + (x - place[2]) ** 2 < rng.uniform(1.5, 4) ** 2
        truth[ball & (truth < -500)] = 50
    for height in np.arange(-40, 40, 8.0):  # ribs, one above the other
        truth[(np.abs((x / 43) ** 2 + (y / 35) ** 2 - 0.96) < 0.05) & (np.abs(z - height + 0.2 * y) < 2)] = (
            600
        )
    psf = mf.psf.gaussian(fwhm=(5.0, 1.2, 1.2), voxel_size=voxels)
    scan = mf.simulate(truth, psf, noise="gaussian", sigma=15.0, seed=1)

    restored = mf.richardson_lucy(
        scan, psf, 25, negative="shift", regularizer=("tv", 0.002), voxel_size=voxels
    )

    planes = [
        (name, a[:, 60]) for name, a in (("truth", truth), ("5 mm slices", scan), ("restored", restored))
    ]
    return Result(planes, (-1000, 500), voxels[0] / voxels[2], _gained(truth, scan, restored))


def pet() -> Result:
    """A PET volume: 6 mm of Gaussian blur, few counts. Thinning finds when to stop."""
    voxels = (3.0, 2.0, 2.0)  # mm
    z, y, x = _grid((32, 90, 90), voxels)
    truth = np.where((x / 75) ** 2 + (y / 60) ** 2 < 1, 10.0, 0.0)
    spheres = []  # those of the NEMA phantom: 10 to 37 mm across, four times the background
    for diameter, angle in zip((10, 13, 17, 22, 28, 37), np.deg2rad(np.arange(0, 360, 60)), strict=True):
        centre = 38 * np.sin(angle), 38 * np.cos(angle)
        inside = z**2 + (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < (diameter / 2) ** 2
        truth[inside] = 40.0
        spheres.append(inside)
    psf = mf.psf.gaussian(fwhm=6.0, voxel_size=voxels)
    counts = mf.simulate(truth, psf, noise="poisson", seed=2).astype(np.int32)

    restored = mf.richardson_lucy(counts, psf, 40, stop=mf.stop.Thinning(seed=3))

    recovered = tuple(100 * (a[spheres[2]].mean() - 10) / 30 for a in (counts, restored))
    planes = [(name, a[16]) for name, a in (("truth", truth), ("counts", counts), ("restored", restored))]
    gained = _gained(truth, counts, restored)
    return Result(
        planes, (0, 50), voxels[1] / voxels[2], gained | {"contrast of the 17 mm sphere / %": recovered}
    )


def mr() -> Result:
    """An MR volume with thick slices: an anisotropic PSF in mm on anisotropic voxels, total variation.

    The truth is a scan of nibabel's own tests.
    """
    import nibabel

    scan = mf.io.read(Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz")
    truth = scan.array[0].astype(np.float32)
    psf = mf.psf.gaussian(fwhm=(5.0, 3.0, 3.0), voxel_size=scan.voxel_size)
    image = mf.simulate(truth, psf, noise="gaussian", sigma=6.0, seed=4)

    # Away from the head there is nothing to restore: cut it out, and paste it back.
    part, step = mf.preprocess.crop(image, mask=image > 60, margin=8)
    restored = step.undo(
        mf.richardson_lucy(
            part, psf, 30, negative="clip", regularizer=("tv", 0.001), voxel_size=scan.voxel_size
        )
    )

    middle = truth.shape[2] // 2
    planes = [
        (name, a[::-1, :, middle])
        for name, a in (("truth", truth), ("thick slices", image), ("restored", restored))
    ]
    high = float(np.percentile(truth, 99.5))
    return Result(planes, (0, high), scan.voxel_size[0] / scan.voxel_size[1], _gained(truth, image, restored))


def ultrasound() -> Result:
    """A frame of ultrasound: sharp along the beam, blurred across it, and full of speckle.

    Speckle multiplies; envelopes are positive, so Richardson-Lucy with few iterations sharpens wires and cyst
    walls without tearing the speckle apart.
    """
    pixels = (0.15, 0.3)  # mm: along the beam, across it
    rng = np.random.default_rng(5)
    y, x = _grid((300, 200), pixels, middle=False)
    truth = np.ones(y.shape)
    for depth, across, radius in ((12, 15, 4), (25, 40, 6), (36, 18, 3)):
        truth[(y - depth) ** 2 + (x - across) ** 2 < radius**2] = 0.08  # cysts
    for depth in (8, 20, 32):
        truth[round(depth / pixels[0]), round(30 / pixels[1])] = 400  # wires
    speckled = truth * np.where(truth > 2, 1, rng.gamma(2.0, 0.5, truth.shape))
    psf = mf.psf.gaussian(fwhm=(0.4, 1.6), voxel_size=pixels)
    frame = mf.simulate(speckled, psf, noise="poisson", photons=4000, seed=6)

    restored = mf.richardson_lucy(frame, psf, 12)

    def width(image: np.ndarray) -> float:
        """Full width of the middle wire across the beam, in mm."""
        line = image[round(20 / pixels[0]), round(30 / pixels[1]) - 10 : round(30 / pixels[1]) + 11]
        line = line - 1  # the tissue around it
        above = np.interp(np.arange(0, 20, 0.01), np.arange(21), line) > line.max() / 2
        return float(above.sum() * 0.01 * pixels[1])

    def decibels(image: np.ndarray) -> np.ndarray:
        return 20 * np.log10(np.maximum(image, 1e-3))

    planes = [
        (name, decibels(a)) for name, a in (("truth", speckled), ("frame", frame), ("restored", restored))
    ]
    cyst = (y - 36) ** 2 + (x - 18) ** 2 < 2.5**2
    around = ((y - 36) ** 2 + (x - 18) ** 2 < 6**2) & ((y - 36) ** 2 + (x - 18) ** 2 > 4**2)
    gained = {
        "width of a wire / mm": (width(frame), width(restored)),
        "cyst below tissue / dB (truth 21.9)": tuple(
            float(20 * np.log10(a[around].mean() / a[cyst].mean())) for a in (frame, restored)
        ),
    }
    return Result(planes, (-30, 20), pixels[0] / pixels[1], gained)


def radiograph() -> Result:
    """A radiograph: the blur is measured on the image of a straight edge, the Wiener filter takes it out."""
    pixel = 0.15  # mm
    y, x = _grid((320, 320), (pixel, pixel))
    sharp = mf.psf.gaussian(fwhm=0.55, voxel_size=(pixel, pixel))  # focal spot and detector: not known to us

    edge = np.where(x - np.tan(np.deg2rad(4)) * y > 0, 3000.0, 900.0)
    edge = mf.simulate(edge, sharp, noise="poisson", seed=7)
    psf, found = mf.psf.from_edge(edge, pixel, isotropic=True, return_info=True)

    truth = np.full(x.shape, 2600.0)
    for number, period in enumerate(BARS):  # of lead
        bars = (np.abs(y + 16 - 8 * number) < 3) & (np.abs(x) < 18) & ((x % period) < period / 2)
        truth[bars] = 700.0
    image = mf.simulate(truth, sharp, noise="poisson", seed=8)

    restored = mf.wiener(image, psf)

    def modulation(image: np.ndarray, period: float, number: int) -> float:
        """Of the bars of one period: amplitude of their wave, of that in the truth, in per cent."""
        rows, columns = np.abs(y[:, 0] + 16 - 8 * number) < 2, np.abs(x[0]) < 14.4
        wave = np.exp(2j * np.pi * x[0] / period)[columns]
        found, true = (np.abs((a[rows].mean(axis=0)[columns] * wave).mean()) for a in (image, truth))
        return float(100 * found / true)

    planes = [(name, a) for name, a in (("truth", truth), ("radiograph", image), ("restored", restored))]
    gained = {
        f"modulation of bars of {period} mm / %": tuple(modulation(a, period, k) for a in (image, restored))
        for k, period in enumerate(BARS)
    }
    gained["width known and found / mm"] = (0.55, found.fwhm)
    return Result(planes, (500, 2900), 1.0, _gained(truth, image, restored) | gained)


RECIPES: dict[str, Callable[[], Result]] = {f.__name__: f for f in (ct, pet, mr, ultrasound, radiograph)}


def _grid(shape: tuple[int, ...], voxels: tuple[float, ...], *, middle: bool = True) -> list[np.ndarray]:
    """Coordinates of the voxels in mm, from the middle of the field or from its first voxel."""
    axes = [(np.arange(n) - (n // 2 if middle else 0)) * d for n, d in zip(shape, voxels, strict=True)]
    return list(np.meshgrid(*axes, indexing="ij"))


def _gained(truth: np.ndarray, before: np.ndarray, after: np.ndarray) -> dict[str, tuple[float, float]]:
    return {
        "PSNR / dB": (mf.metrics.psnr(truth, before), mf.metrics.psnr(truth, after)),
        "SSIM": (mf.metrics.ssim(truth, before), mf.metrics.ssim(truth, after)),
    }


def picture(result: Result) -> Any:
    from matplotlib.figure import Figure

    height, width = result.planes[0][1].shape
    figure = Figure(figsize=(9.6, 0.4 + 3.2 * height * result.aspect / width), layout="constrained")
    for panel, (title, plane) in zip(figure.subplots(1, 3), result.planes, strict=True):
        panel.imshow(
            plane,
            cmap="gray",
            vmin=result.window[0],
            vmax=result.window[1],
            aspect=result.aspect,
            interpolation="nearest",
        )
        panel.set_title(title, fontsize=9)
        panel.set_axis_off()
    return figure


def main(directory: str, *names: str) -> None:
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    for name in names or RECIPES:
        result = RECIPES[name]()
        for what, (before, after) in result.gained.items():
            print(f"{name:11} {what:35} {before:8.3f} -> {after:8.3f}")
        picture(result).savefig(target / f"{name}.png", dpi=72, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    if len(sys.argv) < 2 or not set(sys.argv[2:]) <= set(RECIPES):
        raise SystemExit(f"{__doc__}\nRecipes: {', '.join(RECIPES)}")
    main(*sys.argv[1:])
