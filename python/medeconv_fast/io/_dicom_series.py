"""A derived DICOM series: the values of a volume in copies of the files that it was read from.

What a copy keeps, gets new and loses follows PS3.3 C.7.6.1.1.2 (derived images), C.11.1 (rescale) and C.12.1
(SOP instances): patient, study, equipment and place in space are the source's; identity, values and whatever
describes the old values are not.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import _validate
from .._extras import library
from ._dicom import Source, damaged_header, has_prefix
from ._volume import Volume

DISCLAIMER = "for research only, not a medical device"
MANUFACTURER = "medeconv_fast"
# Describes the old values, or how they were stored or are shown.
STALE = (
    "SmallestImagePixelValue", "LargestImagePixelValue", "SmallestPixelValueInSeries",
    "LargestPixelValueInSeries", "SmallestImagePixelValueInPlane", "LargestImagePixelValueInPlane",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "WindowCenter", "WindowWidth",
    "WindowCenterWidthExplanation", "VOILUTFunction", "VOILUTSequence", "ModalityLUTSequence",
    "RealWorldValueMappingSequence", "HistogramSequence", "IconImageSequence", "PixelDataProviderURL",
    "FloatPixelData", "DoubleFloatPixelData", "FloatPixelPaddingValue", "DoubleFloatPixelPaddingValue",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PlanarConfiguration", "ICCProfile", "ColorSpace",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData", "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData", "PaletteColorLookupTableUID", "MACParametersSequence",
    "DigitalSignaturesSequence", "OriginalAttributesSequence",
)  # fmt: skip
STALE_IN_FRAMES = ("PixelValueTransformationSequence", "FrameVOILUTSequence", "RealWorldValueMappingSequence")
FILMS = ("FrameTime", "FrameTimeVector", "FrameIncrementPointer", "CineRate", "StartTrim", "StopTrim")
# Kinds whose values follow rules of their own.
REFUSED = {"RTDOSE": "RT Dose", "SEG": "a segmentation"}
# Lossy transfer syntaxes, by the beginning of the UID, and their Lossy Image Compression Method.
LOSSY = {
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
    "1.2.840.10008.1.2.4.91": "ISO_15444_1",
    "1.2.840.10008.1.2.4.203": "ISO_15444_15",
}
# DCM codes (PS3.16): what the source was used for, and who worked on the image.
SOURCE_IMAGE = ("121322", "Source image for image processing operation")
PROCESSING = ("109102", "Processing Equipment")


class Stored(NamedTuple):
    """Integers of 16 bits, and how they mean the values: value = slope · stored + intercept."""

    array: np.ndarray
    slope: str
    intercept: str
    signed: bool


def source_of(volume: Volume) -> Source:
    """Where the volume was read from; refused where its grid is no longer that of its source.

    Raises
    ------
    ValueError
        It was not read from DICOM, was cropped, resampled or given another voxel size, or is of a kind that
        cannot be derived.
    """
    source = volume.metadata.get("dicom")
    if not isinstance(source, Source):
        raise ValueError(
            "a name without ending, or one of DICOM, writes a series derived from the DICOM files that the "
            "volume was read from (patient, study and position are theirs), and this volume was read from "
            "none; choose a name ending in .nii.gz or .ome.tif"
        )
    kind = REFUSED.get(str(volume.metadata.get("modality")))
    if kind is not None:
        raise ValueError(f"{kind} cannot be written as a derived series; choose a name ending in .nii.gz")
    if volume.axes not in ("zyx", "yx") or volume.shape != source.shape:
        raise ValueError(
            f"the volume has shape {volume.shape} ({volume.axes}), its DICOM source {source.shape}: a "
            "derived series keeps the source's grid; choose a name ending in .nii.gz"
        )
    now = volume.to_unit("mm") if volume.unit is not None else volume
    for name, mine, theirs in (
        ("voxel size", now.voxel_size, source.voxel_size),
        ("orientation", now.affine, source.affine),
    ):
        if theirs is None and name == "voxel size":
            continue  # given by hand for a PSF in mm; the series stays without one
        if (mine is None) != (theirs is None) or (
            mine is not None and not np.allclose(mine, np.asarray(theirs), rtol=1e-6, atol=1e-6)
        ):
            raise ValueError(
                f"the volume's {name} is no longer that of its DICOM source: a derived series keeps the "
                "source's grid; choose a name ending in .nii.gz"
            )
    return source


def replaceable(path: Path) -> bool:
    """Whether a file may be deleted with the series that is replaced: one that this module wrote."""
    if not path.is_file() or not has_prefix(path):
        return False
    pydicom = library("pydicom", "io", "writing DICOM")
    tags = ["ContributingEquipmentSequence"]
    header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)
    return any(item.get("Manufacturer") == MANUFACTURER for item in header.get(tags[0]) or ())


def check_not_source(path: Path, source: Source) -> None:
    target = path.resolve()
    if any(Path(file) == target or target in Path(file).parents for file in source.files):
        raise ValueError(f"{path}: holds the files that the volume was read from; choose another name")


def save(folder: Path, volume: Volume) -> None:
    """Write the derived files into a folder, in the order of the slices."""
    derived = _derive(volume)
    digits = max(4, len(str(len(derived))))
    for number, dataset in enumerate(derived, 1):
        _write(dataset, folder / f"IM{number:0{digits}}.dcm")


def check_single(source: Source) -> None:
    if len(source.files) > 1:
        raise ValueError(
            f"the volume was read from {len(source.files)} DICOM files and is written as as many: give the "
            "name of a folder, without an ending"
        )


def save_file(path: Path, volume: Volume) -> None:
    """Write the one derived file of a volume that was read from one."""
    check_single(source_of(volume))
    _write(_derive(volume)[0], path)


def _write(dataset: Any, path: Path) -> None:
    pydicom = library("pydicom", "io", "writing DICOM")
    with damaged_header(str(dataset.SourceImageSequence[0].ReferencedSOPInstanceUID)):
        pydicom.dcmwrite(path, dataset, implicit_vr=False, little_endian=True, enforce_file_format=True)


def encode(array: np.ndarray, *, modality: str = "") -> Stored:
    """Values in 16 bits, exact for whole numbers that fit, else within half a slope.

    Slope and intercept are decimal strings of 16 characters (PS3.5 DS); the integers are computed with what
    these say. Zero stays zero where nothing is negative; PET's intercept is always 0 (PS3.3 C.8.9.4).
    """
    low, high = _validate.finite(array, "volume")
    # A scan that was read with its intercept holds whole numbers in float32.
    if array.dtype.kind in "iub" or all(bool((part == np.rint(part)).all()) for part in array):
        if low >= 0 and high < 2**16:
            return Stored(array.astype(np.uint16), "1", "0", False)
        if low >= -(2**15) and high < 2**15:
            return Stored(array.astype(np.int16), "1", "0", True)
    if modality == "PT" and low < 0:
        slope = _decimal(max(-low, high) / 32766)
        return Stored(_stored(array, slope, "0", np.int16), slope, "0", True)
    from_zero = modality == "PT" or 0 <= low <= high / 2
    intercept = "0" if from_zero else _decimal(low)
    if float(intercept) > low:  # rounded up
        intercept = _decimal(low - abs(low) * 1e-9)
    span = high - float(intercept)
    slope = _decimal(span / 65534) if span > 0 else "1"  # 65535 less the rounding of the string
    return Stored(_stored(array, slope, intercept, np.uint16), slope, intercept, False)


def _stored(array: np.ndarray, slope: str, intercept: str, dtype: type) -> np.ndarray:
    stored: np.ndarray = np.empty(array.shape, dtype)
    limits = np.iinfo(dtype)
    for i in range(len(array)):  # slice by slice: float64 of the whole would be the largest array of all
        values = array[i : i + 1].astype(np.float64)
        values -= float(intercept)
        values /= float(slope)
        stored[i : i + 1] = np.clip(np.rint(values, out=values), limits.min, limits.max, out=values)
    return stored


def _decimal(value: float) -> str:
    text: str = library("pydicom.valuerep", "io", "writing DICOM").format_number_as_ds(float(value))
    if float(text) == 0 and value != 0:
        raise ValueError(f"values with steps of {value:g} cannot be written as DICOM; rescale them first")
    return text


def _uid(*parts: Any) -> str:
    """A UID of these parts: 2.25 and a number of 128 bits (PS3.5 B.2), the same for the same parts."""
    digest = bytearray(hashlib.sha256("\0".join(map(str, parts)).encode()).digest()[:16])
    digest[6], digest[8] = digest[6] & 0x0F | 0x80, digest[8] & 0x3F | 0x80  # a UUID of version 8
    return f"2.25.{int.from_bytes(digest, 'big')}"


def _derive(volume: Volume) -> list[Any]:
    source = source_of(volume)
    headers = [_source_header(file, uid) for file, uid in zip(source.files, source.sop_uids, strict=True)]
    first = headers[source.frames[0][0]]
    array = volume.array[None] if volume.array.ndim == 2 else volume.array
    stored = encode(array, modality=str(first.get("Modality", "")))
    made_by = str(volume.metadata.get("derivation", "processed"))
    series = _uid(
        first.get("SeriesInstanceUID"), *source.sop_uids, source.frames, made_by,
        volume.metadata.get("channel"), stored.slope, stored.intercept,
        hashlib.sha256(stored.array.data).hexdigest(),
    )  # fmt: skip
    now = datetime.datetime.now()
    places: dict[int, list[int]] = {}
    for z, (file, _) in enumerate(source.frames):
        places.setdefault(file, []).append(z)
    derived = []
    for number, (file, slices) in enumerate(places.items(), 1):
        slices.sort(key=lambda z: source.frames[z][1])
        frames = [source.frames[z][1] for z in slices]
        dataset = headers[file]
        with damaged_header(source.files[file]):
            _refer(dataset, frames)
            _describe(dataset, made_by, now)
            _identify(dataset, series, number)
            _remove_stale(dataset)
            _keep_frames(dataset, frames)
            _set_values(dataset, stored, stored.array[slices], volume.metadata.get("intensity_unit"))
        derived.append(dataset)
    return derived


def _source_header(file: str, uid: str) -> Any:
    pydicom = library("pydicom", "io", "writing DICOM")
    try:
        header = pydicom.dcmread(file, stop_before_pixels=True)
    except (OSError, pydicom.errors.InvalidDicomError) as error:
        raise ValueError(
            f"{file}: the volume was read from it, and a derived series needs it again ({error})"
        ) from error
    if str(header.get("SOPInstanceUID", "")) != uid:
        raise ValueError(f"{file}: is no longer the image that the volume was read from")
    if not uid or not header.get("SOPClassUID"):
        raise ValueError(f"{file}: has no SOPClassUID and SOPInstanceUID to refer to")
    if not header.file_meta.TransferSyntaxUID.is_little_endian:
        _swap_words(header)
    return header


def _swap_words(dataset: Any) -> None:
    """To little endian; pydicom converts numbers, but leaves words that it hands out as bytes."""
    sizes = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}

    def swap(_: Any, element: Any) -> None:
        size = sizes.get(element.VR)
        if size and isinstance(element.value, bytes):
            element.value = np.frombuffer(element.value, f">u{size}").astype(f"<u{size}").tobytes()

    dataset.walk(swap)


# ---------------------------------------------------------------- one file


def _item(**values: Any) -> Any:
    item = library("pydicom.dataset", "io", "writing DICOM").Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return item


def _code(code: tuple[str, str]) -> Any:
    return _item(CodeValue=code[0], CodingSchemeDesignator="DCM", CodeMeaning=code[1])


def _functional_groups(dataset: Any) -> list[Any]:
    names = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
    return [group for name in names for group in dataset.get(name) or ()]


def _refer(dataset: Any, frames: list[int]) -> None:
    """Name the source image, before the dataset gets its own identity."""
    reference = _item(
        ReferencedSOPClassUID=dataset.SOPClassUID,
        ReferencedSOPInstanceUID=dataset.SOPInstanceUID,
        PurposeOfReferenceCodeSequence=[_code(SOURCE_IMAGE)],
    )
    if len(frames) < int(dataset.get("NumberOfFrames") or 1):
        reference.ReferencedFrameNumber = [n + 1 for n in frames]
    dataset.SourceImageSequence = [reference]


def _describe(dataset: Any, made_by: str, now: datetime.datetime) -> None:
    enhanced = "SharedFunctionalGroupsSequence" in dataset
    kind = [str(v) for v in np.atleast_1d(dataset.get("ImageType") or [])]
    # Enhanced objects have no SECONDARY (PS3.3 C.8.16.1.2).
    dataset.ImageType = ["DERIVED", "PRIMARY" if enhanced else "SECONDARY", *kind[2:]]
    for group in _functional_groups(dataset):
        for element in group:
            if element.keyword.endswith("ImageFrameTypeSequence"):
                for item in element.value:
                    item.FrameType = ["DERIVED", *list(item.get("FrameType") or [])[1:]]
    before = str(dataset.get("DerivationDescription") or "")
    text = f"{MANUFACTURER}, {DISCLAIMER}: {made_by}" + (f"; before: {before}" if before else "")
    if not text.isascii() and dataset.get("SpecificCharacterSet") != "ISO_IR 192":
        dataset.decode()  # what there is already is in the set that was named so far
        dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.DerivationDescription = text[:1024]
    lossy = LOSSY.get(str(dataset.file_meta.TransferSyntaxUID))
    if lossy is not None and dataset.get("LossyImageCompression") != "01":
        # Once lost, always lost, whatever the copy is stored as.
        dataset.LossyImageCompression = "01"
        dataset.LossyImageCompressionMethod = lossy
    for day, time in (("SeriesDate", "SeriesTime"), ("ContentDate", "ContentTime"), _CREATED):
        setattr(dataset, day, now.strftime("%Y%m%d"))
        setattr(dataset, time, now.strftime("%H%M%S"))
    equipment = _item(
        Manufacturer=MANUFACTURER,
        PurposeOfReferenceCodeSequence=[_code(PROCESSING)],
        SoftwareVersions=importlib.import_module(__name__.partition(".")[0]).__version__,
        ContributionDescription=f"Deconvolution, {DISCLAIMER}",
    )
    dataset.ContributingEquipmentSequence = [
        *(dataset.get("ContributingEquipmentSequence") or ()),
        equipment,
    ]


_CREATED = ("InstanceCreationDate", "InstanceCreationTime")


def _identify(dataset: Any, series: str, number: int) -> None:
    pydicom = library("pydicom", "io", "writing DICOM")
    dataset.SOPInstanceUID = _uid(series, dataset.SOPInstanceUID)
    dataset.SeriesInstanceUID = series
    before = dataset.get("SeriesNumber")
    if isinstance(before, int) and before + 1000 < 2**31:  # the largest of DICOM's integer strings
        dataset.SeriesNumber = int(before) + 1000
    description = str(dataset.get("SeriesDescription") or "").strip()
    dataset.SeriesDescription = f"{description[:40]} (derived, research)".strip()
    dataset.InstanceNumber = number
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta = meta


def _remove_private(dataset: Any) -> None:
    """Nobody can vouch for what private elements say of the values; some cannot even be read."""
    for tag in list(dataset.keys()):
        if tag.is_private:
            del dataset[tag]
        elif dataset[tag].VR == "SQ":
            for item in dataset[tag].value:
                _remove_private(item)


def _remove_stale(dataset: Any) -> None:
    _remove_private(dataset)
    for name in STALE:
        if name in dataset:
            delattr(dataset, name)
    for group in range(0x6000, 0x6020, 2):  # overlays in the unused bits of the old values
        if (group, 0x0010) in dataset and (group, 0x3000) not in dataset:
            for element in [e for e in dataset.group_dataset(group)]:
                del dataset[element.tag]
    for group in _functional_groups(dataset):
        for name in STALE_IN_FRAMES:
            if name in group:
                delattr(group, name)


def _keep_frames(dataset: Any, frames: list[int]) -> None:
    own = dataset.get("PerFrameFunctionalGroupsSequence")
    if own is not None:
        dataset.PerFrameFunctionalGroupsSequence = [own[n] for n in frames]
    if "NumberOfFrames" in dataset:
        if len(frames) < int(dataset.NumberOfFrames or 1):
            for name in FILMS:
                if name in dataset:
                    delattr(dataset, name)
        dataset.NumberOfFrames = len(frames)


def _set_units(dataset: Any, unit: str | None) -> None:
    """What PET values count stands in an element of their own (PS3.3 C.8.9.1), not in the Rescale Type."""
    stated = unit or "NONE"  # unitless
    if dataset.get("Units") != stated and "SUVType" in dataset:
        del dataset.SUVType  # by what the old values were divided
    dataset.Units = stated
    if "RescaleType" in dataset:  # of the old values
        del dataset.RescaleType


def _set_values(dataset: Any, stored: Stored, array: np.ndarray, unit: str | None) -> None:
    rescale = {"RescaleSlope": stored.slope, "RescaleIntercept": stored.intercept}
    stated = unit or "US"  # unspecified
    is_pet = dataset.get("Modality") == "PT"
    if "SharedFunctionalGroupsSequence" in dataset and dataset.SharedFunctionalGroupsSequence:
        shared = dataset.SharedFunctionalGroupsSequence[0]
        shared.PixelValueTransformationSequence = [_item(**rescale, RescaleType=stated)]
        is_pet = is_pet and "Units" in dataset  # enhanced objects need none
    else:
        for name, value in rescale.items():
            setattr(dataset, name, value)
        if not is_pet:
            dataset.RescaleType = stated
    if is_pet:
        _set_units(dataset, unit)
    elif "Units" in dataset:
        del dataset.Units
    if dataset.get("PhotometricInterpretation") != "MONOCHROME1":
        dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.SamplesPerPixel = 1
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = int(stored.signed)
    dataset.PixelData = array.astype(array.dtype.newbyteorder("<")).tobytes()
    dataset["PixelData"].VR = "OW"
