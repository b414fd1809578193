"""What a step of preprocessing takes and gives, and the record that undoes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _arrays, _validate

SPATIAL = "zyx"
SAME = 1e-3  # relative difference of lengths that files round away
UNITLESS = (1.0, 1e3, 1e-3)  # what a length in no unit may have to be multiplied by
NEAR = 0.1  # voxels by which affines of the same grid may differ
COUNTED = "intensity_unit"  # what a volume's values count, in its metadata
OF_VALUES = (COUNTED, "cal_min", "cal_max")  # with the range that NIfTI has them shown in
ORIGIN = ("origin", "origin_grid")  # of the grid that a step leaves


def is_volume(value: Any) -> bool:
    """Whether it is an `mf.io.Volume`, of which this package uses no more than the fields."""
    return dataclasses.is_dataclass(value) and hasattr(value, "spatial_axes")


@dataclass(frozen=True)
class Taken:
    """An image that came in: its values with the axes of space last, and the way back to its kind."""

    data: np.ndarray
    axes: str
    ndim: int  # number of axes of space, the last ones of `data`
    volume: Any  # the volume itself, or None
    restore: _arrays.Restore

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the axes of space."""
        return self.data.shape[self.data.ndim - self.ndim :]

    def give(self, data: np.ndarray, geometry: dict[str, Any] | None = None) -> Any:
        """`data` as the kind of image that came in; a volume gets the fields in `geometry`."""
        where = [i for i, letter in enumerate(self.axes) if letter in SPATIAL]
        array = np.ascontiguousarray(np.moveaxis(data, range(data.ndim - self.ndim, data.ndim), where))
        if self.volume is None:
            return self.restore(array)
        fields = {"metadata": dict(self.volume.metadata), **(geometry or {})}
        return dataclasses.replace(self.volume, array=array, **fields)


def take(image: Any, name: str = "image") -> Taken:
    """The image's values, whose axes of space are checked to be 1 to 3; not its values."""
    volume = image if is_volume(image) else None
    array, restore = _arrays.to_numpy(image if volume is None else volume.array, name)
    if volume is None:
        _validate.rank(array, name)
        axes = SPATIAL[3 - array.ndim :]
    else:
        axes = volume.axes
        if array.size == 0:
            raise ValueError(f"{name}: got a volume of shape {array.shape}, expected at least one voxel")
    where = [i for i, letter in enumerate(axes) if letter in SPATIAL]
    data = np.moveaxis(array, where, range(array.ndim - len(where), array.ndim))
    return Taken(data, axes, len(where), volume, restore)


def working(data: np.ndarray) -> np.ndarray:
    """In the dtype of the work: see `_arrays`."""
    return _arrays.computable(data, _arrays.result_dtype(data.dtype))


def numbers(taken: Taken, name: str = "image") -> tuple[np.ndarray, tuple[float, float]]:
    """The values in the dtype of the work, all finite, and the smallest and the largest."""
    data = working(taken.data)
    lowest, highest = _validate.finite(data, name)
    _validate.scale(max(-lowest, highest), name, data.dtype)
    return data, (lowest, highest)


def region(mask: Any, taken: Taken, name: str = "mask") -> np.ndarray:
    """A mask on the grid of an image, as a boolean array of its axes of space, with something in it."""
    given = take(mask, name)
    if given.shape != given.data.shape or given.shape != taken.shape:
        raise ValueError(
            f"{name}: got shape {given.data.shape}, expected {taken.shape}, the axes of space of the image"
        )
    if given.data.dtype != np.bool_:
        _validate.finite(given.data, name)
    inside = given.data != 0
    if not inside.any():
        raise ValueError(f"{name}: nothing is inside, expected at least one voxel that is not 0")
    if given.volume is not None and taken.volume is not None:
        same_place(given.volume, taken.volume, name)
    return inside


def unit_factor(own: Any, other: Any, tolerance: float = SAME) -> float | None:
    """What lengths of `own` are multiplied by to be those of `other`; None where voxels differ, or units that
    are known.

    NIfTI that nibabel makes of an array names no unit: its numbers are those of mm or of µm.
    """
    unitless = own.unit is None or other.unit is None
    factors = (1.0,) if own.unit == other.unit else UNITLESS if unitless else ()
    size = np.array(own.voxel_size)
    return next((f for f in factors if np.allclose(size * f, other.voxel_size, rtol=tolerance, atol=0)), None)


def same_place(mask: Any, image: Any, name: str) -> None:
    """Refuse a mask of another grid: its voxels would mark other places of the body."""
    if mask.voxel_size is None or image.voxel_size is None:
        return
    if mask.unit != image.unit and mask.unit is not None and image.unit is not None:
        mask = mask.to_unit(image.unit)
    factor = unit_factor(mask, image)
    if factor is None:
        units = [f" {volume.unit}" if volume.unit else "" for volume in (mask, image)]
        raise ValueError(
            f"{name}: has voxels of {mask.voxel_size}{units[0]}, the image of {image.voxel_size}{units[1]}; "
            "expected the image's grid"
        )
    if mask.oriented and image.oriented:
        length = dict(zip(mask.axes, mask.shape, strict=True))
        shape = [n for axis, n in length.items() if axis in SPATIAL]
        affine = mask.affine.copy()
        affine[:3] *= factor
        away = distance(affine, image.affine, shape)
        if away > NEAR * min(image.voxel_size):
            raise ValueError(
                f"{name}: lies {away:.3g} {image.unit or ''} away from the image (their affines differ), "
                "expected the image's grid"
            )


def distance(affine: np.ndarray, other: np.ndarray, shape: Sequence[int]) -> float:
    """How far apart two affines put the voxels of an image; `shape` is that of its axes of space."""
    # Reversed indices of the corners, with a further axis of one voxel where there are two.
    ends = [(0, n - 1) for n in reversed(shape)] + [(0, 0)] * (3 - len(shape))
    corners = np.array(np.meshgrid(*ends, (1,))).reshape(4, -1)
    return float(np.linalg.norm((affine - other) @ corners, axis=0).max())


def per_axis(value: Any, ndim: int, name: str, kind: str) -> list[Any]:
    """One entry per axis of what is one for all axes, or a sequence of them."""
    if not isinstance(value, list | tuple) and _validate.axes(value, name) == 0:
        return [value] * ndim
    entries = list(value)
    if len(entries) != ndim:
        raise ValueError(f"{name}: got {len(entries)} entries, expected {ndim}, {kind} per axis")
    return entries


# ---------------------------------------------------------------- geometry


@dataclass(frozen=True)
class Move:
    """New voxel j lies at the old index ``offset + scale * j``, along each axis of space."""

    offset: tuple[float, ...]
    scale: tuple[float, ...]

    @property
    def inverse(self) -> Move:
        return Move(
            tuple(-o / s for o, s in zip(self.offset, self.scale, strict=True)),
            tuple(1 / s for s in self.scale),
        )

    def geometry(self, volume: Any, shape: tuple[int, ...]) -> dict[str, Any]:
        """Fields of a volume whose voxels were moved so; `shape` is the new one, axes of space last."""
        size = volume.voxel_size
        if size is not None:
            size = tuple(v * s for v, s in zip(size, self.scale, strict=True))
        affine = None
        # Where a file states no orientation its affine is made up, from the shape as it was.
        if volume.affine is not None and volume.oriented:
            step = np.eye(4)  # of reversed indices, as the affine has them
            n = len(self.scale)
            step[range(n), range(n)] = self.scale[::-1]
            step[:n, 3] = self.offset[::-1]
            affine = volume.affine @ step
        return {"voxel_size": size, "affine": affine, "metadata": self._placed(volume, size, shape)}

    def _placed(self, volume: Any, size: tuple[float, ...] | None, shape: tuple[int, ...]) -> dict[str, Any]:
        """Its metadata. The first voxel's place moves, too; without lengths, where to is not known."""
        kept = dict(volume.metadata)
        origin, grid = kept.pop("origin", None), kept.pop("origin_grid", volume.grid)
        n, direction = len(self.scale), kept.get("direction")
        if volume.voxel_size is None or grid != volume.grid or np.shape(origin) != (n,):
            return kept
        away = np.multiply(volume.voxel_size, self.offset)
        if direction is not None:
            if np.shape(direction) != (n, n):
                return kept
            away = (np.asarray(direction) @ away[::-1])[::-1]  # it is of x, y, z
        kept["origin"] = tuple((np.asarray(origin) + away).tolist())
        kept["origin_grid"] = shape[len(shape) - n :], size, volume.unit
        return kept


# ---------------------------------------------------------------- steps

Back = Callable[[np.ndarray, bool], np.ndarray]
Carry = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Step:
    """What was done to an image, and how to undo it.

    Attributes
    ----------
    name : str
        Of the function.
    settings : dict
        What it worked with, as resolved: the box that a crop found, the offset and scale of a normalisation.
    shape : tuple of int
        Of the array that it returned; `undo` takes arrays of this shape.
    axes : str
        Their meaning, such as "zyx".
    """

    name: str
    settings: dict[str, Any]
    shape: tuple[int, ...]
    axes: str
    _back: Back = dataclasses.field(repr=False)
    _carry: Carry | None = dataclasses.field(repr=False, default=None)
    _move: Move | None = dataclasses.field(repr=False, default=None)
    _geometry: dict[str, Any] | None = dataclasses.field(repr=False, default=None)
    _unit: str | None = dataclasses.field(repr=False, default=None)
    _without: dict[str, Any] = dataclasses.field(repr=False, default_factory=dict)  # of its metadata

    def undo(self, image: Any, *, put_back: bool = True) -> Any:
        """The image as it would be without this step.

        Parameters
        ----------
        image : array_like or Volume
            What the step returned, or what became of it: a restored image of the same shape.
        put_back : bool
            What the step took away comes back as it was measured: the surroundings of a crop, values outside
            a window, the part that a taper removed, details that a coarser grid cannot hold. The step's own
            result then gives the original again, to rounding. False: it stays away; around a crop are zeros.

        Returns
        -------
        array or Volume
            Of the kind of `image`; a volume gets its voxel size, its affine and what its values count
            (``metadata["intensity_unit"]``, NIfTI's ``cal_min`` and ``cal_max``) from before the step.

        Raises
        ------
        ValueError
            Another shape, or a volume in another unit, than the step returned.
        TypeError
            Not an image.
        """
        put_back = _validate.flag(put_back, "put_back")
        taken = self._taken(image, "image")
        data = self._back(taken.data, put_back)
        geometry: dict[str, Any] | None = None
        again: dict[str, Any] = {}
        if taken.volume is not None and self._without:
            again = {"metadata": dict(taken.volume.metadata) | self._without}
        if taken.volume is not None and self._move is not None:
            if self._geometry is None:
                geometry = self._move.inverse.geometry(taken.volume, data.shape)
            elif taken.volume.unit != self._unit:
                raise ValueError(
                    f"image: is in {taken.volume.unit}, expected {self._unit}, the unit that {self.name} "
                    "returned"
                )
            else:
                affine = self._geometry["affine"]
                geometry = self._geometry | {"affine": None if affine is None else affine.copy()}
        return taken.give(data, {**(geometry or {}), **again} or None)

    def carry(self, labels: Any) -> Any:
        """Labels or a mask on the image's grid, brought to the grid of the result.

        Parameters
        ----------
        labels : array_like or Volume
            On the grid that the image had before the step.

        Returns
        -------
        array or Volume
            Of the same dtype: 0 in a padded frame, nearest neighbours on a new grid.

        Raises
        ------
        ValueError
            Another shape than the image had along its axes of space.
        """
        taken = take(labels, "labels")
        if self._carry is None:
            return labels
        data = self._carry(taken.data)
        geometry = None
        if taken.volume is not None and self._move is not None:
            geometry = self._move.geometry(taken.volume, data.shape)
        return taken.give(data, geometry)

    def _taken(self, image: Any, name: str) -> Taken:
        taken = take(image, name)
        found = taken.data.shape if taken.volume is None else taken.volume.array.shape
        if taken.volume is None and len(self.axes) > 3:
            raise TypeError(f"{name}: got an array, expected a volume with the axes {self.axes!r}")
        if found != self.shape or taken.axes != self.axes:
            raise ValueError(
                f"{name}: got shape {found} with axes {taken.axes!r}, expected {self.shape} with axes "
                f"{self.axes!r}, which {self.name} returned"
            )
        return taken


def step_of(
    name: str,
    settings: dict[str, Any],
    taken: Taken,
    data: np.ndarray,
    back: Back,
    *,
    carry: Carry | None = None,
    move: Move | None = None,
    rescaled: bool = False,
) -> tuple[Any, Step]:
    """The image that a step gives, of the kind that came in, and its record.

    `rescaled`: its values no longer count what the image's did, so that the result must not say it.
    """
    geometry = unit = moved = None
    without: dict[str, Any] = {}
    if taken.volume is not None:
        before = taken.volume.metadata
        if move is not None:
            moved = move.geometry(taken.volume, data.shape)
            geometry = {"voxel_size": taken.volume.voxel_size, "affine": taken.volume.affine}
            unit = taken.volume.unit
        names = OF_VALUES * rescaled + ORIGIN * (move is not None)
        without = {name: before[name] for name in names if name in before}
        if rescaled:
            kept = dict(before) if moved is None else moved["metadata"]
            moved = {
                **(moved or {}),
                "metadata": {key: value for key, value in kept.items() if key not in OF_VALUES},
            }
    result = taken.give(data, moved)
    shape = tuple((result if taken.volume is None else result.array).shape)
    return result, Step(name, settings, shape, taken.axes, back, carry, move, geometry, unit, without)


@dataclass(frozen=True, eq=False)
class Chain:
    """Steps that were done one after the other; undoes them in reverse order.

    Parameters
    ----------
    steps : sequence of Step
        In the order in which they were done.
    """

    steps: Sequence[Step]

    def __post_init__(self) -> None:
        steps = tuple(self.steps)
        for i, step in enumerate(steps):
            if not isinstance(step, Step):
                raise TypeError(f"steps[{i}]: got {_validate.shown(step)}, expected a Step")
        object.__setattr__(self, "steps", steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def settings(self) -> list[dict[str, Any]]:
        """Name and settings of each step, as a record."""
        return [{"name": step.name, **step.settings} for step in self.steps]

    def undo(self, image: Any, *, put_back: bool = True) -> Any:
        """The image as it would be without the steps: see `Step.undo`."""
        for step in reversed(self.steps):
            image = step.undo(image, put_back=put_back)
        return image

    def carry(self, labels: Any) -> Any:
        """Labels or a mask on the grid of the result: see `Step.carry`."""
        for step in self.steps:
            labels = step.carry(labels)
        return labels
