"""Layers of networks on a GPU, forward and both gradients: ours against torch (cuDNN, float32 with TF32 off).

    python benchmarks/gpu_networks.py -o FILE.json [--budget SECONDS]

Everything is checked before it is timed: a result that is wrong gets no time. Times are of CUDA events around
many calls, the median of several such rounds; contenders take turns in each round. Every layer is timed
twice: as calls, and as a CUDA graph of the same calls, which leaves out what the host does. Operands rotate
so that together they exceed the L2 cache. The share of the roofline is the fewest bytes over the bandwidth
that a copy reaches here, or the multiply-adds at 60 TFLOP/s, whichever is longer, over the time.
"""

from __future__ import annotations

import argparse
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

from cases import LAYERS, Layer

ROUNDS = 5
L2_BYTES = 2 * 60e6
OPERATIONS_PER_S = 60e12
BOUND = 1e-5  # norm-wise, against float64

Run = Callable[[], Any]


class Bench:
    """What was measured so far; written after every entry, so that a later failure loses nothing."""

    def __init__(self, path: Path, budget: float) -> None:
        self.torch = importlib.import_module("torch")
        self._path = path
        self._stop = time.monotonic() + budget
        self.record: dict[str, Any] = {"machine": self._machine(), "entries": []}
        self.bandwidth = self._copy_bandwidth()
        self.record["copy_bytes_per_s"] = self.bandwidth
        self.write()

    def _machine(self) -> dict[str, Any]:
        versions = {"python": platform.python_version(), "cuda": self.torch.version.cuda}
        for package in ("medeconv-fast", "numpy", "torch"):
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
        source = self.torch.rand(1 << 30, dtype=self.torch.float32, device="cuda")
        target = self.torch.empty_like(source)
        return (
            2
            * 4
            * source.numel()
            / (1e-3 * self.milliseconds({"copy": lambda: target.copy_(source)}, 10)["copy"])
        )

    @property
    def late(self) -> bool:
        return time.monotonic() > self._stop

    def write(self) -> None:
        self._path.write_text(json.dumps(self.record, indent=1) + "\n")

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

    def checked(self, runs: dict[str, Run], precise: Any) -> tuple[dict[str, Run], dict[str, Any]]:
        """Those whose results are right, and every error (or why there is none)."""
        good, errors = {}, {}
        scale = float(self.torch.linalg.vector_norm(precise))
        for name, run in runs.items():
            try:
                got = run().double()
                errors[name] = float(self.torch.linalg.vector_norm(got - precise)) / scale
                if errors[name] < BOUND:  # not so for a NaN
                    good[name] = run
            except Exception as error:  # one contender's failure must not lose the others
                errors[name] = f"{type(error).__name__}: {error}"[:300]
        return good, errors


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
    options = layer.options
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
    generator = torch.Generator(device="cuda").manual_seed(seed)
    shapes = {"x": layer.x, "w": layer.w, "grad": layer.output()}
    return {k: torch.randn(s, device="cuda", generator=generator) for k, s in shapes.items()}


def networks(bench: Bench) -> None:
    torch = bench.torch
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    for layer in LAYERS:
        if bench.late:
            bench.add(layer=layer.name, skipped="no time left")
            continue
        count = min(12, max(2, math.ceil(L2_BYTES / layer.bytes)))
        sets = [operands(bench, layer, seed) for seed in range(count)]
        # The reference takes the operands that each contender's first call takes: set 1.
        wide = [{k: v.double() for k, v in sets[1].items()}]
        precise = {what: runs["torch"]() for what, runs in layer_runs(bench, layer, wide).items()}
        for what in ("forward", "input_grad", "weight_grad"):
            runs = layer_runs(bench, layer, sets)[what]
            good, errors = bench.checked(runs, precise[what])
            entry: dict[str, Any] = {"layer": layer.name, "what": what, "errors": errors}
            try:
                entry["ms_call"] = bench.milliseconds(good, 4 * count)
                graphs = {name: graph_of(bench, run, count) for name, run in good.items()}
                entry["ms_graph"] = {k: v / count for k, v in bench.milliseconds(graphs, 4).items()}
                floor = layer.bytes / bench.bandwidth
                entry["share_of_roofline"] = {
                    k: 1e3 * max(floor, layer.operations / OPERATIONS_PER_S) / v
                    for k, v in entry["ms_graph"].items()
                }
            except Exception as error:
                entry["failed"] = f"{type(error).__name__}: {error}"[:300]
            bench.add(**entry)
        del sets, wide, precise
        torch.cuda.empty_cache()


def table(record: dict[str, Any]) -> str:
    """Markdown: one line per entry, graphs' milliseconds."""
    lines = [f"# Layers: {record['machine']['device']}", ""]
    lines += [f"copy: {record['copy_bytes_per_s'] / 1e12:.2f} TB/s, bytes read and written", ""]
    lines += ["| layer | kernel | ours, ms | torch, ms | share of the roofline |", "|---|---|---|---|---|"]
    for entry in record["entries"]:
        what = f"| {entry['layer']} | {entry.get('what', '')} |"
        times = entry.get("ms_graph", {})
        cells = [f"{times[name]:.4f}" if name in times else "refused" for name in ("ours", "torch")]
        if not times:
            why = entry.get("failed") or entry.get("skipped") or entry.get("errors")
            lines.append(f"{what} {why} | | |")
            continue
        share = entry["share_of_roofline"].get("ours")
        lines.append(f"{what} {' | '.join(cells)} | {'' if share is None else f'{share:.2f}'} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument(
        "--budget", type=float, default=100, help="seconds after which nothing new is started"
    )
    given = parser.parse_args()
    bench = Bench(given.out, given.budget)
    networks(bench)
    text = table(bench.record)
    given.out.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
