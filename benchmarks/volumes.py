"""Volumes in tiles: crashes, workers, memory and throughput, measured.

    python benchmarks/volumes.py kills [--number 30] [--workers 2]
    python benchmarks/volumes.py run --shape Z Y X --memory 4GB --core 512 [--folder DIR] [-o volumes.json]
    python benchmarks/volumes.py workers --shape Z Y X [--folder DIR] [-o workers.json]
    python benchmarks/volumes.py scale volumes.json

kills: killed at random moments, then gone on with. run: against the same work in core. workers: processes
of one thread against one process with as many threads. scale: 10 TB and 1 PB, from such a measurement.

In --folder the input is kept for the next call of the same shape; without it everything is temporary.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import machine
import medeconv_fast as mf

FWHM = (3.0, 2.5, 2.5)
ITERATIONS = 10
BACKGROUND = 20.0  # photons per voxel
VOXELS_PER_BEAD = 40_000
BRIGHTNESS = (500.0, 20_000.0)  # photons of a bead
VOXEL_SIZE = (0.5, 0.26, 0.26)  # um
REPEATS = 3


def psf_of(kind: str) -> np.ndarray:
    if kind == "gaussian":
        return mf.psf.gaussian(FWHM, (1, 1, 1))
    # A water objective that looks at a sheet of 1.9 um: no product of one filter per axis.
    detection = mf.psf.born_wolf(0.52, 0.8, 1.33, VOXEL_SIZE, shape=(13, 11, 11))
    return mf.psf.light_sheet(detection, VOXEL_SIZE, 0.488, waist=1.6)


def _poisson_table(mean: float) -> np.ndarray:
    """Counts of 2^16 equally likely draws: noise that is looked up costs a tenth of what it does drawn."""
    k = np.arange(int(mean + 12 * math.sqrt(mean) + 12))
    log = k * math.log(mean) - mean - np.array([math.lgamma(i + 1) for i in k])
    return np.searchsorted(np.cumsum(np.exp(log)), (np.arange(2**16) + 0.5) / 2**16).astype(np.uint16)


def generated(path: Path, shape: tuple[int, ...], psf: np.ndarray, seed: int = 0) -> None:
    """Beads under a PSF with photon noise, uint16, part by part: never in memory as a whole.

    Beads lie anywhere, across the borders of parts and blocks as well; a part sees those of its neighbours.
    """
    geometry = mf.io.open_source(np.broadcast_to(np.uint16(0), shape), voxel_size=VOXEL_SIZE, unit="um")
    store = mf.io.create_store(path, geometry, dtype="uint16", scale=1, overwrite=True)
    blocks = store.blocks[:2]
    counts = [-(-n // b) for n, b in zip(shape, blocks, strict=False)]
    table = _poisson_table(BACKGROUND)
    expected = psf / psf.sum()

    def part(place: tuple[int, int]) -> None:
        region: tuple[slice, ...] = (
            *(slice(p * b, min((p + 1) * b, n)) for p, b, n in zip(place, blocks, shape, strict=False)),
        )
        region += (slice(0, shape[2]),)
        size = [s.stop - s.start for s in region]
        rng = np.random.default_rng([seed, 1, *place])
        values = np.empty(size, np.uint16)
        for plane in values:  # indices take four times as much as what they look up
            plane[...] = table[rng.integers(0, 2**16, plane.shape, np.uint16)]
        for near in np.ndindex(3, 3):
            cell = [p + d - 1 for p, d in zip(place, near, strict=True)]
            if not all(0 <= c < n for c, n in zip(cell, counts, strict=True)):
                continue
            beads = np.random.default_rng([seed, 0, *cell])
            extent = (*blocks, shape[2])
            for _ in range(max(1, math.prod(extent) // VOXELS_PER_BEAD)):
                at = [int(beads.integers(n)) for n in extent]
                photons = beads.uniform(*BRIGHTNESS)
                low = [c * b + a for c, b, a in zip((*cell, 0), extent, at, strict=True)]
                low = [a - k // 2 - s.start for a, k, s in zip(low, psf.shape, region, strict=True)]
                there = tuple(slice(max(0, a), max(0, a + k)) for a, k in zip(low, psf.shape, strict=True))
                here = tuple(
                    slice(max(0, -a), max(0, min(k, n - a)))
                    for a, k, n in zip(low, psf.shape, size, strict=True)
                )
                if all(h.stop > h.start for h in here):
                    values[there] += rng.poisson(photons * expected[here]).astype(np.uint16)
        store.write(0, region, values)

    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(part, np.ndindex(*counts)):
            pass
    store.finish()


CHILD = """
import json, re, resource, sys, time
import numpy as np
import medeconv_fast as mf
if __name__ == "__main__":
    source, path, psf, options = sys.argv[1:]
    marks = []
    begun = time.perf_counter()
    done = mf.restore_volume(
        source, path, np.load(psf), method="rl", progress=lambda _: marks.append(time.perf_counter() - begun),
        **json.loads(options)
    )
    wall = time.perf_counter() - begun
    if json.loads(options).get("workers"):
        # Workers are children of the fork server: they count among ours when it has ended.
        from multiprocessing.forkserver import _forkserver
        _forkserver._stop()
    peak = int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    steps = {"prepared": marks[0], "tiles": marks[-1] - marks[0], "finished": wall - marks[-1]}
    cpu = sum(used.ru_utime + used.ru_stime for used in (own, children))
    record = {"wall": wall, "peak": peak, "peak_of_largest_child": children.ru_maxrss * 1024, "steps": steps}
    print(json.dumps({**done, **record, "cpu_seconds": cpu}))
"""

IN_CORE = """
import json, sys, time
import numpy as np
import medeconv_fast as mf
source, psf, options = mf.io.open_source(sys.argv[1]), np.load(sys.argv[2]), json.loads(sys.argv[3])
side = [min(options["side"], n) for n in source.shape]
image = source.read(0, [slice((n - s) // 2, (n - s) // 2 + s) for n, s in zip(source.shape, side)])
seconds = []
for _ in range(options["repeats"]):
    begun = time.perf_counter()
    mf.richardson_lucy(image, psf, options["num_iter"], num_threads=options["num_threads"])
    seconds.append(time.perf_counter() - begun)
print(json.dumps({"shape": side, "seconds": seconds}))
"""


def child(source: Path, path: Path, psf: Path, options: dict[str, Any]) -> list[str]:
    return [sys.executable, "-c", CHILD, str(source), str(path), str(psf), json.dumps(options)]


def output_of(command: list[str]) -> Any:
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{command[0]}: exit status {done.returncode}")
    return json.loads(done.stdout)


@contextlib.contextmanager
def workplace(folder: str | None, shape: tuple[int, ...], kind: str) -> Iterator[tuple[Path, Path, Path]]:
    """The input, its PSF and a folder for results, which is emptied in the end."""
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        psf = place / f"{kind}.npy"
        np.save(psf, psf_of(kind))
        source = place / f"{kind}-{'x'.join(map(str, shape))}.zarr"
        if not source.exists():
            begun = time.perf_counter()
            generated(source, shape, np.load(psf))
            print(f"{source.name} generated in {time.perf_counter() - begun:.0f} s", file=sys.stderr)
        yield source, psf, Path(stack.enter_context(tempfile.TemporaryDirectory(dir=place)))


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
    depth = one.chunks[0]
    slabs = (slice(z, min(z + depth, one.shape[0])) for z in range(0, one.shape[0], depth))
    rest = [slice(0, n) for n in one.shape[1:]]
    return all(np.array_equal(one.read(0, [s, *rest]), two.read(0, [s, *rest])) for s in slabs)


def kills(arguments: argparse.Namespace) -> None:
    options: dict[str, Any] = {
        "num_iter": ITERATIONS,
        "tile": (32, 32, 32),
        "chunks": (16, 16, 16),
        "shards": (32, 32, 32),
    }
    if arguments.workers:
        options["workers"] = arguments.workers
    rng = np.random.default_rng(arguments.seed)
    with workplace(None, (128, 128, 128), "gaussian") as (source, psf, folder):
        begun = time.perf_counter()
        subprocess.run(
            child(source, folder / "unbroken.zarr", psf, options), check=True, stdout=subprocess.DEVNULL
        )
        whole = time.perf_counter() - begun
        equal = killed = 0
        for number in range(arguments.number):
            path = folder / f"broken{number}.zarr"
            tries = 0
            while not path.exists() or not json.loads(Path(f"{path}.job.json").read_text()).get("finished"):
                tries += 1
                process = subprocess.Popen(
                    child(source, path, psf, options), stdout=subprocess.DEVNULL, start_new_session=True
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


def stored_bytes(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def run(arguments: argparse.Namespace) -> None:
    """In core before and after, so that a machine that grows slower or faster meanwhile is noticed."""
    shape = tuple(arguments.shape)
    options: dict[str, Any] = {
        "num_iter": arguments.iterations,
        "memory": arguments.memory,
        "num_threads": arguments.threads,
    }
    with workplace(arguments.folder, shape, arguments.psf) as (source, psf, folder):
        path = folder / "out.zarr"
        inside = {**options, "side": arguments.core, "repeats": REPEATS}
        inside.pop("memory")
        in_core = [sys.executable, "-c", IN_CORE, str(source), str(psf), json.dumps(inside)]
        before = output_of(in_core)
        if arguments.workers:
            options["workers"] = arguments.workers
        record = output_of(child(source, path, psf, options))
        after = output_of(in_core)
        sizes = {
            "input_bytes": stored_bytes(source),
            "output_bytes": stored_bytes(path),
            "output_files": sum(1 for f in path.rglob("*") if f.is_file()),
        }
        psf_shape = np.load(psf).shape
    seconds = statistics.median(before["seconds"] + after["seconds"])
    inner = math.prod(before["shape"]) / seconds
    plan = record["plan"]
    result = {
        "shape": shape,
        "raw_bytes": 2 * math.prod(shape),
        "psf": arguments.psf,
        "psf_shape": psf_shape,
        "iterations": arguments.iterations,
        "plan": plan,
        "halo_share": plan["halo_share"],
        "seconds": record["seconds"],
        "steps": record["steps"],
        "cpu_seconds": record["cpu_seconds"],
        "voxels_per_second": record["voxels_per_second"],
        "in_core_shape": before["shape"],
        "in_core_seconds": [before["seconds"], after["seconds"]],
        "in_core_voxels_per_second": inner,
        "share_of_in_core": record["voxels_per_second"] / inner,
        "memory_bytes": plan["memory"],
        "predicted_bytes": plan["predicted_memory"],
        "peak_bytes": record["peak"],
        "peak_bytes_of_largest_child": record["peak_of_largest_child"],
        **sizes,
        "seam": record["seam"],
        "workers": arguments.workers,
    }
    save(arguments, "volume", result)


def workers(arguments: argparse.Namespace) -> None:
    """In turn, so that both see the same machine."""
    options: dict[str, Any] = {"num_iter": arguments.iterations, "memory": arguments.memory}
    one: dict[str, Any] = {"num_threads": arguments.threads}
    several: dict[str, Any] = {"num_threads": 1, "workers": arguments.threads}
    seconds: dict[str, list[float]] = {"threads": [], "workers": []}
    steps: dict[str, list[Any]] = {"threads": [], "workers": []}
    with workplace(arguments.folder, tuple(arguments.shape), arguments.psf) as (source, psf, folder):
        for turn in range(arguments.repeats):
            paths = {name: folder / f"{name}{turn}.zarr" for name in seconds}
            for name, more in (("threads", one), ("workers", several)):
                record = output_of(child(source, paths[name], psf, {**options, **more}))
                seconds[name].append(record["wall"])
                steps[name].append(record["steps"])
                print(f"{name}: {record['wall']:.1f} s, {record['steps']}", file=sys.stderr)
            if not same(paths["threads"], paths["workers"]):
                sys.exit("the voxels differ")
            subprocess.run(["rm", "-r", *map(str, paths.values())], check=True)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    result = {
        "shape": arguments.shape,
        "psf": arguments.psf,
        "iterations": arguments.iterations,
        "plan": record["plan"],
        "seconds": seconds,
        "steps": steps,
        "workers_over_threads": medians["workers"] / medians["threads"],
        "identical": True,
    }
    save(arguments, "workers", result)


def save(arguments: argparse.Namespace, name: str, result: dict[str, Any]) -> None:
    machine.save(arguments.output, arguments.threads, **{name: result})


def scale(arguments: argparse.Namespace) -> None:
    """What very large jobs cost, by the planner, and by a measured run's times (see docs/scale.md)."""
    from medeconv_fast.algorithms._tile import Numbers
    from medeconv_fast.volumes._manifest import Done, Manifest
    from medeconv_fast.volumes._plan import Costs, halo_for

    measured = json.loads(arguments.measured.read_text())["volume"]
    # Seconds per voxel computed, reading and writing included, and bytes per voxel stored.
    per_voxel = 1 / measured["voxels_per_second"] * arguments.iterations / measured["iterations"]
    voxels = math.prod(measured["shape"])
    bytes_in, bytes_out = (measured[name] / voxels for name in ("input_bytes", "output_bytes"))
    psf = psf_of(measured["psf"])
    numbers = [Numbers("richardson_lucy", {"num_iter": arguments.iterations})]
    halo = halo_for(numbers, [psf], "auto", (13_000, 19_600, 19_600))
    costs = Costs(numbers, [psf], np.uint16, np.float32, None, chunk=64**3, block=128**3)
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
    running.add_argument("--workers", type=int)
    running.add_argument("--core", type=int, default=512, help="side of the cube that is restored in core")
    comparing = commands.add_parser("workers")
    comparing.add_argument("--repeats", type=int, default=REPEATS)
    for each in (running, comparing):
        each.add_argument("--shape", type=int, nargs=3, default=(256, 512, 512))
        each.add_argument("--psf", choices=("sheet", "gaussian"), default="sheet")
        each.add_argument("--iterations", type=int, default=ITERATIONS)
        each.add_argument("--memory", default="1GB")
        each.add_argument("--threads", type=int, default=2)
        each.add_argument("--folder", help="where the files go meanwhile; the input is kept there")
        each.add_argument("-o", "--output", type=Path)
    scaling = commands.add_parser("scale")
    scaling.add_argument("measured", type=Path, help="what 'run -o' has written")
    scaling.add_argument("--iterations", type=int, default=20)
    scaling.add_argument("--gigabytes", type=int, default=4, help="memory per worker")
    scaling.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    if arguments.command in ("run", "workers") and arguments.output:
        machine.describe(arguments.threads)  # what it lacks is to be said before minutes of work, not after
    {"kills": kills, "run": run, "workers": workers, "scale": scale}[arguments.command](arguments)


if __name__ == "__main__":
    main()
