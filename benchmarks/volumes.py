"""Volumes in tiles: crashes, workers, memory and throughput, measured.

    python benchmarks/volumes.py kills [--number 30] [--workers 2]
    python benchmarks/volumes.py run --shape Z Y X --memory 4GB [-o volumes.json]
    python benchmarks/volumes.py scale volumes.json

kills: killed at random moments, then gone on with. run: against the same work in core. scale: 10 TB and 1 PB,
from such a measurement.
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
        equal = killed = 0
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
                    process.wait(timeout=float(rng.uniform(0, 0.8 * whole)) if tries < 4 else None)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    killed += 1
            equal += same(folder / "unbroken.zarr", path)
            print(f"{number + 1} jobs, {killed} processes killed, {equal} results equal", flush=True)
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


def scale(arguments: argparse.Namespace) -> None:
    """What very large jobs cost, by the planner, and by a measured run's times (see docs/scale.md)."""
    from medeconv_fast.algorithms._tile import Numbers
    from medeconv_fast.volumes._manifest import Done, Manifest
    from medeconv_fast.volumes._plan import Costs, halo_for

    measured = json.loads(arguments.measured.read_text())
    # Seconds per voxel computed, reading and writing included, and bytes per voxel stored.
    per_voxel = 1 / measured["voxels_per_second"] * arguments.iterations / measured["iterations"]
    voxels = math.prod(measured["shape"])
    bytes_in, bytes_out = (measured[name] / voxels for name in ("input_bytes", "output_bytes"))
    psf = mf.psf.gaussian(FWHM, (1, 1, 1))
    numbers = [Numbers("richardson_lucy", {"num_iter": arguments.iterations})]
    halo = halo_for(numbers, [psf], "auto", (1, 1, 1))
    costs = Costs(numbers, [psf], np.uint16, np.float32, None)
    rows = []
    for name, shape in (("10 TB", (13_000, 19_600, 19_600)), ("1 PB", (60_000, 91_300, 91_300))):
        begun = time.perf_counter()
        grid = costs.grid(shape, (128,) * 3, halo, arguments.gigabytes * 10**9, periodic=False)
        planning = time.perf_counter() - begun
        computed = grid.read_voxels
        rows.append(
            {
                "volume": name,
                "shape": shape,
                "core": grid.core,
                "halo": grid.halo,
                "tiles": len(grid),
                "halo_share": grid.halo_share,
                "reads_per_voxel": computed / math.prod(shape),
                "files_written": math.prod(-(-n // 128) for n in shape),
                "bytes_read": computed * bytes_in,
                "bytes_written": math.prod(shape) * bytes_out,
                "worker_seconds": computed * per_voxel,
                "planning_seconds": planning,
            }
        )
    with tempfile.TemporaryDirectory() as folder:
        manifest = Manifest(Path(folder) / "out.zarr")
        number = 1_000_000
        with open(manifest.log_path(None), "w") as file:
            file.writelines(f"{i} {i:032x} 0 12.345\n" for i in range(number))
        size = manifest.log_path(None).stat().st_size
        begun = time.perf_counter()
        found = manifest.done()
        loading = time.perf_counter() - begun
        assert len(found) == number and isinstance(found[7], Done)
        with manifest.logging((0, 1)) as log:
            begun = time.perf_counter()
            for i in range(200):
                log.add(Done(i, f"{i:032x}", 0, 1.0))
            appending = (time.perf_counter() - begun) / 200
    result = {
        "iterations": arguments.iterations,
        "memory_gigabytes": arguments.gigabytes,
        "measured": {name: measured[name] for name in ("shape", "voxels_per_second", "iterations")},
        "jobs": rows,
        "log": {"tiles": number, "bytes": size, "loading_seconds": loading, "seconds_per_line": appending},
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
    scaling = commands.add_parser("scale")
    scaling.add_argument("measured", type=Path, help="what 'run -o' has written")
    scaling.add_argument("--iterations", type=int, default=20)
    scaling.add_argument("--gigabytes", type=int, default=4, help="memory per worker")
    scaling.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    {"kills": kills, "run": run, "scale": scale}[arguments.command](arguments)


if __name__ == "__main__":
    main()
