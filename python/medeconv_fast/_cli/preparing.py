"""``--pre``: steps of preprocessing, in the order in which they stand on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import medeconv_fast as mf

from ..preprocess import Chain
from .images import UNITS, shown_size, with_geometry
from .session import Session, UserError

SYNTAX = """
  crop=content[:MARGIN]          the box around what rises above the background, and MARGIN voxels
  crop=mask[:MARGIN]             the box around --mask
  crop=Z0:Z1,Y0:Y1,X0:X1         first voxel and one past the last per axis; ':' for a whole axis
  resample=Z,Y,X[mm|um][:ORDER]  to this voxel size (no unit: the image's), by splines of ORDER (default 1)
  resample=shape:Z,Y,X[:ORDER]   to this number of voxels
  normalize=min-max|z-score|percentile[:LOW:HIGH]
  window=LEVEL:WIDTH             values outside become its limits
  pad=Z,Y,X[:BOUNDARY]           voxels added on both sides (default reflect)
  taper=Z,Y,X                    fade to a constant over these voxels at the edges
  background=LEVEL|mode|sigma-clip|percentile[:Q]
                                 subtract it
One number stands for all axes. With --mask, normalize and background look only inside it.
"""


class Operation(NamedTuple):
    """One ``--pre``: its text, name and options; the unit of a voxel size that it gives."""

    text: str
    name: str
    options: dict[str, Any]
    unit: str | None = None


def operation(text: str) -> Operation:
    """Parse NAME=ARGUMENTS."""
    name, equals, rest = text.partition("=")
    if name not in _PARSERS:
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected NAME=ARGUMENTS with NAME one of {', '.join(_PARSERS)}"
        )
    try:
        if not equals or not rest:
            raise ValueError("expected an argument after =")
        unit = None
        if name == "resample":
            rest, unit = _without_unit(rest)
        return Operation(text, name, _PARSERS[name](rest.split(":")), unit)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from error


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"got {word!r}, expected a number") from None


def _integer(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise ValueError(f"got {word!r}, expected a whole number") from None


def _per_axis(text: str, kind: Callable[[str], Any]) -> Any:
    """One value, or several separated by commas."""
    values = tuple(kind(word) for word in text.split(","))
    return values[0] if len(values) == 1 else values


def _at_most(words: list[str], count: int) -> None:
    if len(words) > count:
        raise ValueError(f"got {len(words)} parts separated by colons, expected at most {count}")


def _crop(words: list[str]) -> dict[str, Any]:
    if words[0] in ("content", "mask"):
        _at_most(words, 2)
        options: dict[str, Any] = {"mask": True} if words[0] == "mask" else {}
        return options | ({"margin": _integer(words[1])} if len(words) == 2 else {})
    box: list[tuple[int, int] | None] = []
    for part in ":".join(words).split(","):
        ends = part.split(":")
        if len(ends) != 2:
            raise ValueError(f"got {part!r}, expected content, mask, or START:STOP per axis")
        box.append(None if ends == ["", ""] else (_integer(ends[0]), _integer(ends[1])))
    return {"box": box}


def _without_unit(text: str) -> tuple[str, str | None]:
    head, colon, order = text.partition(":")
    for unit in ("mm", "um"):
        if head.endswith(unit):
            return head.removesuffix(unit) + colon + order, unit
    return text, None


def _resample(words: list[str]) -> dict[str, Any]:
    by_shape = words[0] == "shape"
    rest = words[1:] if by_shape else words
    _at_most(rest, 2)
    if not rest:
        raise ValueError("expected voxels per axis after shape:")
    value = _per_axis(rest[0], _integer if by_shape else _number)
    options: dict[str, Any] = {"shape" if by_shape else "new_voxel_size": value}
    return options | ({"order": _integer(rest[1])} if len(rest) == 2 else {})


def _normalize(words: list[str]) -> dict[str, Any]:
    options: dict[str, Any] = {"method": words[0]}
    if len(words) == 1:
        return options
    if words[0] != "percentile" or len(words) != 3:
        raise ValueError("expected min-max, z-score, percentile or percentile:LOW:HIGH")
    return options | {"percentiles": (_number(words[1]), _number(words[2]))}


def _window(words: list[str]) -> dict[str, Any]:
    if len(words) != 2:
        raise ValueError("expected LEVEL:WIDTH")
    return {"level": _number(words[0]), "width": _number(words[1])}


def _pad(words: list[str]) -> dict[str, Any]:
    _at_most(words, 2)
    options: dict[str, Any] = {"width": _per_axis(words[0], _integer)}
    return options | ({"mode": words[1]} if len(words) == 2 else {})


def _taper(words: list[str]) -> dict[str, Any]:
    _at_most(words, 1)
    return {"width": _per_axis(words[0], _integer)}


def _background(words: list[str]) -> dict[str, Any]:
    _at_most(words, 2)
    if words[0] == "percentile" and len(words) == 2:
        return {"method": "percentile", "percentile": _number(words[1])}
    if len(words) == 1:
        return {"method": words[0]} if words[0][:1].isalpha() else {"level": _number(words[0])}
    raise ValueError("expected LEVEL, mode, sigma-clip, percentile or percentile:Q")


_PARSERS: dict[str, Callable[[list[str]], dict[str, Any]]] = {
    "crop": _crop,
    "resample": _resample,
    "normalize": _normalize,
    "window": _window,
    "pad": _pad,
    "taper": _taper,
    "background": _background,
}


def prepare(
    volume: mf.io.Volume, arguments: argparse.Namespace, session: Session
) -> tuple[mf.io.Volume, Chain | None]:
    """The volume after all ``--pre``, and what undoes them; None without any."""
    operations: list[Operation] = arguments.pre or []
    if not operations:
        for flag, value in (("--mask", arguments.mask), ("--keep-preprocessed", arguments.keep_preprocessed)):
            if value:
                raise UserError(f"{flag}: has no use without --pre")
        return volume, None
    mask = None if arguments.mask is None else mf.io.read(arguments.mask)
    if mask is not None and mask.voxel_size is not None and mask.spatial_axes == volume.spatial_axes:
        # Made from the image, it says what the image says: a voxel size that is given is its own too.
        mask = with_geometry(mask, arguments, arguments.mask)
    if mask is None and any(op.options.get("mask") for op in operations):
        raise UserError("--pre crop=mask: needs --mask FILE")
    calls = []
    for op in operations:
        options = dict(op.options)
        if op.unit is not None and "new_voxel_size" in options:
            options["new_voxel_size"] = _in_volumes_unit(options["new_voxel_size"], op, volume)
        if mask is not None and op.name in ("normalize", "background") and "level" not in options:
            options["mask"] = True
        calls.append((op.name, options))
    try:
        prepared, chain = mf.preprocess.apply(volume, calls, mask=mask)
    except (ValueError, TypeError) as error:
        raise UserError(f"--pre: {error}") from error
    steps, shape = ", ".join(op.text for op in operations), " x ".join(map(str, prepared.shape))
    session.say(f"prepared  {steps}: {shape}, voxels of {shown_size(prepared.voxel_size, prepared.unit)}")
    return prepared, chain


def scale_of(chain: Chain | None) -> tuple[float, ...] | None:
    """The size of the prepared voxels in those of the file; None where no step has changed it."""
    scale = None
    for step in chain or ():
        if step.name == "resample":
            by = step.settings["scale"]
            scale = by if scale is None else tuple(a * b for a, b in zip(scale, by, strict=True))
    return scale


def _in_volumes_unit(size: Any, op: Operation, volume: mf.io.Volume) -> Any:
    if volume.unit is None or op.unit is None:
        raise UserError(
            f"--pre {op.text}: the image's voxel size has no unit; give it with --voxel-size-mm or "
            "--voxel-size-um"
        )
    factor = UNITS[op.unit] / UNITS[volume.unit]
    return tuple(v * factor for v in size) if isinstance(size, tuple) else size * factor
