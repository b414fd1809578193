"""Values of DICOM frames: decoding, colour, rescale, and which package reads what pydicom does not."""

from __future__ import annotations

import struct
import zlib
from typing import Any, NamedTuple

import numpy as np

from .._extras import library

CHANNELS = ("red", "green", "blue", "luminance")
# Y of ITU-R BT.601, as in PS3.3 C.7.6.3.1.2 (YBR_FULL).
LUMINANCE = (0.299, 0.587, 0.114)
CONVERTERS = "GDCM (pip install python-gdcm) or DCMTK may convert the file"
UNSPECIFIED = ("US", "NONE")  # of Rescale Type, and PET's word for unitless
# By the beginning of the transfer syntax UID, the longest first.
READERS = (
    ("1.2.840.10008.1.2.4.11", "JPEG XL: the package imagecodecs decodes it"),
    ("1.2.840.10008.1.2.4.10", "a video: ffmpeg (pip install av) takes its frames out"),
    ("1.2.840.10008.1.2.4.94", "JPIP: the values are on a server, not in the file; fetch them first"),
    ("1.2.840.10008.1.2.4.95", "JPIP: the values are on a server, not in the file; fetch them first"),
)
RLE = "1.2.840.10008.1.2.5"
# JPEG and JPEG-LS end with this marker, and their decoder fills up what a cut one lacks without a word.
JPEG = range(50, 82)  # last number of the transfer syntax UID
END_OF_IMAGE = b"\xff\xd9"
# What a package that decodes raises for damaged data.
DAMAGED = (
    ValueError, RuntimeError, OSError, EOFError, IndexError, AttributeError, TypeError, KeyError,
    struct.error, zlib.error,
)  # fmt: skip


class Scale(NamedTuple):
    """stored → value, of one frame."""

    slope: float = 1.0
    intercept: float = 0.0

    @property
    def identity(self) -> bool:
        return self == (1.0, 0.0)


def _pixels() -> Any:
    return library("pydicom.pixels", "io", "reading DICOM")


def check_syntax(dataset: Any) -> None:
    """Refuse what cannot be decoded here, before anything is, and name the package that can."""
    meta = getattr(dataset, "file_meta", None)
    syntax = None if meta is None else meta.get("TransferSyntaxUID")
    if syntax is None:
        raise ValueError("no TransferSyntaxUID: how the values are stored is unknown")
    try:
        decoder = _pixels().get_decoder(syntax)
    except NotImplementedError:
        uid = str(syntax)
        known = next((text for start, text in READERS if uid.startswith(start)), CONVERTERS)
        label = f"{syntax.name} ({uid})" if syntax.name != uid else uid
        raise ValueError(f"transfer syntax {label} is not read by pydicom: {known}") from None
    if not decoder.is_available:
        needs = "; ".join(decoder.missing_dependencies)
        raise ImportError(
            f"transfer syntax {syntax.name} needs a package that is not installed ({needs}): "
            "pip install 'medeconv-fast[io]'"
        )


def frame_values(dataset: Any, index: int, channel: str | None) -> np.ndarray:
    """One frame as stored, or one channel of a colour frame.

    Raises
    ------
    ValueError
        The values end early or are damaged; colour without `channel`, `channel` without colour.
    """
    if not any(f"{kind}PixelData" in dataset for kind in ("", "Float", "DoubleFloat")):
        raise ValueError("the file ends before its values (no PixelData): truncated, or headers only")
    _check_bits(dataset)
    colour = is_colour(dataset)
    kind = str(dataset.get("PhotometricInterpretation", "")).strip()
    if colour and channel is None:
        raise ValueError(
            f"holds colour ({kind}): choose what to read with channel= (on the command line --channel), "
            f"one of {', '.join(CHANNELS)}"
        )
    if not colour and channel is not None:
        raise ValueError(f"channel: got {channel!r}, but the image has no colour ({kind or 'one sample'})")
    try:
        _check_end(dataset, index)
        decoder = _pixels().get_decoder(dataset.file_meta.TransferSyntaxUID)
        array, about = decoder.as_array(dataset, index=index)
        if kind == "PALETTE COLOR":
            array = np.asarray(_pixels().apply_color_lut(array, dataset))
    except BaseException as error:
        # A panic of pylibjpeg-rle, which is in Rust, is no Exception.
        if not isinstance(error, DAMAGED) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"the values end early or are damaged ({' '.join(str(error).split())})") from error
    if channel is None:
        return array
    decoded = about["photometric_interpretation"]
    if kind != "PALETTE COLOR" and decoded != "RGB":
        raise ValueError(
            f"channel: got {channel!r}, but the colours are {decoded} and not decoded to RGB; {CONVERTERS}"
        )
    if channel == "luminance":
        return (array[..., :3].astype(np.float64) @ LUMINANCE).astype(
            np.float32 if array.dtype.itemsize <= 2 else np.float64
        )
    return array[..., CHANNELS.index(channel)]


def _check_bits(dataset: Any) -> None:
    """Old files may keep values in the upper bits, and pydicom cuts those off; codecs know no such thing."""
    syntax, high, stored = (
        dataset.file_meta.TransferSyntaxUID,
        dataset.get("HighBit"),
        dataset.get("BitsStored"),
    )
    raw = not syntax.is_encapsulated or syntax == RLE
    if raw and "PixelData" in dataset and high is not None and stored is not None and high != stored - 1:
        raise ValueError(
            f"HighBit is {high} and BitsStored {stored}: values that do not begin at bit 0 are not read; "
            f"{CONVERTERS}"
        )


def _check_end(dataset: Any, index: int) -> None:
    family, _, number = str(dataset.file_meta.TransferSyntaxUID).rpartition(".")
    if family != "1.2.840.10008.1.2.4" or int(number) not in JPEG:
        return
    frames = int(dataset.get("NumberOfFrames") or 1)
    encaps = library("pydicom.encaps", "io", "reading DICOM")
    tables = [dataset.get(f"ExtendedOffsetTable{end}") for end in ("", "Lengths")]
    offsets = tuple(tables) if all(tables) else None
    code = encaps.get_frame(dataset.PixelData, index, number_of_frames=frames, extended_offsets=offsets)
    if END_OF_IMAGE not in code.rstrip(b"\0")[-8:]:
        raise ValueError("the compressed image has no end")


def is_colour(dataset: Any) -> bool:
    return int(dataset.get("SamplesPerPixel", 1) or 1) > 1 or "PALETTE" in str(
        dataset.get("PhotometricInterpretation", "")
    )


def scale_of(dataset: Any, groups: tuple[Any, ...]) -> Scale:
    """Rescale of one frame: of its functional groups (its own before the shared ones), else of the file."""
    for group in groups:
        items = group.get("PixelValueTransformationSequence")
        if items:
            return _scale(items[0])
    if "DoseGridScaling" in dataset:  # RT Dose, PS3.3 C.8.8.3
        return Scale(float(dataset.DoseGridScaling), 0.0)
    return _scale(dataset)


def _scale(item: Any) -> Scale:
    slope, intercept = item.get("RescaleSlope"), item.get("RescaleIntercept")
    scale = Scale(1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept))
    if not np.isfinite(scale).all() or scale.slope == 0:
        raise ValueError(
            f"RescaleSlope {scale.slope:g}, RescaleIntercept {scale.intercept:g}: expected a finite slope "
            "other than 0"
        )
    return scale


def is_transformed(dataset: Any, groups: tuple[Any, ...]) -> bool:
    """Whether it is stated how to make values of what is stored, if only by a slope of 1."""
    item = next((g.PixelValueTransformationSequence[0] for g in groups if _has(g)), dataset)
    stated = any(item.get(f"Rescale{name}") is not None for name in ("Slope", "Intercept"))
    return stated or has_table(dataset) or "DoseGridScaling" in dataset


def has_table(dataset: Any) -> bool:
    return bool(dataset.get("ModalityLUTSequence"))


def table_values(dataset: Any, array: np.ndarray) -> np.ndarray:
    """Values by the file's Modality LUT (PS3.3 C.11.1), which takes the place of slope and intercept."""
    return np.asarray(_pixels().apply_modality_lut(array, dataset))


def unit_of(dataset: Any, groups: tuple[Any, ...]) -> str | None:
    """What the values count: "HU", PET's "BQML", "GML" (SUV by weight), RT Dose's "GY"; None if unknown."""
    sources = [*(g.PixelValueTransformationSequence[0] for g in groups if _has(g)), dataset]
    names = ["RescaleType", "Units", "DoseUnits"]
    if has_table(dataset):  # it is what is applied, and says what comes of it
        sources, names[0] = [dataset.ModalityLUTSequence[0], dataset], "ModalityLUTType"
    found = [str(s.get(name) or "").strip() for s in sources for name in names]
    if dataset.get("Modality") == "PT":  # whose own element it is (PS3.3 C.8.9.1)
        found.insert(0, str(dataset.get("Units") or "").strip())
    stated = [unit for unit in found if unit]
    if not stated:
        # Both, as a CT image must have them: without the intercept nobody knows where air lies.
        scaled = all(dataset.get(f"Rescale{name}") is not None for name in ("Slope", "Intercept"))
        return "HU" if dataset.get("Modality") == "CT" and scaled and not has_table(dataset) else None
    return next((unit for unit in stated if unit not in UNSPECIFIED), None)


def _has(group: Any) -> bool:
    return bool(group.get("PixelValueTransformationSequence"))
