"""OME-NGFF's metadata: axes, levels, units and channels of a multiscale image. Reads 0.1 to 0.5, writes 0.5.

Specification: https://ngff.openmicroscopy.org/0.5. What it has no place for (the orientation, the scale of
stored integers) stands beside it, under ``medeconv_fast`` in the group's attributes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ._geometry import Geometry
from ._units import SECONDS, house_unit, in_um
from ._volume import PER_MM

VERSION = "0.5"
OWN = "medeconv_fast"
LETTERS = "tczyx"
TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
WORDS = {"mm": "millimeter", "um": "micrometer"}
START = "toffset"  # among the metadata: of the time axis, as NIfTI's header calls it
UNSTATED = ("", "pixel", "pixels", "voxel", "unknown", "null")


class Level(NamedTuple):
    """One array of a multiscale image; scale and translation per stored axis, in the axes' units."""

    path: str
    scale: tuple[float, ...] | None
    translation: tuple[float, ...]


@dataclass(frozen=True)
class Multiscale:
    version: str
    axes: str
    units: tuple[str | None, ...]
    levels: tuple[Level, ...]
    channels: tuple[dict[str, Any], ...]
    own: dict[str, Any]


# ---------------------------------------------------------------- reading


def is_multiscale(attributes: dict[str, Any]) -> bool:
    return bool(attributes.get("ome", attributes).get("multiscales"))


def parse(attributes: dict[str, Any], ndim: int) -> Multiscale:
    """The first multiscale image of a group's attributes; `ndim` is its arrays' number of axes."""
    ome = attributes.get("ome", attributes)
    try:
        image = ome["multiscales"][0]
        version = str(image.get("version") or ome.get("version") or "unknown")
        axes, units = _axes(image.get("axes"), ndim)
        common = _transformation(image.get("coordinateTransformations"), ndim, "multiscales")
        levels = []
        for number, entry in enumerate(image["datasets"]):
            scale, shift = _transformation(
                entry.get("coordinateTransformations"), ndim, f"datasets[{number}]"
            )
            levels.append(Level(str(entry["path"]), *_chained((scale, shift), common)))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f"the OME-NGFF metadata is incomplete or damaged ({type(error).__name__}: {error})"
        ) from error
    if not levels:
        raise ValueError("the OME-NGFF metadata lists no datasets, expected at least one level")
    omero = ome.get("omero")
    listed = omero.get("channels") if isinstance(omero, dict) else None
    channels = tuple(dict(c) for c in listed if isinstance(c, dict)) if isinstance(listed, list) else ()
    own = attributes.get(OWN)
    return Multiscale(version, axes, units, tuple(levels), channels, own if isinstance(own, dict) else {})


def _axes(entries: Any, ndim: int) -> tuple[str, tuple[str | None, ...]]:
    """Letters of the stored axes and their units."""
    if entries is None:  # 0.1 and 0.2
        if ndim != len(LETTERS):
            raise ValueError(
                f"axes: the metadata names none, and the arrays have {ndim}; say which they are with axes="
            )
        return LETTERS, (None,) * ndim
    entries = [{"name": entry} if isinstance(entry, str) else entry for entry in entries]  # 0.3 has names
    names = [str(entry["name"]).lower() for entry in entries]
    if len(names) != ndim:
        raise ValueError(
            f"axes: the metadata names {len(names)} ({', '.join(names)}), the arrays have {ndim}"
        )
    for entry, name in zip(entries, names, strict=True):
        kind = entry.get("type")
        if name not in LETTERS or kind not in (None, TYPES[name]):
            of_type = "" if kind is None else f" of the type {kind!r}"
            raise ValueError(
                f"axes: {entry['name']!r}{of_type} is not supported, expected t (time), c (channel), z, y, x "
                "(space); say which axes these are with axes="
            )
    check_axes("".join(names))
    return "".join(names), tuple(entry.get("unit") for entry in entries)


def check_axes(axes: str) -> str:
    if len(set(axes)) != len(axes) or set(axes) - set(LETTERS) or not {"y", "x"} <= set(axes):
        raise ValueError(
            f"axes: got {axes!r}, expected one letter per axis, each once: y, x, and if present z, c, t"
        )
    return axes


_Transformation = tuple[tuple[float, ...] | None, tuple[float, ...]]


def _transformation(entries: Any, ndim: int, where: str) -> _Transformation:
    scale: tuple[float, ...] | None = None
    translation = (0.0,) * ndim
    for entry in entries or ():
        kind = entry["type"]
        if kind == "identity":
            continue
        if kind not in ("scale", "translation") or kind not in entry:
            raise ValueError(
                f"{where}: the transformation {entry!r} is not supported, expected scale or translation, "
                "given as numbers"
            )
        values = tuple(float(v) for v in entry[kind])
        good = all(map(math.isfinite, values)) and (kind == "translation" or min(values, default=0) > 0)
        if len(values) != ndim or not good:
            what = "positive numbers" if kind == "scale" else "numbers"
            raise ValueError(f"{where}: {kind} is {list(values)}, expected {ndim} {what}, one per axis")
        if kind == "scale":
            scale = values
        else:
            translation = values
    return scale, translation


def _chained(inner: _Transformation, outer: _Transformation) -> _Transformation:
    """`inner`, then `outer`."""
    factors = outer[0] or (1.0,) * len(inner[1])
    scale = None if inner[0] is None and outer[0] is None else inner[0] or (1.0,) * len(factors)
    return (
        None if scale is None else tuple(s * f for s, f in zip(scale, factors, strict=True)),
        tuple(t * f + o for t, f, o in zip(inner[1], factors, outer[1], strict=True)),
    )


def geometry(
    image: Multiscale, number: int, path: Any, shape: Sequence[int], unit: str | None = None
) -> Geometry:
    """The geometry of one level; `unit` is that of its lengths, whatever the metadata says.

    `shape` is that of level 0.
    """
    level, spatial = image.levels[number], "".join(a for a in "zyx" if a in image.axes)
    place = {a: i for i, a in enumerate(image.axes)}
    own = image.own
    metadata = dict(own.get("metadata", {}))
    start = level.translation[place["t"]] if "t" in place else 0.0
    # Earlier versions wrote 0 whatever they kept here.
    if start or ("t" in place and START in metadata and "translation" in own):
        metadata[START] = start
    if level.scale is None or ("voxel_size" in own and own["voxel_size"] is None):
        return Geometry(spatial, channels=image.channels, metadata=metadata)
    units = [image.units[place[a]] if unit is None else unit for a in spatial]
    unit, factors = _space_unit(units, spatial, path)
    size = tuple(level.scale[place[a]] * f for a, f in zip(spatial, factors, strict=True))
    origin = tuple(level.translation[place[a]] * f for a, f in zip(spatial, factors, strict=True))
    step = level.scale[place["t"]] if "t" in place else None
    time_unit = image.units[place["t"]] if "t" in place else None
    affine = _affine(image, number, spatial, place, factors, path, shape)
    return Geometry(
        spatial,
        size,
        affine,
        unit,
        origin if any(origin) and affine is None else None,
        image.channels,
        step if step != 1 or time_unit is not None else None,
        time_unit,
        metadata,
    )


def _space_unit(names: Sequence[str | None], spatial: str, path: Any) -> tuple[str | None, tuple[float, ...]]:
    """One unit for all axes, and the factor of each axis' lengths to it."""
    lengths: list[float | None] = []
    for name, axis in zip(names, spatial, strict=True):
        stated = name is not None and str(name).lower() not in UNSTATED
        length = in_um(name) if stated else None
        if stated and length is None:
            raise ValueError(
                f"axes: the unit of {axis} is {name!r}, expected a length such as 'micrometer'; say which it "
                "is with unit='um' or unit='mm'"
            )
        lengths.append(length)
    known = [v for v in lengths if v is not None]
    if len(known) < len(lengths):
        if known:
            lacking = ", ".join(a for a, v in zip(spatial, lengths, strict=True) if v is None)
            warnings.warn(
                f"{path}: no unit of the voxel size along {lacking}, so those of the other axes are left out "
                "too; say which it is with unit='um' or unit='mm'",
                UserWarning,
                stacklevel=5,
            )
        return None, (1.0,) * len(lengths)
    unit = house_unit(min(known))
    return unit, tuple(v * PER_MM[unit] / PER_MM["um"] for v in known)


def _affine(
    image: Multiscale,
    number: int,
    spatial: str,
    place: dict[str, int],
    factors: Sequence[float],
    path: Any,
    shape: Sequence[int],
) -> np.ndarray | None:
    """The orientation kept beside the metadata, moved to the level's grid."""
    own, base, level = image.own, image.levels[0], image.levels[number]
    if (
        own.get("affine") is None
        or own.get("voxel_size") is None
        or base.scale is None
        or level.scale is None
    ):
        return None
    size = [base.scale[place[a]] * f for a, f in zip(spatial, factors, strict=True)]
    start = [base.translation[place[a]] * f for a, f in zip(spatial, factors, strict=True)]
    for what, key, found, near in (
        ("voxel size", "voxel_size", size, [1e-6 * v for v in size]),
        ("shape", "shape", [shape[place[a]] for a in spatial], 0),
        # A part of a voxel, however far away the image lies.
        ("translation", "translation", start, [1e-3 * v for v in size]),
    ):
        kept = own.get(key, found)  # earlier versions kept the voxel size alone
        if len(kept) != len(found) or (np.abs(np.subtract(kept, found)) > near).any():
            warnings.warn(
                f"{path}: another program has changed the {what} to {tuple(found)}; the orientation kept for "
                f"{tuple(kept)} is left out",
                UserWarning,
                stacklevel=5,
            )
            return None
    affine = np.array(own["affine"], np.float64)
    factor, shift = np.ones(3), np.zeros(3)
    for column, axis in enumerate(reversed(spatial)):
        at = place[axis]
        factor[column] = level.scale[at] / base.scale[at]
        shift[column] = (level.translation[at] - base.translation[at]) / base.scale[at]
    affine[:3, 3] += affine[:3, :3] @ shift
    affine[:3, :3] *= factor
    return affine


# ---------------------------------------------------------------- writing


def build(
    name: str,
    geometry: Geometry,
    axes: str,
    factors: Sequence[tuple[int, ...]],
    windows: Sequence[tuple[float, float]],
    own: dict[str, Any],
) -> dict[str, Any]:
    """The attributes of a group whose level number k (path "k") is coarser by the integers ``factors[k]``.

    Voxel i of a level covers the voxels i·f … i·f + f − 1 of level 0, so its centre lies (f − 1)/2 of their
    voxels further on. `windows` has the range of values of each channel.
    """
    spatial = geometry.spatial_axes
    size = geometry.voxel_size or (1.0,) * len(spatial)
    origin = geometry.origin or (0.0,) * len(spatial)
    unit = WORDS.get(geometry.unit or "") if geometry.voxel_size is not None else None
    step = geometry.time_step if geometry.time_step is not None and geometry.time_step > 0 else 1.0
    begin = geometry.metadata.get(START, 0.0)
    begin = float(begin) if isinstance(begin, int | float) else 0.0
    entries: list[dict[str, str]] = []
    for axis in axes:
        entry = {"name": axis, "type": TYPES[axis]}
        if axis == "t" and geometry.time_unit in SECONDS:
            entry["unit"] = str(geometry.time_unit)
        if axis in spatial and unit is not None:
            entry["unit"] = unit
        entries.append(entry)
    datasets = []
    for number, factor in enumerate(factors):
        scale, shift = {"t": step, "c": 1.0}, {"t": begin, "c": 0.0}
        for axis, length, start, f in zip(spatial, size, origin, factor, strict=True):
            scale[axis], shift[axis] = length * f, start + length * (f - 1) / 2
        datasets.append(
            {
                "path": str(number),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [scale[a] for a in axes]},
                    {"type": "translation", "translation": [shift[a] for a in axes]},
                ],
            }
        )
    image = {
        "name": name,
        "axes": entries,
        "datasets": datasets,
        "type": "mean",
        "metadata": {"description": "each level is the mean of blocks of the level before"},
    }
    ome: dict[str, Any] = {"version": VERSION, "multiscales": [image]}
    if geometry.channels:
        # Names and colours as they came, the range of values as it now is.
        ome["omero"] = {
            "channels": [
                {"color": "FFFFFF", "active": True, **given}
                | {"window": {"start": low, "end": high, "min": low, "max": high}}
                for given, (low, high) in zip(geometry.channels, windows, strict=True)
            ]
        }
    return {"ome": ome, OWN: own}
