"""Restores a scanned slide of a stained section, far larger than memory allows, from TIFF to OME-Zarr.

    python examples/slide.py FOLDER                  # 1200 x 1200 pixels, seconds
    python examples/slide.py FOLDER --full           # 20000 x 20000
    python examples/slide.py FOLDER --full --picture slide.png

FOLDER gets slide.ome.tif, the blurred slide, and restored.ome.zarr with its pyramid. The section is a
photograph from scikit-image's wheel, mirrored over and over, seen through an objective of NA 0.4. With a
slide of your own, only `restore` is needed. For research, not a medical device.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import medeconv_fast as mf

PIXEL = 0.25  # um
PSF = mf.psf.airy(wavelength=0.55, na=0.4, voxel_size=(PIXEL, PIXEL), shape=(17, 17))
FULL, SMALL = 20_000, 1200
TILE = 512  # of the TIFF
PHOTONS = 2000.0  # in a white pixel


def section(rows: slice, columns: slice) -> np.ndarray:
    """A part of the sharp section, (y, x, 3), from 0 to 255; it goes on for ever."""
    from skimage import data

    photo = data.immunohistochemistry()
    mirrored = [np.concatenate([np.arange(n), np.arange(n)[::-1]]) for n in photo.shape[:2]]
    y, x = (m[np.arange(s.start, s.stop) % len(m)] for m, s in zip(mirrored, (rows, columns), strict=True))
    return photo[np.ix_(y, x)].astype(np.float32)


def scanned(size: int) -> Iterator[np.ndarray]:
    """Tiles of the blurred slide, row by row: a strip of tiles is in memory at a time."""
    margin = PSF.shape[0] // 2
    for top in range(0, size, TILE):
        sharp = section(slice(top - margin, top + TILE + margin), slice(-margin, size + margin))
        blurred = [mf.convolve(sharp[..., c], PSF, mode="same", boundary="reflect") for c in range(3)]
        strip = np.stack(blurred, axis=-1)[margin:-margin, margin:-margin]
        rng = np.random.default_rng(top)
        strip += np.sqrt(np.maximum(strip, 0) * 255 / PHOTONS) * rng.standard_normal(strip.shape, np.float32)
        strip = np.clip(np.rint(strip), 0, 255).astype(np.uint8)
        for left in range(0, size, TILE):
            tile = strip[: size - top, left : left + TILE]
            yield np.pad(tile, [(0, TILE - tile.shape[0]), (0, TILE - tile.shape[1]), (0, 0)])


def scan(path: Path, size: int) -> None:
    import tifffile

    pixel = {
        "PhysicalSizeX": PIXEL,
        "PhysicalSizeY": PIXEL,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeYUnit": "µm",
    }
    with tifffile.TiffWriter(path, bigtiff=True, ome=True) as file:
        file.write(
            scanned(size),
            shape=(size, size, 3),
            dtype=np.uint8,
            tile=(TILE, TILE),
            photometric="rgb",
            compression="zlib",
            compressionargs={"level": 1},
            metadata={"axes": "YXS", **pixel},
        )


def restore(slide: Path, restored: Path, memory: str) -> Any:
    """Each colour on its own, in 8 bits as it came; the same call goes on with a run that was cut off."""
    return mf.restore_volume(
        slide, restored, PSF, method="rl", num_iter=15, memory=memory, dtype="input", scale=1
    )


def compared(slide: Path, restored: Path, size: int) -> list[tuple[str, np.ndarray]]:
    """A part from the middle as it is, was scanned, and is restored: (y, x, 3)."""
    part = slice(size // 2 - 100, size // 2 + 100)
    made = [("section", section(part, part))]
    for name, path in (("slide", slide), ("restored", restored)):
        source = mf.io.open_source(path)
        made.append((name, np.stack([source.read(c, (part, part)) for c in range(3)], axis=-1)))
    return made


def picture(path: Path, restored: Path, parts: list[tuple[str, np.ndarray]]) -> None:
    from matplotlib.figure import Figure

    levels = len(mf.io.open_source(restored).layout["levels"])
    coarse = mf.io.open_source(restored, level=levels - 1)
    whole = np.stack([coarse.read(c) for c in range(3)], axis=-1)
    figure = Figure(figsize=(9.6, 2.8), layout="constrained")
    size = mf.io.open_source(restored).shape[0]
    panels = [(f"{size} x {size}, coarsest level", whole), *parts]
    for panel, (title, image) in zip(figure.subplots(1, 4), panels, strict=True):
        panel.imshow(np.clip(image, 0, 255).astype(np.uint8))
        panel.set_title(title, fontsize=9)
        panel.set_axis_off()
    figure.savefig(path, dpi=80, pil_kwargs={"optimize": True})


def main(folder: Path, size: int, memory: str, drawn: Path | None = None) -> tuple[float, float]:
    folder.mkdir(parents=True, exist_ok=True)
    slide, restored = folder / "slide.ome.tif", folder / "restored.ome.zarr"
    scan(slide, size)
    done = restore(slide, restored, memory)
    print(
        f"{size} x {size}, 3 colours: {done.tiles} tiles of {' x '.join(map(str, done.plan.core))}, "
        f"{done.seconds:.0f} s, {done.clipped} values clipped to 8 bits"
    )
    parts = compared(slide, restored, size)
    truth = parts[0][1]
    gained = [mf.metrics.psnr(truth, image, data_range=255) for _, image in parts[1:]]
    print(f"PSNR {gained[0]:.2f} -> {gained[1]:.2f} dB, in the middle")
    if drawn is not None:
        picture(drawn, restored, parts)
    return gained[0], gained[1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--full", action="store_true", help=f"{FULL} x {FULL} pixels")
    parser.add_argument("--size", type=int, help="pixels along a side")
    parser.add_argument("--memory", default="2 GB")
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    side = arguments.size or (FULL if arguments.full else SMALL)
    main(arguments.folder, side, arguments.memory, arguments.picture)
