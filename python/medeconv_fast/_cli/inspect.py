"""``medeconv info``, ``compare`` and ``backends``: nothing is written but what is asked for."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import itertools
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

import medeconv_fast as mf

from .._extras import matplotlib_figure
from ..preprocess._step import same_place
from .images import SAME, UNITS, parts, read_image, shown_size
from .session import Session, UserError

# Beyond this ratio of voxel edges a PSF given in voxels is surely wrong, and slices look stretched.
ANISOTROPIC = 1.5
# So many voxels, and at least this share of all, at the largest value are no chance.
_SATURATED_VOXELS, _SATURATED = 10, 1e-4
_BINS, _BAR = 10, 40
_READ_BYTES = 2**26  # of Zarr's values, the finest level that takes no more is read


def info(arguments: argparse.Namespace, session: Session) -> None:
    session.claim(arguments, "json")
    if mf.io.is_zarr(arguments.input):
        _info_zarr(arguments, session)
        return
    volume = read_image(arguments.input, arguments)
    array = np.asarray(volume.array)
    counted = volume.metadata.get("intensity_unit")
    record: dict[str, Any] = {
        "command": "info",
        "version": mf.__version__,
        "input": arguments.input,
        "shape": array.shape,
        "axes": volume.axes,
        "dtype": str(array.dtype),
        "bytes": array.nbytes,
        "voxel_size": volume.voxel_size,
        "unit": volume.unit,
        "affine": volume.affine,
        "oriented": volume.oriented,
        "intensity_unit": counted,
        "size": array.size,
        **_values(array),
    }
    session.say(str(arguments.input))
    session.say(
        f"  shape       {' x '.join(map(str, array.shape))} ({', '.join(volume.axes)}), {array.dtype}"
    )
    series = [volume.metadata.get(f"series_{name}") for name in ("number", "description")]
    if any(series):
        session.say(f"  series      {' '.join(filter(None, series))} ({volume.metadata['modality']})")
    counts = [n for n, letter in zip(array.shape, volume.axes, strict=True) if letter in volume.spatial_axes]
    _say_size(session, counts, volume.voxel_size, volume.unit)
    if volume.oriented:
        session.say(f"  placed      {_placed(volume.affine, volume.spatial_axes, volume.unit)}")
    else:
        filler = "" if volume.affine is None else " (qform and sform codes 0: the affine is a placeholder)"
        session.say(f"  orientation none stated in the file{filler}")
    _say_values(session, record, f" ({counted})" if counted else "")
    _say_advice(session, record, volume.voxel_size)
    session.write_json(record)


def _say_size(
    session: Session, counts: Sequence[int], voxel_size: tuple[float, ...] | None, unit: str | None
) -> None:
    session.say(f"  voxel size  {shown_size(voxel_size, unit)}")
    if voxel_size is not None:
        field = [n * v for n, v in zip(counts, voxel_size, strict=True)]
        session.say(f"  field       {shown_size(field, unit)}")


def _say_values(session: Session, record: dict[str, Any], counted: str) -> None:
    if "minimum" in record:
        session.say(
            f"  values      {record['minimum']:.6g} to {record['maximum']:.6g}, mean {record['mean']:.6g}, "
            f"standard deviation {record['std']:.6g}{counted}"
        )
    session.say(f"  negative    {record['negative']} of {record['size']}")
    session.say(f"  not finite  {record['nan']} NaN, {record['infinite']} infinite")
    for line in _sketch(record.get("histogram")):
        session.say(line)


def _say_advice(session: Session, record: dict[str, Any], voxel_size: tuple[float, ...] | None) -> None:
    for advice in _advice(record, voxel_size):
        session.say(f"  note: {advice}")
        session.warnings.append(advice)


def _info_zarr(arguments: argparse.Namespace, session: Session) -> None:
    """Of the metadata; values only of a level that is small."""
    for name in ("channel", "frame"):
        if getattr(arguments, name) is not None:
            raise UserError(f"--{name}: is for DICOM, which {arguments.input} is not")
    if arguments.series is not None and not arguments.series.isdigit():
        raise UserError(f"--series: got {arguments.series!r}, expected the number of an image, from 0")
    series = None if arguments.series is None else int(arguments.series)
    source = mf.io.open_source(arguments.input, series=series)
    levels = source.layout["levels"]
    times, channels = (len({item[i] for item in source.items}) for i in (0, 1))
    bytes_each = [math.prod(level["shape"]) * source.stored_dtype.itemsize for level in levels]
    record: dict[str, Any] = {
        "command": "info",
        "version": mf.__version__,
        "input": arguments.input,
        "format": source.layout["format"],
        "shape": [n for n, a in ((times, "t"), (channels, "c")) if a in source.axes] + list(source.shape),
        "axes": source.axes,
        "dtype": str(source.stored_dtype),
        "bytes": bytes_each[0],
        "times": times,
        "channels": channels,
        "channel_names": source.channel_names,
        "voxel_size": source.voxel_size,
        "unit": source.unit,
        "affine": source.affine,
        "oriented": source.affine is not None,
        "origin": source.origin,
        "time_step": source.geometry.time_step,
        "time_unit": source.geometry.time_unit,
        "levels": levels,
    }
    session.say(f"{arguments.input}")
    session.say(f"  format      {source.layout['format']}")
    session.say(
        f"  shape       {' x '.join(map(str, record['shape']))} ({', '.join(source.axes)}), "
        f"{source.stored_dtype}, {_shown_bytes(bytes_each[0])}"
    )
    names = f" ({', '.join(source.channel_names)})" if source.channel_names else ""
    step = ""
    if source.geometry.time_step is not None:
        step = f" every {source.geometry.time_step:g} {source.geometry.time_unit or '(no unit)'}"
    session.say(
        f"  items       {len(source.items)}: {times} time point{'s' * (times > 1)}{step}, {channels} "
        f"channel{'s' * (channels > 1)}{names}"
    )
    _say_size(session, source.shape, source.voxel_size, source.unit)
    if source.affine is not None:
        session.say(f"  placed      {_placed(source.affine, source.geometry.spatial_axes, source.unit)}")
    else:
        session.say("  orientation none stated in the file")
    if source.origin is not None:
        session.say(
            f"  first voxel at {', '.join(f'{v:.6g}' for v in source.origin)} {source.unit or ''}".rstrip()
        )
    for number, level in enumerate(levels):
        blocks = f"chunks {' x '.join(map(str, level['chunks']))}"
        if level["shards"] is not None:
            blocks += f" in shards {' x '.join(map(str, level['shards']))}"
        packed = f", {' '.join(level['compression'])}" if level["compression"] else ", not compressed"
        size = "" if level["scale"] is None else f", scale {' x '.join(f'{v:.6g}' for v in level['scale'])}"
        name = f" ({level['path']})" if level["path"] else ""
        session.say(
            f"  level {number:<6}{' x '.join(map(str, level['shape']))}{name}{size}, {blocks}{packed}"
        )
    small = next((i for i, n in enumerate(bytes_each) if n <= _READ_BYTES), None)
    if small is None:
        session.say(f"  values      not read: no level takes less than {_shown_bytes(_READ_BYTES)}")
    else:
        array = mf.io.open_source(arguments.input, series=series, level=small).volume().array
        record |= {"values_of_level": small, "size": array.size, **_values(array)}
        _say_values(session, record, "" if small == 0 else f" (level {small}: means of blocks)")
    _say_advice(session, record, source.voxel_size)
    session.write_json(record)


def _shown_bytes(count: int) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return f"{count / 1e3:.4g} kB"


def _placed(matrix: Any, spatial_axes: str, unit: str | None) -> str:
    """Where the axes point in the body, and where the first voxel lies."""
    affine = np.asarray(matrix)
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    words, tilt = [], 0.0
    for column, axis in zip(range(len(spatial_axes) - 1, -1, -1), spatial_axes, strict=True):
        way = directions[:, column]
        nearest = int(np.argmax(np.abs(way)))
        words.append(f"{axis} to {('RAS' if way[nearest] > 0 else 'LPI')[nearest]}")
        tilt = max(tilt, math.degrees(math.acos(min(1.0, abs(way[nearest])))))
    oblique = f", oblique by {tilt:.1f} degrees" if tilt > 0.05 else ""
    place = ", ".join(f"{v:.6g}" for v in affine[:3, 3])
    return f"{', '.join(words)}{oblique}; first voxel at R, A, S = {place} {unit or ''}".rstrip()


def _values(array: np.ndarray) -> dict[str, Any]:
    """Range and mean over the finite values, and the count of those that stand in the way."""
    if array.dtype.kind == "f":
        finite = np.isfinite(array)
        nan = int(np.isnan(array).sum())
        infinite = int(array.size - finite.sum()) - nan
        values = array if nan + infinite == 0 else array[finite]
    else:
        nan = infinite = 0
        values = array
    record: dict[str, Any] = {"nan": nan, "infinite": infinite, "negative": int((values < 0).sum())}
    if values.size:
        record.update(
            minimum=values.min(),
            maximum=values.max(),
            mean=float(values.mean(dtype=np.float64)),
            std=float(values.std(dtype=np.float64)),
            at_maximum=int((values == values.max()).sum()),
            histogram=_histogram(values),
        )
    return record


def _histogram(values: np.ndarray) -> dict[str, list[float]] | None:
    """Counts in bins between the extremes; whole numbers of a small range are not torn apart."""
    low, high = float(values.min()), float(values.max())
    if low == high or not math.isfinite(high - low):
        return None
    bins = _BINS
    if values.dtype.kind in "iu" and high - low < _BINS:
        low, high, bins = low - 0.5, high + 0.5, int(high - low) + 1
    counts, edges = np.histogram(values.reshape(-1), bins, (low, high))
    return {"counts": [int(c) for c in counts], "edges": [float(e) for e in edges]}


def _sketch(histogram: dict[str, list[float]] | None) -> list[str]:
    """Lines of a histogram; the length of a bar grows with the square root of the count."""
    if histogram is None:
        return []
    counts, edges = histogram["counts"], histogram["edges"]
    total, most = sum(counts), max(counts)
    names = [f"{low:.4g} to {high:.4g}" for low, high in itertools.pairwise(edges)]
    width = max(len(name) for name in names)
    lines = ["  histogram   share of the values; bars by its square root"]
    for name, n in zip(names, counts, strict=True):
        bar = "#" * (max(1, round(_BAR * math.sqrt(n / most))) if n else 0)
        lines.append(f"    {name:>{width}}  {100 * n / total:6.2f} %  {bar}".rstrip())
    return lines


def _advice(record: dict[str, Any], voxel_size: tuple[float, ...] | None) -> list[str]:
    advice = []
    if record.get("nan") or record.get("infinite"):
        advice.append("values that are not finite are refused by every method; replace them first")
    if record.get("negative"):
        advice.append(
            "Richardson-Lucy needs values of 0 or more: --negative clip or shift, or use --method wiener"
        )
    if record.get("minimum") == record.get("maximum") and "minimum" in record:
        advice.append("all values are equal: there is nothing to restore")
    elif record.get("at_maximum", 0) >= max(_SATURATED_VOXELS, _SATURATED * record["size"]):
        advice.append(
            f"{record['at_maximum']} values are exactly the largest, {record['maximum']:.6g}: the image may "
            "be saturated (clipped), and is restored wrongly around there"
        )
    if voxel_size is None:
        advice.append("no voxel size: a PSF in mm or µm needs --voxel-size-mm or --voxel-size-um")
    else:
        ratio = max(voxel_size) / min(voxel_size)
        if ratio > ANISOTROPIC:
            advice.append(
                f"voxels are anisotropic (edges differ by a factor {ratio:.3g}): give PSFs in mm or µm"
            )
    return advice


# ---------------------------------------------------------------- compare


def compare(arguments: argparse.Namespace, session: Session) -> None:
    session.claim(arguments, "picture", "json")
    if arguments.picture is not None:
        if not arguments.picture.lower().endswith(".png"):
            raise UserError(
                f"--picture {arguments.picture}: pictures are PNG files, expected a name ending in .png"
            )
        matplotlib_figure("--picture")  # before anything is computed
    names = [arguments.first, arguments.second]
    reference = arguments.truth or arguments.first
    volumes = {name: mf.io.read(name) for name in {reference, *names}}
    truth = volumes[reference]
    for name in names:
        volumes[name] = _in_order(volumes[name], truth.axes)
        _same_grid(reference, truth, name, volumes[name], session)
    candidates = names if arguments.truth else names[1:]
    rows = []
    for name in candidates:
        scores = _scores(reference, truth, name, volumes[name], session)
        rows.append({"image": name, **scores})
    session.say(f"against {reference}")
    width = max(len(row["image"]) for row in rows)
    unit = (truth.unit or "(no unit)") if truth.voxel_size is not None else "voxels"
    heading = f"resolution / {unit}"
    session.say(f"  {'':{width}}  PSNR / dB     SSIM    NRMSE  I-divergence  {heading}")
    for row in rows:
        ssim, divergence, resolution = (
            "-" if row[name] is None else f"{row[name]:{form}}"
            for name, form in (("ssim", ".4f"), ("i_divergence", ".5g"), ("resolution", ".4g"))
        )
        session.say(
            f"  {row['image']:{width}}  {row['psnr']:9.2f}  {ssim:>7}  {row['nrmse']:7.4f}  "
            f"{divergence:>12}  {resolution:>{len(heading)}}"
        )
    if arguments.picture is not None:
        _picture(arguments, session, reference, truth, rows, volumes)
        session.say(f"wrote {arguments.picture}")
    session.write_json(
        {
            "command": "compare",
            "version": mf.__version__,
            "reference": reference,
            "resolution_unit": unit,
            "images": rows,
            "picture": arguments.picture,
        }
    )


def _in_order(volume: mf.io.Volume, axes: str) -> mf.io.Volume:
    """With its axes in another's order; as it is where they are other ones.

    Formats have orders of their own, and some write colour samples as channels.
    """
    names = volume.axes
    if ("s" in axes) != ("s" in names) and ("c" in axes) != ("c" in names):
        names = names.translate(str.maketrans("sc", "cs"))
    if names == volume.axes == axes or sorted(names) != sorted(axes):
        return volume
    array = volume.array.transpose([names.index(a) for a in axes])
    return dataclasses.replace(volume, array=array, axes=axes)


def _same_grid(
    reference: str, truth: mf.io.Volume, name: str, volume: mf.io.Volume, session: Session
) -> None:
    if volume.array.shape != truth.array.shape or volume.axes != truth.axes:
        raise UserError(
            f"{name} is {' x '.join(map(str, volume.array.shape))} ({volume.axes}), {reference} "
            f"{' x '.join(map(str, truth.array.shape))} ({truth.axes}); expected the same grid"
        )
    if volume.voxel_size is None or truth.voxel_size is None:
        return
    # Where a unit is not known, `same_place` tries those that there are.
    known = volume.unit is not None and truth.unit is not None
    factor = UNITS[str(volume.unit)] / UNITS[str(truth.unit)] if known else 1.0
    if known and any(
        abs(a * factor - b) > SAME * b for a, b in zip(volume.voxel_size, truth.voxel_size, strict=True)
    ):
        session.note(
            f"voxel sizes differ: {name} {shown_size(volume.voxel_size, volume.unit)}, "
            f"{reference} {shown_size(truth.voxel_size, truth.unit)}; compared voxel by voxel"
        )
        return
    try:
        same_place(volume, truth, name)
    except ValueError as error:
        session.note(f"{error} of {reference}; compared voxel by voxel")


def _scores(
    reference: str, truth: mf.io.Volume, name: str, volume: mf.io.Volume, session: Session
) -> dict[str, float | None]:
    """PSNR, NRMSE and I-divergence over all values; SSIM in one data range and the resolution are means over
    channels and time points.
    """
    wanted, got = truth.array, volume.array
    try:
        psnr, nrmse = mf.metrics.psnr(wanted, got), mf.metrics.nrmse(wanted, got)
    except ValueError as error:
        raise UserError(f"truth is {reference}, image is {name}: {error}") from error
    ssim: float | None = None
    if (
        min(
            n for n, axis in zip(truth.shape, truth.axes, strict=True) if axis in truth.spatial_axes and n > 1
        )
        < 7
    ):
        session.note("no SSIM: an axis is shorter than its window of 7 voxels")
    else:
        data_range = float(wanted.max()) - float(wanted.min())
        ssim = float(
            np.mean([mf.metrics.ssim(wanted[i], got[i], data_range=data_range) for _, i in parts(truth)])
        )
    divergence: float | None = None
    if min(wanted.min(), got.min()) < 0:
        session.note(f"no I-divergence of {name}: it needs values of 0 or more in both images")
    else:
        divergence = mf.metrics.i_divergence(wanted, got)
    # 1/2: the reference counts as free of noise.
    resolutions = [
        mf.metrics.resolution(wanted[i], got[i], truth.voxel_size, threshold=0.5) for _, i in parts(truth)
    ]
    return {
        "psnr": psnr,
        "ssim": ssim,
        "nrmse": nrmse,
        "i_divergence": divergence,
        "resolution": float(np.mean(resolutions)),
    }


def _picture(
    arguments: argparse.Namespace,
    session: Session,
    reference: str,
    truth: mf.io.Volume,
    rows: list[dict[str, Any]],
    volumes: dict[str, mf.io.Volume],
) -> None:
    from .._figures import orthogonal_slices

    label, first = parts(truth)[0]
    if label:
        session.note(f"the picture shows {label} only")
    columns = [(os.path.basename(reference), truth.array[first])]
    columns += [
        (f"{os.path.basename(r['image'])}\n{r['psnr']:.2f} dB", volumes[r["image"]].array[first])
        for r in rows
    ]
    with session.output(arguments.picture):
        orthogonal_slices(
            arguments.picture,
            columns,
            voxel_size=truth.voxel_size,
            unit=truth.unit,
            affine=truth.affine if truth.unit == "mm" and truth.oriented else None,
            overwrite=session.overwrite,
        )


# ---------------------------------------------------------------- backends


def backends(arguments: argparse.Namespace, session: Session) -> None:
    from .._threads import get_num_threads

    session.claim(arguments, "json")
    rows: list[dict[str, Any]] = []
    available = mf.backends.available()
    for name in ("cpp", "numba", "reference", "cuda"):
        module = importlib.import_module(f"medeconv_fast.backends.{name}")
        row: dict[str, Any] = {"name": name, "available": name in available}
        row |= {"details": module.describe()} if row["available"] else {"reason": module.unavailable_reason()}
        rows.append(row)
    try:
        automatic, refusal = mf.backends.resolve("auto").NAME, None
    except (ValueError, NotImplementedError, ImportError) as error:
        automatic, refusal = None, str(error)
    threads = get_num_threads()
    session.say(f"{threads} threads (MEDECONV_NUM_THREADS, or --threads N, sets another number)")
    for row in rows:
        if row["available"]:
            details = ", ".join(f"{key} {_short(value)}" for key, value in row["details"].items())
            chosen = "  <- auto" if row["name"] == automatic else ""
            session.say(f"  {row['name']:10} available  {details}{chosen}")
        else:
            session.say(f"  {row['name']:10} missing    {row['reason']}")
    if refusal is not None:
        session.note(refusal)
    session.write_json(
        {
            "command": "backends",
            "version": mf.__version__,
            "num_threads": threads,
            "auto": automatic,
            "backends": rows,
        }
    )


def _short(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
