"""How well `mf.psf.estimate_fwhm` finds known widths: the table of docs/psf.md.

    python benchmarks/fwhm_accuracy.py

Photographs that come with scikit-image, means of 2 x 2 pixels where they are large enough, and two scans that
come with nibabel are blurred by Gaussians of known width; white noise is added. Needs about two minutes.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import skimage.data
import skimage.io
from nibabel.testing import data_path

import medeconv_fast as mf

PHOTOGRAPHS = [
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "microaneurysms.png",
    "moon.png",
    "motorcycle_left.png",
    "page.png",
    "phantom.png",
    "retina.jpg",
    "rocket.jpg",
    "text.png",
]
WIDTHS = {
    2: [(w, w) for w in (1.5, 2.5, 4.0, 6.0)],
    3: [(2.5,) * 3, (4.0,) * 3, (4.0, 2.0, 2.0), (2.0, 4.0, 6.0)],
}
NOISE = (0.001, 0.01, 0.05)  # of the range


def photographs() -> Iterator[np.ndarray]:
    for name in PHOTOGRAPHS:
        image = skimage.io.imread(Path(skimage.data.__file__).with_name(name)).astype(float)
        if image.ndim == 3:
            image = image[..., :3] @ (0.299, 0.587, 0.114)
        if min(image.shape) >= 400:
            rows, columns = (n // 2 for n in image.shape)
            image = image[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2).mean(axis=(1, 3))
        yield image[:400, :400]


def scans() -> Iterator[np.ndarray]:
    for name in ("example4d.nii.gz", "anatomical.nii"):
        scan = np.asarray(nibabel.load(f"{data_path}/{name}").dataobj).astype(float)
        yield scan[..., 0] if scan.ndim == 4 else scan


def measured(truths: list[np.ndarray], widths: tuple[float, ...], noise: float, isotropic: bool) -> str:
    """Median and range of the middle 80 % of found / true, and how many were refused."""
    rng = np.random.default_rng(0)
    ratios: list[float] = []
    refused = 0
    psf = mf.psf.gaussian(widths, (1.0,) * len(widths))
    for truth in truths:
        image = mf.convolve(truth, psf, mode="same", boundary="reflect")
        image += rng.normal(0, noise * np.ptp(truth), image.shape)
        try:
            found = mf.psf.estimate_fwhm(image, isotropic=isotropic)
        except ValueError:
            refused += 1
        else:
            ratios += (np.divide(found, widths)[: 1 if isotropic else None]).tolist()
    low, middle, high = np.quantile(ratios, (0.1, 0.5, 0.9))
    return f"{middle:.2f} ({low:.2f} to {high:.2f})" + (f", {refused} refused" if refused else "")


def main() -> None:
    warnings.simplefilter("ignore", UserWarning)
    for name, truths, isotropic in (
        ("photographs, one width", list(photographs()), True),
        ("photographs, per axis", list(photographs()), False),
        ("scans, per axis", list(scans()), False),
    ):
        print(f"| {name} |", " | ".join(f"noise {100 * n:g} %" for n in NOISE), "|\n|---|---|---|---|")
        for widths in WIDTHS[truths[0].ndim]:
            row = [measured(truths, widths, noise, isotropic) for noise in NOISE]
            shown = f"{widths[0]:g}" if len(set(widths)) == 1 else ", ".join(f"{w:g}" for w in widths)
            print(f"| {shown} voxels |", " | ".join(row), "|")
        print()


if __name__ == "__main__":
    main()
