"""Several steps, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .. import _validate
from ._background import background
from ._extent import crop, pad
from ._resample import resample
from ._step import Chain, Step
from ._values import normalize, taper, window

FUNCTIONS = {
    f.__name__: f for f in (crop, resample, normalize, window, pad, taper, background)
}  # of the contract


def apply(
    image: Any, operations: Iterable[tuple[str, Mapping[str, Any]]], *, mask: Any = None
) -> tuple[Any, Chain]:
    """Do several steps of preprocessing in order.

    Parameters
    ----------
    image : array_like or Volume
        1 to 3 axes of space.
    operations : sequence of (str, dict)
        Name of a function (crop, resample, normalize, window, pad, taper, background) and its arguments by
        name. ``"mask": True`` among them stands for `mask`.
    mask : array_like or Volume, optional
        On the grid of `image`; it follows the image through crop, pad (0 in the frame) and resample (nearest
        neighbours).

    Returns
    -------
    result : array or Volume
    chain : Chain
        ``chain.undo(restored)`` undoes all, in reverse order.

    Raises
    ------
    ValueError, TypeError
        What a step raises, after its number (from 1) and name; an unknown name; ``"mask": True`` without a
        mask.

    Examples
    --------
    >>> small, chain = apply(scan, [("crop", {"margin": 4}), ("normalize", {"method": "percentile"})])
    >>> result = chain.undo(restored_small)
    """
    steps: list[Step] = []
    if not isinstance(operations, Iterable):
        raise TypeError(f"operations: got {_validate.shown(operations)}, expected pairs (name, options)")
    for number, operation in enumerate(operations, 1):
        name, options = _checked(operation, number)
        if options.get("mask") is True:
            if mask is None:
                raise ValueError(f"step {number} ({name}): mask: got True, but no mask was given")
            options["mask"] = mask
        try:
            image, step = FUNCTIONS[name](image, **options)
            if mask is not None:
                mask = step.carry(mask)
        except (ValueError, TypeError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"step {number} ({name}): {error}") from error
        steps.append(step)
    return image, Chain(steps)


def _checked(operation: Any, number: int) -> tuple[str, dict[str, Any]]:
    if (
        not isinstance(operation, tuple | list)
        or len(operation) != 2
        or not isinstance(operation[1], Mapping)
    ):
        raise TypeError(
            f"operations: entry {number} is {_validate.shown(operation)}, expected a pair (name, options)"
        )
    name = _validate.choice(operation[0], f"operations: name of entry {number}", tuple(FUNCTIONS))
    return name, dict(operation[1])
