"""A file that says how fast a machine is beside the one that the cost model's constants are from.

A calibration scales the times that are shown. It never takes part in a choice: engine, grid and so every bit
of a result depend on the constants in `_costs` alone, on every machine.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import _costs, _validate

KIND = "medeconv_fast calibration 1"
ENGINES = tuple(_costs.CALL)
RANKS = ("line", "image", "volume")
MADE_WITH = ("backend", "isa", "num_threads")


def _is_row(values: Any) -> bool:
    numbers = isinstance(values, list) and all(
        isinstance(f, int | float) and not isinstance(f, bool) for f in values
    )
    # An integer may be finite and beyond all floats.
    return numbers and len(values) == len(RANKS) and all(0 < f <= sys.float_info.max for f in values)


def load(value: Any, name: str = "calibration") -> dict[str, Any]:
    """A calibration, from a file or as such a file holds it; checked."""
    if isinstance(value, str | os.PathLike):
        path = Path(value)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise ValueError(
                f"{name}: {path} cannot be read as what `medeconv calibrate --save` writes ({error})"
            ) from error
    else:
        content = value
    if not isinstance(content, Mapping) or content.get("kind") != KIND:
        given = value if isinstance(value, str | os.PathLike) else _validate.shown(value)
        raise ValueError(f"{name}: got {given}, expected what `medeconv calibrate --save FILE` writes")
    factors = content.get("factors")
    if not isinstance(factors, Mapping) or not all(_is_row(factors.get(engine)) for engine in ENGINES):
        raise ValueError(
            f"{name}: the factors of {_validate.shown(value)} are damaged: expected {len(RANKS)} positive "
            f"numbers for each of {', '.join(ENGINES)}"
        )
    missing = [key for key in MADE_WITH if key not in content]
    if missing:
        raise ValueError(
            f"{name}: {_validate.shown(value)} is damaged: it does not say with which {missing[0]} it "
            "was made"
        )
    return dict(content)


def scaled(predicted_ms: Mapping[str, float], rank: int, calibration: Mapping[str, Any]) -> dict[str, float]:
    """Predicted milliseconds on the machine that was calibrated; `rank` axes are longer than 1."""
    at = max(rank, 1) - 1
    return {name: ms * calibration["factors"][name][at] for name, ms in predicted_ms.items()}
