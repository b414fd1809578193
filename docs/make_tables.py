"""Prints the table operation x backend of README.md, found by running every operation on every backend.

    python docs/make_tables.py            print it
    python docs/make_tables.py --write    put it into README.md, between its two marks

A cell lists what agrees with a direct sum or, for the algorithms, with the reference backend in float64:
dimensions, dtypes and boundaries. A backend that is not available here is an error: the table must not depend
on the machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import medeconv_fast as mf
import numpy as np

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- table: docs/make_tables.py --write -->", "<!-- end of table -->"
BACKENDS = ("cpp", "reference")
BOUNDARIES = ("extended", "zero", "reflect", "nearest", "mirror", "wrap")
TOLERANCE = {np.float32: 2e-5, np.float64: 1e-10}
# Sizes whose padded grid is the same on every backend: the Wiener filter's result depends on the padding.
SHAPES = {1: ((42,), (7,)), 2: ((20, 21), (5, 4)), 3: ((10, 13, 16), (3, 4, 5))}

Operation = Callable[[np.ndarray, np.ndarray, str, str], np.ndarray]


def _blur_forward(image: np.ndarray, psf: np.ndarray, boundary: str, backend: str) -> np.ndarray:
    blur = mf.Blur(psf, image.shape, boundary=boundary, backend=backend, dtype=image.dtype)
    estimate = np.resize(image, blur.estimate_shape)
    return blur.forward(estimate)


def _blur_adjoint(image: np.ndarray, psf: np.ndarray, boundary: str, backend: str) -> np.ndarray:
    return mf.Blur(psf, image.shape, boundary=boundary, backend=backend, dtype=image.dtype).adjoint(image)


def _richardson_lucy(image: np.ndarray, psf: np.ndarray, boundary: str, backend: str) -> np.ndarray:
    return mf.richardson_lucy(image, psf, 5, boundary=boundary, backend=backend)


def _wiener(image: np.ndarray, psf: np.ndarray, boundary: str, backend: str) -> np.ndarray:
    return mf.wiener(image, psf, 0.01, boundary=boundary, backend=backend)


def _wiener_auto(image: np.ndarray, psf: np.ndarray, boundary: str, backend: str) -> np.ndarray:
    return mf.wiener(image, psf, "auto", boundary=boundary, backend=backend)


def _restore(image: np.ndarray, psf: np.ndarray, boundary: str, backend: str) -> np.ndarray:
    return mf.restore(image, psf, num_iter=5, boundary=boundary, backend=backend)


def _convolve(image: np.ndarray, psf: np.ndarray, boundary: str, backend: str) -> np.ndarray:
    return mf.convolve(image, psf, "same", boundary, backend=backend)


def _correlate(image: np.ndarray, psf: np.ndarray, boundary: str, backend: str) -> np.ndarray:
    return mf.correlate(image, psf, "same", boundary, backend=backend)


OPERATIONS: dict[str, Operation] = {
    "Blur.forward": _blur_forward,
    "Blur.adjoint": _blur_adjoint,
    "convolve": _convolve,
    "correlate": _correlate,
    "richardson_lucy": _richardson_lucy,
    "wiener": _wiener,
    'wiener, balance="auto"': _wiener_auto,
    "restore": _restore,
}


def _cases(operation: Operation, backend: str) -> Iterator[tuple[int, str, str]]:
    """Dimension, dtype and boundary of every case that runs and agrees with the reference in float64."""
    random = np.random.default_rng(0)
    for ndim, (shape, psf_shape) in SHAPES.items():
        image, psf = random.uniform(1, 2, shape), random.uniform(0.1, 1, psf_shape)
        for boundary in BOUNDARIES:
            try:
                wanted = operation(image, psf, boundary, "reference")
            except ValueError:  # a boundary that the operation does not have
                continue
            for dtype, tolerance in TOLERANCE.items():
                got = operation(image.astype(dtype), psf, boundary, backend)
                error = np.linalg.norm(got - wanted) / np.linalg.norm(wanted)
                if got.dtype == dtype and error < tolerance:
                    yield ndim, np.dtype(dtype).name, boundary


def _cell(operation: Operation, backend: str) -> tuple[str, str]:
    """Dimensions and dtypes, and boundaries, of an operation, if every combination of them agrees."""
    found = list(_cases(operation, backend))
    if not found:
        return "-", ""
    ndims, dtypes = sorted({c[0] for c in found}), sorted({c[1] for c in found})
    boundaries = [b for b in BOUNDARIES if any(c[2] == b for c in found)]
    if len(found) != len(ndims) * len(dtypes) * len(boundaries):
        raise AssertionError(
            f"{backend}: the cases that agree are no product of dimensions, dtypes and boundaries: {found}"
        )
    return f"{ndims[0]}-D to {ndims[-1]}-D, {' and '.join(dtypes)}", ", ".join(boundaries)


def table() -> str:
    """The table in Markdown."""
    missing = [name for name in BACKENDS if name not in mf.backends.available()]
    if missing:
        raise SystemExit(f"not available here: {', '.join(missing)}; the table needs every backend")
    lines = [
        f"| operation | {' | '.join(f'`{name}`' for name in BACKENDS)} | boundaries |",
        f"|---|{'---|' * len(BACKENDS)}---|",
    ]
    for name, operation in OPERATIONS.items():
        cells = [_cell(operation, backend) for backend in BACKENDS]
        boundaries = {cell[1] for cell in cells}
        if len(boundaries) != 1:
            raise AssertionError(f"{name}: the backends differ in boundaries: {boundaries}")
        first, *rest = name.split(",", 1)
        shown = f"`{first}`" + "".join(f",{text}" for text in rest)
        lines.append(f"| {shown} | {' | '.join(cell[0] for cell in cells)} | {boundaries.pop()} |")
    return "\n".join(lines)


def main() -> None:
    text = table()
    if "--write" not in sys.argv[1:]:
        print(text)
        return
    readme = README.read_text(encoding="utf-8")
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    README.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
