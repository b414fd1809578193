"""Peak memory and plan cost of Richardson-Lucy, each configuration in a process of its own.

    python benchmarks/memory.py -o FILE.json [--shape 256 256 256 ...]

The peak is the largest resident size of the process less that with image, PSF and an array of the result's
size touched: what the run takes beside input and output. Its unit is the padded float32 volume: the grid on
which the transforms work. The plan cost is the time for plan and transfer function over that of an iteration.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

PSF = 33
ITERATIONS = 3
REPEATS = 3
LARGE = 1 << 26  # voxels beyond which one process must do
# Name -> what differs from the plain run, which is periodic, spectral, in float32.
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "background": {"background": 1.0},
    "weights": {"weights": True},
    "extended": {"boundary": "extended"},
    "extended, weights": {"boundary": "extended", "weights": True},
    "float64": {"dtype": "float64"},
    "separable": {"engine": "separable"},
}


def measure(shape: tuple[int, ...], options: dict[str, Any], threads: int) -> dict[str, Any]:
    """Run in a fresh process: peak and plan cost of one configuration."""
    import medeconv_fast as mf
    from machine import peak_bytes
    from medeconv_fast._cli import peers

    options = dict(options)
    dtype = np.dtype(options.pop("dtype", "float32"))
    engine = options.pop("engine", "spectral")
    boundary = options.pop("boundary", "wrap")
    psf_shape = tuple(min(PSF, n - 1 + n % 2) for n in shape)
    psf, _ = peers.psf_of(psf_shape, "gaussian" if engine == "separable" else "general")
    call = {"boundary": boundary, "engine": engine, "num_threads": threads}
    # The library, its threads and its tables are there before the baseline is taken.
    small = np.ones((16,) * len(shape), dtype)
    tiny, _ = peers.psf_of((3,) * len(shape), "gaussian")
    mf.richardson_lucy(small, tiny, 1, **call)

    image = np.empty(shape, dtype)
    rng = np.random.default_rng(0)
    for part in image:  # slice by slice: random numbers must not raise the peak
        part[...] = rng.random(part.shape, np.float32) * 90 + 10
    if options.pop("weights", False):
        options["weights"] = np.full(shape, 0.5, dtype)
    output = np.ones(shape, dtype)
    baseline = peak_bytes()
    del output
    mf.richardson_lucy(image, psf, ITERATIONS, **call, **options)
    peak = peak_bytes()

    mf.release_memory()  # a first plan finds no buffers that it could reuse
    begun = time.perf_counter()
    blur = mf.Blur(psf, shape, dtype=dtype, **call)
    workspace = blur.workspace_bytes  # makes plan and transfer function
    plan = time.perf_counter() - begun
    _, info = mf.richardson_lucy(image, psf, ITERATIONS + 5, return_info=True, **call, **options)
    iteration = statistics.median(entry["seconds"] for entry in info.trace[2:])
    return {
        "extra_bytes": peak - baseline,
        "unit_bytes": 4 * math.prod(blur.grid),
        "grid": blur.grid,
        "workspace_bytes": workspace,
        "reported_bytes": info.bytes,
        "plan_s": plan,
        "iteration_s": iteration,
    }


def in_fresh_process(shape: tuple[int, ...], options: dict[str, Any], threads: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", json.dumps([shape, options, threads])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--shape", type=int, nargs="+", action="append")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        shape, options, threads = json.loads(arguments.child)
        print(json.dumps(measure(tuple(shape), options, threads)))
        return
    from machine import save  # notes the load before anything is measured

    rows = []
    for shape in arguments.shape or [(256,) * 3, (512,) * 3]:
        for name, options in CONFIGURATIONS.items():
            repeats = 1 if math.prod(shape) > LARGE else REPEATS
            print(f"memory: {'x'.join(map(str, shape))}, {name}", flush=True)
            runs = [in_fresh_process(tuple(shape), options, arguments.threads) for _ in range(repeats)]
            row = runs[0] | {"name": name, "shape": shape, "psf": PSF}
            row["extra_bytes"] = int(statistics.median(run["extra_bytes"] for run in runs))
            row["plan_s"], row["iteration_s"] = (
                statistics.median(run[key] for run in runs) for key in ("plan_s", "iteration_s")
            )
            rows.append(row)
    save(arguments.output, arguments.threads, memory=rows)


if __name__ == "__main__":
    main()
