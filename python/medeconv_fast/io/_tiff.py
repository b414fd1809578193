"""TIFF, OME-TIFF and ImageJ TIFF by tifffile.

TIFF has no place for an orientation. A volume's affine goes into the description as a line
``medeconv_affine=…`` (ImageJ: the Info property; OME: an annotation), which other programs ignore, so that
NIfTI → TIFF → NIfTI keeps it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ._files import library
from ._volume import Volume

IN_UM = {
    "km": 1e9, "m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0,
    "micrometer": 1.0, "\\u00b5m": 1.0, "nm": 1e-3, "pm": 1e-6, "Å": 1e-4, "inch": 25400.0, "in": 25400.0,
}  # fmt: skip
AFFINE = "medeconv_affine="
IMAGEJ_DTYPES = (np.uint8, np.uint16, np.float32)


def _tifffile() -> Any:
    return library("tifffile", "io", "reading and writing TIFF")


def _unit_and_factor(name: str | None) -> tuple[str | None, float]:
    if name is None or name not in IN_UM:
        return None, 1.0
    # Medical sizes stay in mm; everything else is a microscope's.
    if name in ("mm", "cm", "m"):
        return "mm", IN_UM[name] / 1000
    return "um", IN_UM[name]


def _affine_in(text: str | None) -> tuple[np.ndarray, str | None] | None:
    found = re.search(re.escape(AFFINE) + r"(\{.*?\})", text or "")
    if not found:
        return None
    try:
        entry = json.loads(found.group(1).replace("&quot;", '"'))
        return np.array(entry["affine"], np.float64).reshape(4, 4), entry["unit"]
    except (ValueError, KeyError, TypeError):
        return None


def _affine_text(volume: Volume) -> str:
    if volume.affine is None:
        return ""
    return AFFINE + json.dumps({"affine": volume.affine.ravel().tolist(), "unit": volume.unit})


class _Complaints(logging.Handler):
    """What tifffile only logs: it returns what it can of a damaged file, which would pass for the whole."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextlib.contextmanager
def _complaints() -> Iterator[list[str]]:
    handler, logger = _Complaints(), logging.getLogger("tifffile")
    logger.addHandler(handler)
    try:
        yield handler.messages
    finally:
        logger.removeHandler(handler)


def read(path: Path, series: int = 0) -> Volume:
    tifffile = _tifffile()
    try:
        with _complaints() as complaints, tifffile.TiffFile(path) as file:
            if not 0 <= series < len(file.series):
                raise ValueError(f"series: got {series}, the file has {len(file.series)}")
            part = file.series[series]
            names = part.axes.lower().replace("i", "z").replace("q", "z")
            array = part.asarray()
            ome = file.ome_metadata
            imagej = file.imagej_metadata
            page = file.pages[0]
            resolution = (
                page.tags.get("XResolution"),
                page.tags.get("YResolution"),
                page.tags.get("ResolutionUnit"),
            )
            description = page.description
            many = len(file.series)
        if complaints:
            raise ValueError(f"the file ends early or is damaged ({'; '.join(complaints)})")
    except (tifffile.TiffFileError, OSError, KeyError, IndexError) as error:
        raise ValueError(f"{path}: not a readable TIFF file ({error})") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    names, array = _plain_axes(names, array, path)
    spatial = [a for a in names if a in "zyx"]
    sizes: dict[str, tuple[str | None, float]] = {}
    metadata: dict[str, Any] = {"format": "TIFF"}
    if ome:
        metadata["format"] = "OME-TIFF"
        pixels = _ome_pixels(ome, series)
        for axis in spatial:
            value = pixels.get(f"PhysicalSize{axis.upper()}")
            if value is not None:
                unit, factor = _unit_and_factor(pixels.get(f"PhysicalSize{axis.upper()}Unit", "µm"))
                sizes[axis] = unit, float(value) * factor
    elif imagej is not None:
        metadata["format"] = "ImageJ TIFF"
        unit, factor = _unit_and_factor(imagej.get("unit"))
        for axis, tag in (("x", resolution[0]), ("y", resolution[1])):
            if tag is not None and tag.value[0] and "unit" in imagej:
                sizes[axis] = unit, tag.value[1] / tag.value[0] * factor
        if "spacing" in imagej and "z" in names and "unit" in imagej:
            sizes["z"] = unit, abs(float(imagej["spacing"])) * factor
    elif resolution[2] is not None and int(resolution[2].value) in (2, 3):
        factor = 25.4 if int(resolution[2].value) == 2 else 10.0
        for axis, tag in (("x", resolution[0]), ("y", resolution[1])):
            # 72 or 96 dots per inch is what programs write that know no size.
            if tag is not None and tag.value[0] and tag.value[0] / tag.value[1] not in (1, 72, 96):
                sizes[axis] = "mm", factor * tag.value[1] / tag.value[0]
    if many > 1:
        metadata["series"], metadata["series_in_file"] = series, many
    stored = _affine_in(description if not imagej else str(imagej.get("Info", "")))
    known = all(a in sizes for a in spatial) and len({sizes[a][0] for a in spatial}) == 1
    voxel_size = tuple(sizes[a][1] for a in spatial) if known else None
    unit = sizes[spatial[0]][0] if known else None
    if known and any(not v > 0 for v in voxel_size or ()):
        voxel_size, unit = None, None
    affine = None
    if stored is not None:
        affine, unit = stored
        lengths = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))[::-1]
        voxel_size = tuple(float(v) for v in lengths[3 - len(spatial) :])
    return Volume(array, voxel_size, affine, unit, names, metadata)


def _plain_axes(names: str, array: np.ndarray, path: Path) -> tuple[str, np.ndarray]:
    """Drop axes of one that are not y or x; refuse what has no name here."""
    keep = [i for i, a in enumerate(names) if array.shape[i] > 1 or a in "yx"]
    array = array.reshape([array.shape[i] for i in keep])
    names = "".join(names[i] for i in keep)
    unknown = set(names) - set("tczyxs")
    if unknown or len(set(names)) != len(names) or "x" not in names:
        raise ValueError(
            f"{path}: axes {names!r} of shape {array.shape} are not supported, "
            "expected among t, c, z, y, x, s"
        )
    order = sorted(range(len(names)), key=lambda i: "tczyxs".index(names[i]))
    return "".join(names[i] for i in order), array.transpose(order)


def _ome_pixels(text: str, series: int) -> dict[str, str]:
    root = ElementTree.fromstring(text)
    found = [e for e in root.iter() if e.tag.endswith("}Pixels") or e.tag == "Pixels"]
    return dict(found[series].attrib) if series < len(found) else {}


def save(path: Path, volume: Volume, *, ome: bool) -> None:
    tifffile = _tifffile()
    array = volume.array
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    names = volume.axes
    sizes = {}
    if volume.voxel_size is not None:
        sizes = dict(zip(volume.spatial_axes, volume.voxel_size, strict=True))
    options: dict[str, Any] = {"bigtiff": array.nbytes > 2**32 - 2**25}
    if ome:
        if array.dtype in (np.int64, np.uint64, np.float16):
            raise ValueError(
                f"{array.dtype} cannot be written as OME-TIFF: the format has no such type; convert first"
            )
        metadata: dict[str, Any] = {"axes": names.upper()}
        unit = {"mm": "mm", "um": "µm", None: "pixel"}[volume.unit]
        for axis, size in sizes.items():
            metadata[f"PhysicalSize{axis.upper()}"] = size
            metadata[f"PhysicalSize{axis.upper()}Unit"] = unit
        text = _affine_text(volume)
        if text:
            metadata["Description"] = text
        tifffile.imwrite(path, array, ome=True, photometric="minisblack", metadata=metadata, **options)
        return
    if array.dtype not in IMAGEJ_DTYPES:
        # ImageJ has no such type; a plain TIFF holds it, and the sizes go where every reader looks.
        raise ValueError(
            f"{array.dtype} cannot be written as .tif for ImageJ (uint8, uint16 or float32); "
            "nothing is cast silently: "
            "choose a name ending in .ome.tif, or convert first"
        )
    if "s" in names:
        raise ValueError("colour samples (axis s) are not written; restore one channel at a time")
    full = "tzcyx"
    data = array.transpose([names.index(a) for a in full if a in names])
    data = data.reshape([array.shape[names.index(a)] if a in names else 1 for a in full])
    metadata = {"axes": full.upper()}
    if volume.unit is not None and volume.voxel_size is not None:
        metadata["unit"] = {"mm": "mm", "um": "um"}[volume.unit]
        if "z" in sizes:
            metadata["spacing"] = sizes["z"]
        options["resolution"] = (1 / sizes["x"], 1 / sizes.get("y", sizes["x"]))
        options["resolutionunit"] = 1
    text = _affine_text(volume)
    if text:
        metadata["Info"] = text
    tifffile.imwrite(
        path, data, imagej=True, metadata=metadata, **{k: v for k, v in options.items() if k != "bigtiff"}
    )
