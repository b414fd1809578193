"""The library's one form of an image with its geometry."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import _validate

PER_MM = {"mm": 1.0, "um": 1000.0}
SPATIAL = "zyx"
SAME = 0.01  # relative difference of lengths that files round away
SHEARED = 0.1  # degrees from perpendicular that axes may be off, as DICOM's slices
SINGULAR = 1e-6  # volume that unit vectors along the axes span
# DICOM and ITK count towards the left and the back, the affine towards the right and the front.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass
class Volume:
    """An array with axes, voxel size and orientation.

    Attributes
    ----------
    array : numpy.ndarray
        C-contiguous, native byte order.
    voxel_size : tuple of float or None
        One length per spatial axis, in the order of `axes`, in `unit`; None if unknown.
    affine : numpy.ndarray or None
        4×4, maps reversed array indices (x, y, z, 1) of the spatial axes to RAS coordinates in `unit` (equal
        to nibabel's ``img.affine``); None where a file has no orientation. See `oriented`.
    unit : {"mm", "um", None}
    axes : str
        Meaning of the array's axes, such as "zyx", "yx", "tzyx", "cyx" (t time, c channel, s colour samples).
    metadata : dict
        What else the file says; a destination of the same format restores it. Extensions of NIfTI headers are
        not kept: they may describe the grid or the patient.
    """

    array: np.ndarray
    voxel_size: tuple[float, ...] | None = None
    affine: np.ndarray | None = None
    unit: str | None = None
    axes: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        array = _validate.real(self.array, "array")
        self.array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
        if not self.axes:
            if not 1 <= array.ndim <= 3:
                raise ValueError(f"axes: needed for an array of {array.ndim} axes, such as 'tzyx'")
            self.axes = SPATIAL[3 - array.ndim :]
        if (
            len(self.axes) != array.ndim
            or len(set(self.axes)) != array.ndim
            or set(self.axes) - set("tczyxs")
        ):
            raise ValueError(
                f"axes: got {self.axes!r} for shape {array.shape}, expected one of t, c, z, y, x, s per axis"
            )
        if self.spatial_axes not in ("x", "yx", "zyx"):
            raise ValueError(f"axes: got {self.axes!r}, expected the spatial axes in the order z, y, x")
        if self.unit not in (None, "mm", "um"):
            raise ValueError(f"unit: got {self.unit!r}, expected 'mm', 'um' or None")
        if self.voxel_size is not None:
            self.voxel_size = _validate.voxel_size(
                tuple(self.voxel_size), "voxel_size", len(self.spatial_axes)
            )
        if self.affine is not None:
            affine = np.array(self.affine, np.float64)
            if (
                affine.shape != (4, 4)
                or not np.isfinite(affine).all()
                or not np.allclose(affine[3], [0, 0, 0, 1])
            ):
                raise ValueError("affine: expected a finite 4×4 matrix with last row 0 0 0 1")
            lengths = np.linalg.norm(affine[:3, :3], axis=0)
            if not lengths.all() or abs(np.linalg.det(affine[:3, :3] / lengths)) < SINGULAR:
                raise ValueError(
                    f"affine: got axes that span no space, {affine[:3, :3].tolist()}, expected three "
                    "directions"
                )
            self.affine = affine
            implied = sizes_of(affine, len(self.spatial_axes))
            if self.voxel_size is None and self.oriented:
                self.voxel_size = implied
            elif self.voxel_size is not None and not np.allclose(self.voxel_size, implied, SAME, 0):
                raise ValueError(
                    f"affine: says voxels of {implied}, voxel_size {self.voxel_size}; expected both to agree"
                )

    @property
    def oriented(self) -> bool:
        """Whether the affine says how the image lies in space.

        A NIfTI file whose qform and sform codes are both 0 says nothing; its affine, as nibabel gives it, is
        only the voxel size and a centred origin.
        """
        if self.affine is None:
            return False
        if (self.metadata.get("qform_code"), self.metadata.get("sform_code")) != (0, 0):
            return True
        return not np.allclose(self.affine, _affine_without_orientation(self), rtol=1e-5, atol=1e-6)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    @property
    def spatial_axes(self) -> str:
        """The axes that are space: "zyx", "yx" or "x"."""
        return "".join(a for a in self.axes if a in SPATIAL)

    @property
    def grid(self) -> tuple[tuple[int, ...], tuple[float, ...] | None, str | None]:
        """What ``metadata["origin"]`` belongs to: lengths of the spatial axes, voxel size and unit."""
        return tuple(self.shape[self.axes.index(a)] for a in self.spatial_axes), self.voxel_size, self.unit

    def with_array(self, array: Any) -> Volume:
        """The same geometry and metadata around another array of the same shape."""
        other = _validate.real(array, "array")
        _validate.same_shape(other, "array", self.shape, "volume")
        affine = None if self.affine is None else self.affine.copy()
        return Volume(other, self.voxel_size, affine, self.unit, self.axes, dict(self.metadata))

    def to_unit(self, unit: str) -> Volume:
        """The same volume with lengths in "mm" or "um"; no value is touched."""
        if unit not in PER_MM:
            raise ValueError(f"unit: got {unit!r}, expected 'mm' or 'um'")
        if self.unit is None:
            raise ValueError("unit: the volume's own unit is unknown, so it cannot be converted")
        factor = PER_MM[unit] / PER_MM[self.unit]
        voxel_size = None if self.voxel_size is None else tuple(v * factor for v in self.voxel_size)
        affine = None
        if self.affine is not None:
            affine = self.affine.copy()
            affine[:3] *= factor
        metadata = dict(self.metadata)
        if isinstance(metadata.get("origin"), tuple | list):
            metadata["origin"] = tuple(v * factor for v in metadata["origin"])
        if "origin_grid" in metadata:
            shape, sizes, _ = metadata["origin_grid"]
            sizes = None if sizes is None else tuple(v * factor for v in sizes)
            metadata["origin_grid"] = shape, sizes, unit
        return Volume(self.array, voxel_size, affine, unit, self.axes, metadata)

    def spatial_indices(self) -> Iterator[tuple[Any, ...]]:
        """Index tuples that pick one spatial image after another, each with the axes z, y, x."""
        others = [
            range(n) if a not in SPATIAL else [slice(None)]
            for a, n in zip(self.axes, self.shape, strict=True)
        ]

        def walk(at: int, so_far: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
            if at == len(others):
                yield so_far
                return
            for index in others[at]:
                yield from walk(at + 1, (*so_far, index))

        yield from walk(0, ())


def stored_time(entry: dict[str, Any]) -> dict[str, Any]:
    """The time step and its unit among other entries, if they make sense."""
    step, unit = entry.get("time_step"), entry.get("time_unit", "unknown")
    if not isinstance(step, int | float) or not np.isfinite(step) or not isinstance(unit, str):
        return {}
    return {"time_step": step, "time_unit": unit}


def sizes_of(affine: np.ndarray, ndim: int) -> tuple[float, ...]:
    """The voxel size that an affine implies."""
    lengths = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))[::-1]
    return tuple(float(v) for v in lengths[3 - ndim :])


def warn_of_shear(path: Any, affine: np.ndarray | None, spatial: str, stacklevel: int) -> None:
    """Say that a file's axes are slanted; what counts lengths goes along them."""
    if affine is None:
        return
    columns = dict(zip("xyz", (affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)).T, strict=True))
    off = {
        f"{a} and {b}": math.degrees(math.asin(min(1.0, abs(float(columns[a] @ columns[b])))))
        for a, b in itertools.combinations(reversed(spatial), 2)
    }
    axes, angle = max(off.items(), key=lambda entry: entry[1], default=("", 0.0))
    if angle > SHEARED:
        warnings.warn(
            f"{path}: its axes {axes} are {angle:.3g} degrees from perpendicular (a sheared grid, as of a "
            "tilted gantry); voxel sizes and blur count along the slanted axes: resample it to an upright "
            "grid where that matters",
            UserWarning,
            stacklevel=stacklevel + 1,
        )


def resized(
    affine: np.ndarray, before: Sequence[float], after: Sequence[float], factor: float = 1.0
) -> np.ndarray:
    """The affine with its lengths times `factor`, then of voxels of another size at the same origin."""
    made = affine.copy()
    made[:3] *= factor
    for column, (old, new) in enumerate(zip(reversed(before), reversed(after), strict=True)):
        made[:3, column] *= new / old  # the columns are those of x, y, z
    return made


def _affine_without_orientation(volume: Volume) -> np.ndarray:
    """What nibabel makes up for a file that states none."""
    length = dict(zip(volume.axes, volume.shape, strict=True))
    affine = diagonal_affine(volume) @ np.diag([-1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = affine[:3, :3] @ [-(length.get(a, 1) - 1) / 2 for a in "xyz"]
    return affine


def diagonal_affine(volume: Volume) -> np.ndarray:
    """An affine for a volume that has none: axes along R, A, S, origin at the first voxel."""
    sizes = (1.0,) * len(volume.spatial_axes) if volume.voxel_size is None else volume.voxel_size
    return np.diag([*sizes[::-1], *(1.0,) * (3 - len(sizes)), 1.0])
