"""Restores every NIfTI volume of a folder with one command, and says which did not work.

    python examples/scan_folder.py FOLDER                # three scans from nibabel's wheel, seconds
    python examples/scan_folder.py FOLDER --full         # the same on a grid twice as fine per axis
    python examples/scan_folder.py FOLDER --picture scan_folder.png

FOLDER/scans gets the blurred scans and one that is damaged, FOLDER/restored what `medeconv restore` makes of
them. With scans of your own, only the command that is printed is needed. For research, not a medical device.
"""

import argparse
import shlex
from pathlib import Path

import numpy as np

import medeconv_fast as mf
from medeconv_fast import cli, demo

FWHM = (5.0, 4.0, 4.0)  # mm
NAMES = ("example4d.nii.gz", "anatomical.nii", "reoriented_anat_moved.nii")
PHOTONS = 3000.0  # at the brightest voxel
DAMAGED = "damaged.nii"


def truths(full: bool) -> dict[str, mf.io.Volume]:
    """The scans as they are; of a series its first volume."""
    found = {}
    for name in NAMES:
        scan = mf.io.read(demo.scan_path(name))
        if scan.axes == "tzyx":
            scan = mf.io.Volume(scan.array[0], scan.voxel_size, scan.affine, scan.unit)
        scan = scan.with_array(np.maximum(scan.array, 0).astype(np.float32))
        if full:
            finer = [size / 2 for size in scan.voxel_size]
            scan, _ = mf.preprocess.resample(scan, finer)
        found[name] = scan
    return found


def blur(folder: Path, full: bool) -> dict[str, mf.io.Volume]:
    folder.mkdir(parents=True, exist_ok=True)
    made = truths(full)
    for seed, (name, truth) in enumerate(made.items()):
        psf = mf.psf.gaussian(fwhm=FWHM, voxel_size=truth.voxel_size)
        image = mf.simulate(truth.array, psf, noise="poisson", photons=PHOTONS, seed=seed)
        mf.io.write(folder / name, truth.with_array(image), overwrite=True)
    (folder / DAMAGED).write_bytes((folder / "anatomical.nii").read_bytes()[:2000])
    return made


def picture(path: Path, rows: list[list[tuple[str, np.ndarray]]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 2.5 * len(rows)), layout="constrained")
    for panels, row in zip(figure.subplots(len(rows), 3, squeeze=False), rows, strict=True):
        high = np.percentile(row[0][1], 99.8)
        for panel, (title, plane) in zip(panels, row, strict=True):
            panel.imshow(plane, cmap="gray", vmin=0, vmax=high, origin="lower", interpolation="nearest")
            panel.set_title(title, fontsize=9)
            panel.set_axis_off()
    figure.savefig(path, dpi=80, pil_kwargs={"optimize": True})


def main(folder: Path, full: bool = False, drawn: Path | None = None) -> dict[str, tuple[float, float]]:
    scans, restored = folder / "scans", folder / "restored"
    made = blur(scans, full)
    widths = [f"{width:g}" for width in FWHM]
    arguments = ["restore", str(scans), "-o", str(restored), "--fwhm-mm", *widths, "--memory", "2GB"]
    print("medeconv", shlex.join(arguments))
    status = cli.main(arguments)
    print(f"exit status {status}: one of them is damaged; the others are restored")
    gained, rows = {}, []
    for name, truth in made.items():
        before, after = mf.io.read(scans / name), mf.io.read(restored / name)
        assert np.array_equal(after.affine, before.affine)
        gained[name] = tuple(mf.metrics.psnr(truth.array, v.array) for v in (before, after))
        print(f"{name:18} {gained[name][0]:.2f} -> {gained[name][1]:.2f} dB")
        middle = truth.shape[0] // 2
        rows.append(
            [
                (title, volume.array[middle])
                for title, volume in ((name, truth), ("blurred", before), ("restored", after))
            ]
        )
    if drawn is not None:
        picture(drawn, rows)
    return gained


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--full", action="store_true", help="on a grid twice as fine per axis")
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    main(arguments.folder, arguments.full, arguments.picture)
