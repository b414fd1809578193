"""Draws one picture per PSF model, those of docs/psf.md.

    python examples/psf_gallery.py docs/psf

Beads and the edge are simulated, so that what is found can be compared with what is known.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import medeconv_fast as mf

VOXELS = (0.2, 0.065, 0.065)  # µm, z y x
SHAPE = (41, 61, 61)
GREEN, BLUE = 0.52, 0.488  # µm


def beads(psf: np.ndarray) -> np.ndarray:
    """Twelve beads between voxels on a dim background, as a camera counts them."""
    rng = np.random.default_rng(0)
    truth = np.zeros((40, 120, 160))
    for row in range(3):
        for column in range(4):
            place = [20, 22 + 38 * row, 22 + 38 * column] + rng.uniform(-4, 4, 3)
            # Shared among the neighbouring voxels: blurred afterwards, that is a bead between them, wider by
            # a sixth of a square voxel.
            corner, height = np.floor(place).astype(int), rng.uniform(0.6, 1)
            for offset in np.ndindex(2, 2, 2):
                parts = np.where(offset, place - corner, corner + 1 - place)
                truth[tuple(corner + offset)] += height * parts.prod()
    blurred = mf.convolve(truth, psf, mode="same")
    return rng.poisson(400 * blurred / blurred.max() + 10).astype(np.uint16)


def edge() -> np.ndarray:
    """A Gaussian edge of 2.4 mm, slanted by 6 degrees, in pixels of 0.8 mm, with noise."""
    fine = 10
    y, x = ((np.arange(n * fine) + 0.5) * 0.8 / fine - 0.4 * n for n in (64, 64))
    away = (x[None, :] - np.tan(np.deg2rad(6)) * y[:, None]) * np.cos(np.deg2rad(6))
    psf = mf.psf.gaussian(2.4, (0.8 / fine, 0.8 / fine))
    sharp = mf.convolve((away > 0).astype(float), psf, mode="same", boundary="nearest")
    pixels = sharp.reshape(64, fine, 64, fine).mean(axis=(1, 3))
    return 50 + 900 * pixels + np.random.default_rng(1).normal(0, 8, pixels.shape)


def gallery() -> Iterator[tuple[str, object]]:
    """Name and figure, one after the other."""
    yield (
        "gaussian",
        mf.psf.plot(
            mf.psf.gaussian((6.0, 4.0, 4.0), (2.0, 1.0, 1.0)),
            (2.0, 1.0, 1.0),
            unit="mm",
            title="gaussian: FWHM 6, 4 and 4 mm in voxels of 2, 1 and 1 mm",
        ),
    )
    yield (
        "airy",
        mf.psf.plot(
            mf.psf.airy(GREEN, 1.2, VOXELS[1:], SHAPE[1:]),
            VOXELS[1:],
            unit="µm",
            title="airy: NA 1.2, 520 nm",
        ),
    )
    focus = mf.psf.born_wolf(GREEN, 1.2, 1.33, VOXELS, SHAPE)
    yield "born_wolf", mf.psf.plot(focus, VOXELS, unit="µm", title="born_wolf: NA 1.2 in water, 520 nm")
    deep = mf.psf.gibson_lanni(GREEN, 1.2, VOXELS, SHAPE, depth=8.0)
    yield (
        "gibson_lanni",
        mf.psf.plot(deep, VOXELS, unit="µm", title="gibson_lanni: NA 1.2 in oil, 8 µm deep in water"),
    )
    detection = mf.psf.born_wolf(GREEN, 0.8, 1.33, VOXELS, SHAPE)
    sheet = mf.psf.light_sheet(detection, VOXELS, BLUE, na=0.12)
    yield (
        "light_sheet",
        mf.psf.plot(sheet, VOXELS, unit="µm", title="light_sheet: detection NA 0.8, sheet NA 0.12"),
    )
    confocal = mf.psf.gaussian((0.9, 0.25, 0.3), VOXELS)
    psf, info = mf.psf.from_beads(beads(confocal), (21, 25, 25), return_info=True)
    print(f"beads: {info.num_beads} used, {len(info.rejected)} left out; width as sampled", end=" ")
    print(*(f"{w:.3f}" for w in mf.psf.fwhm(psf, VOXELS)), "known", end=" ")
    print(*(f"{w:.3f}" for w in mf.psf.fwhm(confocal, VOXELS)))
    yield (
        "from_beads",
        mf.psf.plot(
            psf, VOXELS, unit="µm", title=f"from_beads: {info.num_beads} simulated beads, 400 photons"
        ),
    )
    psf, found = mf.psf.from_edge(edge(), 0.8, isotropic=True, return_info=True)
    print(f"edge: FWHM {found.fwhm:.3f} ± {found.fwhm_error:.3f} mm, known 2.4, at {found.angle:.2f} degrees")
    yield (
        "from_edge",
        mf.psf.plot(psf, 0.8, unit="mm", title=f"from_edge: found {found.fwhm:.2f} mm, known 2.40 mm"),
    )


def main(directory: str) -> None:
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    for name, figure in gallery():
        figure.savefig(target / f"{name}.png", dpi=72, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main(*sys.argv[1:])
