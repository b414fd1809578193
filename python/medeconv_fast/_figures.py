"""Pictures of volumes: orthogonal slices of several images on one grey scale, and a profile through them.

Needs matplotlib (extra ``report``). Figures are drawn without pyplot, so that nothing global is touched and
no window system is asked for.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import io as _io  # noqa: F401, whole before a part of it, as in `medeconv_fast.nn`
from ._extras import matplotlib_figure
from .io._files import write_whole

# Truth, blurred, restored: apart for colour-blind readers too, and in print.
_COLOURS = ("#000000", "#d55e00", "#0072b2", "#009e73")
_MARK = "#ffd400"
_OPPOSITE = {"L": "R", "R": "L", "P": "A", "A": "P", "I": "S", "S": "I"}


def require_matplotlib() -> Any:
    """matplotlib.figure, or an ImportError that says how to get it."""
    return matplotlib_figure("a picture")


class _View(NamedTuple):
    """One slice orientation: its name in a body and elsewhere, and axes of the reoriented (z, y, x) array."""

    anatomical: str
    plain: str
    across: int
    horizontal: int
    vertical: int


_VIEWS = (_View("axial", "yx", 0, 2, 1), _View("coronal", "zx", 1, 2, 0), _View("sagittal", "zy", 2, 1, 0))


def orientation(affine: np.ndarray | None) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Which array axis runs along S, A, R, and whether it runs the other way.

    Parameters
    ----------
    affine : (4, 4) array or None
        Maps reversed array indices (x, y, z, 1) to R, A, S. None: the axes as they are.

    Returns
    -------
    axes : (int, int, int)
        Array axis closest to superior, anterior and right.
    reversed : (bool, bool, bool)
        True where that axis points to inferior, posterior or left.
    """
    if affine is None:
        return (0, 1, 2), (False, False, False)
    directions = np.asarray(affine, dtype=float)[:3, :3][:, ::-1]  # columns now in array order z, y, x
    directions = directions / np.linalg.norm(directions, axis=0)
    world = (2, 1, 0)  # S, A, R as rows
    best = max(
        itertools.permutations(range(3)),
        key=lambda axes: sum(abs(directions[w, a]) for w, a in zip(world, axes, strict=True)),
    )
    signs = [bool(directions[w, a] < 0) for w, a in zip(world, best, strict=True)]
    return (best[0], best[1], best[2]), (signs[0], signs[1], signs[2])


def _reoriented(
    image: np.ndarray, axes: tuple[int, int, int], flipped: tuple[bool, bool, bool]
) -> np.ndarray:
    turned = np.transpose(image, axes)
    return turned[tuple(slice(None, None, -1) if flip else slice(None) for flip in flipped)]


def grey_window(image: np.ndarray) -> tuple[float, float]:
    """Grey scale of an image: 0.1 to 99.9 per cent of its values; a few hot voxels don't darken the rest."""
    low, high = (float(v) for v in np.percentile(image[np.isfinite(image)], [0.1, 99.9]))
    return (low, high) if high > low else (low, low + 1.0)


class Scene:
    """Arrays of one grid, turned as they are looked at, and the slices through one point.

    Volumes with an affine are shown as radiologists read them (axial and coronal seen from the feet and the
    front: the patient's right on the viewer's left; sagittal with the nose on the left). Voxels keep their
    shape.

    Parameters
    ----------
    images : sequence of (title, array)
        Same shape each, (z, y, x) or (y, x).
    voxel_size : sequence of float or None
        In array order. None: voxels drawn as cubes.
    affine : (4, 4) array, optional
        Maps reversed array indices to R, A, S.
    at : sequence of int, optional
        Voxel through which the slices go, in array order (default: the middle).
    width : float
        Inches of the widest slice; less where one would be more than twice as high, or all together three
        times.
    """

    def __init__(
        self,
        images: Sequence[tuple[str, np.ndarray]],
        voxel_size: Sequence[float] | None,
        affine: np.ndarray | None = None,
        at: Sequence[int] | None = None,
        width: float = 3.1,
    ) -> None:
        arrays = [np.asarray(image) for _, image in images]
        shape = arrays[0].shape
        ndim = len(shape)
        if ndim not in (2, 3):
            raise ValueError(f"images: got {ndim} axes, expected 2 or 3")
        for name, array in zip((name for name, _ in images), arrays, strict=True):
            if array.shape != shape:
                raise ValueError(f"images: '{name}' has shape {array.shape}, the first one {shape}")
        size = np.ones(ndim) if voxel_size is None else np.asarray(voxel_size, dtype=float)
        point = tuple(n // 2 for n in shape) if at is None else tuple(int(p) for p in at)
        self.anatomical = ndim == 3 and affine is not None
        if ndim == 2:
            arrays = [array[np.newaxis] for array in arrays]
            size = np.concatenate([[1.0], size])
            point = (0, *point)
        axes, flipped = orientation(affine if self.anatomical else None)
        self.arrays = [_reoriented(array, axes, flipped) for array in arrays]
        self.size = size[list(axes)]
        self.point = tuple(
            (self.arrays[0].shape[i] - 1 - point[a]) if flip else point[a]
            for i, (a, flip) in enumerate(zip(axes, flipped, strict=True))
        )
        self.extent = self.size * self.arrays[0].shape
        self.views = _VIEWS if ndim == 3 else _VIEWS[:1]
        widest = max(self.extent[v.horizontal] for v in self.views)
        heights = [self.extent[v.vertical] for v in self.views]
        # Inches per unit of length.
        self.scale = width * float(min(1 / widest, 2 / max(heights), 3 / sum(heights)))

    def inches(self, view: _View) -> tuple[float, float]:
        """Width and height of a slice."""
        return self.extent[view.horizontal] * self.scale, self.extent[view.vertical] * self.scale

    def name(self, view: _View) -> str:
        return view.anatomical if self.anatomical else view.plain

    def plane(self, array: np.ndarray, view: _View) -> np.ndarray:
        """A slice as it is looked at, first row on top."""
        plane = np.take(array, self.point[view.across], axis=view.across)
        # The plane's axes are (vertical, horizontal). Anatomy: up is anterior or superior, right of the
        # picture is the patient's left (axial, coronal) or posterior (sagittal), the opposite of the array's
        # direction.
        return plane[::-1, ::-1] if self.anatomical else plane

    def show(self, panel: Any, array: np.ndarray, view: _View, window: tuple[float, float], cmap: str) -> Any:
        """Draw a slice into a panel that has its proportions."""
        panel.set_xticks([])
        panel.set_yticks([])
        return panel.imshow(
            self.plane(array, view),
            cmap=cmap,
            vmin=window[0],
            vmax=window[1],
            interpolation="nearest",
            extent=(0, self.extent[view.horizontal], 0, self.extent[view.vertical]),
            aspect="auto",  # the panel already has the physical proportions
        )

    def label(self, panel: Any, view: _View) -> None:
        """Name the slice at its left side, and the patient's sides."""
        name = self.name(view)
        room = self.inches(view)[1] / (0.09 * len(name))  # a letter of 9 points is 0.09 inches wide, at most
        panel.set_ylabel(name, fontsize=max(5, 9 * min(1, room)))
        if self.anatomical:
            _letters(panel, view)


def _extend(arrays: Sequence[np.ndarray], window: tuple[float, float]) -> str:
    """Which ends of a colour bar values go beyond, as matplotlib calls it."""
    low, high = (min(float(a.min()) for a in arrays), max(float(a.max()) for a in arrays))
    return {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[
        low < window[0], high > window[1]
    ]


def slices_figure(
    scene: Scene,
    array: np.ndarray,
    window: tuple[float, float],
    *,
    cmap: str = "gray",
    unit: str = "",
    mark: tuple[_View, float, float, float, float] | None = None,
) -> Any:
    """One array of a scene: its slices below one another, and the scale of values below them.

    `mark` is a view and a line on it, x₀, x₁, y₀, y₁ in units of length from the lower left corner.
    """
    sizes = [scene.inches(view) for view in scene.views]
    left, right, top, gap, bar, bottom = 0.3, 0.12, 0.08, 0.08, 0.12, 0.42
    width = max(3.4, left + max(w for w, _ in sizes) + right)
    height = top + sum(h + gap for _, h in sizes) + 0.08 + bar + bottom
    figure = require_matplotlib().Figure(figsize=(width, height), dpi=100, facecolor="white")
    y, shown = top, None
    for view, (w, h) in zip(scene.views, sizes, strict=True):
        x = left + (width - left - right - w) / 2
        panel = figure.add_axes((x / width, 1 - (y + h) / height, w / width, h / height))
        shown = scene.show(panel, array, view, window, cmap)
        scene.label(panel, view)
        if mark is not None and mark[0] is view:
            panel.plot(mark[1:3], mark[3:5], color=_MARK, lw=1.0, ls=(0, (4, 2)), scalex=False, scaley=False)
        y += h + gap
    where = figure.add_axes(
        (left / width, bottom / height, (width - left - right - 0.1) / width, bar / height)
    )
    figure.colorbar(shown, cax=where, orientation="horizontal", extend=_extend([array], window))
    where.tick_params(labelsize=7)
    if unit:
        where.set_xlabel(unit, fontsize=8)
    return figure


def orthogonal_slices(
    path: str | os.PathLike[str],
    images: Sequence[tuple[str, np.ndarray]],
    *,
    voxel_size: Sequence[float] | None,
    unit: str | None = "mm",
    affine: np.ndarray | None = None,
    at: Sequence[int] | None = None,
    title: str = "",
    window: tuple[float, float] | None = None,
    overwrite: bool = True,
) -> None:
    """Write a PNG: one column per image, one row per slice orientation, a profile below.

    All panels share one grey scale, that of the first image unless `window` is given; see `Scene`.

    Parameters
    ----------
    path : path
        The PNG file.
    images, voxel_size, affine, at
        As for `Scene`.
    unit : str or None
        Written at the profile's axis.
    window : (float, float), optional
        Values shown black and white.
    overwrite : bool
        Replace an existing file.
    """
    figure_module = require_matplotlib()
    column_width = 3.1  # inches
    scene = Scene(images, voxel_size, affine, at, column_width)
    arrays, views, extent = scene.arrays, scene.views, scene.extent
    if window is None:
        window = grey_window(arrays[0])
    columns = len(arrays)
    heights = [scene.inches(view)[1] for view in views]
    profile_height = 1.9
    left, right, top, bottom, gap = 0.75, 0.9, 0.75, 0.55, 0.08
    figure_width = left + columns * (column_width + gap) + right
    figure_height = top + sum(heights) + gap * len(heights) + 0.35 + profile_height + bottom
    figure = figure_module.Figure(figsize=(figure_width, figure_height), dpi=100, facecolor="white")
    if title:
        figure.text(
            0.5, 1 - 0.2 / figure_height, title, ha="center", va="center", fontsize=10, parse_math=False
        )

    def axes_at(x: float, y_from_top: float, width: float, height: float) -> Any:
        return figure.add_axes(
            (
                x / figure_width,
                1 - (y_from_top + height) / figure_height,
                width / figure_width,
                height / figure_height,
            )
        )

    y = top
    shown = None
    for row, (view, height) in enumerate(zip(views, heights, strict=True)):
        width = scene.inches(view)[0]
        for column, ((name, _), array) in enumerate(zip(images, arrays, strict=True)):
            x = left + column * (column_width + gap) + (column_width - width) / 2
            panel = axes_at(x, y, width, height)
            shown = scene.show(panel, array, view, window, "gray")
            if row == 0:
                panel.set_title(name, fontsize=9, parse_math=False)
                where = (scene.point[1] + 0.5) * scene.size[1]
                across = where if scene.anatomical else extent[1] - where
                panel.axhline(across, color=_MARK, lw=0.7, ls=(0, (6, 4)))
            if column == 0:
                scene.label(panel, view)
        y += height + gap

    bar = axes_at(figure_width - right + 0.12, top, 0.12, sum(heights) + gap * (len(heights) - 1))
    figure.colorbar(shown, cax=bar, extend=_extend(arrays, window))
    bar.tick_params(labelsize=7)

    profile = axes_at(left, y + 0.35, columns * (column_width + gap) - gap, profile_height)
    position = (np.arange(arrays[0].shape[2]) + 0.5) * scene.size[2]
    lines = [array[scene.point[0], scene.point[1]] for array in arrays]
    draw_profiles(
        profile,
        position,
        [
            (name.split("\n")[0], line[::-1] if scene.anatomical else line)
            for (name, _), line in zip(images, lines, strict=True)
        ],
    )
    profile.set_xlim(0, extent[2])
    profile.set_xlabel(
        f"along the dashed line, {unit or 'voxels'}"
        + (" (patient's right to left)" if scene.anatomical else ""),
        fontsize=8,
    )
    write_whole(Path(path), lambda p: figure.savefig(p, format="png", dpi=110), overwrite=overwrite)


def draw_profiles(panel: Any, position: np.ndarray, lines: Sequence[tuple[str, np.ndarray]]) -> None:
    """Curves of several images with their names."""
    for number, (name, line) in enumerate(lines):
        panel.plot(
            position,
            line,
            color=_COLOURS[number % len(_COLOURS)],
            lw=1.4 if number == 0 else 1.1,
            ls="-" if number != 1 else (0, (4, 2)),
            label=name,
        )
    panel.set_ylabel("value", fontsize=8)
    panel.tick_params(which="both", labelsize=7)
    for text in panel.legend(fontsize=8, frameon=False, loc="best").get_texts():
        text.set_parse_math(False)  # a file may be called $x$
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)


def _letters(panel: Any, view: _View) -> None:
    """The patient's sides, edged in black: they also lie on bright tissue."""
    from matplotlib.patheffects import withStroke

    ends = {0: "S", 1: "A", 2: "R"}
    left, top = ends[view.horizontal], ends[view.vertical]
    edge = [withStroke(linewidth=1.5, foreground="black")]
    style = {"color": _MARK, "fontsize": 8, "transform": panel.transAxes, "path_effects": edge}
    # Above the middle, where the profile's line may run.
    panel.text(0.015, 0.52, left, ha="left", va="bottom", **style)
    panel.text(0.985, 0.52, _OPPOSITE[left], ha="right", va="bottom", **style)
    panel.text(0.5, 0.985, top, ha="center", va="top", **style)
    panel.text(0.5, 0.015, _OPPOSITE[top], ha="center", va="bottom", **style)
