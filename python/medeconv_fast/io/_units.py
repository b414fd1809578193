"""What the names of lengths in image files mean.

Programs write one unit in many ways: symbols (mm), words in two spellings, singular or plural, in any case,
and ImageJ's escape for the micro sign (a literal backslash, u00B5).
"""

from __future__ import annotations

import re

_PREFIXES = {  # powers of ten
    "Y": 24, "Z": 21, "E": 18, "P": 15, "T": 12, "G": 9, "M": 6, "k": 3, "h": 2, "da": 1,
    "": 0, "d": -1, "c": -2, "m": -3, "u": -6, "n": -9, "p": -12, "f": -15,
}  # fmt: skip
_WORDS = {
    "kilo": "k",
    "": "",
    "deci": "d",
    "centi": "c",
    "milli": "m",
    "micro": "u",
    "nano": "n",
    "pico": "p",
}
# Case tells Mm from mm, so symbols are looked up as they are first.
_SYMBOLS = {f"{prefix}m": float(f"1e{6 + power}") for prefix, power in _PREFIXES.items()} | {
    "\u212b": 1e-4, "\u00c5": 1e-4, "in": 25400.0, '"': 25400.0, "thou": 25.4, "mil": 25.4, "ft": 304800.0,
}  # fmt: skip
_NAMES = {
    **{f"{word}met{end}": _SYMBOLS[f"{p}m"] for word, p in _WORDS.items() for end in ("er", "re")},
    "micron": 1.0, "inch": 25400.0, "angstrom": 1e-4, "foot": 304800.0, "feet": 304800.0,
}  # fmt: skip
# OME-NGFF's units of time, and how other formats write them.
SECONDS = {
    "day": 86400.0, "hour": 3600.0, "minute": 60.0, "second": 1.0, "millisecond": 1e-3, "microsecond": 1e-6,
    "nanosecond": 1e-9, "picosecond": 1e-12,
}  # fmt: skip
_TIMES = {
    "d": "day", "h": "hour", "hr": "hour", "min": "minute", "s": "second", "sec": "second",
    "ms": "millisecond", "msec": "millisecond", "us": "microsecond", "usec": "microsecond",
    "ns": "nanosecond", "ps": "picosecond",
}  # fmt: skip
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")


def in_um(name: object) -> float | None:
    """Length of the unit in µm; None for what is not a length, such as "pixel", or is not known."""
    if name is None:
        return None
    text = _ESCAPE.sub(lambda found: chr(int(found.group(1), 16)), str(name)).strip()
    text = text.replace("\u00b5", "u").replace("\u03bc", "u")  # the micro sign, and the Greek letter
    if text in _SYMBOLS:
        return _SYMBOLS[text]
    folded = text.lower()
    for ending in ("", "s", "es"):
        word = folded.removesuffix(ending)
        if word in _NAMES:
            return _NAMES[word]
    return _SYMBOLS.get(folded)


def time_word(name: object) -> str | None:
    """OME-NGFF's word for a unit of time, such as "second"; None for what is none or is not known."""
    text = str(name).strip().replace("\u00b5", "u").replace("\u03bc", "u").lower()
    for word in (text, text.removesuffix("s")):
        if word in SECONDS:
            return word
    return _TIMES.get(text)


def house_unit(um: float) -> str:
    """The unit that a volume is given: sizes in mm and larger units are medical and stay in mm."""
    return "mm" if um >= 1000 else "um"


def house_time(name: object) -> str:
    """The unit of ``metadata["time_step"]``: NIfTI's word, else OME-NGFF's, else "unknown"."""
    word = time_word(name)
    return {"second": "sec", "millisecond": "msec", "microsecond": "usec"}.get(word or "", word or "unknown")
