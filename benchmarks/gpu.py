"""On a GPU, in one process: ours against CuPy with cuFFT, torch (cuDNN, torch.fft) and cuCIM.

    python benchmarks/gpu.py -o FILE.json [--budget SECONDS] [--only deconvolution|networks]

Everything is checked before it is timed: a result that is wrong gets no time. Times are of CUDA events around
many calls, the median of several such rounds; contenders take turns in each round. Networks' layers are timed
twice: as calls, and as a CUDA graph of the same calls, which leaves out what the host does. Inputs rotate so
that together they exceed the L2 cache. The share of the roofline is the fewest bytes over the bandwidth that
a copy reaches here, over the time.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.metadata
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cases import LAYERS, Layer

GRIDS = ((256, 256, 256), (512, 512, 512), (256, 1024, 1024))
BATCH = (16, 1024, 1024)
PSF_FWHM = 4.0  # voxels
ITERATIONS = 10  # between the two numbers of iterations whose difference is timed
ROUNDS = 5
L2_BYTES = 2 * 60e6
COPIED_VALUES = 1 << 30
# Bytes per voxel and Richardson-Lucy iteration, float32: see NOTES.md and design of the spectral engine.
FUSED_BYTES, CUFFT_BYTES = 11.3e9 / 512**3, 19.4e9 / 512**3
BOUNDS = {"deconvolution": 1e-4, "networks": 1e-5}  # norm-wise, against float64

Run = Callable[[], Any]


def gaussian(ndim: int, size: int = 15) -> np.ndarray:
    line = np.exp(-4 * math.log(2) * ((np.arange(size) - size // 2) / PSF_FWHM) ** 2)
    psf = line
    for _ in range(ndim - 1):
        psf = psf[..., None] * line
    return (psf / psf.sum()).astype(np.float32)


def otf_of(rfftn: Callable[[np.ndarray], Any], psf: np.ndarray, grid: tuple[int, ...], dtype: Any) -> Any:
    """Transform (by `rfftn`, of an array on the host) of the PSF with its centre at index 0."""
    whole = np.zeros(grid, dtype)
    whole[tuple(slice(0, n) for n in psf.shape)] = psf
    return rfftn(np.roll(whole, [-(n // 2) for n in psf.shape], tuple(range(len(grid)))))


def cupy_richardson_lucy(cupy: Any, image: Any, otf: Any, eps: float) -> Callable[[int], Any]:
    """As a good user writes it: the transfer function once, cached plans, pointwise work in fused kernels."""
    product = cupy.ElementwiseKernel("C a, C b", "C y", "y = a * b", "product")
    adjoint = cupy.ElementwiseKernel("C a, C b", "C y", "y = a * conj(b)", "product_with_conjugate")
    ratio = cupy.ElementwiseKernel(
        "T image, T blurred, T eps", "T y", "y = image / max(blurred, eps)", "ratio"
    )

    def run(iterations: int) -> Any:
        estimate = cupy.full(image.shape, image.mean(), image.dtype)
        for _ in range(iterations):
            spectrum = cupy.fft.rfftn(estimate)
            product(spectrum, otf, spectrum)
            blurred = cupy.fft.irfftn(spectrum, s=image.shape)
            ratio(image, blurred, image.dtype.type(eps), blurred)
            spectrum = cupy.fft.rfftn(blurred)
            adjoint(spectrum, otf, spectrum)
            estimate *= cupy.fft.irfftn(spectrum, s=image.shape)
        return estimate

    return run


def torch_richardson_lucy(torch: Any, image: Any, otf: Any, eps: float) -> Callable[[int], Any]:
    conjugate = otf.conj().resolve_conj()

    def run(iterations: int) -> Any:
        estimate = torch.full_like(image, float(image.mean()))
        for _ in range(iterations):
            blurred = torch.fft.irfftn(torch.fft.rfftn(estimate).mul_(otf), s=image.shape)
            blurred = image / blurred.clamp_(min=eps)
            estimate *= torch.fft.irfftn(torch.fft.rfftn(blurred).mul_(conjugate), s=image.shape)
        return estimate

    return run


class Bench:
    """What was measured so far; written after every entry, so that a later failure loses nothing."""

    def __init__(self, path: Path, budget: float, device: str = "cuda") -> None:
        self.torch, self.device = importlib.import_module("torch"), device
        self._path = path
        self.allow(budget)
        self.record: dict[str, Any] = {"machine": self._machine(), "entries": []}
        self.cupy = self._optional("cupy")
        self.cucim = self._optional("cucim.skimage.restoration") if self.cupy else None
        self.record["copy_bytes_per_s"] = self.bandwidth = self._copy_bandwidth()
        self.write()

    def _optional(self, name: str) -> Any:
        """A contender's module; why it is absent goes into the record."""
        try:
            module = importlib.import_module(name)
        except Exception as error:  # a broken installation must not lose the others
            self.record[name.partition(".")[0]] = f"absent: {type(error).__name__}: {error}"[:300]
            return None
        return module

    def _machine(self) -> dict[str, Any]:
        versions = {"python": platform.python_version(), "cuda": self.torch.version.cuda}
        for package in ("medeconv-fast", "numpy", "torch", "cupy-cuda13x", "cucim-cu13"):
            try:
                versions[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                versions[package] = None
        properties = self.torch.cuda.get_device_properties(0)
        return {
            "device": properties.name,
            "memory_bytes": properties.total_memory,
            "processors": properties.multi_processor_count,
            "cudnn": self.torch.backends.cudnn.version(),
            "versions": versions,
        }

    def _copy_bandwidth(self) -> float:
        source = self.torch.rand(COPIED_VALUES, dtype=self.torch.float32, device=self.device)
        target = self.torch.empty_like(source)
        ms = self.milliseconds({"copy": lambda: target.copy_(source)}, 10)["copy"]
        return 2 * 4 * source.numel() / (1e-3 * ms)

    def rfftn(self, whole: np.ndarray) -> Any:
        return self.torch.fft.rfftn(self.torch.as_tensor(whole, device=self.device))

    def allow(self, seconds: float) -> None:
        """Until when something new may be started."""
        self._stop = time.monotonic() + seconds

    @property
    def late(self) -> bool:
        return time.monotonic() > self._stop

    def write(self) -> None:
        self._path.write_text(json.dumps(self.record, indent=1) + "\n")
        self._path.with_suffix(".md").write_text(table(self.record))

    def add(self, **entry: Any) -> None:
        self.record["entries"].append(entry)
        self.write()
        shown = {k: round(v, 4) if isinstance(v, float) else v for k, v in entry.items()}
        print(json.dumps(shown), flush=True)

    def milliseconds(self, runs: dict[str, Run], calls: int) -> dict[str, float]:
        """Of one call of each, in turns."""
        times: dict[str, list[float]] = {name: [] for name in runs}
        for run in runs.values():
            run()
        self.torch.cuda.synchronize()
        for _ in range(ROUNDS):
            for name, run in runs.items():
                start, stop = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                for _ in range(calls):
                    run()
                stop.record()
                stop.synchronize()
                times[name].append(start.elapsed_time(stop) / calls)
        return {name: statistics.median(measured) for name, measured in times.items()}

    def checked(
        self, runs: dict[str, Run], precise: Any, bound: float
    ) -> tuple[dict[str, Run], dict[str, Any]]:
        """Those whose results are right, and every error (or why there is none)."""
        good, errors = {}, {}
        scale = float(self.torch.linalg.vector_norm(precise))
        for name, run in runs.items():
            try:
                got = self.torch.as_tensor(run(), device=self.device).double()
                errors[name] = float(self.torch.linalg.vector_norm(got - precise)) / scale
                if errors[name] < bound:  # not so for a NaN
                    good[name] = run
            except Exception as error:  # one contender's failure must not lose the others
                errors[name] = f"{type(error).__name__}: {error}"[:300]
        return good, errors


def peak_of(bench: Bench, run: Run) -> int:
    """Device memory that a run of ours takes beside its image: torch's allocator hands it out."""
    cuda = bench.torch.cuda
    cuda.synchronize()
    cuda.reset_peak_memory_stats()
    before = cuda.memory_allocated()
    run()
    cuda.synchronize()
    return int(cuda.max_memory_allocated() - before)


def image_of(bench: Bench, shape: tuple[int, ...], seed: int) -> Any:
    torch = bench.torch
    generator = torch.Generator(device=bench.device).manual_seed(seed)
    return torch.poisson(torch.full(shape, 100.0, device=bench.device), generator=generator)


def deconvolution(bench: Bench) -> None:
    mf = importlib.import_module("medeconv_fast")
    cupy, torch = bench.cupy, bench.torch
    for grid in GRIDS:
        if bench.late:
            bench.add(kind="deconvolution", grid=grid, skipped="no time left")
            continue
        try:
            _volume(bench, mf, grid)
        except Exception as error:  # out of memory, say
            bench.add(kind="deconvolution", grid=grid, failed=f"{type(error).__name__}: {error}"[:300])
        if cupy is not None:
            cupy.get_default_memory_pool().free_all_blocks()
        torch.cuda.empty_cache()
    batch_of_images(bench, mf)


def _volume(bench: Bench, mf: Any, grid: tuple[int, ...]) -> None:
    cupy, torch, cucim = bench.cupy, bench.torch, bench.cucim
    psf, image = gaussian(3), image_of(bench, grid, 0)
    image[tuple(n // 3 for n in grid)] = 5000
    eps = 1e-6 * float(image.max())
    otf = otf_of(bench.rfftn, psf, grid, np.float32)
    solvers = {
        "ours": lambda n: mf.richardson_lucy(image, psf, n, boundary="wrap"),
        # What a PSF takes that is no product of filters: transforms, as the others do.
        "ours, any psf": lambda n: mf.richardson_lucy(image, psf, n, boundary="wrap", engine="spectral"),
        "torch.fft": torch_richardson_lucy(torch, image, otf, eps),
    }
    on_cupy = None
    if cupy is not None:
        on_cupy = cupy.asarray(image)
        theirs = otf_of(lambda whole: cupy.fft.rfftn(cupy.asarray(whole)), psf, grid, np.float32)
        solvers["cupy"] = cupy_richardson_lucy(cupy, on_cupy, theirs, eps)
    wide = torch_richardson_lucy(torch, image.double(), otf_of(bench.rfftn, psf, grid, np.float64), eps)
    precise = wide(5)
    runs = {name: lambda s=solver: s(5) for name, solver in solvers.items()}
    good, errors = bench.checked(runs, precise, BOUNDS["deconvolution"])
    del precise, wide
    if cupy is not None:
        cupy.get_default_memory_pool().free_all_blocks()
    torch.cuda.empty_cache()
    names = list(good)
    if cucim is not None:  # its borders are zeros: not comparable voxel by voxel, timed all the same
        on_gpu = cupy.asarray(psf)
        solvers["cucim"] = lambda n: cucim.richardson_lucy(on_cupy, on_gpu, num_iter=n, clip=False)
        names.append("cucim")
    few, many = ({name: lambda s=solvers[name], n=n: s(n) for name in names} for n in (2, 2 + ITERATIONS))
    entry: dict[str, Any] = {"kind": "deconvolution", "grid": grid, "errors": errors}
    voxels = math.prod(grid)
    calls = 1 if voxels > 256**3 else 3
    try:
        short, long = bench.milliseconds(few, calls), bench.milliseconds(many, calls)
        each = {name: (long[name] - short[name]) / ITERATIONS for name in names}
        entry["ms_per_iteration"] = each
        for name, of in (("ours, any psf", FUSED_BYTES), ("cupy", CUFFT_BYTES)):
            if name in each:
                entry[f"{name}_share_of_its_bytes"] = voxels * of / bench.bandwidth / (1e-3 * each[name])
        if "ours" in good:
            entry["peak_volumes"] = peak_of(bench, lambda: solvers["ours"](3)) / (4 * voxels)
    except Exception as error:
        entry["failed"] = f"{type(error).__name__}: {error}"[:300]
    bench.add(**entry)
    wiener(bench, mf, image, on_cupy, psf)


def wiener(bench: Bench, mf: Any, image: Any, on_cupy: Any, psf: np.ndarray) -> None:
    if bench.late:
        return
    runs: dict[str, Run] = {"ours": lambda: mf.wiener(image, psf, 0.1, boundary="wrap")}
    if bench.cucim is not None:
        on_gpu = bench.cupy.asarray(psf)
        runs["cucim"] = lambda: bench.cucim.wiener(on_cupy, on_gpu, 0.1, clip=False)
    grid = tuple(image.shape)
    try:
        bench.add(kind="wiener", grid=grid, ms=bench.milliseconds(runs, 1))
    except Exception as error:
        bench.add(kind="wiener", grid=grid, failed=f"{type(error).__name__}: {error}"[:300])


def batch_of_images(bench: Bench, mf: Any) -> None:
    """2-D images one by one through ours; the others transform them all at once."""
    if bench.late:
        return
    torch, cupy, psf = bench.torch, bench.cupy, gaussian(2)
    images = image_of(bench, BATCH, 1)
    grid, eps = BATCH[1:], 1e-6 * float(images.max())
    otf = otf_of(bench.rfftn, psf, grid, np.float32)

    def ours(n: int, **options: Any) -> Any:
        run = functools.partial(mf.richardson_lucy, psf=psf, num_iter=n, boundary="wrap", **options)
        return torch.stack([run(image) for image in images])

    def of_torch(n: int, images: Any = images, otf: Any = otf) -> Any:
        estimate = images.mean((1, 2), keepdim=True).expand(BATCH).clone()
        for _ in range(n):
            blurred = torch.fft.irfft2(torch.fft.rfft2(estimate).mul_(otf), s=grid)
            ratio = images / blurred.clamp_(min=eps)
            estimate *= torch.fft.irfft2(torch.fft.rfft2(ratio).mul_(otf.conj()), s=grid)
        return estimate

    solvers = {
        "ours": ours,
        "ours, any psf": functools.partial(ours, engine="spectral"),
        "torch.fft": of_torch,
    }
    if cupy is not None:
        on_cupy, on_host = cupy.asarray(images), otf.cpu().numpy()
        theirs = cupy.asarray(on_host)

        def of_cupy(n: int) -> Any:
            estimate = cupy.broadcast_to(on_cupy.mean(axis=(1, 2), keepdims=True), BATCH).copy()
            for _ in range(n):
                blurred = cupy.fft.irfft2(cupy.fft.rfft2(estimate) * theirs, s=grid)
                ratio = on_cupy / cupy.maximum(blurred, np.float32(eps))
                estimate *= cupy.fft.irfft2(cupy.fft.rfft2(ratio) * theirs.conj(), s=grid)
            return estimate

        solvers["cupy"] = of_cupy
    entry: dict[str, Any] = {"kind": "2-D batch", "grid": BATCH}
    try:
        precise = of_torch(5, images.double(), otf_of(bench.rfftn, psf, grid, np.float64))
        runs = {name: lambda s=solver: s(5) for name, solver in solvers.items()}
        good, entry["errors"] = bench.checked(runs, precise, BOUNDS["deconvolution"])
        timed = {name: lambda s=solvers[name]: s(ITERATIONS) for name in good}
        entry["ms"] = bench.milliseconds(timed, 1)
    except Exception as error:
        entry["failed"] = f"{type(error).__name__}: {error}"[:300]
    bench.add(**entry)


def graph_of(bench: Bench, run: Run, calls: int) -> Run:
    """`calls` calls as one CUDA graph."""
    torch = bench.torch
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            run()
    return graph.replay


def layer_runs(bench: Bench, layer: Layer, sets: list[dict[str, Any]]) -> dict[str, dict[str, Run]]:
    """Forward and both gradients by ours and by torch; successive calls take successive operands."""
    mf, torch = importlib.import_module("medeconv_fast"), bench.torch
    name = "conv_transpose" if layer.transposed else "conv"
    ndim = len(layer.x) - 2
    ours, theirs = getattr(mf.ops, name), getattr(torch.nn.functional, f"{name}{ndim}d")
    to_x, to_w = (getattr(mf.ops, f"{name}_{what}_grad") for what in ("input", "weight"))
    options = {k: v for k, v in layer.options.items()}
    n = (layer.stride,) * ndim, (layer.padding,) * ndim, (layer.dilation,) * ndim
    zeros = (0,) * ndim
    backward = torch.ops.aten.convolution_backward

    def turns(of: Callable[[dict[str, Any]], Any]) -> Run:
        state = {"next": 0}

        def run() -> Any:
            state["next"] = (state["next"] + 1) % len(sets)
            return of(sets[state["next"]])

        return run

    def gradient(s: dict[str, Any], which: int) -> Any:
        mask = [which == 0, which == 1, False]
        return backward(s["grad"], s["x"], s["w"], None, *n, layer.transposed, zeros, layer.groups, mask)[
            which
        ]

    return {
        "forward": {
            "ours": turns(lambda s: ours(s["x"], s["w"], **options)),
            "torch": turns(lambda s: theirs(s["x"], s["w"], **options)),
        },
        "input_grad": {
            "ours": turns(lambda s: to_x(s["grad"], s["w"], tuple(s["x"].shape), **options)),
            "torch": turns(lambda s: gradient(s, 0)),
        },
        "weight_grad": {
            "ours": turns(lambda s: to_w(s["grad"], s["x"], tuple(s["w"].shape), **options)),
            "torch": turns(lambda s: gradient(s, 1)),
        },
    }


def operands(bench: Bench, layer: Layer, seed: int) -> dict[str, Any]:
    torch = bench.torch
    generator = torch.Generator(device=bench.device).manual_seed(seed)
    shapes = {"x": layer.x, "w": layer.w, "grad": layer.output()}
    return {k: torch.randn(s, device=bench.device, generator=generator) for k, s in shapes.items()}


def networks(bench: Bench) -> None:
    torch = bench.torch
    # In brackets: outside of them torch refuses, once its own testing module is loaded in the process.
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
        for layer in LAYERS:
            if bench.late:
                bench.add(kind="networks", layer=layer.name, skipped="no time left")
                continue
            try:
                _layer(bench, layer)
            except Exception as error:  # out of memory, say
                bench.add(kind="networks", layer=layer.name, failed=f"{type(error).__name__}: {error}"[:300])
            torch.cuda.empty_cache()


def _layer(bench: Bench, layer: Layer) -> None:
    count = min(12, max(2, math.ceil(L2_BYTES / layer.bytes)))
    sets = [operands(bench, layer, seed) for seed in range(count)]
    # The reference takes the operands that each contender's first call takes: set 1.
    wide = [{k: v.double() for k, v in sets[1].items()}]
    precise = {what: runs["torch"]() for what, runs in layer_runs(bench, layer, wide).items()}
    for what in ("forward", "input_grad", "weight_grad"):
        runs = layer_runs(bench, layer, sets)[what]
        good, errors = bench.checked(runs, precise[what], BOUNDS["networks"])
        entry: dict[str, Any] = {"kind": "networks", "layer": layer.name, "what": what, "errors": errors}
        try:
            entry["ms_call"] = bench.milliseconds(good, 4 * count)
            graphs = {name: graph_of(bench, run, count) for name, run in good.items()}
            entry["ms_graph"] = {k: v / count for k, v in bench.milliseconds(graphs, 4).items()}
            floor = layer.bytes / bench.bandwidth
            entry["share_of_roofline"] = {
                k: 1e3 * max(floor, layer.operations / 60e12) / v for k, v in entry["ms_graph"].items()
            }
        except Exception as error:
            entry["failed"] = f"{type(error).__name__}: {error}"[:300]
        bench.add(**entry)


def table(record: dict[str, Any]) -> str:
    """Markdown: one line per entry, every contender's milliseconds."""
    lines = [f"{record['machine']['device']}, copy {record['copy_bytes_per_s'] / 1e12:.2f} TB/s"]
    lines += [f"{name} {record[name]}" for name in ("cupy", "cucim") if name in record] + [""]
    lines += ["| what | ms | share of roofline |", "|---|---|---|"]
    for entry in record["entries"]:
        what = " ".join(
            str(part)
            for part in (entry["kind"], entry.get("layer", entry.get("grid")), entry.get("what", ""))
            if part != ""
        )
        times = entry.get("ms_graph") or entry.get("ms_per_iteration") or entry.get("ms")
        if not times:
            lines.append(
                f"| {what} | {entry.get('failed') or entry.get('skipped') or entry.get('errors')} | |"
            )
            continue
        share = entry.get("share_of_roofline", {}).get("ours", entry.get("ours, any psf_share_of_its_bytes"))
        shown = ", ".join(f"{name} {value:.3f}" for name, value in times.items())
        lines.append(f"| {what} | {shown} | {'' if share is None else f'{share:.2f}'} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument(
        "--budget", type=float, default=240, help="seconds after which nothing new is started"
    )
    parser.add_argument("--only", choices=("deconvolution", "networks"))
    given = parser.parse_args()
    bench = Bench(given.out, given.budget)
    for kind, run in (("networks", networks), ("deconvolution", deconvolution)):
        if given.only in (None, kind):
            bench.allow(given.budget if given.only else given.budget / 2)
            run(bench)
    print(table(bench.record))


if __name__ == "__main__":
    main()
