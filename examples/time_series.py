"""Restores a light-sheet time series of two channels, each with its own PSF, from OME-Zarr to OME-Zarr.

    python examples/time_series.py FOLDER                 # 3 time points of 16 x 96 x 96, seconds
    python examples/time_series.py FOLDER --full          # 20 time points of 64 x 512 x 512
    python examples/time_series.py FOLDER --full --picture time_series.png

FOLDER gets series.ome.zarr, an embryo that is made up (nuclei that drift, and the membranes around them), and
restored.ome.zarr. With a series of your own, only `restore` is needed. For research, not a medical device.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import medeconv_fast as mf

VOXEL_SIZE = (0.6, 0.2, 0.2)  # um
EMISSION = (0.51, 0.61)  # um, of nuclei and membranes
OFFSET = 100  # of the camera
FULL, SMALL = (20, 64, 512, 512), (3, 16, 96, 96)
RADIUS = 3.5  # um, of a nucleus


def psf_of(emission: float) -> np.ndarray:
    """A water objective of NA 1.0 that looks at a sheet of 2 um."""
    detection = mf.psf.born_wolf(emission, 1.0, 1.33, VOXEL_SIZE, shape=(13, 19, 19))
    return mf.psf.light_sheet(detection, VOXEL_SIZE, emission - 0.03, waist=1.7)


PSFS = [psf_of(emission) for emission in EMISSION]


def embryo(time: int, shape: tuple[int, ...]) -> np.ndarray:
    """Nuclei and membranes, (2, z, y, x), in photons."""
    rng = np.random.default_rng(0)
    extent = np.array(shape) * VOXEL_SIZE
    grid = np.meshgrid(*(np.arange(n) * d for n, d in zip(shape, VOXEL_SIZE, strict=True)), indexing="ij")
    truth = np.full((2, *shape), 5.0, np.float32)
    for _ in range(max(4, int(extent.prod() / 900))):
        centre = rng.uniform(0, extent) + time * rng.normal(0, 0.25, 3)
        radius, brightness = RADIUS * rng.uniform(0.7, 1.1), rng.uniform(100, 300)
        grain = rng.uniform(-1, 1, (6, 3))  # of the chromatin
        reach = [round(2.2 * radius / d) for d in VOXEL_SIZE]
        middle = [round(c / d) for c, d in zip(centre, VOXEL_SIZE, strict=True)]
        box = tuple(slice(max(0, m - r), max(0, m + r)) for m, r in zip(middle, reach, strict=True))
        place = [axis[box] - c for axis, c in zip(grid, centre, strict=True)]
        distance = np.sqrt(sum(p**2 for p in place))
        texture = sum(np.cos(2.5 * np.tensordot(wave, place, 1)) for wave in grain)
        inside = distance < radius
        truth[0][box] += np.where(inside, brightness * np.maximum(0.2, 0.6 + texture / 4), 0)
        truth[1][box] += np.where(np.abs(distance - 1.6 * radius) < 0.25, 2 * brightness, 0)
    return truth


def record(path: Path, times: int, shape: tuple[int, ...]) -> None:
    """The blurred series, item by item: one volume is in memory at a time."""
    grid = np.broadcast_to(np.uint16(0), (times, 2, *shape))
    source = mf.io.open_source(grid, axes="tczyx", voxel_size=VOXEL_SIZE, unit="um")
    store = mf.io.create_store(path, source, dtype="uint16", scale=1, overwrite=True)
    for item, (time, channel) in enumerate(store.items):
        truth = embryo(time, shape)[channel]
        image = mf.simulate(truth, PSFS[channel], background=OFFSET, noise="poisson", seed=item)
        store.write(item, [slice(0, n) for n in shape], image)
    store.finish()


def restore(series: Path, restored: Path, memory: str) -> Any:
    """A PSF per channel; the noise and the number of iterations of each are found once, for all times."""
    return mf.restore_volume(series, restored, PSFS, background=OFFSET, memory=memory)


def picture(path: Path, series: Path, restored: Path) -> None:
    """Projections along z, nuclei green and membranes magenta: before above, after below."""
    from matplotlib.figure import Figure

    sources = [mf.io.open_source(p) for p in (series, restored)]
    times = sorted({time for time, _ in sources[0].items})
    shown = [times[0], times[len(times) // 2], times[-1]]
    figure = Figure(figsize=(9.6, 6.6), layout="constrained")
    side = min(200, sources[0].shape[1])
    region = (slice(0, sources[0].shape[0]), slice(0, side), slice(0, side))
    for row, (name, source) in zip(
        figure.subplots(2, 3), zip(("before", "after"), sources, strict=True), strict=True
    ):
        for panel, time in zip(row, shown, strict=True):
            planes = [source.read(2 * times.index(time) + c, region).max(axis=0) for c in range(2)]
            scaled = [
                np.clip((p - np.percentile(p, 1)) / (np.percentile(p, 99.7) - np.percentile(p, 1)), 0, 1)
                for p in planes
            ]
            panel.imshow(np.stack([scaled[1], scaled[0], scaled[1]], axis=-1), interpolation="nearest")
            panel.set_title(f"{name}, time point {time}", fontsize=9)
            panel.set_axis_off()
    figure.savefig(path, dpi=60, pil_kwargs={"optimize": True})


def main(
    folder: Path, size: tuple[int, ...], memory: str, drawn: Path | None = None
) -> dict[str, tuple[float, float]]:
    folder.mkdir(parents=True, exist_ok=True)
    series, restored = folder / "series.ome.zarr", folder / "restored.ome.zarr"
    times, shape = size[0], tuple(size[1:])
    record(series, times, shape)
    done = restore(series, restored, memory)
    print(
        f"{done.plan.images} volumes of {' x '.join(map(str, shape))}: {done.tiles} tiles, "
        f"{done.seconds:.1f} s"
    )
    before, after = mf.io.open_source(series), mf.io.open_source(restored)
    truth, gained = embryo(times - 1, shape), {}
    for channel, name in enumerate(("nuclei", "membranes")):
        item = 2 * (times - 1) + channel
        blurred = before.read(item).astype(np.float32) - OFFSET
        gained[name] = tuple(mf.metrics.psnr(truth[channel], a) for a in (blurred, after.read(item)))
        options = done.numbers[channel]["options"]
        print(
            f"{name:9} {options['num_iter']} iterations, PSNR of the last time point "
            f"{gained[name][0]:.2f} -> {gained[name][1]:.2f} dB"
        )
    if drawn is not None:
        picture(drawn, series, restored)
    return gained


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--full", action="store_true", help="{} time points of {} x {} x {}".format(*FULL))
    parser.add_argument("--size", type=int, nargs=4, metavar=("T", "Z", "Y", "X"))
    parser.add_argument("--memory", default="2 GB")
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    wanted = tuple(arguments.size or (FULL if arguments.full else SMALL))
    main(arguments.folder, wanted, arguments.memory, arguments.picture)
