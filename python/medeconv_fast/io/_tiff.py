"""TIFF, OME-TIFF and ImageJ TIFF by tifffile.

TIFF has no place for an orientation, and readers take axes of one for absent. Where a volume has either, a
line ``medeconv_geometry=…`` in the description (ImageJ: the Info property; OME: an annotation), which other
programs ignore, keeps the affine and the axes, so that NIfTI → TIFF → NIfTI keeps values, place and time.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .._extras import library
from ._nifti import scaled, scaled_dtype
from ._units import SECONDS, house_time, house_unit, in_um, time_word
from ._volume import PER_MM, SAME, Volume, sizes_of, stored_time

# Per axis a number, and the length in µm of the unit that it counts (None: unknown).
Sizes = dict[str, tuple[float, float | None]]
GEOMETRY = "medeconv_geometry="
IMAGEJ_DTYPES = (np.uint8, np.uint16, np.float32)
ORDER = "tzcyxs"  # of the axes in the files that are written
OME_TIMES = {
    "day": "d", "hour": "h", "minute": "min", "second": "s", "millisecond": "ms", "microsecond": "µs",
    "nanosecond": "ns", "picosecond": "ps",
}  # fmt: skip
WHITE = -1  # opaque, as OME-XML has colours
UNCALIBRATED = 20  # of ImageJ's functions of the stored values
# What programs write as the resolution when they know no size.
MEANINGLESS = (1, 72, 96)
# Of PhotometricInterpretation.
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, MASK, YCBCR, LINEAR_RAW = 0, 1, 2, 3, 4, 6, 34892
PHOTOMETRIC = "photometric_interpretation"  # in the metadata
INVERTED = ("MINISWHITE", "MONOCHROME1")  # TIFF's word, and DICOM's
UPRIGHT = 1  # of Orientation; 2 to 8 are flips and turns, and programs take other numbers for 1
JPEG = (6, 7, 33007, 34892)  # of Compression: tifffile makes RGB of their YCbCr
RAMP = 0.01  # of the range of a colour table: how far one of intensities may be off a straight line
LUMINANCE = (0.299, 0.587, 0.114)


def _tifffile() -> Any:
    return library("tifffile", "io", "reading and writing TIFF")


def _geometry_in(text: str) -> dict[str, Any]:
    found = re.search(re.escape(GEOMETRY) + r"(\{.*?\})", text)
    if not found:
        return {}
    try:
        entry = json.loads(found.group(1).replace("&quot;", '"'))
        axes, unit = str(entry["axes"]), entry["unit"]
        affine = None if entry["affine"] is None else np.array(entry["affine"], np.float64).reshape(4, 4)
        shape = entry.get("shape")  # not in files of earlier versions
        return {"axes": axes, "affine": affine, "unit": unit, "shape": shape, "time": stored_time(entry)}
    except (ValueError, KeyError, TypeError):
        return {}


def _geometry_text(volume: Volume) -> str:
    """The line that keeps what the format does not; empty if it keeps everything."""
    plain = "".join(
        a for a in "tczyxs" if a in volume.axes and (a in "yx" or volume.shape[volume.axes.index(a)] > 1)
    )
    time = stored_time(volume.metadata) if "t" in volume.axes else {}
    if time_word(time.get("time_unit")) is not None:
        time = {}
    if not volume.oriented and plain == volume.axes and "y" in plain and not time:
        return ""
    affine = volume.affine.ravel().tolist() if volume.affine is not None and volume.oriented else None
    shape = [volume.shape[volume.axes.index(a)] for a in volume.spatial_axes]
    entry = {"axes": volume.axes, "unit": volume.unit, "affine": affine, "shape": shape, **time}
    return GEOMETRY + json.dumps(entry)


def _still_fits(stored: dict[str, Any], length: dict[str, int], sizes: Sizes) -> bool:
    """Whether an affine is that of the image: other programs crop and resample, and keep the line."""
    spatial = [a for a in stored["axes"] if a in "zyx"]
    if stored["shape"] not in (None, [length.get(a, 1) for a in spatial]):
        return False
    for axis, kept in zip(spatial, sizes_of(stored["affine"], len(spatial)), strict=True):
        size, um = sizes.get(axis, (kept, None))
        if (um is None) != (stored["unit"] is None):
            continue  # nothing to compare
        found = size if um is None else size * um * PER_MM.get(stored["unit"], 1.0) / PER_MM["um"]
        if abs(found - kept) > SAME * kept:
            return False
    return True


def _time(pixels: ElementTree.Element | None, imagej: dict[str, Any] | None) -> dict[str, Any]:
    """The time step of a series, where it is stated and not 0."""
    if pixels is not None:
        step, unit = pixels.get("TimeIncrement"), pixels.get("TimeIncrementUnit", "s")
    else:
        step, unit = (imagej or {}).get("finterval"), str((imagej or {}).get("tunit", "sec"))
    with contextlib.suppress(TypeError, ValueError):
        if 0 < float(step) < math.inf:  # type: ignore[arg-type]
            return {"time_step": float(step), "time_unit": house_time(unit)}  # type: ignore[arg-type]
    return {}


class _Complaints(logging.Handler):
    """What tifffile only logs: it returns what it can of a damaged file, which would pass for the whole."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextlib.contextmanager
def complaints() -> Iterator[list[str]]:
    handler, logger = _Complaints(), logging.getLogger("tifffile")
    logger.addHandler(handler)
    try:
        yield handler.messages
    finally:
        logger.removeHandler(handler)


class Description(NamedTuple):
    """What a file says of one of its images; `names` are the stored axes, `axes` those that are meant."""

    names: str
    axes: str
    voxel_size: tuple[float, ...] | None
    affine: np.ndarray | None
    unit: str | None
    metadata: dict[str, Any]
    stored: np.dtype
    scale: tuple[float, float] = (1.0, 0.0)  # value = slope · stored + intercept

    @property
    def signed(self) -> bool:
        """ImageJ's form of int16: uint16 and a calibration."""
        return self.stored == np.uint16 and self.scale == (1.0, -32768.0)

    @property
    def dtype(self) -> np.dtype:
        """Of the values."""
        if self.scale == (1.0, 0.0):
            return self.stored
        return np.dtype(np.int16) if self.signed else scaled_dtype(self.stored)

    def values(self, stored: np.ndarray) -> np.ndarray:
        if self.scale == (1.0, 0.0):
            return stored
        if self.signed:  # modulo 2**16
            return (stored.astype(np.uint16) - np.uint16(32768)).view(np.int16)
        return scaled(stored, self.scale, self.dtype)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[dict[str, str]]:
    """What tifffile raises, as bad input; the caller says which compression it met."""
    tifffile = _tifffile()
    met = {"compression": "?"}
    try:
        with complaints() as found:
            yield met
        found = [text for text in found if "OME series raised ParseError" not in text]  # `_ome_root` says it
        if found:
            raise ValueError(f"the file ends early or is damaged ({'; '.join(found)})")
    except (tifffile.TiffFileError, OSError, KeyError, IndexError) as error:
        raise ValueError(f"{path}: not a readable TIFF file ({error})") from error
    except ValueError as error:
        if "imagecodecs" in str(error):
            library("imagecodecs", "io", f"{path}: reading this TIFF (compression {met['compression']})")
        raise ValueError(f"{path}: {error}") from error
    except RuntimeError as error:  # what imagecodecs raises
        raise ValueError(f"{path}: the compressed values are damaged ({error})") from error


def read(path: Path, series: int = 0) -> Volume:
    with _reading(path) as met, _tifffile().TiffFile(path) as file:
        part = _series(file, series, met)
        array = _stored(file, part)
        about = _described(path, file, part, series)
    array = _named_axes(about.names, about.values(array), path, about.axes)[1]
    # The voxel size follows from an affine with more digits than the tags keep.
    return Volume(array, about.voxel_size, about.affine, about.unit, about.axes, about.metadata)


def open_series(path: Path, series: int) -> tuple[Any, Description]:
    """A store for zarr whose array is the image, chunked as the file is, and what the file says of it."""
    with _reading(path) as met:
        file = _tifffile().TiffFile(path)
        try:
            part = _series(file, series, met)
            about = _described(path, file, part, series)
            return part.aszarr(level=0), about
        except BaseException:
            file.close()
            raise


def referred(path: Path) -> tuple[Path, ...]:
    """The other files of an OME-TIFF's set, as far as they are at hand."""
    if not path.name.lower().endswith((".tif", ".tiff")) or not path.is_file():
        return ()
    try:
        with _tifffile().TiffFile(path) as file:
            root = ElementTree.fromstring(file.ome_metadata or "<OME/>")
    except Exception:  # tifffile raises all kinds, and `read` says it
        return ()
    named = {e.get("FileName", "") for e in root.iter() if e.tag.rpartition("}")[2] == "UUID"}
    others = (path.parent / name for name in sorted(named - {"", path.name}))
    return tuple(other for other in others if other.is_file())


def _check_whole(part: Any) -> None:
    """tifffile gives zeros for what a file that was cut short, or a set that lost a file, lacks."""
    lacking = sum(page is None for page in part.pages)
    if lacking:
        raise ValueError(
            f"{lacking} of {len(part.pages)} planes that its metadata names are missing: of a set of files?"
        )
    for page in part.pages:
        size = page.parent.filehandle.size
        ends = (o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=False))
        needed = max(ends, default=0)
        if needed > size:
            raise ValueError(f"the file ends early, at {size} of at least {needed} bytes")


def _series(file: Any, series: int, met: dict[str, str]) -> Any:
    if not 0 <= series < len(file.series):
        raise ValueError(f"series: got {series}, the file has {len(file.series)}")
    kind = file.pages[0].compression
    met["compression"] = getattr(kind, "name", str(kind))  # a bare number where tifffile has no name for it
    part = file.series[series]
    if part.dtype is None or part.dtype.kind not in "biuf":
        raise ValueError(f"holds {part.dtype} values, expected real numbers")
    _check_whole(part)
    return part


def _stored(file: Any, part: Any) -> np.ndarray:
    """The values of an image of which other files of the set may hold planes.

    tifffile takes planes that lie one after the other from the file that was opened, whichever holds them;
    not where it is asked for single ones.
    """
    if all(page.parent is file for page in part.pages):
        return np.asarray(part.asarray())
    part.keyframe.parent.filehandle.open()  # closed with `file`; of one plane, tifffile warns that it is not
    return np.asarray(part.asarray(key=slice(None))).reshape(part.shape)


def _described(path: Path, file: Any, part: Any, series: int) -> Description:
    names = part.axes.lower().replace("i", "z").replace("q", "z")
    imagej, ome = file.imagej_metadata, _ome_root(path, file)
    pixels = None if ome is None else _ome_pixels(path, ome, file, series)
    text = file.pages[0].description if not imagej else str(imagej.get("Info", ""))
    stored = _geometry_in(text)
    # Names depend on the shape alone: an array without memory stands for the image.
    like = np.broadcast_to(np.uint8(0), part.shape)
    axes = _named_axes(names, like, path, stored.get("axes", ""))[0]
    metadata: dict[str, Any] = {"format": "TIFF"}
    if pixels is not None:
        metadata["format"] = "OME-TIFF"
        sizes = _ome_sizes(pixels)
        channels = _ome_channels(pixels)
        if len(channels) == (part.shape[names.index("c")] if "c" in names else 1):
            metadata["channels"] = channels
    else:
        if imagej is not None:
            metadata["format"] = "ImageJ TIFF"
        found = {
            name: tag.value
            for name in ("XResolution", "YResolution", "ResolutionUnit")
            if (tag := file.pages[0].tags.get(name)) is not None
        }
        sizes = _tag_sizes(found, imagej)
    scale = _calibration(imagej, part.dtype, path)
    photometric = int(part.keyframe.photometric)
    _check_colours(part.keyframe)
    _check_upright(part.keyframe)
    if photometric == PALETTE:
        _check_palette(path, part.keyframe.colormap, displayed=ome is not None or imagej is not None)
    elif photometric == WHITE_IS_ZERO:
        metadata[PHOTOMETRIC] = INVERTED[0]
    if len(file.series) > 1:
        metadata["series"], metadata["series_in_file"] = series, len(file.series)
    if "t" in axes:
        metadata |= _time(pixels, imagej) or stored.get("time", {})
    if stored.get("affine") is not None and not _still_fits(
        stored, dict(zip(names, part.shape, strict=True)), sizes
    ):
        warnings.warn(
            f"{path}: another program has changed the image or its voxel size; the orientation kept with it "
            "is left out",
            UserWarning,
            stacklevel=4,
        )
    elif stored.get("affine") is not None:
        return Description(names, axes, None, stored["affine"], stored["unit"], metadata, part.dtype, scale)
    voxel_size, unit = _voxel_size(sizes, [a for a in axes if a in "zyx"], path)
    return Description(names, axes, voxel_size, None, unit, metadata, part.dtype, scale)


def _check_colours(page: Any) -> None:
    """Refuse values that are neither intensities nor RGB: of inks, more is less light."""
    kind = int(page.photometric)
    if kind in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, MASK):
        return
    if kind == LINEAR_RAW and page.samplesperpixel == 1:
        return
    # With separate planes or extra samples, tifffile leaves YCbCr as it is.
    together = page.planarconfig == 1 and not page.extrasamples
    if kind == YCBCR and int(page.compression) in JPEG and together:
        return
    name = getattr(page.photometric, "name", "unknown")
    raise ValueError(
        f"holds values of PhotometricInterpretation {kind} ({name}), expected intensities or RGB; convert it "
        "to one of these"
    )


def _check_upright(page: Any) -> None:
    """Refuse values that viewers turn: beside them, a result without the tag would lie differently."""
    tag = page.tags.get("Orientation")
    if tag is not None and tag.value in range(UPRIGHT + 1, 9):
        raise ValueError(
            f"its Orientation is {int(tag.value)} ({tag.value.name}), expected {UPRIGHT}: programs that know "
            "this tag turn or flip the stored values; do it in the file (ImageMagick: magick IN.tif "
            "-auto-orient OUT.tif), or, if the values are right as stored, set the tag to 1 (LibTIFF: "
            "tiffset -s 274 1 FILE.tif)"
        )


def _check_palette(path: Path, table: np.ndarray | None, *, displayed: bool) -> None:
    """Refuse values that are the numbers of colours.

    `displayed` is whether the program that wrote the file measures intensities and shows them by a table.
    """
    levels = np.zeros((3, 2)) if table is None else np.asarray(table, np.float64)
    levels = levels / max(levels.max(), 1)  # 65535, or the 255 of some programs
    line = np.linspace(levels[:, 0], levels[:, -1], levels.shape[1], axis=1)
    if (levels[:, 0] != levels[:, -1]).any() and np.abs(levels - line).max() <= RAMP:
        return  # shades of one colour
    if not displayed:
        raise ValueError(
            "holds colours by a palette: its values are numbers of colours, not intensities; convert it to "
            "RGB (ImageJ: Image > Type > RGB Color), or, if intensities were only shown in colours, save it "
            "without the palette"
        )
    steps = np.diff(np.asarray(LUMINANCE) @ levels)
    if not ((steps >= -RAMP).all() or (steps <= RAMP).all()):
        warnings.warn(
            f"{path}: its values are shown in colours of a palette that grow neither brighter nor darker "
            "with them; they are read as intensities, not as numbers of colours",
            UserWarning,
            stacklevel=5,
        )


def _calibration(imagej: dict[str, Any] | None, stored: np.dtype, path: Path) -> tuple[float, float]:
    """Slope and intercept by which ImageJ shows integers."""
    function = (imagej or {}).get("cf", UNCALIBRATED)
    if imagej is None or function == UNCALIBRATED or stored not in (np.uint8, np.uint16):
        return 1.0, 0.0
    if function == 0:
        with contextlib.suppress(KeyError, TypeError, ValueError):
            slope, intercept = float(imagej["c1"]), float(imagej["c0"])
            if slope != 0 and math.isfinite(slope) and math.isfinite(intercept):
                return slope, intercept
    warnings.warn(
        f"{path}: ImageJ's calibration of the values (cf={function}) is no straight line and is not applied: "
        "they come as they are stored",
        UserWarning,
        stacklevel=4,
    )
    return 1.0, 0.0


def _ome_root(path: Path, file: Any) -> ElementTree.Element | None:
    """The OME-XML; None where a file has no OME-XML, or, which is said, a damaged one."""
    text: str | None = file.ome_metadata
    reason = "it has no end"
    if text is None and re.search(r"<(\w+:)?OME[\s>]", file.pages[0].description) is None:
        return None
    if text is not None:
        try:
            root = ElementTree.fromstring(text)
        except ElementTree.ParseError as error:
            reason = str(error)
        else:
            for element in root:
                if element.tag.rpartition("}")[2] == "BinaryOnly":
                    raise ValueError(
                        "holds a part of an image that another file of the set describes, "
                        f"{element.get('MetadataFile', 'which is not named')}, and which is not read from it"
                    )
            return root
    warnings.warn(
        f"{path}: its OME-XML is damaged ({reason}); what it says of voxel size, channels and time is left "
        "out",
        UserWarning,
        stacklevel=5,
    )
    return None


def _number(text: str) -> float:
    """Not a number where it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _ome_pixels(path: Path, root: ElementTree.Element, file: Any, series: int) -> ElementTree.Element:
    """The element Pixels of a series: tifffile leaves out those that have no planes at hand.

    An empty one where that does not follow, which is said.
    """
    part = file.series[series]
    images, pixels = (
        [e for e in root.iter() if e.tag.rpartition("}")[2] == kind] for kind in ("Image", "Pixels")
    )

    def fits(number: int) -> bool:
        lengths = [_number(pixels[number].get(f"Size{a}", "1")) for a in "XYZCT"]
        return math.prod(lengths) == math.prod(part.shape)

    if len(pixels) == len(file.series) and fits(series):
        return pixels[series]
    found = [number for number in range(len(pixels)) if fits(number)]
    named = [n for n in found if len(images) == len(pixels) and (images[n].get("Name") or "") == part.name]
    alike = named if part.name and named else found
    if len(alike) == 1:
        return pixels[alike[0]]
    warnings.warn(
        f"{path}: its OME-XML describes {len(pixels)} images, of which {len(file.series)} are at hand, and "
        "which this is does not follow; what it says of voxel size, channels and time is left out",
        UserWarning,
        stacklevel=5,
    )
    return ElementTree.Element("Pixels")


def _ome_sizes(pixels: ElementTree.Element) -> Sizes:
    return {
        axis: (_number(pixels.attrib[key]), in_um(pixels.get(f"{key}Unit", "µm")))
        for axis in "zyx"
        if (key := f"PhysicalSize{axis.upper()}") in pixels.attrib
    }


def _tag_sizes(tags: dict[str, Any], imagej: dict[str, Any] | None) -> Sizes:
    """The same from the resolution tags, whose unit and the step in z stand in ImageJ's description."""
    unit: Any = {2: "inch", 3: "cm"}.get(int(tags.get("ResolutionUnit", 0)))
    if unit is None and imagej is None:  # without a unit, a plain TIFF's resolution is only an aspect ratio
        return {}
    imagej = imagej or {}
    stated = "unit" in imagej
    unit = imagej.get("unit", unit)
    sizes = {}
    for axis, name, own in (("x", "XResolution", unit), ("y", "YResolution", imagej.get("yunit", unit))):
        numerator, denominator = tags.get(name, (0, 0))
        if numerator and denominator and (stated or numerator / denominator not in MEANINGLESS):
            sizes[axis] = denominator / numerator, in_um(own)
    if "spacing" in imagej:
        with contextlib.suppress(ValueError):
            sizes["z"] = abs(float(imagej["spacing"])), in_um(imagej.get("zunit", unit))
    return sizes


def _voxel_size(sizes: Sizes, spatial: list[str], path: Path) -> tuple[tuple[float, ...] | None, str | None]:
    """One size per axis in one unit; what cannot be brought together is left out, and said."""
    given = {a: sizes[a] for a in spatial if a in sizes and 0 < sizes[a][0] < math.inf}
    if not given:
        if any(a in sizes for a in spatial):
            stated = ", ".join(f"{a} {sizes[a][0]:g}" for a in spatial if a in sizes)
            warnings.warn(
                f"{path}: its voxel size ({stated}) is left out, expected positive numbers",
                UserWarning,
                stacklevel=4,
            )
        return None, None
    units = [um for _, um in given.values() if um is not None]
    if len(given) < len(spatial) or 0 < len(units) < len(given):
        lacking = [a for a in spatial if a not in given or (units and given[a][1] is None)]
        what = "unit of its voxel size" if set(lacking) <= set(given) else "voxel size"
        warnings.warn(
            f"{path}: no {what} along {', '.join(lacking)}, so that along the other axes is left out too",
            UserWarning,
            stacklevel=4,
        )
        return None, None
    if not units:
        return tuple(given[a][0] for a in spatial), None
    unit = house_unit(min(units))
    per_um = PER_MM[unit] / PER_MM["um"]
    return tuple(value * ((um or 1.0) * per_um) for value, um in (given[a] for a in spatial)), unit


def _named_axes(names: str, array: np.ndarray, path: Path, stored: str) -> tuple[str, np.ndarray]:
    """The array with the axes that were stored; without them, without axes of one that are not y or x."""
    keep = [i for i, a in enumerate(names) if array.shape[i] > 1 or a in "yx"]
    array = array.reshape([array.shape[i] for i in keep])
    names = "".join(names[i] for i in keep)
    if set(names) - set("tczyxs") or len(set(names)) != len(names) or "x" not in names:
        raise ValueError(
            f"{path}: axes {names!r} of shape {array.shape} are not supported, "
            "expected among t, c, z, y, x, s"
        )
    longer = {a for a, n in zip(names, array.shape, strict=True) if n > 1}
    # Another program may have cut or joined the image and left the line in place.
    fits = (
        stored and longer <= set(stored) and set(stored) <= set("tczyxs") and len(set(stored)) == len(stored)
    )
    wanted = stored if fits else "".join(a for a in "tczyxs" if a in names)
    length = dict(zip(names, array.shape, strict=True))
    kept = [a for a in wanted if a in names]
    array = array.reshape([n for a, n in length.items() if a in kept])
    order = [[a for a in names if a in kept].index(a) for a in kept]
    return wanted, array.transpose(order).reshape([length.get(a, 1) for a in wanted])


def _ome_channels(pixels: ElementTree.Element) -> tuple[dict[str, str], ...]:
    """Names and colours, as OME-NGFF has them; empty if no channel has a name."""
    channels: list[dict[str, str]] = []
    for element in pixels:
        if element.tag.rpartition("}")[2] == "Channel":
            entry = {"label": element.get("Name", f"channel {len(channels)}")}
            with contextlib.suppress(ValueError, KeyError):  # red, green, blue, alpha in a signed integer
                entry["color"] = f"{int(element.attrib['Color']) % 2**32 >> 8:06X}"
            channels.append(entry)
    named = any(element.get("Name") for element in pixels)
    return tuple(channels) if named else ()


def _colour_bits(colour: Any) -> int | None:
    """Six hexadecimal digits as OME has them: red, green, blue, alpha in a signed integer."""
    if re.fullmatch("[0-9a-fA-F]{6}", str(colour)) is None:
        return None
    bits = int(str(colour), 16) << 8 | 0xFF
    return bits - 2**32 if bits >= 2**31 else bits


def save(path: Path, volume: Volume, *, ome: bool) -> None:
    tifffile = _tifffile()
    array = volume.array
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    if ome and array.dtype in (np.int64, np.uint64, np.float16):
        raise ValueError(
            f"{array.dtype} cannot be written as OME-TIFF: the format has no such type; convert first"
        )
    if not ome and array.dtype not in IMAGEJ_DTYPES:
        # ImageJ has no such type; a plain TIFF holds it, and the sizes go where every reader looks.
        raise ValueError(
            f"{array.dtype} cannot be written as .tif for ImageJ (uint8, uint16 or float32); "
            "nothing is cast silently: "
            "choose a name ending in .ome.tif, or convert first"
        )
    if not ome and "s" in volume.axes:
        raise ValueError(
            "colour samples (axis s) cannot be written as .tif for ImageJ; "
            "choose a name ending in .ome.tif or .npy"
        )
    # Every axis is written, of one too: tifffile would take a last axis of one for samples.
    length = dict(zip(volume.axes, volume.shape, strict=True))
    samples = length.get("s", 1)
    full = ORDER if samples > 1 or not ome else ORDER[:-1]
    data = array.transpose([volume.axes.index(a) for a in ORDER if a in volume.axes])
    data = data.reshape([length.get(a, 1) for a in full])
    sizes: dict[str, float] = {}
    if volume.voxel_size is not None:
        sizes = dict(zip(volume.spatial_axes, volume.voxel_size, strict=True))
    text = _geometry_text(volume)
    time = stored_time(volume.metadata) if "t" in volume.axes else {}
    word = time_word(time.get("time_unit"))
    metadata: dict[str, Any] = {"axes": full.upper()}
    # As the image that was read, or the result would look inverted beside it.
    inverted = volume.metadata.get(PHOTOMETRIC) in INVERTED and "s" not in volume.axes
    grey = "miniswhite" if inverted else "minisblack"
    if ome:
        for axis, size in sizes.items():
            metadata[f"PhysicalSize{axis.upper()}"] = size
            metadata[f"PhysicalSize{axis.upper()}Unit"] = {"mm": "mm", "um": "µm", None: "pixel"}[volume.unit]
        if word is not None:
            metadata["TimeIncrement"], metadata["TimeIncrementUnit"] = time["time_step"], OME_TIMES[word]
        if text:
            metadata["Description"] = text
        channels = volume.metadata.get("channels", ())
        if channels and len(channels) == length.get("c", 1):
            metadata["Channel"] = {"Name": [str(c.get("label", "")) for c in channels]}
            bits = [_colour_bits(c.get("color")) for c in channels]
            if any(b is not None for b in bits):
                # A channel without one is white, OME's default; tifffile needs one for each.
                metadata["Channel"]["Color"] = [WHITE if b is None else b for b in bits]
        colour = {"photometric": "rgb" if samples in (3, 4) else grey}
        if samples > 1:
            colour["planarconfig"] = "contig"
        big = array.nbytes > 2**32 - 2**25
        tifffile.imwrite(path, data, ome=True, metadata=metadata, bigtiff=big, **colour)
        return
    options: dict[str, Any] = {"photometric": grey}
    if sizes:
        metadata["unit"] = {"mm": "mm", "um": "um", None: "pixel"}[volume.unit]
        if "z" in sizes:
            metadata["spacing"] = sizes["z"]
        options["resolution"] = (1 / sizes["x"], 1 / sizes.get("y", sizes["x"]))
        options["resolutionunit"] = 1
    if word is not None:
        metadata["finterval"] = time["time_step"] * SECONDS[word]
    if text:
        metadata["Info"] = text
    tifffile.imwrite(path, data, imagej=True, metadata=metadata, **options)
