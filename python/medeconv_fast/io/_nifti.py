"""NIfTI-1 and NIfTI-2 by nibabel."""

from __future__ import annotations

import gzip
import io
import math
import warnings
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .._extras import library
from ._units import SECONDS, house_time, time_word
from ._volume import PER_MM, Volume, diagonal_affine, sizes_of

# Space units of the format, as factor to the unit that the volume gets.
UNITS: dict[str, tuple[str | None, float]] = {
    "mm": ("mm", 1.0),
    "micron": ("um", 1.0),
    "meter": ("mm", 1000.0),
    "unknown": (None, 1.0),
}
ROUNDED = 1e-3  # relative difference of lengths that a header may round away
TOGETHER = 1 << 24  # bytes that are decompressed in one go
MOST_COMPRESSED = 1032  # bytes that deflate makes of one, at most
OTHER_TIMES = ("unknown", "hz", "ppm", "rads")  # what the format counts along its fourth axis besides
KEPT = (
    "descrip", "intent_code", "intent_name", "intent_p1", "intent_p2", "intent_p3", "cal_min", "cal_max",
    "toffset", "dim_info",
)  # fmt: skip
TIMING = ("slice_code", "slice_start", "slice_end", "slice_duration")  # of the slices as they were


def _nibabel() -> Any:
    return library("nibabel", "io", "reading and writing NIfTI")


class Header(NamedTuple):
    """What a file says of its voxels; `shape` and `axes` from the slowest to the fastest."""

    stored: np.dtype
    offset: int
    shape: tuple[int, ...]
    scale: tuple[float, float]  # value = slope · stored + intercept
    axes: str
    voxel_size: tuple[float, ...] | None
    affine: np.ndarray
    unit: str | None
    metadata: dict[str, Any]

    @property
    def dtype(self) -> np.dtype:
        """Of the values."""
        return self.stored if self.scale == (1.0, 0.0) else scaled_dtype(self.stored)


def scaled_dtype(stored: Any) -> np.dtype:
    """float32 holds every 16-bit integer exactly; wider ones need float64 to keep their last digits."""
    stored = np.dtype(stored)
    wide = stored.itemsize > 2 if stored.kind in "iu" else stored.itemsize > 4
    return np.dtype(np.float64 if wide else np.float32)


def scaled(stored: np.ndarray, scale: tuple[float, float], dtype: np.dtype) -> np.ndarray:
    """slope · stored + intercept."""
    values = stored.astype(dtype)
    values *= scale[0]
    values += scale[1]
    return values


def _damage() -> tuple[type[Exception], ...]:
    """What reading a damaged file raises."""
    return _nibabel().spatialimages.HeaderDataError, OSError, EOFError, zlib.error, ValueError


def _load(path: Path) -> Any:
    nib = _nibabel()
    try:
        # Not nib.load: of an ending in mixed case it opens the file of the lower-case name.
        kinds = (k for k in nib.imageclasses.all_image_classes if k.path_maybe_image(path)[0])
        kind = next(kinds, None)
        if kind is None:
            raise ValueError("its header is not that of NIfTI")
        if not issubclass(kind, nib.Nifti1Image):  # NIfTI-2 is a subclass; a .hdr/.img pair is Nifti1Pair
            raise ValueError(f"found {kind.__name__}")
        # A mapped file would change an image under its owner when it is written anew, and kill the process
        # when it is cut short.
        return kind.from_file_map({"image": nib.FileHolder(str(path))}, mmap=False)
    except (*_damage(), nib.filebasedimages.ImageFileError) as error:
        raise ValueError(f"{path}: not a readable NIfTI file ({error})") from error


def read(path: Path) -> Volume:
    image = _load(path)
    found = _header(path, image)
    try:
        if path.name.lower().endswith(".gz"):
            array = _decompressed(path, found)
        else:
            check_length(path, found)
            array = np.asanyarray(image.dataobj.get_unscaled()).reshape(found.shape[::-1], order="F").T
        if found.scale != (1.0, 0.0):
            array = scaled(array, found.scale, found.dtype)
    except _damage() as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: the file ends early or is damaged ({error})") from error
    return Volume(array, found.voxel_size, found.affine, found.unit, found.axes, found.metadata)


def check_length(path: Path, found: Header) -> None:
    needed = found.offset + math.prod(found.shape) * found.stored.itemsize
    size = path.stat().st_size
    if size < needed:
        raise ValueError(f"{path}: the file ends early, at {size} of {needed} bytes")


def _decompressed(path: Path, found: Header) -> np.ndarray:
    """The stored values; nibabel stops behind the last, before the checksum."""
    needed = math.prod(found.shape) * found.stored.itemsize
    if needed > MOST_COMPRESSED * path.stat().st_size:  # before so much memory is asked for
        raise EOFError(f"{path.stat().st_size} bytes cannot hold an image of shape {found.shape}")
    made = np.empty(found.shape, found.stored)
    rest = made.reshape(-1).view(np.uint8).data
    with gzip.open(path) as file:
        file.seek(found.offset)
        while len(rest):
            part = file.read(min(len(rest), TOGETHER))
            if not part:
                raise EOFError(f"{len(rest)} of {needed} bytes are missing")
            rest[: len(part)] = part
            rest = rest[len(part) :]
        read_on(file)
    return made


def read_on(file: gzip.GzipFile) -> None:
    """To the end of a compressed file, where its checksum stands: only there is damage noticed."""
    while file.read(TOGETHER):
        pass


def read_header(path: Path) -> Header:
    return _header(path, _load(path))


def _header(path: Path, image: Any) -> Header:
    header = image.header
    shape = image.shape
    if any(n < 1 for n in shape):
        raise ValueError(f"{path}: dim says {shape} voxels (x, y, z, …), expected one or more per axis")
    stored = np.dtype(image.get_data_dtype())
    if stored.kind not in "biuf":
        raise ValueError(f"{path}: holds {stored} values, expected real numbers")
    try:
        space, time = header.get_xyzt_units()
    except KeyError:
        raise ValueError(f"{path}: xyzt_units is {int(header['xyzt_units'])}, which is no unit") from None
    if space not in UNITS:
        raise ValueError(f"{path}: unknown unit of space {space!r}")
    unit, factor = UNITS[space]
    affine = np.array(image.affine, np.float64)
    affine[:3] *= factor
    # Trailing axes of one are padding of the format; inner ones are axes.
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    names = "xyztc" if len(shape) <= 5 else None
    if names is None or len(shape) == 0:
        raise ValueError(f"{path}: {len(shape)} axes {shape}, expected 1 to 5")
    if len(shape) == 5 and shape[3] == 1:  # NIfTI keeps vectors and channels on the fifth axis
        shape, names = (*shape[:3], shape[4]), "xyzc"
    axes = names[: len(shape)][::-1]
    zooms = [float(z) for z in header.get_zooms()]
    spatial = min(len(shape), 3)
    voxel_size = tuple(z * factor for z in zooms[:spatial][::-1])
    codes = int(header["qform_code"]), int(header["sform_code"])
    implied = sizes_of(affine, spatial)
    if codes[1] > 0 and not np.allclose(voxel_size, implied, ROUNDED, 0):
        # The sform is the affine, and other programs go by it.
        warnings.warn(
            f"{path}: pixdim says voxels of {voxel_size}, the sform of {implied}; the sform's are taken",
            UserWarning,
            stacklevel=4,
        )
        voxel_size = implied
    if any(v <= 0 for v in voxel_size):
        raise ValueError(f"{path}: voxel sizes {voxel_size[::-1]} (x, y, z), expected positive ones")
    stated: tuple[float, ...] | None = voxel_size
    if codes == (0, 0) and unit is None and all(v == 1 for v in voxel_size):
        stated = None  # the format always has sizes; these are what is written where none are known
    lengths = tuple(int(n) for n in shape[::-1])
    metadata: dict[str, Any] = {
        "format": "NIfTI-2" if isinstance(image, _nibabel().Nifti2Image) else "NIfTI-1",
        "qform_code": codes[0],
        "sform_code": codes[1],
        "stored_dtype": str(image.get_data_dtype()),
    }
    for key in KEPT:
        value = header[key]
        metadata[key] = (
            bytes(value).rstrip(b"\0").decode("latin-1") if value.dtype.kind == "S" else value.item()
        )
    if int(header["slice_code"]) or float(header["slice_duration"]):
        metadata["slice_timing"] = {key: header[key].item() for key in TIMING} | {"shape": list(lengths)}
    if min(codes) > 0:
        qform = _qform(header)
        if qform is None:
            metadata["qform_code"] = 0
        elif not _agree(qform[:3] * factor, affine[:3]):
            qform[:3] *= factor
            metadata["qform"] = {"matrix": qform.tolist(), "affine": affine.tolist(), "unit": unit}
    if len(zooms) > 3 and "t" in axes:
        metadata["time_step"], metadata["time_unit"] = zooms[3], time
    elif time != "unknown":  # an image without time has slices that took some
        metadata["time_unit"] = time
    # The header's own fields are blanked on reading; the data object knows the scaling.
    scale = float(image.dataobj.slope), float(image.dataobj.inter)
    offset, least = int(image.dataobj.offset), int(header.single_vox_offset)
    if offset < least:  # nibabel lets 0 pass, and takes the header for voxels
        raise ValueError(
            f"{path}: vox_offset is {offset}, expected {least} or more: the voxels follow the header"
        )
    return Header(stored, offset, lengths, scale, axes, stated, affine, unit, metadata)


def _qform(header: Any) -> np.ndarray | None:
    """The second affine that a header has room for; None where its quaternion is none."""
    try:
        return np.array(header.get_qform(), np.float64)
    except (ValueError, _nibabel().spatialimages.HeaderDataError):
        return None


def _agree(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two affines are the same but for the rounding of a quaternion in float32."""
    return np.allclose(a, b, 1e-5, 2 * ROUNDED * min(sizes_of(b, 3)))


def save(path: Path, volume: Volume) -> None:
    _nibabel().save(_image(volume), path)


def prefix(volume: Volume) -> bytes:
    """What stands before the values, which follow in the order of the axes c, t, z, y, x, x the fastest."""
    header = _image(volume).header
    if "intensity_scale" not in volume.metadata:
        header.set_slope_inter(1, 0)
    made = io.BytesIO()
    header.write_to(made)
    return made.getvalue()


def _image(volume: Volume) -> Any:
    nib = _nibabel()
    if "s" in volume.axes:
        raise ValueError(
            "colour samples (axis s) cannot be written as NIfTI by this library; "
            "choose a name ending in .ome.tif or .npy"
        )
    array = volume.array
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    if array.dtype == np.float16:
        raise ValueError(
            "float16 cannot be written as NIfTI: the format has no such type; convert to float32"
        )
    order = [volume.axes.index(a) for a in "xyztc" if a in volume.axes]
    data = array.transpose(order)
    spatial = len(volume.spatial_axes)
    others = len(order) - spatial
    if others:  # time and channels have fixed places behind three axes of space
        data = data.reshape((*data.shape[:spatial], *(1,) * (3 - spatial), *data.shape[spatial:]))
        if "c" in volume.axes and "t" not in volume.axes:
            data = data.reshape((*data.shape[:3], 1, data.shape[3]))
    big = max(data.shape) > np.iinfo(np.int16).max
    make = nib.Nifti2Image if big or volume.metadata.get("format") == "NIfTI-2" else nib.Nifti1Image
    # A code says what the coordinates mean; a volume without orientation must not claim scanner coordinates.
    known = volume.oriented
    affine = diagonal_affine(volume) if volume.affine is None or not known else volume.affine
    # int64 is refused by nibabel unless asked for by name, because few programs read it; it is kept, not
    # cast.
    image = make(data, affine, dtype=data.dtype)
    header = image.header
    time_step, time_unit, time_factor = _time(volume)
    unit = None if volume.voxel_size is None else volume.unit
    header.set_xyzt_units({"mm": "mm", "um": "micron", None: "unknown"}[unit], time_unit)
    zooms = [1.0] * data.ndim
    sizes = (1.0,) * spatial if volume.voxel_size is None else volume.voxel_size
    zooms[:spatial] = sizes[::-1]
    if data.ndim > 3:
        zooms[3] = time_step
    header.set_zooms(zooms)
    _set_forms(image, volume, affine, known)
    for key in KEPT:
        if key in volume.metadata:
            value = volume.metadata[key]
            if isinstance(value, str):
                value = value.encode("latin-1", "replace")[: header[key].dtype.itemsize]
            header[key] = value * time_factor if key == "toffset" else value
    timing = volume.metadata.get("slice_timing")
    if timing is not None and timing["shape"] == list(volume.shape):
        for key in TIMING:
            header[key] = timing[key]
    if "intensity_scale" in volume.metadata:  # the array holds what is to be stored
        header.set_slope_inter(*volume.metadata["intensity_scale"])
    image.update_header()
    return image


def _time(volume: Volume) -> tuple[float, str, float]:
    """The time step in a unit that the format has, that unit, and the factor of times to it."""
    step, unit = float(volume.metadata.get("time_step", 1.0)), volume.metadata.get("time_unit") or "unknown"
    if not (math.isfinite(step) and step >= 0):
        raise ValueError(f"metadata: time_step is {step!r}, expected a finite number, 0 or more")
    word = time_word(unit)
    if word is not None:
        known = house_time(word)
        factor, known = (SECONDS[word], "sec") if known == word else (1.0, known)
        return step * factor, known, factor
    if unit not in OTHER_TIMES:
        raise ValueError(f"metadata: time_unit is {unit!r}, expected a unit of time such as 'sec'")
    return step, unit, 1.0


def _set_forms(image: Any, volume: Volume, affine: np.ndarray, known: bool) -> None:
    """The sform, and the qform: the file's own, if the affine is still the one that it stood beside."""
    header, allowed = image.header, sorted(_nibabel().nifti1.xform_codes.value_set("code"))
    sform, qform = (volume.metadata.get(n, 1) if known else 0 for n in ("sform_code", "qform_code"))
    for name, code in (("sform_code", sform), ("qform_code", qform)):
        if code not in allowed:
            raise ValueError(f"metadata: {name} is {code!r}, expected one of {allowed}")
    second, kept = affine, volume.metadata.get("qform") if known else None
    if kept is not None:
        factor = PER_MM.get(str(volume.unit), 1.0) / PER_MM.get(str(kept["unit"]), 1.0)
        matrix, beside = np.array(kept["matrix"], np.float64), np.array(kept["affine"], np.float64)
        matrix[:3] *= factor
        beside[:3] *= factor
        if _agree(beside[:3], affine[:3]):
            second = matrix
        else:
            qform = sform  # what the sform means is all that is known of the new grid
    image.set_qform(second, int(qform))
    if _qform(header) is None:  # the quaternion is longer than 1 by a rounding
        norm = np.sqrt(sum(float(header[f"quatern_{k}"]) ** 2 for k in "bcd"))
        for k in "bcd":
            header[f"quatern_{k}"] /= norm * (1 + 4 * np.finfo(header["quatern_b"].dtype).eps)
    found = _qform(header)
    if found is None or not _agree(found[:3], second[:3]):
        header["qform_code"] = qform = 0  # a shear is beyond a qform
    # Codes 0 and 0 would make readers ignore the affine.
    image.set_sform(affine, int(sform) or (2 if known and not qform else 0))
