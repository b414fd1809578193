"""Picture of a PSF: its planes through the centre, and profiles along its axes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import _validate
from .._extras import matplotlib_figure
from ._sampling import _checked, fwhm

_COLOURS = {"z": "#0072b2", "y": "#f0a060", "x": "#000000"}
_WIDTHS = {"z": 1.1, "y": 3.0, "x": 1.0}  # most PSFs are round: x lies on y, which must be seen behind it
# A PSF's rings carry much light and are faint: this exponent shows a hundredth of the maximum as a fifth.
_GAMMA = 0.35


def plot(psf: Any, voxel_size: Any = None, *, unit: str | None = None, title: str = "") -> Any:
    """Draw a PSF: the planes through its centre ``shape // 2``, and its profiles with their widths.

    Parameters
    ----------
    psf : array_like
        One to three axes (z, y, x).
    voxel_size : float or sequence of float, optional
        Default 1: lengths in voxels.
    unit : str, optional
        Of `voxel_size`, written at the axes; default "voxels", or nothing where a voxel size is given.
    title : str

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot: ``figure.savefig("psf.png")`` writes it, and nothing has to be closed.
        Planes are shown as the value over the maximum to the power 0.35 (faint rings are seen), values below
        0 as 0; profiles on a logarithmic scale.

    Raises
    ------
    ImportError
        Without matplotlib; the message names the extra.
    ValueError, TypeError
        NaN or Inf, more than three axes, no positive value, a wrong number of lengths.
    """
    array = _checked(psf)
    ndim = array.ndim
    size = _validate.voxel_size(1.0 if voxel_size is None else voxel_size, "voxel_size", ndim)
    highest = float(array.max())
    if highest <= 0:
        raise ValueError(f"psf: the largest value is {highest:g}, expected a positive one")
    shown_unit = unit if unit is not None else ("voxels" if voxel_size is None else "")
    # As Figure.text draws it: µm, not um.
    shown_unit = {"um": "µm"}.get(shown_unit, shown_unit)
    suffix = f" / {shown_unit}" if shown_unit else ""
    figures = matplotlib_figure("mf.psf.plot")
    names = "zyx"[3 - ndim :]
    centre = tuple(n // 2 for n in array.shape)
    extent = [(-(c + 0.5) * d, (n - c - 0.5) * d) for n, c, d in zip(array.shape, centre, size, strict=True)]
    planes = {1: [], 2: [(0, 1)], 3: [(1, 2), (0, 2), (0, 1)]}[ndim]  # (vertical, horizontal)
    # Panels of one height, as wide as what they show.
    spans = [high - low for low, high in extent]
    ratios = [2.3 * min(max(spans[across] / spans[down], 0.4), 2.0) for down, across in planes]
    figure = figures.Figure(
        figsize=(sum(ratios) + 0.7 * len(ratios) + 3.6, 3.3),
        dpi=100,
        facecolor="white",
        layout="constrained",
    )
    panels = figure.subplots(1, len(planes) + 1, squeeze=False, gridspec_kw={"width_ratios": [*ratios, 3.0]})[
        0
    ]
    for panel, (vertical, horizontal) in zip(panels, planes, strict=False):
        others = [a for a in range(ndim) if a not in (vertical, horizontal)]
        plane = array[tuple(centre[a] if a in others else slice(None) for a in range(ndim))]
        panel.imshow(
            np.maximum(plane / highest, 0) ** _GAMMA,
            cmap="gray",
            vmin=0,
            vmax=1,
            interpolation="nearest",
            extent=(*extent[horizontal], extent[vertical][1], extent[vertical][0]),
            aspect="equal",
        )
        panel.set_xlabel(f"{names[horizontal]}{suffix}", fontsize=8)
        panel.set_ylabel(f"{names[vertical]}{suffix}", fontsize=8)
        panel.set_title(f"{names[vertical]}{names[horizontal]}", fontsize=9)
        panel.tick_params(labelsize=7)
        panel.locator_params(axis="x", nbins=4)
    profile = panels[-1]
    try:
        widths: tuple[float, ...] | None = fwhm(array, size)
    except ValueError:  # cropped so much that no flank is left
        widths = None
    lowest = 1.0
    for axis, name in enumerate(names):
        line = array[tuple(slice(None) if a == axis else centre[a] for a in range(ndim))] / highest
        position = (np.arange(line.size) - centre[axis]) * size[axis]
        label = name if widths is None else f"{name}: FWHM {widths[axis]:.3g} {shown_unit}".rstrip()
        visible = line > 0
        lowest = min(lowest, float(line[visible].min(initial=1.0)))
        profile.plot(
            position,
            np.where(visible, line, np.nan),
            color=_COLOURS[name],
            lw=_WIDTHS[name],
            marker="." if line.size <= 41 else "",
            ms=3 + _WIDTHS[name],
            label=label,
        )
    profile.set_yscale("log")
    # Five decades show rings and noise; what lies below is not a PSF any more.
    profile.set_ylim(max(10 ** math.floor(math.log10(lowest)), 1e-5), 1.5)
    profile.set_xlabel(f"distance from the centre{suffix}", fontsize=8)
    profile.set_ylabel("value over the maximum", fontsize=8)
    profile.tick_params(labelsize=7)
    profile.legend(fontsize=7.5, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=1)
    for side in ("top", "right"):
        profile.spines[side].set_visible(False)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure
