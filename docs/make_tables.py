"""Prints the table operation x backend of README.md, found by running every operation on every backend.

    python docs/make_tables.py            print it
    python docs/make_tables.py --write    put it into README.md, between its two marks

A cell lists the dimensions and dtypes of the cases that run and agree with the reference backend in float64
and its spectral engine, for every boundary and engine of the row. A backend that is not available here is an
error: the table must not depend on the machine. Only the column `cuda` is left as it stands in README.md
where there is neither a GPU nor the emulator (MEDECONV_TEST_EMULATOR, see tests/emulated.py).
"""

from __future__ import annotations

import functools
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import emulated  # noqa: F401, before the package

import medeconv_fast as mf

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- table: docs/make_tables.py --write -->", "<!-- end of table -->"
BACKENDS = ("cpp", "numba", "reference")
MEASURED = (
    "an NVIDIA H200"  # on which GPU benchmarks/gpu.py was run; empty: the emulator alone ran the kernels
)
BOUNDARIES = ("extended", "zero", "reflect", "nearest", "mirror", "wrap")
ENGINES = ("spectral", "separable", "direct")
TOLERANCE = {np.float32: 5e-5, np.float64: 1e-10}
SHAPES = {1: ((42,), (7,)), 2: ((20, 21), (5, 4)), 3: ((10, 13, 16), (3, 4, 5))}

Operation = Callable[..., np.ndarray]


def _blur_forward(image: np.ndarray, psf: np.ndarray, **options: str) -> np.ndarray:
    blur = mf.Blur(psf, image.shape, dtype=image.dtype, **options)
    return blur.forward(np.resize(image, blur.estimate_shape))


def _blur_adjoint(image: np.ndarray, psf: np.ndarray, **options: str) -> np.ndarray:
    return mf.Blur(psf, image.shape, dtype=image.dtype, **options).adjoint(image)


def _blind(image: np.ndarray, psf: np.ndarray, **options: str) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # such a psf goes on beyond its array
        return mf.blind_richardson_lucy(image, psf, num_iter=5, **options)[0]


def _volume(image: np.ndarray, psf: np.ndarray, **options: str) -> np.ndarray:
    """In tiles, from array to file."""
    if image.ndim == 1:
        raise ValueError("volumes have two or three axes of space")
    tile = (*(-(-n // 2) for n in image.shape[:-1]), image.shape[-1])
    cut = {"tile": tile, "halo": "exact"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.npy"
        mf.restore_volume(image, path, psf, method="rl", num_iter=2, dtype="input", **cut, **options)
        return np.load(path)


# The value says whether the operation has a choice of engines.
OPERATIONS: dict[str, tuple[Operation, bool]] = {
    "Blur.forward": (_blur_forward, True),
    "Blur.adjoint": (_blur_adjoint, True),
    "convolve": (functools.partial(mf.convolve, mode="same"), False),
    "correlate": (functools.partial(mf.correlate, mode="same"), False),
    "richardson_lucy": (functools.partial(mf.richardson_lucy, num_iter=5), True),
    "blind_richardson_lucy": (_blind, True),
    "wiener": (functools.partial(mf.wiener, balance=0.01), False),
    'wiener, balance="auto"': (mf.wiener, False),
    "tikhonov": (functools.partial(mf.tikhonov, weight=0.01, regularizer=1), False),
    "inverse_filter": (functools.partial(mf.inverse_filter, threshold=0.2), False),
    "unsupervised_wiener": (functools.partial(mf.unsupervised_wiener, num_iter=20), False),
    "landweber": (functools.partial(mf.landweber, num_iter=5, non_negative=True), True),
    "fista": (functools.partial(mf.fista, weight=0.02, num_iter=5), True),
    "van_cittert": (functools.partial(mf.van_cittert, num_iter=1), True),
    "restore": (functools.partial(mf.restore, num_iter=5), True),
    "restore_volume": (_volume, True),
}


class Case(NamedTuple):
    ndim: int
    dtype: str
    boundary: str
    engine: str


def _cases(operation: Operation, engines: tuple[str, ...], backend: str) -> Iterator[Case]:
    """Every case that runs and agrees."""
    random = np.random.default_rng(0)
    for ndim, (shape, psf_shape) in SHAPES.items():
        image = random.uniform(1, 2, shape)
        psf = functools.reduce(np.multiply.outer, [random.uniform(0.1, 1, k) for k in psf_shape])
        for boundary in BOUNDARIES:
            options = {"engine": "spectral"} if engines else {}
            try:
                wanted = operation(image, psf, boundary=boundary, backend="reference", **options)
            except ValueError:  # a boundary that the operation does not have
                continue
            for engine in engines or ("",):
                options = {"engine": engine} if engine else {}
                for dtype, tolerance in TOLERANCE.items():
                    try:
                        got = operation(
                            image.astype(dtype), psf, boundary=boundary, backend=backend, **options
                        )
                    except ValueError:  # an engine that the operation does not have
                        continue
                    if got.dtype == dtype and np.linalg.norm(got - wanted) < tolerance * np.linalg.norm(
                        wanted
                    ):
                        yield Case(ndim, np.dtype(dtype).name, boundary, engine)


def row(name: str) -> str:
    """Of one operation."""
    operation, has_engines = OPERATIONS[name]
    cells, boundaries, engines = [], set(), set()
    for backend in (*BACKENDS, *(["cuda"] if "cuda" in mf.backends.available() else [])):
        found = list(_cases(operation, ENGINES if has_engines else (), backend))
        ndims, dtypes, kinds, used = (sorted(set(column)) for column in zip(*found, strict=True))
        if len(found) != len(ndims) * len(dtypes) * len(kinds) * len(used):
            raise AssertionError(f"{name}, {backend}: only these agree with the reference: {found}")
        cells.append(f"{ndims[0]}-D to {ndims[-1]}-D, {' and '.join(dtypes)}")
        if backend == "cuda":
            cells[-1] += f"; measured on {MEASURED}" if MEASURED else "; emulated only"
        boundaries.add(", ".join(b for b in BOUNDARIES if b in kinds))
        engines.add(", ".join(e for e in ENGINES if e in used) or "spectral")
    if len(boundaries) != 1 or len(engines) != 1:
        raise AssertionError(f"{name}: the backends differ: {boundaries}, {engines}")
    first, comma, rest = name.partition(",")
    title = f"`{first}`{comma}{rest}"
    if len(cells) == len(BACKENDS):
        cells.append(_as_it_stands(title))
    return f"| {title} | {' | '.join(cells)} | {engines.pop()} | {boundaries.pop()} |"


def _as_it_stands(title: str) -> str:
    """The cell of the column `cuda` in README.md."""
    for line in README.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"| {title} |"):
            return line.split(" | ")[1 + len(BACKENDS)]
    raise SystemExit(f"{title}: not in README.md, and no GPU or emulator to try it on")


def missing() -> list[str]:
    """Backends that are not available here, without which there is no table."""
    return [name for name in BACKENDS if name not in mf.backends.available()]


def heading() -> list[str]:
    """The first two lines."""
    head = ["operation", *(f"`{name}`" for name in (*BACKENDS, "cuda")), "engines", "boundaries"]
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]


def main() -> None:
    if missing():
        raise SystemExit(f"not available here: {', '.join(missing())}; the table needs every backend")
    text = "\n".join([*heading(), *map(row, OPERATIONS)])
    if "--write" not in sys.argv[1:]:
        print(text)
        return
    readme = README.read_text(encoding="utf-8")
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    README.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
