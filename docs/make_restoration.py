"""Writes the tables of docs/restoration.md: how near `restore` and `wiener` come to the best they could do.

    python docs/make_restoration.py            print them
    python docs/make_restoration.py --write    put them into docs/restoration.md, between their marks

Real scans that come with pydicom, nibabel and scikit-image serve as the truth; each is blurred, gets Poisson
noise and is restored without the truth. The frame of what lies outside is cut off after the blur, so that the
edges are as hard as in a real image.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

import medeconv_fast as mf

PAGE = Path(__file__).with_name("restoration.md")
BEGIN, END = "<!-- {}: docs/make_restoration.py --write -->", "<!-- end of {} -->"
COUNTS = (30, 300, 3000)  # expected counts of the brightest voxel of the truth
FRAME = 6
ITERATIONS = 60  # among which the best is looked for
BALANCES = 10.0 ** np.arange(-8, 3.01, 0.1)
WITHIN, WORST = 0.15, 0.5  # dB: what automatic stopping may lose in most cases, and in any
WIENER_WITHIN = 0.2


class Case(NamedTuple):
    name: str
    scan: str
    blur: str
    psf: np.ndarray

    def simulate(self, counts: int) -> tuple[np.ndarray, np.ndarray]:
        """Truth and image, in counts."""
        truth = scan(self.scan) * counts
        blurred = mf.Blur(self.psf, truth.shape, boundary="reflect", dtype=np.float64).forward(truth)
        noisy = np.random.default_rng(0).poisson(np.maximum(blurred, 0))
        inside = tuple(slice(FRAME, -FRAME) if n > 30 else slice(2, -2) for n in truth.shape)
        return truth[inside], noisy[inside].astype(np.float32)


@functools.cache
def scan(name: str) -> np.ndarray:
    """From 0 to 1, (z, y, x) or (y, x)."""
    import nibabel
    import pydicom
    import pydicom.data
    import skimage.data
    from nibabel.testing import data_path

    def dicom(file: str) -> np.ndarray:
        return pydicom.dcmread(pydicom.data.get_testdata_file(file)).pixel_array.astype(float)

    def nifti(file: str) -> np.ndarray:
        return np.asarray(nibabel.load(Path(data_path) / file).dataobj, float)

    values = {
        "brain": lambda: nifti("example4d.nii.gz")[..., 0].T,
        "head": lambda: nifti("anatomical.nii").T,
        "CT": lambda: np.clip(dicom("CT_small.dcm"), 100, 1600),
        "MR": lambda: dicom("MR_small.dcm"),
        "fundus": lambda: skimage.data.retina()[400:800, 400:800, 1].astype(float),
        "vessels": lambda: skimage.data.microaneurysms().astype(float),
    }[name]()
    values = values - values.min()
    return values / values.max()


@functools.cache
def cases() -> tuple[Case, ...]:
    def gaussian(*fwhm: float, voxel_size: tuple[float, ...] | None = None) -> np.ndarray:
        return mf.psf.gaussian(fwhm=fwhm, voxel_size=voxel_size or (1.0,) * len(fwhm))

    widefield = mf.psf.born_wolf(520, 1.2, 1.33, (150.0, 70.0, 70.0))
    confocal = widefield**2 / (widefield**2).sum()
    return (
        Case("MR brain", "brain", "Gaussian, 2 × 3 × 3 voxels", gaussian(2, 3, 3)),
        Case("PET brain", "brain", "PET, 6 mm on 2.2 × 2 × 2 mm", gaussian(6, 6, 6, voxel_size=(2.2, 2, 2))),
        Case("MR head", "head", "Gaussian, 2.5 voxels", gaussian(2.5, 2.5, 2.5)),
        Case("confocal head", "head", "confocal, NA 1.2, 150 × 70 × 70 nm", confocal),
        Case("CT slice", "CT", "Gaussian, 2.5 voxels", gaussian(2.5, 2.5)),
        Case("MR slice", "MR", "Gaussian, 2 voxels", gaussian(2, 2)),
        Case("fundus", "fundus", "Airy, NA 0.9, 80 nm", mf.psf.airy(520, 0.9, (80, 80), shape=(21, 21))),
        Case("retinal vessels", "vessels", "Gaussian, 3.5 voxels", gaussian(3.5, 3.5)),
    )


class Row(NamedTuple):
    name: str
    blur: str
    counts: str
    blurred: float
    found: float
    iterations: int
    best: float
    best_iterations: int

    @property
    def lost(self) -> float:
        return self.best - self.found


def restored(
    name: str, blur: str, counts: str, truth: np.ndarray, image: np.ndarray, psf: np.ndarray, **options: str
) -> Row:
    """`restore` as it is, and every iterate of the same run."""
    psnr = functools.partial(mf.metrics.psnr, truth)
    estimate, info = mf.restore(image, psf, return_info=True, **options)
    settings, found = info.settings, []
    mf.richardson_lucy(
        image,
        psf,
        max(ITERATIONS, info.num_iter),
        callback=lambda _, e: found.append(psnr(e)),
        **{key: settings[key] for key in ("acceleration", "regularizer", "readout_variance", "negative")},
        **options,
    )
    best = int(np.argmax(found))
    return Row(name, blur, counts, psnr(image), psnr(estimate), info.num_iter, found[best], best + 1)


def rows() -> Iterator[Row]:
    for case in cases():
        for counts in COUNTS:
            yield restored(case.name, case.blur, str(counts), *case.simulate(counts), case.psf)


def pollen(folder: Path) -> Row:
    """A volume of pollen with its blurred and noisy version, which does not come with this project."""
    truth, image, psf = (
        mf.io.read(folder / f"{name}.tif").array.astype(np.float32)
        for name in ("pollen", "pollen_poisson_noise_blurred", "pollen_psf")
    )
    return restored("pollen", "its own PSF", "", truth, np.maximum(image, 0), psf, boundary="wrap")


def stopping_table(found: list[Row]) -> list[str]:
    lines = [
        "| scan | blur | counts | blurred | `restore` | iterations | best iterate | its iterations | lost |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        lines.append(
            f"| {row.name} | {row.blur} | {row.counts} | {row.blurred:.2f} | {row.found:.2f} "
            f"| {row.iterations} | {row.best:.2f} | {row.best_iterations} | {row.lost:.2f} |"
        )
    simulated = [row for row in found if row.counts]
    share = np.mean([row.lost <= WITHIN for row in simulated])
    worst = max(row.lost for row in simulated)
    return [
        *lines,
        "",
        f"Of the {len(simulated)} simulated images {share:.0%} end within {WITHIN:g} dB of the best iterate; "
        f"the worst loses {worst:.2f} dB.",
    ]


def wiener_losses() -> Iterator[tuple[str, int, float, float, float]]:
    """Scan, counts, PSNR of the blurred image, with the balance found, with the best."""
    for case in cases():
        for counts in COUNTS:
            truth, image = case.simulate(counts)
            found = mf.metrics.psnr(truth, mf.wiener(image, case.psf))
            best = max(mf.metrics.psnr(truth, mf.wiener(image, case.psf, float(b))) for b in BALANCES)
            yield case.name, counts, mf.metrics.psnr(truth, image), found, best


def wiener_table(found: list[tuple[str, int, float, float, float]]) -> list[str]:
    lines = ["| scan | counts | blurred | `wiener` | best balance | lost |", "|---|---|---|---|---|---|"]
    for name, counts, blurred, psnr, best in found:
        lines.append(f"| {name} | {counts} | {blurred:.2f} | {psnr:.2f} | {best:.2f} | {best - psnr:.2f} |")
    losses = [best - psnr for *_, psnr, best in found]
    share = np.mean([lost <= WIENER_WITHIN for lost in losses])
    return [
        *lines,
        "",
        f"{share:.0%} of them are within {WIENER_WITHIN:g} dB of the best balance; the worst loses "
        f"{max(losses):.2f} dB.",
    ]


def main() -> None:
    found = list(rows())
    folder = Path(__file__).resolve().parents[2] / "shared" / "data" / "micro_pollen_sdeconv"
    if folder.exists() and importlib.util.find_spec("tifffile"):
        found.append(pollen(folder))
    tables = {"stopping": stopping_table(found), "balance": wiener_table(list(wiener_losses()))}
    if "--write" not in sys.argv[1:]:
        print("\n\n".join("\n".join(lines) for lines in tables.values()))
        return
    text = PAGE.read_text()
    for name, lines in tables.items():
        begin, end = BEGIN.format(name), END.format(name)
        before, rest = text.split(begin)
        text = "\n".join([before + begin, *lines, end]) + rest.split(end)[1]
    PAGE.write_text(text)
    print(f"wrote {PAGE.name}")


if __name__ == "__main__":
    main()
