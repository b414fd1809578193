"""Volumes in tiles: crashes, workers, memory and throughput, measured.

python benchmarks/volumes.py kills [--number 30] [--workers 2]     killed at random moments, then gone on with
python benchmarks/volumes.py run --shape Z Y X --memory 4GB [-o results/volumes.json]
                                                                   against the same work in core
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import medeconv_fast as mf

FWHM = (3.0, 2.5, 2.5)
ITERATIONS = 10


def generated(path: Path, shape: tuple[int, ...], seed: int = 0) -> None:
    """Beads and blocks with photon noise, uint16, slab by slab: never in memory as a whole."""
    geometry = mf.io.open_source(np.broadcast_to(np.uint16(0), shape), voxel_size=(0.3, 0.1, 0.1), unit="um")
    store = mf.io.create_store(path, geometry, dtype="uint16", scale=1, overwrite=True)
    blocks = store.blocks
    for z in range(0, shape[0], blocks[0]):
        rng = np.random.default_rng([seed, z])
        depth = min(blocks[0], shape[0] - z)
        for y in range(0, shape[1], blocks[1]):
            region = (slice(z, z + depth), slice(y, min(y + blocks[1], shape[1])), slice(0, shape[2]))
            size = tuple(s.stop - s.start for s in region)
            mean = np.full(size, 4.0, np.float32)
            for _ in range(max(1, math.prod(size) // 40_000)):
                at = tuple(int(rng.integers(n)) for n in size)
                mean[tuple(slice(max(0, a - 2), a + 3) for a in at)] += rng.uniform(10, 300)
            store.write(0, region, rng.poisson(mean).astype(np.uint16))
    store.finish()


CHILD = """
import json, re, sys, time
import medeconv_fast as mf
source, path, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
if __name__ == "__main__":
    psf = mf.psf.gaussian(options.pop("fwhm"), (1, 1, 1))
    begun = time.perf_counter()
    done = mf.restore_volume(source, path, psf, method="rl", **options)
    peak = int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
    print(json.dumps({**done, "wall": time.perf_counter() - begun, "peak": peak}))
"""


def child(source: Path, path: Path, options: dict[str, Any]) -> list[str]:
    return [sys.executable, "-c", CHILD, str(source), str(path), json.dumps(options)]


def same(first: Path, second: Path) -> bool:
    """Voxels of all levels, and metadata but for the name."""
    for file in first.rglob("*"):
        other = second / file.relative_to(first)
        if file.name == "zarr.json":
            text = other.read_text().replace(
                second.name.removesuffix(".zarr"), first.name.removesuffix(".zarr")
            )
            if json.loads(text) != json.loads(file.read_text()):
                return False
    one, two = mf.io.open_source(first), mf.io.open_source(second)
    return bool(np.array_equal(one.read(0), two.read(0)))


def kills(arguments: argparse.Namespace) -> None:
    options: dict[str, Any] = {
        "fwhm": FWHM,
        "num_iter": ITERATIONS,
        "tile": (32, 32, 32),
        "chunks": (16, 16, 16),
        "shards": (32, 32, 32),
    }
    if arguments.workers:
        options["workers"] = arguments.workers
    rng = np.random.default_rng(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "in.zarr"
        generated(source, (128, 128, 128))
        begun = time.perf_counter()
        subprocess.run(
            child(source, folder / "unbroken.zarr", options), check=True, stdout=subprocess.DEVNULL
        )
        whole = time.perf_counter() - begun
        equal = 0
        for number in range(arguments.number):
            path = folder / f"broken{number}.zarr"
            tries = 0
            while not path.exists() or not json.loads(Path(f"{path}.job.json").read_text()).get("finished"):
                tries += 1
                process = subprocess.Popen(
                    child(source, path, options), stdout=subprocess.DEVNULL, start_new_session=True
                )
                try:
                    # The last try is left alone.
                    process.wait(timeout=float(rng.uniform(0, whole)) if tries < 4 else None)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            equal += same(folder / "unbroken.zarr", path)
            print(f"{number + 1}: {tries} processes, {equal} results equal to the unbroken one", flush=True)
    if equal != arguments.number:
        sys.exit("results differ")


def run(arguments: argparse.Namespace) -> None:
    shape = tuple(arguments.shape)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        source, path = folder / "in.zarr", folder / "out.zarr"
        generated(source, shape)
        options: dict[str, Any] = {"fwhm": FWHM, "num_iter": ITERATIONS, "memory": arguments.memory}
        if arguments.workers:
            options["workers"] = arguments.workers
        done = subprocess.run(child(source, path, options), check=True, capture_output=True, text=True)
        record = json.loads(done.stdout)
        stored = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
        raw = sum(f.stat().st_size for f in source.rglob("*") if f.is_file())
        files = sum(1 for f in path.rglob("*") if f.is_file())
    side = min(arguments.core, *shape)
    image = np.random.default_rng(0).poisson(20, (side,) * 3).astype(np.uint16)
    psf = mf.psf.gaussian(FWHM, (1, 1, 1))
    begun = time.perf_counter()
    mf.richardson_lucy(image, psf, ITERATIONS)
    in_core = image.size / (time.perf_counter() - begun)
    seconds = record["seconds"]
    result = {
        "shape": shape,
        "iterations": ITERATIONS,
        "plan": record["plan"],
        "seconds": seconds,
        "voxels_per_second": record["voxels_per_second"],
        "in_core_side": side,
        "in_core_voxels_per_second": in_core,
        "share_of_in_core": record["voxels_per_second"] / in_core,
        "peak_bytes": record["peak"],
        "input_bytes": raw,
        "output_bytes": stored,
        "output_files": files,
        "seam": record["seam"],
        "workers": arguments.workers,
        "load": os.getloadavg(),
    }
    print(json.dumps(result, indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    killing = commands.add_parser("kills")
    killing.add_argument("--number", type=int, default=30)
    killing.add_argument("--seed", type=int, default=0)
    killing.add_argument("--workers", type=int)
    running = commands.add_parser("run")
    running.add_argument("--shape", type=int, nargs=3, default=(256, 512, 512))
    running.add_argument("--memory", default="1GB")
    running.add_argument("--workers", type=int)
    running.add_argument("--core", type=int, default=256, help="side of the cube that is restored in core")
    running.add_argument("--folder", help="where the files go meanwhile")
    running.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    {"kills": kills, "run": run}[arguments.command](arguments)


if __name__ == "__main__":
    main()
