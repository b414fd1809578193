"""DICOM by pydicom: one file, or one series of a folder, as a volume.

What a file says about its slices is checked in `_dicom_geometry`, values are decoded in `_dicom_pixels`, and
`_dicom_series` writes a derived series.
"""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import _validate
from .._arrays import result_dtype
from .._extras import library
from ._dicom_geometry import Grid, Plane, grid, names
from ._dicom_pixels import (
    CHANNELS,
    DAMAGED,
    Scale,
    check_syntax,
    frame_values,
    has_table,
    is_transformed,
    scale_of,
    table_values,
    unit_of,
)
from ._volume import Volume

SUFFIXES = (".dcm", ".dicom", ".ima")
# Bytes of the object identifier of an enveloped message (CMS), which encrypted DICOM files are (PS3.15 D).
ENVELOPED = bytes.fromhex("06092a864886f70d010703")
# What tells two images of one place apart, in the order of how much it explains.
DISTINGUISHING = (
    "SeriesInstanceUID", "EchoTime", "EchoNumbers", "DiffusionBValue", "TemporalPositionIdentifier",
    "TriggerTime", "ImageType", "FlipAngle", "InversionTime", "ContrastBolusAgent", "ReconstructionDiameter",
    "ConvolutionKernel", "AcquisitionNumber", "AcquisitionTime", "ContentTime", "InstanceNumber",
)  # fmt: skip
IMAGE = "Image Storage"  # in the names of SOP classes that are images
COUNTS = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
CENTIMETRE = 3  # of Physical Units X Direction, PS3.3 C.8.5.5.1.15


@dataclass(frozen=True)
class Source:
    """The files that a volume was read from, and where each slice is in them; what a derived series needs.

    `frames` has per slice the number of its file and of its frame there.
    """

    files: tuple[str, ...]
    sop_uids: tuple[str, ...]
    frames: tuple[tuple[int, int], ...]
    shape: tuple[int, ...]
    voxel_size: tuple[float, ...] | None
    affine: tuple[tuple[float, ...], ...] | None


class _File(NamedTuple):
    path: Path
    header: Any  # the dataset without its values


class _Frame(NamedTuple):
    file: int
    number: int
    plane: Plane
    scale: Scale
    groups: tuple[Any, ...]  # functional groups, the frame's own before the shared ones
    unit: str | None
    transformed: bool  # whether how to make values of what is stored is stated


def _pydicom() -> Any:
    return library("pydicom", "io", "reading and writing DICOM")


@contextlib.contextmanager
def damaged_header(name: str) -> Iterator[None]:
    """What pydicom raises for elements that it cannot convert, when it is asked for them, as bad input."""
    pydicom = _pydicom()
    try:
        yield
    except (OSError, ValueError, TypeError):
        raise
    except (*DAMAGED, NotImplementedError, OverflowError, pydicom.errors.BytesLengthException) as error:
        what = str(error).partition("\n")[0]
        raise ValueError(f"{name}: the header is damaged ({what})") from error


def has_prefix(path: Path) -> bool:
    """Whether a file is DICOM by its bytes, whatever its name is."""
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read(path: Path, series: str | int | None, channel: str | None, frame: int | None) -> Volume:
    with damaged_header(path.name):
        return _read(path, series, channel, frame)


def _read(path: Path, series: str | int | None, channel: str | None, frame: int | None) -> Volume:
    if channel is not None:
        _validate.choice(channel, "channel", CHANNELS)
    files = _choose(_scan(path) if path.is_dir() else [_image(path)], series)
    frames = _frames(files, frame)
    _check_together(files, frames)
    placed = grid([f.plane for f in frames], lambda i, j: _difference(files, frames[i], frames[j]))
    frames = [frames[i] for i in placed.order]
    array, stored, notes = _values(files, frames, channel)
    first = files[frames[0].file].header
    if placed.affine is None:
        placed, more = _flat_size(first, frames[0], placed)
        notes += more
    for note in notes:
        warnings.warn(f"{path}: {note}", UserWarning, stacklevel=4)
    if len(frames) == 1:
        array = array[0]
    affine = placed.affine
    metadata = _metadata(first, frames[0], channel, frame)
    metadata["stored_dtype"] = str(stored)
    metadata["dicom"] = Source(
        tuple(str(f.path.resolve()) for f in files),
        tuple(str(f.header.get("SOPInstanceUID", "")) for f in files),
        tuple((f.file, f.number) for f in frames),
        array.shape,
        placed.voxel_size,
        None if affine is None else tuple(map(tuple, affine.tolist())),
    )
    unit = None if placed.voxel_size is None else "mm"
    return Volume(array, placed.voxel_size, affine, unit, "zyx"[3 - array.ndim :], metadata)


# ---------------------------------------------------------------- files


def _header(path: Path) -> Any:
    pydicom = _pydicom()
    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except pydicom.errors.InvalidDicomError as error:
        with open(path, "rb") as file:
            if ENVELOPED in file.read(64):
                raise ValueError(
                    f"{path.name}: encrypted (a CMS envelope); decrypt it first, for instance with the "
                    "package openssl: openssl cms -decrypt"
                ) from None
        raise ValueError(f"{path.name}: not a readable DICOM file (no prefix DICM)") from error
    except Exception as error:  # zlib, struct and pydicom raise what they like for damaged bytes
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{path.name}: not a readable DICOM file, or damaged ({error})") from error


def _not_an_image(header: Any) -> str | None:
    """What else the file is, or None for an image."""
    if "DirectoryRecordSequence" in header:
        return "an index of a disc (DICOMDIR); name the folder or file of the images instead"
    if all(name in header for name in ("Rows", "Columns", "BitsAllocated")):
        return None
    if "EncryptedAttributesSequence" in header:
        return "encrypted (EncryptedAttributesSequence), and says nothing of an image: decrypt it first"
    kind = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
    name = "no SOP class" if kind is None else str(getattr(kind, "name", kind))
    # Passed over in a folder, a slice that was cut would be missed at neither end of the stack.
    if IMAGE in name:
        raise ValueError(f"the file ends before its image ({name} without Rows and Columns): cut short")
    if not header.get("SOPInstanceUID"):
        raise ValueError(f"the file ends before it says what it is ({name}, no SOPInstanceUID): cut short")
    return f"not an image ({name}{', ' + str(header.Modality) if header.get('Modality') else ''})"


def _image(path: Path) -> _File:
    file, other = _opened(path)
    if other is not None:
        raise ValueError(f"{path.name}: {other}")
    return file


def _opened(path: Path) -> tuple[_File, str | None]:
    """A file's header, and what else it is if not an image."""
    header = _header(path)
    try:
        return _File(path, header), _not_an_image(header)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def _scan(folder: Path) -> list[_File]:
    """Every image in the folder itself."""
    found: list[_File] = []
    others: Counter[str] = Counter()
    unclear: list[str] = []
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.name.startswith("."):
            continue
        suffix = path.suffix.lower()
        if not has_prefix(path):
            if suffix in SUFFIXES:
                _header(path)  # raises, and says why
            elif not suffix or suffix[1:].isdigit():  # DICOM files often have no ending, or a UID's
                unclear.append(path.name)
            continue
        file, other = _opened(path)
        if other is None:
            found.append(file)
        elif "DirectoryRecordSequence" not in file.header:
            others[other] += 1
    if unclear:
        warnings.warn(
            f"{folder}: left out, because not DICOM: {', '.join(unclear[:8])}", UserWarning, stacklevel=5
        )
    if not found:
        what = "".join(f"; {n} files are {text}" for text, n in others.items())
        below = sorted(p.name for p in folder.iterdir() if p.is_dir())
        hint = f"; folders in it: {', '.join(below[:8])}" if below else ""
        raise ValueError(f"{folder}: no DICOM image in this folder{what}{hint}")
    return found


def _choose(files: list[_File], wanted: str | int | None) -> list[_File]:
    """The files of one series."""
    series: dict[str, list[_File]] = {}
    for file in files:
        series.setdefault(str(file.header.get("SeriesInstanceUID", "")), []).append(file)
    if wanted is None:
        matching = list(series)
    else:
        if isinstance(wanted, bool) or not isinstance(wanted, str | int):
            raise TypeError(
                f"series: got {_validate.shown(wanted)}, expected a UID, a number or a description"
            )
        text = str(wanted).strip().casefold()
        matching = [u for u, group in series.items() if text in _labels(u, group[0].header)]
    if len(matching) == 1:
        return series[matching[0]]
    listed = "; ".join(_described(u, series[u]) for u in series)
    if wanted is not None:
        count = "none" if not matching else str(len(matching))
        raise ValueError(f"series: got {wanted!r}, which {count} of these has: {listed}")
    raise ValueError(
        f"{len(series)} series: {listed}; choose one by UID, number or description with series= (on the "
        "command line --series)"
    )


def _text(value: Any) -> str:
    """Of an element that may be absent or empty; a number may be 0."""
    return "" if value is None else str(value).strip()


def _labels(uid: str, header: Any) -> set[str]:
    labels = {uid}
    for name in ("SeriesNumber", "SeriesDescription"):
        labels.add(_text(header.get(name)).casefold())
    return labels - {""}


def _described(uid: str, files: Sequence[_File]) -> str:
    header = files[0].header
    number, description = (_text(header.get(f"Series{n}")) for n in ("Number", "Description"))
    label = " ".join(filter(None, (number, description and f"'{description}'")))
    count = f"{len(files)} file{'s' if len(files) > 1 else ''}"
    return (
        f"{label or 'no number'} ({header.get('Modality', 'no modality')}, {count}, UID {uid or 'missing'})"
    )


# ---------------------------------------------------------------- frames


def _frames(files: Sequence[_File], wanted: int | None) -> list[_Frame]:
    if wanted is not None and len(files) > 1:
        raise ValueError(f"frame: chooses one frame of one file, the series has {len(files)} files")
    frames: list[_Frame] = []
    for number, file in enumerate(files):
        try:
            frames += _file_frames(number, file, films=wanted is not None)
        except DAMAGED as error:  # pydicom converts values when they are asked for
            if file.path.name in str(error):
                raise
            raise ValueError(f"{file.path.name}: {error}") from error
    if wanted is None:
        return frames
    index = _validate.integer(wanted, "frame", minimum=0)
    if index >= len(frames):
        raise ValueError(f"frame: got {index}, the file has {len(frames)}, counted from 0")
    return [frames[index]]


def _file_frames(number: int, file: _File, *, films: bool) -> list[_Frame]:
    header, name = file.header, file.path.name
    count = int(header.get("NumberOfFrames") or 1)
    shared = tuple(header.get("SharedFunctionalGroupsSequence") or ())[:1]
    own = list(header.get("PerFrameFunctionalGroupsSequence") or ())
    offsets = header.get("GridFrameOffsetVector")
    if own and len(own) != count:
        raise ValueError(f"{name}: {count} frames, but functional groups of {len(own)}")
    placed = bool(own) and all(_in_groups((g, *shared), "PlanePosition", "ImagePositionPatient") for g in own)
    if count > 1 and not placed and offsets is None and not films:
        every = header.get("FrameTime") or (1000 / header.CineRate if header.get("CineRate") else None)
        kind = (
            "without positions in space"
            if every is None
            else f"over time (one in {float(every):.4g} ms), a film and not a volume"
        )
        raise ValueError(
            f"{name}: {count} frames {kind}: choose one with frame= (on the command line --frame), "
            f"0 to {count - 1}"
        )
    frames = []
    for index in range(count):
        groups = (*own[index : index + 1], *shared)
        label = name if count == 1 else f"{name} frame {index}"
        position = _in_groups(groups, "PlanePosition", "ImagePositionPatient")
        orientation = _in_groups(groups, "PlaneOrientation", "ImageOrientationPatient")
        if orientation is None:
            orientation = _numbers(header.get("ImageOrientationPatient"), 6)
        if position is None and (count == 1 or offsets is not None):
            position = _numbers(header.get("ImagePositionPatient"), 3)
            if position is not None and offsets is not None and count > 1:
                position = _by_offset(name, position, orientation, _numbers(offsets, count), index)
        plane = Plane(
            label,
            (int(header.Rows), int(header.Columns)),
            _spacing(header, groups),
            position,
            orientation,
            None if header.get("GantryDetectorTilt") is None else float(header.GantryDetectorTilt),
        )
        scale, unit = scale_of(header, groups), unit_of(header, groups)
        frames.append(_Frame(number, index, plane, scale, groups, unit, is_transformed(header, groups)))
    return frames


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    if value is None or value == "" or (hasattr(value, "__len__") and len(value) == 0):
        return None
    numbers = tuple(float(v) for v in (value if hasattr(value, "__len__") else [value]))
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise ValueError(f"got {numbers} where DICOM has {count} finite numbers")
    return numbers


def _in_groups(groups: Sequence[Any], sequence: str, name: str) -> tuple[float, ...] | None:
    for group in groups:
        for item in group.get(f"{sequence}Sequence") or ():
            if item.get(name) is not None:
                return _numbers(item.get(name), COUNTS[name])
    return None


def _spacing(header: Any, groups: Sequence[Any]) -> tuple[float, float] | None:
    found = _in_groups(groups, "PixelMeasures", "PixelSpacing") or _numbers(header.get("PixelSpacing"), 2)
    return None if found is None else (found[0], found[1])


def _by_offset(
    name: str,
    position: tuple[float, ...],
    orientation: tuple[float, ...] | None,
    offsets: tuple[float, ...] | None,
    index: int,
) -> tuple[float, ...]:
    """RT Dose (PS3.3 C.8.8.3.2): planes at distances along the normal from the first."""
    if orientation is None or offsets is None:
        raise ValueError(f"{name}: GridFrameOffsetVector without ImageOrientationPatient")
    normal = np.cross(orientation[:3], orientation[3:])
    return tuple(float(v) for v in position + (offsets[index] - offsets[0]) * normal)


def _check_together(files: Sequence[_File], frames: Sequence[_Frame]) -> None:
    """Refuse images that one series holds but that are not slices of one volume."""
    scouts = [f.plane for f in frames if "LOCALIZER" in _image_type(files[f.file])]
    if scouts and len(scouts) < len(frames):
        raise ValueError(
            f"{len(scouts)} of {len(frames)} images are localizers (ImageType LOCALIZER), not slices: "
            f"{names(scouts)}; take them out of the folder"
        )
    if any("MOSAIC" in _image_type(files[f.file]) for f in frames):
        raise ValueError(
            "Siemens mosaic (ImageType MOSAIC): the slices are tiles of one picture, which is not taken "
            "apart here; dcm2niix converts it"
        )
    spaces = {str(f.header.get("FrameOfReferenceUID") or "") for f in files}
    if len(spaces) > 1:
        raise ValueError(
            f"{len(spaces)} frames of reference (FrameOfReferenceUID) in one series: the positions of its "
            "slices cannot be compared"
        )
    units = {str(f.unit) for f in frames}
    if len(units) > 1:
        raise ValueError(f"slices in different units of intensity: {', '.join(sorted(units))}")
    raw = [f.plane for f in frames if not f.transformed]
    if 0 < len(raw) < len(frames):
        raise ValueError(
            f"{len(raw)} of {len(frames)} slices ({names(raw)}) state no transformation of their values "
            "(RescaleSlope and RescaleIntercept, or a Modality LUT), the others do: they are not on one scale"
        )


def _image_type(file: _File) -> list[str]:
    return [str(v).upper() for v in np.atleast_1d(file.header.get("ImageType") or [])]


def _difference(files: Sequence[_File], one: _Frame, other: _Frame) -> str:
    """In what two images of the same place differ."""
    if one.file == other.file:
        indices = [_dimension_indices(frame) for frame in (one, other)]
        if indices[0] != indices[1]:
            return (
                f"their DimensionIndexValues are {indices[0]} and {indices[1]}: more than one volume in this "
                "file; frame= (--frame) chooses one frame"
            )
        return "both in one file; frame= (--frame) chooses one frame"
    a, b = files[one.file].header, files[other.file].header
    if a.get("SOPInstanceUID") == b.get("SOPInstanceUID"):
        return "the same image twice (one SOPInstanceUID)"
    for name in DISTINGUISHING:
        if a.get(name) != b.get(name):
            return f"they differ in {name}, {a.get(name)} and {b.get(name)}: keep the files of one volume"
    return "their headers do not say what tells them apart"


def _dimension_indices(frame: _Frame) -> list[int] | None:
    content = frame.groups[0].get("FrameContentSequence") if frame.groups else None
    values = content[0].get("DimensionIndexValues") if content else None
    return None if values is None else [int(v) for v in np.atleast_1d(values)]


# ---------------------------------------------------------------- values


def _values(
    files: Sequence[_File], frames: Sequence[_Frame], channel: str | None
) -> tuple[np.ndarray, np.dtype, list[str]]:
    """All frames as one array, the dtype that they are stored in, and what is to be said of their values."""
    pydicom = _pydicom()
    tables = any(has_table(f.header) for f in files)
    scaled = tables or not all(f.scale.identity for f in frames)
    places: dict[int, list[int]] = {}
    for z, frame in enumerate(frames):
        places.setdefault(frame.file, []).append(z)
    array: np.ndarray | None = None
    stored: set[np.dtype] = set()
    padding = 0
    for number, slices in places.items():
        path = files[number].path
        try:
            dataset = pydicom.dcmread(path)
        except DAMAGED as error:
            raise ValueError(f"{path.name}: the values end early or are damaged ({error})") from error
        try:
            check_syntax(dataset)
            for z in slices:
                values = frame_values(dataset, frames[z].number, channel)
                padding += _padded(dataset, values)
                stored.add(values.dtype.newbyteorder("="))
                if scaled:
                    values = _scaled(dataset, values, frames[z].scale)
                if array is None:
                    array = np.empty((len(frames), *values.shape), values.dtype.newbyteorder("="))
                elif values.dtype != array.dtype:
                    array = array.astype(np.result_type(array, values), copy=False)
                array[z] = values
        except (ValueError, ImportError) as error:
            raise type(error)(f"{path.name}: {error}") from error
    assert array is not None
    notes = []
    if padding:
        notes.append(
            f"{padding} of {array.size} values are padding (PixelPaddingValue), not measured; they are kept"
        )
    return array, np.result_type(*stored), notes


def _scaled(dataset: Any, stored: np.ndarray, scale: Scale) -> np.ndarray:
    """Computed in float64 and rounded once: float32 holds every 16-bit value, wider ones stay float64."""
    if has_table(dataset):
        return table_values(dataset, stored).astype(result_dtype(stored.dtype))
    values = stored.astype(np.float64)
    values *= scale.slope
    values += scale.intercept
    return values.astype(result_dtype(stored.dtype), copy=False)


def _padded(dataset: Any, stored: np.ndarray) -> int:
    value, limit = (dataset.get(f"PixelPadding{name}") for name in ("Value", "RangeLimit"))
    if not isinstance(value, int):
        return 0
    ends = [value, limit if isinstance(limit, int) else value]
    if dataset.get("PixelRepresentation") == 1:
        # Some writers state them as US beside signed values, of which these are the bits.
        bits = int(dataset.BitsAllocated)
        ends = [end - 2**bits if end >= 2 ** (bits - 1) else end for end in ends]
    low, high = sorted(ends)
    return int(((stored >= low) & (stored <= high)).sum())


# ---------------------------------------------------------------- images without a place in space


def _flat_size(header: Any, frame: _Frame, placed: Grid) -> tuple[Grid, list[str]]:
    """Pixel sizes of projections, ultrasound and secondary captures, and what is not known of them."""
    if placed.voxel_size is not None:
        return placed, []
    for name, note in (
        ("ImagerPixelSpacing", "the pixel size is that at the detector, larger than in the patient"),
        ("NominalScannedPixelSpacing", "the pixel size is that of the scanned film"),
    ):
        spacing = _numbers(header.get(name), 2)
        if spacing is not None:
            if min(spacing) <= 0:
                raise ValueError(f"{frame.plane.name}: {name} {spacing}, expected positive lengths")
            return placed._replace(voxel_size=spacing), [f"{note} ({name})"]
    regions = list(header.get("SequenceOfUltrasoundRegions") or ())
    sizes = {
        (abs(float(r.PhysicalDeltaY)) * 10, abs(float(r.PhysicalDeltaX)) * 10)  # cm to mm
        for r in regions
        if r.get("PhysicalUnitsXDirection") == r.get("PhysicalUnitsYDirection") == CENTIMETRE
    }
    if len(sizes) == 1 and min(min(sizes)) > 0:
        told = [] if len(regions) == 1 else ["the pixel size is that of the regions that show tissue"]
        return placed._replace(voxel_size=next(iter(sizes))), told
    if len(sizes) > 1:
        return placed, [f"the {len(sizes)} ultrasound regions have different pixel sizes: none is taken"]
    return placed, ["the file states no pixel size"]


def _metadata(header: Any, frame: _Frame, channel: str | None, wanted: int | None) -> dict[str, Any]:
    syntax = header.file_meta.get("TransferSyntaxUID")
    metadata: dict[str, Any] = {
        "format": "DICOM",
        "intensity_unit": frame.unit,
        "transfer_syntax": None if syntax is None else syntax.name,
        "lossy": str(header.get("LossyImageCompression", "")) == "01",
    }
    for key, name in (
        ("modality", "Modality"),
        ("photometric_interpretation", "PhotometricInterpretation"),
        ("series_number", "SeriesNumber"),
        ("series_description", "SeriesDescription"),
        ("series_uid", "SeriesInstanceUID"),
    ):
        value = header.get(name)
        metadata[key] = None if value is None else str(value)
    if channel is not None:
        metadata["channel"] = channel
    if wanted is not None:
        metadata["frame"] = wanted
    return metadata
