"""From where DICOM slices lie to one grid, or to what is wrong with them.

Order and step come from Image Position (Patient) along the normal of Image Orientation (Patient) (PS3.3
C.7.6.2.1.1), never from Slice Thickness or Spacing Between Slices, which say nothing about where a slice is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ._volume import LPS_TO_RAS

# Files round positions and directions to 4 to 16 digits; what differs by less is the same.
SAME_DIRECTION = 1e-3  # of unit vectors
SAME_STEP = 0.01  # of the step
UPRIGHT = 2e-3  # sideways over along the normal: 0.1 degrees
SAME_PLACE_MM = 1e-6
NAMED = 4  # slices in a message


class Plane(NamedTuple):
    """One slice as its file gives it: lengths in mm, directions and position in LPS."""

    name: str
    shape: tuple[int, int]  # rows, columns
    spacing: tuple[float, float] | None  # between rows, between columns
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    tilt: float | None = None  # degrees, as the file states it; for the message only


class Grid(NamedTuple):
    order: list[int]  # of the planes, along the normal
    voxel_size: tuple[float, ...] | None
    affine: np.ndarray | None  # RAS


def names(planes: Sequence[Plane]) -> str:
    """The first few, and how many more."""
    shown = ", ".join(plane.name for plane in planes[:NAMED])
    return shown if len(planes) <= NAMED else f"{shown} and {len(planes) - NAMED} more"


def grid(planes: Sequence[Plane], differences: Callable[[int, int], str]) -> Grid:
    """The one grid of the slices.

    Parameters
    ----------
    planes : sequence of Plane
    differences : callable
        What tells two planes at the same position apart, by their numbers; for the message.

    Raises
    ------
    ValueError
        Sizes, spacings or orientations that differ; no positions; duplicates, gaps, uneven steps; slices that
        are shifted against one another (gantry tilt).
    """
    _check_spacing(planes)
    if len(planes) == 1:
        return _single(planes[0])
    lacking = [p for p in planes if p.position is None or p.orientation is None]
    if lacking:
        raise ValueError(
            f"{len(lacking)} of {len(planes)} slices have no ImagePositionPatient and "
            f"ImageOrientationPatient ({names(lacking)}): their order and distance are unknown"
        )
    right, down, normal = _directions(planes)
    _check_same(planes)
    positions = np.array([p.position for p in planes], np.float64)
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    positions, along = positions[order], along[order]
    planes = [planes[i] for i in order]
    steps = np.diff(along)
    _check_duplicates(planes, positions, steps, lambda i: differences(int(order[i]), int(order[i + 1])))
    _check_steps(planes, steps)
    _check_upright(planes, positions, normal)
    step = (positions[-1] - positions[0]) / (len(planes) - 1)
    return Grid([int(i) for i in order], *_geometry(planes[0], right, down, step))


def _geometry(
    plane: Plane, right: np.ndarray, down: np.ndarray, step: np.ndarray
) -> tuple[tuple[float, ...] | None, np.ndarray | None]:
    if plane.spacing is None:
        raise ValueError(f"{plane.name}: no PixelSpacing, although it has a position: its scale is unknown")
    rows, columns = plane.spacing
    affine = np.eye(4)
    affine[:3] = np.column_stack([right * columns, down * rows, step, np.array(plane.position)])
    voxel_size = (float(np.linalg.norm(step)), rows, columns)
    return voxel_size, LPS_TO_RAS @ affine + 0.0  # no -0.0


def _single(plane: Plane) -> Grid:
    """A plane alone has no step: its third axis in space is the unit normal."""
    if plane.position is None or plane.orientation is None:
        return Grid([0], plane.spacing, None)
    right, down, normal = _directions([plane])
    voxel_size, affine = _geometry(plane, right, down, normal)
    return Grid([0], None if voxel_size is None else voxel_size[1:], affine)


def _check_spacing(planes: Sequence[Plane]) -> None:
    for plane in planes:
        if plane.spacing is not None and not all(0 < s < np.inf for s in plane.spacing):
            rows, columns = plane.spacing
            raise ValueError(f"{plane.name}: PixelSpacing {rows:g} \\ {columns:g}, expected positive lengths")


def _directions(planes: Sequence[Plane]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Directions of rising columns and rows, as the file has them, and their unit normal."""
    given = np.array([p.orientation for p in planes], np.float64).reshape(-1, 2, 3)
    lengths = np.linalg.norm(given, axis=2)
    skew = np.abs((given[:, 0] * given[:, 1]).sum(axis=1))
    bad = (np.abs(lengths - 1).max(axis=1) > SAME_DIRECTION) | (skew > SAME_DIRECTION)
    if bad.any():
        where = names([p for p, wrong in zip(planes, bad, strict=True) if wrong])
        raise ValueError(
            f"{where}: ImageOrientationPatient {_listed(given[bad][0].ravel())}, expected two perpendicular "
            "unit vectors"
        )
    groups = _groups(given.reshape(-1, 6), SAME_DIRECTION)
    if len(groups) > 1:
        found = "; ".join(
            f"{len(group)} along {_listed(given[group[0]].ravel())} ({names([planes[i] for i in group])})"
            for group in groups
        )
        raise ValueError(
            f"slices of {len(groups)} orientations: {found}; keep those of one orientation in the folder"
        )
    right, down = given[0]
    normal = np.cross(right, down)
    return right, down, normal / np.linalg.norm(normal)


def _groups(values: np.ndarray, tolerance: float) -> list[list[int]]:
    groups: list[list[int]] = []
    for i, value in enumerate(values):
        for group in groups:
            if np.abs(values[group[0]] - value).max() <= tolerance:
                group.append(i)
                break
        else:
            groups.append([i])
    return groups


def _listed(values: np.ndarray) -> str:
    return "\\".join(f"{v:.4g}" for v in values)


def _check_same(planes: Sequence[Plane]) -> None:
    """Numbers of rows and columns, and their distances, must agree."""
    shapes = sorted({p.shape for p in planes})
    if len(shapes) > 1:
        found = ", ".join(
            f"{sum(p.shape == s for p in planes)} of {s[0]} x {s[1]} "
            f"({names([p for p in planes if p.shape == s])})"
            for s in shapes
        )
        raise ValueError(f"slices of different sizes (rows x columns): {found}")
    if any(p.spacing is None for p in planes):
        raise ValueError(f"no PixelSpacing in {names([p for p in planes if p.spacing is None])}")
    spacings = np.array([p.spacing for p in planes], np.float64)
    groups = _groups(spacings / spacings[0], 1e-4)
    if len(groups) > 1:
        found = ", ".join(f"{len(g)} of {_listed(spacings[g[0]])} mm" for g in groups)
        raise ValueError(f"slices of different PixelSpacing: {found}")


def _check_duplicates(
    planes: Sequence[Plane], positions: np.ndarray, steps: np.ndarray, differences: Callable[[int], str]
) -> None:
    apart = steps[steps > SAME_PLACE_MM]
    close = SAME_STEP * float(np.median(apart)) if len(apart) else SAME_PLACE_MM
    together = np.flatnonzero(steps <= close)
    if not len(together):
        return
    first = int(together[0])
    pair = [planes[first], planes[first + 1]]
    sideways = float(np.linalg.norm(positions[first + 1] - positions[first]))
    if sideways > max(close, SAME_PLACE_MM):
        raise ValueError(
            f"{pair[0].name} and {pair[1].name} lie side by side, {sideways:.4g} mm apart in one plane: not "
            "one stack"
        )
    places = len(planes) - len(together)
    raise ValueError(
        f"duplicate slices: {len(planes)} slices at {places} place{'s' if places > 1 else ''}, such as "
        f"{pair[0].name} and {pair[1].name}, both at {_listed(positions[first])} mm; {differences(first)}"
    )


def _check_steps(planes: Sequence[Plane], steps: np.ndarray) -> None:
    typical = float(np.median(steps))
    if np.abs(steps - typical).max() <= SAME_STEP * typical:
        return
    least = float(steps.min())
    multiples = np.rint(steps / least)
    missing = int((multiples - 1).sum())
    if missing and np.abs(steps - multiples * least).max() <= 2 * SAME_STEP * least:
        wide = np.flatnonzero(multiples > 1)
        where = "; ".join(
            f"{steps[i]:.4g} mm from {planes[i].name} to {planes[i + 1].name}" for i in wide[:NAMED]
        )
        more = "" if len(wide) <= NAMED else f" and {len(wide) - NAMED} more places"
        raise ValueError(
            f"gap: {missing} slice{'s' if missing > 1 else ''} missing, the step is {least:.4g} mm, but "
            f"{where}{more}"
        )
    at = int(np.abs(steps - typical).argmax())
    raise ValueError(
        f"uneven steps between slices, from {least:.4g} to {steps.max():.4g} mm; most are {typical:.4g} mm, "
        f"that from {planes[at].name} to {planes[at + 1].name} is {steps[at]:.4g} mm: resample the series to "
        "an even grid first"
    )


def _check_upright(planes: Sequence[Plane], positions: np.ndarray, normal: np.ndarray) -> None:
    whole = positions[-1] - positions[0]
    height = float(whole @ normal)
    shift = float(np.linalg.norm(whole - height * normal))
    if shift > UPRIGHT * height:
        angle = np.degrees(np.arctan2(shift, height))
        stated = (
            "" if planes[0].tilt is None else f"; the file states a GantryDetectorTilt of {planes[0].tilt:g}"
        )
        raise ValueError(
            f"gantry tilt: each slice is shifted sideways by {shift / (len(planes) - 1):.4g} mm against the "
            f"one before, {angle:.3g} degrees off the slices' normal{stated}: resample the series to an "
            "upright grid first"
        )
    line = positions[0] + np.linspace(0, 1, len(planes))[:, None] * whole
    off = np.linalg.norm(positions - line, axis=1)
    # Steps that pass may still add up to something.
    if off.max() > 5 * SAME_STEP * height / (len(planes) - 1):
        at = int(off.argmax())
        raise ValueError(
            f"{planes[at].name} lies {off[at]:.4g} mm off the line through the first and the last slice: the "
            "slices are shifted against one another"
        )
