"""NRRD and MetaImage by SimpleITK.

Both hold a position and directions in LPS, the lengths in mm by ITK's convention. What they have no place for
(unknown sizes, another unit, an unknown orientation, planes and channels) stands in a field
``medeconv_geometry`` that other programs pass over.
"""

from __future__ import annotations

import errno
import json
import math
import re
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._extras import library
from ._files import write_whole, write_whole_together
from ._geometry import Geometry
from ._nifti import scaled, scaled_dtype
from ._units import house_time, house_unit, in_um, time_word
from ._volume import LPS_TO_RAS, PER_MM, Volume, stored_time

SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
DRIVERS = {"n": "NrrdImageIO", "m": "MetaImageIO"}
FIELD = "medeconv_geometry"
# ITK hands on neither: NRRD's unit per axis of space, MetaImage's unit; and takes a spacing of nan for 1.
UNIT_FIELD = re.compile(rb"^(?:space units: *(.+)|DistanceUnits *= *(\S+))", re.MULTILINE)
SPACINGS = re.compile(rb"^spacings: *(.+)", re.MULTILINE)
# MetaImage's line from stored values to those that are meant, which ITK does not apply.
SLOPE = re.compile(rb"^ElementToIntensityFunction(Slope|Offset) *= *([^\r\n]*)", re.MULTILINE)
VALUES = re.compile(rb"^(?:ElementDataFile *=|data ?file:)([^\r\n]+)", re.MULTILINE | re.IGNORECASE)
# Numbered files of values: a pattern, the first and the last number, and the step.
PATTERN = re.compile(r"([^%]*%0?\d*d[^%]*?)\s+(-?\d+)\s+(-?\d+)\s+(-?\d+)(?:\s+\d+)?")
HEADER_BYTES = 1 << 16
LOCAL = re.compile(rb"local", re.IGNORECASE)
COMPRESSED = {"NRRD": rb"^encoding: *(gzip|gz) *\r?$", "MetaImage": rb"^CompressedData *= *True"}
TOGETHER = 1 << 20  # bytes
LONGEST_HEADER = 1 << 24  # of its own, which may name a file per slice
# NRRD's spaces that are a patient's, and what ITK leaves of the way to its own directions, LPS: it turns
# those of three axes itself, and calls them LPS then. Others (scanner-xyz, 3D-left-handed) name no patient.
LPS = "left-posterior-superior"
PATIENT = {
    LPS: (1.0, 1.0, 1.0),
    f"{LPS}-time": (1.0, 1.0, 1.0),
    "right-anterior-superior-time": (-1.0, -1.0, 1.0),
    "left-anterior-superior-time": (1.0, -1.0, 1.0),
}


def _simpleitk() -> Any:
    return library("SimpleITK", "itk", "reading and writing NRRD and MetaImage")


def beside(path: Path) -> tuple[Path, ...]:
    """The file of values that a header of its own refers to."""
    return (path.with_suffix(".raw"),) if path.suffix.lower() in (".nhdr", ".mhd") else ()


def referred(path: Path) -> tuple[Path, ...]:
    """The files of values that a header names and that there are: other programs may call them anything."""
    if not beside(path) or not path.is_file():
        return ()
    try:
        return tuple(_files_of_values(path))
    except ValueError:  # which `read` says
        return ()


def _files_of_values(path: Path) -> list[Path]:
    """Those that a header of its own names and that there are.

    Raises
    ------
    ValueError
        A list or a pattern of names that ITK would take for something else, or not survive.
    """
    head = _head(path)
    found = VALUES.search(head)
    if found is None:
        return []
    text = found.group(1).decode("utf-8", "replace").strip()
    names = [text]
    if text.startswith("LIST"):
        lines = head[found.end() :].decode("utf-8", "replace").splitlines()
        names = [line.strip() for line in lines if line.strip()]
        if not names:
            raise ValueError(
                f"{path}: its file of values is {text}; what begins with LIST stands for a list of files, "
                "of which there is none: rename the file, and name it so in the header"
            )
    elif "%" in text:
        pattern = PATTERN.fullmatch(text)
        if pattern is None or int(pattern.group(4)) == 0:
            raise ValueError(
                f"{path}: its files of values are {text!r}, expected a pattern such as "
                "'slice%03d.raw 1 20 1': the place of the number, first, last and step"
            )
        first, last, step = (int(pattern.group(i)) for i in (2, 3, 4))
        names = [pattern.group(1) % n for n in range(first, last + (1 if step > 0 else -1), step)]
    return [file for name in names if (file := path.parent / name).is_file()]


def _check_values(path: Path, files: Sequence[Path], array: np.ndarray) -> None:
    """Refuse files of values that are too few: ITK leaves the rest of its memory as it was."""
    there = sum(file.stat().st_size for file in files)
    compressed = re.search(rb"^(CompressedData *= *True|encoding: *(?!raw))", _head(path), re.M | re.I)
    if len(files) > 1 and compressed is None and there < array.nbytes:
        raise ValueError(
            f"{path}: its {len(files)} files of values hold {there} bytes, expected {array.nbytes}: one for "
            "every slice"
        )


def _check_sums(path: Path, files: Sequence[Path], kind: str) -> None:
    """Refuse compressed values whose checksum says that they are damaged; ITK does not look at it."""
    head = _head(path)
    found = VALUES.search(head)
    alone = found is None if kind == "NRRD" else found is not None and LOCAL.fullmatch(found.group(1).strip())
    if re.search(COMPRESSED[kind], head, re.MULTILINE | re.IGNORECASE) is None:
        return
    if alone and found is not None:
        places = [(path, head.index(b"\n", found.start()) + 1)]
    elif alone:
        blank = re.search(rb"\r?\n\r?\n", head)
        places = [] if blank is None else [(path, blank.end())]
    else:
        places = [] if re.search(rb"^(line|byte) ?skip", head, re.M) else [(file, 0) for file in files]
    for file, start in places:
        stream = zlib.decompressobj(wbits=47)  # zlib's or gzip's, as ITK takes both
        try:
            with open(file, "rb") as values:
                values.seek(start)
                while not stream.eof and (part := values.read(TOGETHER)):
                    while part:
                        stream.decompress(part, TOGETHER)
                        part = stream.unconsumed_tail
        except zlib.error as error:
            raise ValueError(f"{file}: the compressed values are damaged ({error})") from error
        if not stream.eof:
            raise ValueError(f"{file}: the compressed values end early")


def check_beside(path: Path) -> None:
    """Refuse a header's name whose file of values is, or may be, another image's, or no name for one.

    Raises
    ------
    FileExistsError, ValueError
    """
    if beside(path) and (path.stem.startswith("LIST") or re.search(r"[%\r\n]", path.stem)):
        raise ValueError(
            f"{path}: its values would be in {beside(path)[0].name}, which headers take for a list or a "
            "pattern of names; expected a name that does not begin with LIST and has no %"
        )
    for values in beside(path):
        if not values.exists():
            continue
        if not _refers(path, values):
            raise FileExistsError(
                f"{values}: exists already, and is not what {path.name} refers to; it may be the values of "
                "another image: choose another name, or remove it"
            )
        for other in sorted(path.absolute().parent.iterdir()):
            if beside(other) and _refers(other, values) and not other.samefile(path):
                raise FileExistsError(
                    f"{values}: exists already, and holds the values of {other.name} too; replacing them "
                    "would change that image: choose another name"
                )


def _refers(header: Path, values: Path) -> bool:
    """Whether a header, or a list of files in it, names this file of values."""
    if not header.is_file():
        return False
    for line in _head(header).splitlines():
        named = header.parent / re.split(rb"[:=]", line, maxsplit=1)[-1].strip().decode("utf-8", "replace")
        if named.name.casefold() == values.name.casefold() and named.exists() and named.samefile(values):
            return True
    return False


def read(path: Path, suffix: str) -> Volume:
    sitk = _simpleitk()
    kind = "NRRD" if suffix[1] == "n" else "MetaImage"
    files = _files_of_values(path) if beside(path) else []
    try:
        image = sitk.ReadImage(str(path), imageIO=DRIVERS[suffix[1]])
    except RuntimeError as error:
        said = str(error).rpartition("ITK ERROR: ")[2]
        values = f", or {beside(path)[0].name} is missing" if beside(path) else ""
        raise ValueError(
            f"{path}: not a readable {kind} file, damaged or cut short{values} ({' '.join(said.split())})"
        ) from error
    _check_sums(path, files, kind)
    array = sitk.GetArrayFromImage(image)
    _check_values(path, files, array)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{path}: holds {array.dtype} values, expected real numbers")
    if not 2 <= image.GetDimension() <= 4:
        raise ValueError(f"{path}: {image.GetDimension()} axes, expected 2 to 4 (x, y, z, time)")
    names = "tzyx"[4 - image.GetDimension() :]
    if image.GetNumberOfComponentsPerPixel() > 1:
        names += "s" if array.dtype == np.uint8 and array.shape[-1] in (3, 4) else "c"
    stored = _stored(image)
    array, axes = _arranged(array, names, str(stored.get("axes", "")), str(stored.get("ones", "")))
    voxel_size, affine, unit, factor = _geometry(path, image, stored)
    spatial = sum(a in "zyx" for a in axes)
    if voxel_size is not None:
        voxel_size = voxel_size[len(voxel_size) - spatial :]
    metadata = {"format": kind, **_time(image, stored, axes)}
    scale = (1.0, 0.0) if kind == "NRRD" else _scale(path)
    if scale != (1.0, 0.0):
        metadata["stored_dtype"] = str(array.dtype)
        array = scaled(array, scale, scaled_dtype(array.dtype))
    made = Volume(array, voxel_size, affine, unit, axes, metadata)
    if made.affine is None:
        made.metadata |= _place(image, spatial, factor)
        if "origin" in made.metadata:
            made.metadata["origin_grid"] = made.grid
    return made


def _scale(path: Path) -> tuple[float, float]:
    """Slope and offset: value = slope · stored + offset."""
    head = _head(path)
    end = VALUES.search(head)  # behind it values may follow
    stated = dict(SLOPE.findall(head if end is None else head[: end.start()]))
    found = [stated.get(*pair).decode("latin-1") for pair in ((b"Slope", b"1"), (b"Offset", b"0"))]
    try:
        slope, offset = map(float, found)
    except ValueError:
        slope = offset = math.nan
    if not math.isfinite(slope) or not math.isfinite(offset) or slope == 0:
        raise ValueError(
            f"{path}: ElementToIntensityFunctionSlope {found[0]}, ElementToIntensityFunctionOffset "
            f"{found[1]}: expected a finite slope other than 0, and a finite offset"
        )
    return slope, offset


def _time(image: Any, stored: dict[str, Any], axes: str) -> dict[str, Any]:
    """Step and start along the fourth axis; ITK has 1 and 0 where they are not known."""
    found = stored_time(stored)
    if "t" not in axes or image.GetDimension() < 4:
        return found
    step, start = image.GetSpacing()[3], image.GetOrigin()[3]
    named = image.GetMetaData("NRRD_units[3]") if image.HasMetaDataKey("NRRD_units[3]") else None
    known = step != 1 or (not found and time_word(named) is not None)
    if known and not np.isclose(step, found.get("time_step", np.nan), rtol=1e-9):
        found = {"time_step": step, "time_unit": found.get("time_unit") or house_time(named)}
    return found | ({"toffset": start} if start else {})  # as NIfTI's header calls it


def _place(image: Any, spatial: int, factor: float) -> dict[str, Any]:
    """Origin and directions of what does not lie in the patient's space, such as a plane; none if plain."""
    n = image.GetDimension()
    origin = image.GetOrigin()[:spatial]
    direction = np.array(image.GetDirection()).reshape(n, n)[:spatial, :spatial]
    found: dict[str, Any] = {}
    if any(origin):
        found["origin"] = tuple(v * factor for v in origin[::-1])
    if not np.array_equal(direction, np.eye(spatial)):
        found["direction"] = direction.tolist()
    return found


def _stored(image: Any) -> dict[str, Any]:
    if not image.HasMetaDataKey(FIELD):
        return {}
    try:
        entry = json.loads(image.GetMetaData(FIELD))
        return entry if isinstance(entry, dict) else {}
    except ValueError:
        return {}


def _arranged(array: np.ndarray, names: str, wanted: str, ones: str) -> tuple[np.ndarray, str]:
    """The array with the axes that were stored, as long as they fit: another program may have changed it.

    `ones` are those of length one, which ITK leaves out where they are channels.
    """
    if names[-1] in "cs" and wanted and (set(wanted) & set("cs")):
        names = names[:-1] + next(a for a in wanted if a in "cs")
    lost = "".join(a for a in wanted if a in ones and a in "cs" and names[-1] not in "cs")
    length = dict(zip(names + lost, array.shape + (1,) * len(lost), strict=True))
    if not wanted or len(set(wanted)) != len(wanted) or not set(wanted) <= set(length):
        return array, names
    if any(n > 1 for a, n in length.items() if a not in wanted):
        return array, names
    kept = [a for a in length if a in wanted]
    array = array.reshape([length[a] for a in kept])
    return array.transpose([kept.index(a) for a in wanted]), wanted


def _geometry(
    path: Path, image: Any, stored: dict[str, Any]
) -> tuple[tuple[float, ...] | None, np.ndarray | None, str | None, float]:
    """Sizes (z, y, x), affine, unit, and what a length in the file is times."""
    n = image.GetDimension()
    spacing = np.array(image.GetSpacing()[:3])
    is_nrrd = path.suffix.lower().startswith(".n")
    space = image.GetMetaData("NRRD_space") if image.HasMetaDataKey("NRRD_space") else None
    if stored:
        sized, oriented, unit = (stored.get(k) for k in ("sized", "oriented", "unit"))
        factor = PER_MM.get(str(unit), 1.0)
    else:
        named = space is not None
        um = _unit_um(path, image)
        oriented = n >= 3 and (space in PATIENT or not is_nrrd)
        sized = named or oriented or um is not None or not is_nrrd or bool((spacing != 1).any())
        # By ITK's convention, where nothing else is said; a NRRD without a space says nothing.
        unit = house_unit(um) if um is not None else "mm" if named or not is_nrrd else None
        factor = 1.0 if um is None or unit is None else um / 1000 * PER_MM[unit]
    if sized and is_nrrd and not stored and _lacks_spacing(path, image):
        warnings.warn(
            f"{path}: no voxel size along some axes (nan), so that along the others is left out too",
            UserWarning,
            stacklevel=4,
        )
        sized = False
    if not sized:
        return None, None, unit, factor
    sizes = tuple(float(v) for v in (spacing * factor)[::-1])
    if not oriented or n < 3:
        return sizes, None, unit, factor
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(n, n)[:3, :3] * spacing
    affine[:3, 3] = image.GetOrigin()[:3]
    affine[:3] *= factor
    affine = np.diag([*PATIENT.get(str(space), PATIENT[LPS]), 1.0]) @ affine
    return sizes, LPS_TO_RAS @ affine + 0.0, unit, factor


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(LONGEST_HEADER if beside(path) else HEADER_BYTES)


def _unit_um(path: Path, image: Any) -> float | None:
    found = UNIT_FIELD.search(_head(path))
    if found is not None and found.group(2):
        return in_um(found.group(2).decode("latin-1"))
    if found is not None:
        names: list[str | None] = list(re.findall(r'"([^"]*)"', found.group(1).decode("latin-1")))
    else:
        keys = [f"NRRD_units[{i}]" for i in range(image.GetDimension())]
        names = [image.GetMetaData(k) if image.HasMetaDataKey(k) else None for k in keys[:3]]
    units = {in_um(name) for name in names}
    if len(units - {None}) > 1:
        raise ValueError(f"{path}: its axes count in several units, {names}; expected one for all")
    return units.pop() if len(units) == 1 else None


def _lacks_spacing(path: Path, image: Any) -> bool:
    """Whether a NRRD file gives no distance along an axis of space."""
    found = SPACINGS.search(_head(path))
    if found is None:
        return False
    entries = found.group(1).decode("latin-1").lower().split()
    if len(entries) > image.GetDimension() and "nan" in entries:  # of the components
        entries.remove("nan")
    return "nan" in entries[:3]


def write(path: Path, volume: Volume, *, overwrite: bool) -> None:
    sitk = _simpleitk()
    image = _image(sitk, volume)

    def save(target: Path) -> None:
        try:
            sitk.WriteImage(image, str(target), imageIO=DRIVERS[path.suffix.lower()[1]])
        except RuntimeError as error:
            raise OSError(errno.EIO, " ".join(str(error).split()), str(path)) from error

    if beside(path):
        check_beside(path)
        together: Sequence[Path] = (path, *beside(path))

        def save_both(folder: Path) -> None:
            made = folder / (path.stem + path.suffix.lower())  # ITK knows no other
            save(made)
            made.rename(folder / path.name)

        write_whole_together(together, save_both, overwrite=overwrite)
    else:
        write_whole(path, save, overwrite=overwrite)


def _image(sitk: Any, volume: Volume) -> Any:
    array = volume.array
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    if array.dtype == np.float16:
        raise ValueError(f"{array.dtype} cannot be written: the format has no such type; convert to float32")
    if len(volume.spatial_axes) == 1 or {"c", "s"} <= set(volume.axes):
        raise ValueError(
            f"axes {volume.axes!r} cannot be written: the format has images of two and three axes, over "
            "time, with channels or colours; choose a name ending in .npy"
        )
    length = dict(zip(volume.axes, volume.shape, strict=True))
    # A plane that lies in space, or moves in time, is written as a volume of one slice.
    flat = "z" not in length and volume.affine is None and "t" not in length
    full = [a for a in "tzyxcs" if a in length or (a == "z" and not flat)]
    data = array.transpose([volume.axes.index(a) for a in full if a in length])
    data = data.reshape([length.get(a, 1) for a in full])
    image = sitk.GetImageFromArray(data, isVector=full[-1] in "cs")
    to_mm = 1.0 if volume.unit is None else 1 / PER_MM[volume.unit]
    oriented = volume.affine is not None and volume.oriented and not flat
    n = image.GetDimension()
    spacing, origin, direction = np.ones(n), np.zeros(n), np.eye(n)
    if volume.voxel_size is not None:
        sizes = volume.voxel_size[::-1]
        spacing[: len(sizes)] = np.array(sizes) * to_mm
    if oriented and volume.affine is not None:
        affine = LPS_TO_RAS @ volume.affine
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        spacing[:3], origin[:3] = lengths * to_mm, affine[:3, 3] * to_mm
        direction[:3, :3] = affine[:3, :3] / lengths
    else:
        k = len(volume.spatial_axes)
        start = Geometry.of(volume).origin
        if start is not None:
            origin[:k] = _entry("origin", start, (k,))[::-1] * to_mm
        if "direction" in volume.metadata:
            direction[:k, :k] = _entry("direction", volume.metadata["direction"], (k, k))
    if "t" in length:
        step = stored_time(volume.metadata).get("time_step", 1.0)
        spacing[3] = step if step > 0 else 1.0  # ITK refuses 0; the field below has it
        origin[3] = _entry("toffset", volume.metadata.get("toffset", 0.0), ())
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(origin.tolist())
    image.SetDirection(direction.ravel().tolist())
    entry = {
        "axes": volume.axes,
        "ones": "".join(a for a, n in zip(volume.axes, volume.shape, strict=True) if n == 1),
        "unit": volume.unit,
        "sized": volume.voxel_size is not None,
        "oriented": bool(oriented),
        **stored_time(volume.metadata),
    }
    image.SetMetaData(FIELD, json.dumps(entry))
    return image


def _entry(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Finite numbers in a volume's metadata; a square of them with a way back."""
    try:
        made = np.array(value, np.float64)
    except (TypeError, ValueError):
        made = np.full(shape, np.nan)
    if made.shape != shape or not np.isfinite(made).all() or (len(shape) == 2 and not np.linalg.det(made)):
        expected = {
            0: "a finite number",
            1: f"{shape} finite numbers",
            2: f"a matrix {shape} with an inverse",
        }
        raise ValueError(f"metadata: {name} is {value!r}, expected {expected[len(shape)]}")
    return made
