"""``medeconv restore --report`` of a run in tiles: projections, seam, grid, memory; read tile by tile."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

import medeconv_fast as mf

from .. import _figures, report
from ..io._source import open_streamed

LARGEST = 512  # pixels of a projection along an axis
SLAB = 1 << 24  # voxels that are read at a time


def check(path: Any, like: mf.io.Volume) -> None:
    """Find out before any work whether it can be written."""
    report.check(path, like)


def projections(source: Any, item: int = 0) -> list[np.ndarray]:
    """Maximum-intensity projections along each axis, of blocks so that none is larger than `LARGEST`.

    Of an image of two axes: the image itself, as blocks' largest values.
    """
    shape = source.shape
    step = [-(-n // LARGEST) for n in shape]
    small = [-(-n // s) for n, s in zip(shape, step, strict=True)]
    along = range(len(shape)) if len(shape) == 3 else [None]
    made = [np.full([n for a, n in enumerate(small) if a != axis], -np.inf) for axis in along]
    # Whole blocks of the picture, about as long as wide; of what lies plane by plane whole planes.
    sides = [max(1, round(SLAB ** (1 / len(shape))))] * len(shape)
    if source.chunks[1:] == shape[1:]:
        sides = [max(1, SLAB // math.prod(shape[1:])), *shape[1:]]
    spans = [
        [slice(i, min(i + k, n)) for i in range(0, n, k)]
        for n, k in zip(shape, (-(-side // s) * s for side, s in zip(sides, step, strict=True)), strict=True)
    ]
    for region in itertools.product(*spans):
        data = source.read(item, region)
        for a, s in enumerate(step):
            data = np.maximum.reduceat(data, np.arange(0, data.shape[a], s), axis=a)
        corner = [r.start // s for r, s in zip(region, step, strict=True)]
        for picture, axis in zip(made, along, strict=True):
            values = data if axis is None else data.max(axis=axis)
            place = tuple(
                slice(c, c + n) for a, (c, n) in enumerate(zip(corner, data.shape, strict=True)) if a != axis
            )
            picture[place] = np.maximum(picture[place], values)
    return made


def write(
    path: Any,
    source: Any,
    done: Any,
    like: mf.io.Volume,
    *,
    title: str,
    psf: str,
    warnings: Iterable[str],
    peak_memory: int | None,
    overwrite: bool,
) -> None:
    """The page; it reads input and result once more, where they can be read part by part."""
    try:
        pictures = _pictures(source, open_streamed(Path(done.path)), like)
    except ValueError as error:
        pictures = report._section("projections", "No projections", f"<p>{report._escape(str(error))}</p>")
    sections = [
        report._warnings_section(warnings),
        pictures,
        _seam(done),
        _run(done, psf, peak_memory),
        _numbers(done),
    ]
    page = report._page(title, sections)
    report._write_page(report._named(path), page, overwrite=overwrite)


def _pictures(source: Any, after: Any, like: mf.io.Volume) -> str:
    size = like.voxel_size or (1.0,) * len(source.shape)
    unit = like.unit or "voxels" if like.voxel_size is None else like.unit
    columns = [("before", projections(source)), ("after", projections(after))]
    ndim = len(source.shape)
    figures = []
    for axis in range(ndim) if ndim == 3 else [None]:
        left = [a for a in range(ndim) if a != axis]
        figure = _figures.require_matplotlib().Figure(figsize=(5.2, 3.0), layout="constrained")
        height, width = (source.shape[a] * size[a] for a in left)
        for panel, (name, made) in zip(figure.subplots(1, 2), columns, strict=True):
            picture = made[0 if axis is None else axis]
            low, high = np.percentile(picture, [0.1, 99.9])
            panel.imshow(
                picture, cmap="gray", vmin=low, vmax=max(high, low + 1e-12), extent=(0, width, height, 0)
            )
            panel.set_title(name, fontsize=9)
            panel.tick_params(labelsize=7)
        letter = "the image" if axis is None else f"along {'zyx'[axis]}"
        figures.append(
            report._picture(
                figure,
                f"projection {letter}",
                f"Largest values {letter}, each on its own grey scale; lengths in {unit}.",
            )
        )
    text = "<p>Of the first image (time point 0, channel 0).</p>" if len(source.items) > 1 else ""
    return report._section(
        "projections", "Maximum-intensity projections", text + f'<div class="grid">{"".join(figures)}</div>'
    )


def _seam(done: Any) -> str:
    if done.seam is None:
        body = "<p>Nothing is cut: there is no seam. Or no part with room for two halos fits into memory.</p>"
        return report._section("seam", "Seams", body)
    rows = [
        (f"cut across {axis}", f"{entry['largest']:.1e}", f"{entry['rms']:.1e}", entry["voxels"])
        for axis, entry in done.seam["axes"].items()
    ]
    text = (
        "The brightest part of the sample, restored as a whole and in two tiles with this run's halo: "
        "differences near the cut, in shares of the range of its result. Expected below 1e-3."
    )
    table = report._rows(rows, heading=("", "largest", "root mean square", "voxels"), numbers=3)
    return report._section("seam", "Seams", f"<p>{report._escape(text)}</p>\n{table}")


def _run(done: Any, psf: str, peak_memory: int | None) -> str:
    plan = done.plan
    rows = [
        ("result", done.path),
        ("PSF", psf),
        ("image", f"{plan.images} x {' x '.join(map(str, plan.shape))}, computed in {plan.dtype}"),
        ("tiles", f"{done.tiles}, {' x '.join(map(str, plan.counts))} per image"),
        ("core", plan.core),
        ("halo", plan.halo),
        ("share of halos in what is computed", f"{100 * plan.halo_share:.1f} %"),
        ("backend, engine", f"{plan.backend}, {plan.engine}"),
        ("tiles of this run", done.computed),
        (
            "memory, allowed and predicted",
            f"{plan.memory / 1e9:.3g} GB, {plan.predicted_memory / 1e9:.3g} GB",
        ),
        ("negative values set to zero", done.negative),
        ("voxels clipped by the dtype", done.clipped),
    ]
    if done.computed:
        rows.append(("seconds", f"{done.seconds:.3g}"))
        rows.append(("voxels per second, halos included", f"{done.voxels_per_second / 1e6:.3g} million"))
    if peak_memory is not None:
        rows.append(("peak of this process", report._bytes(peak_memory)))
    return report._section("run", "Run", report._rows(rows))


def _numbers(done: Any) -> str:
    parts = []
    for number, entry in enumerate(done.numbers):
        found = {name: value for name, value in entry.items() if name not in ("warnings", "options")}
        rows = [(k, v) for k, v in (found | entry["options"]).items() if v is not None and v != {}]
        parts.append(report._rows(rows))
        if len(done.numbers) > 1:
            parts[-1] = f"<p>Channel {number}</p>\n{parts[-1]}"
    text = "<p>The same for all tiles, found once in the sample.</p>"
    return report._section("numbers", "Numbers", text + "\n".join(parts))
