"""What a run would do, and take, before anything is allocated."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from . import _arrays, _calibration, _costs, _device, _validate, backends
from ._blur import (
    BOUNDARIES,
    approximated,
    check_engine,
    choose_engine,
    geometry,
    make_plan,
    predicted_costs,
)
from ._grid import cut, halo_of
from ._record import Record
from ._taps import mirror_symmetric, point_symmetric, taps_of
from ._threads import resolve_num_threads

_UNITS = {"": 1, "B": 1} | {
    letter + unit: base**power
    for power, letter in enumerate("KMGT", 1)
    for unit, base in (("B", 1000), ("IB", 1024))
}


ITERATIONS = 30  # for which an image is cut into tiles: Richardson-Lucy's default


class Plan(Record):
    """A prediction: a dict whose entries can also be read as attributes; as text, a few lines.

    Entries
    -------
    shape, estimate_shape, psf_shape : tuple of int
        Of the image, of what is estimated (larger under boundary="extended"), and of the PSF.
    boundary, dtype, backend : str
    num_threads : int
    calibrated : bool
        Whether the times are scaled to a calibrated machine.
    grid : tuple of int
        Size of the transform.
    engine, reason : str
        What is picked, and why.
    predicted_ms : dict
        Engine -> milliseconds per application of the blur, for each engine that applies.
    predicted_iteration_ms : dict
        The same per iteration of Richardson-Lucy, which is two applications.
    bytes : int
        What one application takes beside input and output: `Blur.workspace_bytes`.
    richardson_lucy_bytes : int
        What plain Richardson-Lucy holds beside its image: `bytes`, the estimate and the normalizer. The same
        as ``info.bytes`` of a run.
    memory : int or None
        The limit that was given, in bytes.
    tiles : tuple of int
        Number of tiles per axis with which a run stays within `memory`, for 30 iterations (see
        `restore_volume`, which also counts what is read and written); ones where the whole fits.
    warnings : list of str
        What stands in the way.
    """

    def __str__(self) -> str:
        def size(shape: tuple[int, ...]) -> str:
            return " x ".join(map(str, shape))

        order = sorted(self.predicted_ms, key=self.predicted_ms.__getitem__)
        lines = [
            f"image      {size(self.shape)}, {self.dtype}, boundary {self.boundary}",
            f"estimate   {size(self.estimate_shape)}",
            f"psf        {size(self.psf_shape)}",
            f"engine     {self.engine}: {self.reason}",
            f"transform  {size(self.grid)}" + ("" if self.engine == "spectral" else " (not used)"),
            f"predicted  with {self.num_threads} threads, backend {self.backend}"
            + (", calibrated" if self.calibrated else ""),
        ]
        lines += [
            f"           {name:9}  {self.predicted_ms[name]:9.3g} ms per application, "
            f"{self.predicted_iteration_ms[name]:9.3g} ms per iteration" + (" <-" * (name == self.engine))
            for name in order
        ]
        lines += [
            f"memory     {self.bytes / 1e6:.1f} MB for the blur, {self.richardson_lucy_bytes / 1e6:.1f} MB "
            "for Richardson-Lucy, beside input and output",
            f"tiles      {size(self.tiles)}",
        ]
        return "\n".join(lines + [f"warning    {text}" for text in self.warnings])


def bytes_of(value: Any, name: str = "memory") -> int:
    """A number of bytes: an integer, or text such as "4 GB" or "512MiB"."""
    if not isinstance(value, str):
        return _validate.integer(value, name, minimum=1)
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", value)
    count = math.nan if match is None else float(match[1]) * _UNITS.get(match[2].upper(), math.nan)
    if not 1 <= count < math.inf:
        raise ValueError(
            f"{name}: got {value!r}, expected a positive number of bytes such as '4 GB' or '512 MiB'"
        )
    return int(count)


def _taps_and_shape(psf: Any, ndim: int, dtype: np.dtype) -> tuple[np.ndarray | None, tuple[int, ...]]:
    """The PSF's values, unless only its shape is given (a tuple of integers)."""
    if isinstance(psf, tuple) and psf and all(isinstance(n, int | np.integer) for n in psf):
        shape = _validate.shape(psf, "psf")
        if len(shape) != ndim:
            raise ValueError(
                f"psf: got the shape {shape}, expected {ndim} axis lengths, as many as shape has"
            )
        return None, shape
    values, _ = _arrays.as_psf(psf, ndim, dtype=dtype)
    return values, values.shape


def plan(
    shape: Any,
    psf: Any,
    *,
    boundary: str = "extended",
    dtype: Any = "float32",
    engine: str = "auto",
    backend: str = "auto",
    memory: Any = None,
    num_threads: int | None = None,
    calibration: Any = None,
) -> Plan:
    """Predict what a blur or a Richardson-Lucy run would use, before anything of the image's size is made.

    Parameters
    ----------
    shape : tuple of int
        The image's shape, 1 to 3 axes in the order (z, y, x).
    psf : array_like or tuple of int
        Point spread function. A tuple of integers is its shape, of a PSF with neither symmetry nor factors.
    boundary : {"extended", "zero", "reflect", "nearest", "mirror", "wrap"}
    dtype : {"float32", "float64"}
    engine : {"auto", "spectral", "separable", "direct"}
        See `Blur`.
    backend : {"auto", "cpp", "numba", "reference", "cuda"}
    memory : int or str, optional
        Bytes that Richardson-Lucy may take beside input and output; text such as "4 GB" or "512 MiB".
        Where they are too few for the whole image, `tiles` says how it may be cut.
    num_threads : int, optional
        Scales the predicted times; the choice does not depend on it.
    calibration : path-like or dict, optional
        What ``medeconv calibrate --save FILE`` wrote on the machine that will compute. Scales the predicted
        times; the choice does not depend on it.

    Returns
    -------
    Plan
        shape, estimate_shape, grid, engine, reason, predicted_ms, predicted_iteration_ms, bytes, tiles,
        warnings and more; ``print(plan)`` shows them.

    Raises
    ------
    ValueError
        As `Blur`; a size of memory that cannot be read; engine="separable" for a PSF that is no product.
    TypeError
        Values of the wrong kind.

    Notes
    -----
    Times come from constants in the source, measured on one machine (AMD EPYC Zen 4, 2 cores, AVX-512) in an
    otherwise idle state: elsewhere their ratios mean more than their values, unless a `calibration` is given.
    Those of backend "cuda" are an NVIDIA H200's.

    Examples
    --------
    >>> import medeconv_fast as mf
    >>> mf.plan((64, 64, 64), (9, 9, 9)).estimate_shape
    (72, 72, 72)
    """
    shape = _validate.shape(shape, "shape")
    boundary = _validate.choice(boundary, "boundary", BOUNDARIES)
    name, tolerance = check_engine(engine)
    kernels = backends.resolve(backend)
    try:
        kind = np.dtype(dtype).newbyteorder("=")
    except TypeError:
        kind = None
    if dtype is None or kind not in (np.float32, np.float64):
        raise ValueError(f"dtype: got {dtype!r}, expected 'float32' or 'float64'")
    limit = None if memory is None else bytes_of(memory)
    threads = resolve_num_threads(num_threads)

    values, psf_shape = _taps_and_shape(psf, len(shape), kind)
    mirrored = values is not None and mirror_symmetric(values, tuple(k // 2 for k in psf_shape))[1]
    layout = geometry(psf_shape, shape, boundary, kernels, mirrored=mirrored)
    if values is None:
        used = tuple(len(range(k)[taps]) for k, taps in zip(psf_shape, layout.taps, strict=True))
        taps = _costs.Taps(used, used, int(sum(k > 1 for k in used) <= 1))
    else:
        taps = taps_of(values[layout.taps])
        if tolerance:
            taps = taps._replace(terms=len(approximated(values, tolerance)[1]))
    chosen, reason = choose_engine(name, taps, layout)
    isa = kernels.describe().get("isa")
    predicted = {
        name: _costs.milliseconds(ns, dtype=kind, isa=isa, threads=threads, on_gpu=layout.on_gpu)
        for name, ns in predicted_costs(taps, layout).items()
    }
    if calibration is not None:
        scale = _calibration.load(calibration)
        predicted = _calibration.scaled(predicted, sum(n > 1 for n in shape), scale)
    symmetric = values is not None and point_symmetric(values[layout.taps], layout.centre)[1]
    _, workspace = make_plan(
        chosen, layout, boundary, kernels, kind, symmetric=symmetric, mirrored=layout.mirrored_by(chosen)
    )

    def held(shape: tuple[int, ...], mirrored: bool = False) -> int:
        """What Richardson-Lucy takes beside an image (unless mirrored: a tile) of that shape and result."""
        layout = geometry(psf_shape, shape, boundary, kernels, mirrored=mirrored)
        _, workspace = make_plan(
            chosen, layout, boundary, kernels, kind, symmetric=symmetric, mirrored=layout.mirrored_by(chosen)
        )
        arrays = 1 if boundary == "wrap" else 2  # estimate, 1 / normalizer
        return int(workspace) + arrays * math.prod(layout.estimate_shape) * kind.itemsize

    total = held(shape, mirrored)
    warnings = []
    if calibration is not None:
        here = {"backend": kernels.NAME, "isa": isa, "num_threads": threads}
        other = [f"{key} {scale[key]}" for key, value in here.items() if scale.get(key) != value]
        if other:
            warnings.append(f"calibration: it was made with {', '.join(other)}; the predicted times are off")
    elif kernels.NAME == "cuda":
        warnings.append(
            f"backend: the predicted times are those of an {_costs.GPU}, without copies from the host"
        )
    elif kernels.NAME != "cpp":
        warnings.append(f"backend: the predicted times are those of 'cpp', not of {kernels.NAME!r}")
    tiles: tuple[int, ...] = (1,) * len(shape)
    if limit is not None and total > limit:
        taken = f"Richardson-Lucy takes {total / 1e6:.1f} MB beside input and output"
        used_psf = np.ones(psf_shape) if values is None else values
        halo = halo_of(used_psf, ITERATIONS, "auto")
        smallest = tuple(
            min(n, k) if boundary == "wrap" else 1 for n, k in zip(shape, psf_shape, strict=True)
        )
        grid = cut(shape, smallest, halo, limit, held, lambda axis, n: n + psf_shape[axis] - 1)
        if grid is None:
            warnings.append(f"memory: {taken}; {limit / 1e6:.1f} MB do not even hold a tile with its halo")
        else:
            tiles = grid.counts
            warnings.append(
                f"memory: {taken}, more than the {limit / 1e6:.1f} MB given; restore_volume (on the command "
                f"line --memory) works in tiles, {' x '.join(map(str, tiles))} of them"
            )
    if limit is None and kernels.NAME == "cuda":
        free, _ = _device.free_memory()
        beside = math.prod(shape) * kind.itemsize
        if total + beside > free:
            warnings.append(
                f"memory: Richardson-Lucy takes {(total + beside) / 1e6:.1f} MB of the GPU, {free / 1e6:.1f} "
                "MB are free; richardson_lucy works in tiles, of a NumPy array"
            )
    return Plan(
        shape=shape,
        estimate_shape=layout.estimate_shape,
        psf_shape=psf_shape,
        boundary=boundary,
        dtype=str(kind),
        backend=kernels.NAME,
        num_threads=threads,
        calibrated=calibration is not None,
        grid=layout.transform,
        engine=chosen,
        reason=reason,
        predicted_ms=predicted,
        predicted_iteration_ms={name: 2 * ms for name, ms in predicted.items()},
        bytes=workspace,
        richardson_lucy_bytes=total,
        memory=limit,
        tiles=tiles,
        warnings=warnings,
    )
