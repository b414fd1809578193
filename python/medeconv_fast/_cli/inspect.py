"""``medeconv info``, ``compare`` and ``backends``: nothing is written but what is asked for."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

import numpy as np

import medeconv_fast as mf

from .images import SAME, UNITS, read, shown_size, spatial, sub_volumes
from .session import Session, UserError

# Beyond this ratio of voxel edges a PSF given in voxels is surely wrong, and slices look stretched.
ANISOTROPIC = 1.5


def info(arguments: argparse.Namespace, session: Session) -> None:
    session.claim(arguments.json)
    volume = read(arguments.input)
    array = np.asarray(volume.array)
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
        **_values(array),
    }
    session.say(str(arguments.input))
    session.say(f"  shape       {' x '.join(map(str, array.shape))} ({', '.join(volume.axes)}), {array.dtype}")
    session.say(f"  voxel size  {shown_size(volume.voxel_size, volume.unit)}")
    if volume.voxel_size is not None:
        field = [n * v for n, v in zip(_spatial_shape(array, volume.axes), volume.voxel_size, strict=True)]
        session.say(f"  field       {shown_size(field, volume.unit)}")
    if "minimum" in record:
        session.say(
            f"  values      {record['minimum']:.6g} to {record['maximum']:.6g}, mean {record['mean']:.6g}, "
            f"standard deviation {record['std']:.6g}"
        )
    session.say(f"  negative    {record['negative']} of {array.size}")
    session.say(f"  not finite  {record['nan']} NaN, {record['infinite']} infinite")
    for advice in _advice(record, volume):
        session.say(f"  note: {advice}")
        session.warnings.append(advice)
    session.write_json(record)


def _spatial_shape(array: np.ndarray, axes: str) -> list[int]:
    return [n for n, letter in zip(array.shape, axes, strict=True) if letter in "zyx"]


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
        )
    return record


def _advice(record: dict[str, Any], volume: Any) -> list[str]:
    advice = []
    if record["nan"] or record["infinite"]:
        advice.append("values that are not finite are refused by every method; replace them first")
    if record["negative"]:
        advice.append("Richardson-Lucy needs values of 0 or more: --negative clip or shift, or use --method wiener")
    if volume.voxel_size is None:
        advice.append("no voxel size: a PSF in mm or µm needs --voxel-size-mm or --voxel-size-um")
    else:
        ratio = max(volume.voxel_size) / min(volume.voxel_size)
        if ratio > ANISOTROPIC:
            advice.append(
                f"voxels are anisotropic (edges differ by a factor {ratio:.3g}): give PSFs in mm or µm, not in voxels"
            )
    return advice


# ---------------------------------------------------------------- compare


def compare(arguments: argparse.Namespace, session: Session) -> None:
    session.claim(arguments.picture, arguments.json)
    if arguments.picture is not None:
        from .._figures import require_matplotlib

        require_matplotlib()
    names = [arguments.first, arguments.second]
    reference = arguments.truth or arguments.first
    volumes = {name: read(name) for name in {reference, *names}}
    truth = volumes[reference]
    for name in names:
        _same_grid(reference, truth, name, volumes[name], session)
    candidates = names if arguments.truth else names[1:]
    rows = []
    for name in candidates:
        scores = _scores(truth, volumes[name])
        rows.append({"image": name, **scores})
    session.say(f"against {reference}")
    width = max(len(row["image"]) for row in rows)
    session.say(f"  {'':{width}}  PSNR / dB     SSIM    NRMSE")
    for row in rows:
        session.say(f"  {row['image']:{width}}  {row['psnr']:9.2f}  {row['ssim']:7.4f}  {row['nrmse']:7.4f}")
    if arguments.picture is not None:
        _picture(arguments, session, reference, truth, rows, volumes)
        session.say(f"wrote {arguments.picture}")
    session.write_json(
        {"command": "compare", "version": mf.__version__, "reference": reference, "images": rows, "picture": arguments.picture}
    )


def _same_grid(reference: str, truth: Any, name: str, volume: Any, session: Session) -> None:
    if volume.array.shape != truth.array.shape or volume.axes != truth.axes:
        raise UserError(
            f"{name} is {' x '.join(map(str, volume.array.shape))} ({volume.axes}), {reference} "
            f"{' x '.join(map(str, truth.array.shape))} ({truth.axes}); expected the same grid"
        )
    if volume.voxel_size is None or truth.voxel_size is None or not {volume.unit, truth.unit} <= set(UNITS):
        return
    factor = UNITS[volume.unit] / UNITS[truth.unit]
    if any(abs(a * factor - b) > SAME * b for a, b in zip(volume.voxel_size, truth.voxel_size, strict=True)):
        session.note(
            f"voxel sizes differ: {name} {shown_size(volume.voxel_size, volume.unit)}, "
            f"{reference} {shown_size(truth.voxel_size, truth.unit)}; compared voxel by voxel"
        )


def _scores(truth: Any, volume: Any) -> dict[str, float]:
    """PSNR and NRMSE over all values, SSIM as the mean over channels and time points, one data range for all."""
    wanted = np.asarray(truth.array, dtype=np.float64)
    got = np.asarray(volume.array, dtype=np.float64)
    data_range = float(np.ptp(wanted))
    if data_range == 0:
        raise UserError("the reference is constant: PSNR and SSIM need a range of values")
    parts = zip(sub_volumes(wanted, truth.axes), sub_volumes(got, truth.axes), strict=True)
    ssim = [mf.metrics.ssim(a, b, data_range=data_range) for (_, a), (_, b) in parts]
    return {
        "psnr": float(mf.metrics.psnr(wanted, got, data_range=data_range)),
        "ssim": float(np.mean(ssim)),
        "nrmse": float(mf.metrics.nrmse(wanted, got)),
    }


def _picture(
    arguments: argparse.Namespace,
    session: Session,
    reference: str,
    truth: Any,
    rows: list[dict[str, Any]],
    volumes: dict[str, Any],
) -> None:
    from .._figures import orthogonal_slices

    def shown(volume: Any) -> np.ndarray:
        label, first = next(iter(sub_volumes(np.asarray(volume.array), volume.axes)))
        if label:
            session.note(f"the picture shows {label} only")
        return np.asarray(first)

    columns = [(reference, shown(truth))]
    columns += [(f"{row['image']}\n{row['psnr']:.2f} dB, SSIM {row['ssim']:.3f}", shown(volumes[row["image"]])) for row in rows]
    with session.output(arguments.picture):
        orthogonal_slices(
            arguments.picture,
            columns,
            voxel_size=truth.voxel_size,
            unit=truth.unit,
            affine=truth.affine if spatial(truth.axes) == "zyx" else None,
        )


# ---------------------------------------------------------------- backends


def backends(arguments: argparse.Namespace, session: Session) -> None:
    from .._threads import get_num_threads

    session.claim(arguments.json)
    rows: list[dict[str, Any]] = []
    available = mf.backends.available()
    for name in ("cpp", "numba", "reference", "cuda"):
        try:
            module = importlib.import_module(f"medeconv_fast.backends.{name}")
        except ImportError:
            rows.append({"name": name, "available": False, "reason": "not built yet in this version of medeconv_fast"})
            continue
        row: dict[str, Any] = {"name": name, "available": name in available}
        row |= {"details": module.describe()} if row["available"] else {"reason": module.unavailable_reason()}
        rows.append(row)
    threads = get_num_threads()
    session.say(f"{threads} threads (MEDECONV_NUM_THREADS, or --threads N, sets another number)")
    for row in rows:
        if row["available"]:
            details = ", ".join(f"{key} {_short(value)}" for key, value in row["details"].items())
            chosen = "  <- auto" if row["name"] == available[0] else ""
            session.say(f"  {row['name']:10} available  {details}{chosen}")
        else:
            session.say(f"  {row['name']:10} missing    {row['reason']}")
    session.write_json(
        {"command": "backends", "version": mf.__version__, "num_threads": threads, "auto": available[0], "backends": rows}
    )


def _short(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
