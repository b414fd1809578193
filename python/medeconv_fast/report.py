"""A restoration on one page: an HTML file that stands alone, for looking at before a result is trusted.

Needs matplotlib (extra ``report``).
"""

from __future__ import annotations

import base64
import datetime
import html
import io as streams
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import _arrays, _extras, _figures, _validate, metrics, stop
from . import preprocess as _preprocess  # noqa: F401  whole, before a part, as in `medeconv_fast.nn`
from . import psf as psfs
from .io import Volume, check_writable
from .io._files import write_whole
from .preprocess._step import same_place

__all__ = ["check", "write"]

DISCLAIMER = "For research, not a medical device."
# A picture of noise hardly compresses: it is drawn with fewer dots until it fits. All together stay under
# 3 MB.
_DOTS_PER_INCH = (150, 120, 96, 72, 54)
_LARGEST_PICTURE = 400_000
_PIXELS_PER_INCH = 76  # as shown, where there is room
_SPECTRUM_VOXELS = 1 << 21  # more of them say nothing new, and take long
_CURVES, _CURVES_PANEL = (4.4, 3.0), (0.135, 0.15, 0.83, 0.83)  # inches; left, bottom, width, height
_PROFILE_VOXELS = 32  # on each side of the edge

# What the page may load: nothing but what lies inside it.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light; --line: #d9dde2; --soft: #5b6570; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem clamp(.8rem, 3vw, 2.5rem) 3rem; max-width: 90rem;
  background: #fff; color: #16191d; overflow-wrap: anywhere;
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
h1 { font-size: 1.45rem; line-height: 1.25; margin: .6rem 0 .2rem; }
h2 { font-size: 1.08rem; margin: 1.8rem 0 .5rem; padding-bottom: .25rem;
  border-bottom: 1px solid var(--line); }
p { margin: .3rem 0 .7rem; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
.grid { display: grid; gap: 1rem 1.5rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)); }
figure { margin: 0; }
figure img { display: block; height: auto; }
.grid figure img { width: 100%; max-width: 34rem; }
figcaption { margin-top: .3rem; max-width: 34rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; vertical-align: top; padding: .22rem .8rem .22rem 0;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; overflow-wrap: normal; }
td.n, th.n { text-align: right; overflow-wrap: normal; font-variant-numeric: tabular-nums; }
section { overflow-x: auto; }
ul.warnings { margin: 0; padding: .6rem 1rem .6rem 2rem;
  background: #fff6e0; border-left: 4px solid #d08700; }
@media print { body { max-width: none; } figure, table { break-inside: avoid; } }
"""


def write(
    path: Any,
    before: Any,
    after: Any,
    psf: Any = None,
    *,
    info: Mapping[str, Any] | None = None,
    voxel_size: Any = None,
    unit: str | None = None,
    psf_voxel_size: Any = None,
    title: str = "Restoration",
    settings: Mapping[str, Any] | None = None,
    timings: Mapping[str, float] | None = None,
    peak_memory: int | None = None,
    warnings: Iterable[str] = (),
    overwrite: bool = False,
) -> None:
    """Write a report as one HTML file that asks for nothing else: pictures lie inside.

    It shows slices before and after on one grey scale, their difference, a profile through the steepest edge,
    radial power spectra, the convergence, settings, PSF with its widths, versions, timings, memory and
    warnings.

    Parameters
    ----------
    path : path-like
        Its name ends in .html or .htm.
    before, after : array_like or Volume
        The image and what became of it: same shape, 2 or 3 axes of space; of a volume with channels or time
        points the first is shown.
    psf : array_like, optional
        On the image's voxels.
    info : Info, optional
        Of the run. Its convergence is shown where it recorded any: run with ``stop="i-divergence"`` or
        another rule.
    voxel_size : float or sequence of float, optional
        For arrays; a volume has its own.
    unit : str, optional
        Of `voxel_size`.
    psf_voxel_size : float or sequence of float, optional
        Of the PSF, in the same unit, where it is not the image's.
    title : str
    settings : mapping, optional
        What else belongs to the record: file names, preprocessing, …
    timings : mapping, optional
        Name -> seconds, beside those of `info`.
    peak_memory : int, optional
        Bytes.
    warnings : iterable of str
        Beside those of `info`.
    overwrite : bool
        Replace an existing file.

    Raises
    ------
    ValueError
        Shapes that differ, volumes of other places, other than 2 or 3 axes of space, NaN or Inf, a name that
        does not end in .html.
    TypeError
        Not images, or masked arrays: masked voxels would count as measured.
    FileExistsError
        The file exists and `overwrite` is False.
    ImportError
        matplotlib is missing (``pip install "medeconv-fast[report]"``).
    """
    path = _named(path)
    check_writable(path, overwrite=overwrite)
    _figures.require_matplotlib()
    first, second, size, unit, affine, part = _images(before, after, voxel_size, unit)
    scene = _figures.Scene(
        [("before", first), ("after", second), ("difference", second - first)], size, affine
    )
    known = size is not None
    shown_unit = {"um": "µm", None: "(no unit)"}.get(unit, unit) if known else "voxels"
    edge = _steepest_edge(scene, scene.arrays[0])
    told = [*(info["warnings"] if info else ()), *warnings]
    if psf is not None and psf_voxel_size is None:
        psf_voxel_size = size

    sections = [
        _warnings_section(told),
        _slices_section(scene, edge, part),
        _values_section(first, second),
        _curves_section(scene, edge, first, second, size, shown_unit, info),
        _psf_section(psf, psf_voxel_size, unit, shown_unit),
        _settings_section(settings or {}, info),
        _machine_section(info, timings or {}, peak_memory),
    ]
    page = _page(title, sections)
    _write_page(path, page, overwrite=overwrite)


def check(path: Any, image: Any) -> None:
    """Find out before any work whether a report of an image can be written.

    Parameters
    ----------
    path : path-like
    image : array_like or Volume

    Raises
    ------
    ValueError
        A name that does not end in .html, an image of other than 2 or 3 axes of space.
    ImportError
        matplotlib is missing.
    """
    _named(path)
    ndim = len(image.spatial_axes) if isinstance(image, Volume) else np.ndim(image)
    if ndim not in (2, 3):
        raise ValueError(f"{path}: a report shows 2 or 3 axes of space, the image has {ndim}")
    _figures.require_matplotlib()


def _named(path: Any) -> Path:
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{path}: a report is an HTML file, expected a name ending in .html")
    return path


def _images(
    before: Any, after: Any, voxel_size: Any, unit: str | None
) -> tuple[np.ndarray, np.ndarray, tuple[float, ...] | None, str | None, np.ndarray | None, str]:
    """Both images in float, first channel and time point only; their geometry; which part it is."""
    arrays: list[np.ndarray] = []
    affine, part = None, ""
    if isinstance(before, Volume) and isinstance(after, Volume):
        same_place(after, before, "after")
    for value, name in ((before, "before"), (after, "after")):
        if isinstance(value, Volume):
            index = next(value.spatial_indices())
            others = [a for a in value.axes if a not in value.spatial_axes]
            part = ", ".join(f"{a}=0" for a in others)
            array = value.array[index]
            if name == "before":
                if voxel_size is not None or unit is not None:
                    raise ValueError("voxel_size, unit: a volume has its own, expected None")
                voxel_size, unit = value.voxel_size, value.unit
                affine = value.affine if value.unit == "mm" and value.oriented else None
        else:
            array = value
        array = _validate.real(array, name)
        if array.ndim not in (2, 3):
            raise ValueError(f"{name}: got {array.ndim} axes of space, expected 2 or 3")
        array = array.astype(_arrays.result_dtype(array.dtype))
        _validate.finite(array, name)
        arrays.append(array)
    _validate.same_shape(arrays[1], "after", arrays[0].shape, "image before")
    size = None if voxel_size is None else _validate.voxel_size(voxel_size, "voxel_size", arrays[0].ndim)
    return arrays[0], arrays[1], size, unit, affine, part


# ---------------------------------------------------------------- HTML


def _write_page(path: Path, page: str, *, overwrite: bool) -> None:
    # Names of files may hold bytes that are no text.
    write_whole(
        path,
        lambda p: p.write_text(page, encoding="utf-8", errors="backslashreplace"),
        overwrite=overwrite,
    )


def _escape(value: Any) -> str:
    return html.escape(str(value), quote=True)


_LONGEST_LIST = 12


def _text(value: Any) -> str:
    """A value of a record, for reading."""
    if value is None:
        return "none"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return f"{float(value):.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        if len(value) > _LONGEST_LIST:  # a course of numbers: the convergence has its picture
            return (
                f"{', '.join(_text(item) for item in value[:3])}, … ({len(value)} values), {_text(value[-1])}"
            )
        return ", ".join(_text(item) for item in value)
    if isinstance(value, np.ndarray):
        return _validate.shown(value) if value.size > 16 else _text(value.tolist())
    return str(value)


def _section(name: str, title: str, body: str) -> str:
    return f'<section id="{name}">\n<h2>{_escape(title)}</h2>\n{body}\n</section>'


def _rows(rows: Iterable[Sequence[Any]], *, heading: Sequence[str] = (), numbers: int = 0) -> str:
    """A table; its last `numbers` columns are numbers."""
    lines = []
    for i, row in enumerate([heading, *rows] if heading else rows):
        cells = []
        for j, cell in enumerate(row):
            tag = "th" if (heading and i == 0) or j == 0 else "td"
            kind = ' class="n"' if j >= len(row) - numbers else ""
            cells.append(f"<{tag}{kind}>{_escape(_text(cell))}</{tag}>")
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _picture(figure: Any, alt: str, caption: str = "") -> str:
    for dots in _DOTS_PER_INCH:
        stream = streams.BytesIO()
        figure.savefig(stream, format="png", dpi=dots)
        if stream.tell() <= _LARGEST_PICTURE:
            break
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    below = f"\n<figcaption>{_escape(caption)}</figcaption>" if caption else ""
    width, height = (round(_PIXELS_PER_INCH * side) for side in figure.get_size_inches())
    size = f'width="{width}" height="{height}"'
    return f'<figure><img alt="{_escape(alt)}" {size} src="data:image/png;base64,{data}">{below}</figure>'


def _page(title: str, sections: Iterable[str]) -> str:
    from . import __version__

    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{_escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{_escape(title)}</h1>
<p class="soft">medeconv_fast {_escape(__version__)}, {now}. {DISCLAIMER}</p>
{chr(10).join(section for section in sections)}
</body>
</html>
"""


# ---------------------------------------------------------------- sections


def _warnings_section(warnings: Iterable[str]) -> str:
    told = list(dict.fromkeys(str(text) for text in warnings))
    # The run's own record and the warning that it gave differ by what to do about it.
    told = [text for text in told if not any(text != other and text in other for other in told)]
    items = "".join(f"<li>{_escape(text)}</li>" for text in told)
    body = f'<ul class="warnings">{items}</ul>' if items else "<p>None.</p>"
    return _section("warnings", "Warnings", body)


def _slices_section(scene: _figures.Scene, edge: _Edge, part: str) -> str:
    before, after, difference = scene.arrays
    window = _figures.grey_window(before)
    shown = np.concatenate([scene.plane(difference, view).reshape(-1) for view in scene.views])
    largest = float(np.percentile(np.abs(shown), 99.9)) or 1.0
    x, y = edge.position, edge.across
    ends = (x[0], x[-1], y, y) if edge.horizontal else (y, y, x[0], x[-1])
    mark = (edge.view, *ends)
    pictures = [
        _picture(_figures.slices_figure(scene, array, window, mark=mark), f"slices {name}", caption)
        for name, array, caption in (
            ("before", before, "Before."),
            ("after", after, "After, on the same grey scale."),
        )
    ]
    pictures.append(
        _picture(
            _figures.slices_figure(scene, difference, (-largest, largest), cmap="RdBu_r"),
            "difference of the slices",
            "After minus before: red became brighter, blue darker.",
        )
    )
    middle = " Slices through the middle" + (f", {part}" if part else "") + "."
    text = (
        f"Grey values {window[0]:.6g} to {window[1]:.6g}, 0.1 to 99.9 per cent of the image before; voxels "
        f"keep their proportions.{middle} The dashed line is that of the profile."
    )
    return _section(
        "slices", "Slices", f'<p>{_escape(text)}</p>\n<div class="grid">{"".join(pictures)}</div>'
    )


def _values_section(before: np.ndarray, after: np.ndarray) -> str:
    def row(name: str, array: np.ndarray) -> tuple[Any, ...]:
        mean = float(array.mean(dtype=np.float64))
        return name, float(array.min()), float(array.max()), mean, int((array < 0).sum())

    return _section(
        "values",
        "Values",
        _rows(
            [row("before", before), row("after", after)],
            heading=("", "smallest", "largest", "mean", "below 0"),
            numbers=4,
        ),
    )


class _Edge:
    """A line through the steepest edge of a slice as it is looked at."""

    def __init__(self, scene: _figures.Scene, view: Any, row: int, column: int, horizontal: bool) -> None:
        self.view, self.horizontal, self._scene = view, horizontal, scene
        down, right = scene.size[view.vertical], scene.size[view.horizontal]
        height = scene.extent[view.vertical]
        at = column if horizontal else row
        self._fixed = row if horizontal else column
        n = scene.arrays[0].shape[view.horizontal if horizontal else view.vertical]
        self._span = slice(max(0, at - _PROFILE_VOXELS), min(n, at + _PROFILE_VOXELS + 1))
        places = (np.arange(n) + 0.5)[self._span]
        # From the lower left corner of the picture; rows count from the top.
        self.position = places * right if horizontal else height - places * down
        self.across = height - (row + 0.5) * down if horizontal else (column + 0.5) * right

    def line(self, array: np.ndarray) -> np.ndarray:
        plane = self._scene.plane(array, self.view)
        return (plane[self._fixed] if self.horizontal else plane[:, self._fixed])[self._span]


def _steepest_edge(scene: _figures.Scene, array: np.ndarray) -> _Edge:
    """Where the slices are steepest per unit of length, in the mean over three neighbouring lines."""
    best, found = -1.0, None
    for view in scene.views:
        plane = scene.plane(array, view).astype(np.float64)
        for horizontal, step in ((True, scene.size[view.horizontal]), (False, scene.size[view.vertical])):
            lines = plane if horizontal else plane.T
            padded = np.pad(lines, ((1, 1), (0, 0)), mode="edge")
            smooth = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
            if smooth.shape[1] < 3:
                continue
            slope = np.abs(smooth[:, 2:] - smooth[:, :-2]) / (2 * step)
            if slope.max() > best:
                best = float(slope.max())
                i, j = (int(k) for k in np.unravel_index(int(np.argmax(slope)), slope.shape))
                row, column = (i, j + 1) if horizontal else (j + 1, i)
                found = _Edge(scene, view, row, column, horizontal)
    return found or _Edge(scene, scene.views[0], 0, 0, True)


def _curves_section(
    scene: _figures.Scene,
    edge: _Edge,
    first: np.ndarray,
    second: np.ndarray,
    size: tuple[float, ...] | None,
    unit: str | None,
    info: Mapping[str, Any] | None,
) -> str:
    figure = _extras.matplotlib_figure("a report").Figure(figsize=_CURVES)
    panel = figure.add_axes(_CURVES_PANEL)
    _figures.draw_profiles(
        panel, edge.position, [("before", edge.line(scene.arrays[0])), ("after", edge.line(scene.arrays[1]))]
    )
    side = "left" if edge.horizontal else "lower"
    panel.set_xlabel(f"distance from the {side} edge of the slice / {unit}", fontsize=8)
    pictures = [
        (
            "profile",
            "Profile through the steepest edge",
            _picture(
                figure,
                "profile through the steepest edge",
                f"Along the dashed line of the {scene.name(edge.view)} slice, where the image before is "
                "steepest.",
            ),
        ),
        ("spectrum", "Radial power spectrum", _spectrum(first, second, size, unit)),
        ("convergence", "Convergence", _convergence(info)),
    ]
    return '<div class="grid">' + "\n".join(_section(*entry) for entry in pictures) + "</div>"


def _spectrum(first: np.ndarray, second: np.ndarray, size: tuple[float, ...] | None, unit: str | None) -> str:
    middle = _middle(first.shape)
    figure = _extras.matplotlib_figure("a report").Figure(figsize=_CURVES)
    panel = figure.add_axes(_CURVES_PANEL)
    curves = []
    for name, array in (("before", first), ("after", second)):
        frequency, power = metrics.radial_power(array[middle], size)
        curves.append((name, np.where(power > 0, power, np.nan)))
    _figures.draw_profiles(panel, frequency, curves)
    if any(np.isfinite(curve).any() for _, curve in curves):
        panel.set_yscale("log")
    panel.set_ylabel("power", fontsize=8)
    panel.set_xlabel(f"spatial frequency / cycles per {_singular(unit)}", fontsize=8)
    cropped = tuple(s.stop - s.start for s in middle) != first.shape
    where = f" Of the middle {_text([s.stop - s.start for s in middle])} voxels." if cropped else ""
    caption = (
        "Mean over rings of equal frequency, Hann window; white noise is flat. Power that rises above that "
        f"of the image before at high frequencies is detail, or noise that was amplified.{where}"
    )
    return _picture(figure, "radial power spectra", caption)


def _singular(unit: str | None) -> str:
    return "voxel" if unit == "voxels" else str(unit)


def _middle(shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The middle of a large image, of not too many voxels: the longest axes are cut to one length."""
    lengths = list(shape)
    while math.prod(lengths) > _SPECTRUM_VOXELS:
        longest = max(range(len(lengths)), key=lambda a: lengths[a])
        lengths[longest] = max(1, lengths[longest] * 3 // 4)
    return tuple(slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(shape, lengths, strict=True))


def _convergence(info: Mapping[str, Any] | None) -> str:
    if info is None:
        return "<p>Nothing is known of the run.</p>"
    done = (
        f"{info['num_iter']} iteration{'s' if info['num_iter'] != 1 else ''}, ended by {info['stopped_by']}."
    )
    try:
        figure = stop.plot(info)
    except ValueError:
        why = (
            "A closed form: there is nothing to converge."
            if info["stopped_by"] == "closed form"
            else "No measure of convergence was recorded (a rule for stopping records it)."
        )
        return f"<p>{_escape(done)} {_escape(why)}</p>"
    figure.set_size_inches(_CURVES[0], max(_CURVES[1], 1.9 * len(figure.axes)))
    return _picture(figure, "convergence", done)


def _psf_section(psf: Any, size: tuple[float, ...] | None, unit: str | None, shown_unit: str | None) -> str:
    if psf is None:
        return _section("psf", "Point spread function", "<p>Not given.</p>")
    array = _validate.real(psf, "psf")
    figure = psfs.plot(array, size, unit=unit)
    names = "zyx"[3 - array.ndim :]
    try:
        widths = psfs.fwhm(array, size)
        in_voxels = psfs.fwhm(array)
        table = _rows(
            [
                (axis, n, f"{w:.4g} {shown_unit}", f"{v:.4g}")
                for axis, n, w, v in zip(names, array.shape, widths, in_voxels, strict=True)
            ],
            heading=("axis", "voxels", "full width at half maximum", "in voxels"),
            numbers=3,
        )
    except ValueError as error:
        table = f"<p>No width: {_escape(error)}</p>"
    picture = _picture(figure, "planes and profiles of the point spread function")
    return _section("psf", "Point spread function", f'<div class="wide">{picture}</div>\n{table}')


def _settings_section(settings: Mapping[str, Any], info: Mapping[str, Any] | None) -> str:
    rows = [(str(key).replace("_", " "), value) for key, value in (info["settings"] if info else {}).items()]
    half = -(-len(rows) // 2)
    tables = [_rows(part) for part in (list(settings.items()), rows[:half], rows[half:]) if part]
    body = "".join(f"<div>{table}</div>" for table in tables) or "<p>Not recorded.</p>"
    return _section("settings", "Settings", f'<div class="grid">{body}</div>')


def _machine_section(
    info: Mapping[str, Any] | None, timings: Mapping[str, float], peak_memory: int | None
) -> str:
    from . import __version__, backends

    times: list[tuple[str, str]] = [(name, f"{seconds:.4g} s") for name, seconds in timings.items()]
    memory: list[tuple[str, str]] = []
    versions: list[tuple[str, str]] = [
        ("medeconv_fast", __version__),
        ("numpy", np.__version__),
        ("matplotlib", _extras.library("matplotlib", "report", "a report").__version__),
        ("Python", platform.python_version()),
        ("system", f"{platform.system()} {platform.machine()}"),
    ]
    if info is not None:
        steps = [entry["seconds"] for entry in info["trace"] if "seconds" in entry]
        times.append(("the method", f"{info['seconds']:.4g} s"))
        if len(steps) > 1:
            times.append(("one iteration, median", f"{1e3 * float(np.median(steps)):.4g} ms"))
        memory.append(("working memory, predicted", _bytes(info["bytes"])))
        versions.append(("engine", info["engine"]))
        isa = backends.resolve(info["backend"]).describe().get("isa")
        versions.append(("backend", info["backend"] if isa is None else f"{info['backend']} ({isa})"))
    if peak_memory is not None:
        memory.append(("peak of the process", _bytes(peak_memory)))
    tables = [
        _section("timings", "Timings", _rows(times) if times else "<p>Not recorded.</p>"),
        _section("memory", "Memory", _rows(memory) if memory else "<p>Not recorded.</p>"),
        _section("versions", "Versions", _rows(versions)),
    ]
    return f'<div class="grid">{"".join(tables)}</div>'


def _bytes(count: int) -> str:
    return f"{count / 2**20:.4g} MiB"
