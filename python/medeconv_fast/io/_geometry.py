"""What is known of an image besides its voxels, in a form that a text file can keep."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import _validate
from ._dicom import Source as DicomSource
from ._units import house_time, time_word
from ._volume import PER_MM, Volume, resized, sizes_of

COLOURS = ("red", "green", "blue", "alpha")
SHOWN_AS = ("FF0000", "00FF00", "0000FF", "FFFFFF")


@dataclass(frozen=True)
class Geometry:
    """An image's place in space and time, and the names of its channels.

    Attributes
    ----------
    spatial_axes : {"zyx", "yx"}
    voxel_size, affine, unit
        As `Volume`.
    origin : tuple of float or None
        Where a file places its first voxel, without saying in which directions its axes point: one length per
        spatial axis, in `unit`.
    channels : tuple of dict
        What OME-NGFF's "omero" keeps of each channel: label, color, …; empty if nothing is known.
    time_step : float or None
    time_unit : str or None
        OME-NGFF's word, such as "second".
    metadata : dict
        As `Volume`.
    """

    spatial_axes: str
    voxel_size: tuple[float, ...] | None = None
    affine: np.ndarray | None = None
    unit: str | None = None
    origin: tuple[float, ...] | None = None
    channels: tuple[dict[str, Any], ...] = ()
    time_step: float | None = None
    time_unit: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, volume: Volume) -> Geometry:
        samples = volume.shape[volume.axes.index("s")] if "s" in volume.axes else 0
        metadata = dict(volume.metadata)
        # Who slices a volume's array by hand does not know of it.
        if metadata.pop("origin_grid", volume.grid) != volume.grid:
            metadata.pop("origin", None)
        return cls.stated(
            volume.spatial_axes,
            volume.voxel_size,
            volume.affine if volume.oriented else None,
            volume.unit,
            metadata,
            samples,
        )

    @classmethod
    def stated(
        cls,
        spatial_axes: str,
        voxel_size: tuple[float, ...] | None,
        affine: np.ndarray | None,
        unit: str | None,
        metadata: dict[str, Any],
        samples: int = 0,
    ) -> Geometry:
        """Of a volume's fields; `affine` is None where they state no orientation, `samples` are of colour."""
        rest = dict(metadata)
        channels: tuple[dict[str, Any], ...] = tuple(rest.pop("channels", ()))
        if samples in (3, 4) and not channels:
            pairs = zip(COLOURS[:samples], SHOWN_AS[:samples], strict=True)
            channels = tuple({"label": name, "color": colour} for name, colour in pairs)
        step, time_unit = rest.pop("time_step", None), rest.get("time_unit")
        if step is not None:  # without one it stays what a header says besides
            rest.pop("time_unit", None)
        origin = rest.pop("origin", None)
        if voxel_size is None and affine is not None:
            voxel_size = sizes_of(affine, len(spatial_axes))
        return cls(
            spatial_axes,
            voxel_size,
            affine,
            unit,
            None if origin is None else tuple(origin),
            channels,
            step,
            None if time_unit in (None, "unknown") else time_word(time_unit) or time_unit,
            rest,
        )

    def volume(self, array: np.ndarray, axes: str) -> Volume:
        """The other way; what a `Volume` has no field for goes into its metadata."""
        metadata = dict(self.metadata)
        if self.channels:
            metadata["channels"] = self.channels
        if self.origin is not None:
            metadata["origin"] = self.origin
        if self.time_step is not None:
            metadata["time_step"] = self.time_step
            metadata["time_unit"] = house_time(self.time_unit)
        made = Volume(array, self.voxel_size, self.affine, self.unit, axes, metadata)
        if self.origin is not None:
            made.metadata["origin_grid"] = made.grid
        return made

    def changed(self, voxel_size: Any, unit: str | None) -> Geometry:
        """With a voxel size or unit that the caller knows better than the file."""
        if voxel_size is None and unit is None:
            return self
        if unit is not None and unit not in PER_MM:
            raise ValueError(f"unit: got {unit!r}, expected 'mm' or 'um'")
        unit = self.unit if unit is None else unit
        if voxel_size is None:
            return dataclasses.replace(self, unit=unit)
        size = _validate.voxel_size(voxel_size, "voxel_size", len(self.spatial_axes))
        affine, origin, factor = self.affine, self.origin, 1.0
        if unit is not None and self.unit is not None:
            factor = PER_MM[unit] / PER_MM[self.unit]
        if affine is not None and self.voxel_size is not None:
            affine = resized(affine, [v * factor for v in self.voxel_size], size, factor)
        if self.voxel_size != size or factor != 1:
            origin = None  # in other lengths it would contradict the new size
        return dataclasses.replace(self, voxel_size=size, unit=unit, affine=affine, origin=origin)

    def to_json(self) -> dict[str, Any]:
        entry = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        entry["affine"] = None if self.affine is None else np.asarray(self.affine).tolist()
        entry["metadata"] = {k: v for k, v in self.metadata.items() if _is_plain(v)}
        dicom = self.metadata.get("dicom")
        if isinstance(dicom, DicomSource):
            entry["dicom"] = dataclasses.asdict(dicom)
        return entry

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Geometry:
        entry = {key: _tuples(value) if key != "metadata" else dict(value) for key, value in entry.items()}
        dicom = entry.pop("dicom", None)
        if dicom is not None:
            entry["metadata"]["dicom"] = DicomSource(**{key: _tuples(value) for key, value in dicom.items()})
        if entry["affine"] is not None:
            entry["affine"] = np.array(entry["affine"], np.float64)
        return cls(**entry)


def _is_plain(value: Any) -> bool:
    """Whether JSON gives back what it was given."""
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    if type(value) is float:
        return math.isfinite(value)
    return value is None or type(value) in (bool, int, str)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
