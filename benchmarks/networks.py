"""Convolutions of networks against torch (oneDNN), Numba and NumPy: forward, and forward with both gradients.

    python benchmarks/networks.py -o FILE.json [--only 64-64 ...]

Each way of measuring has a process of its own, because the heap and the instruction set are chosen when a
process starts: "warm" (freed memory stays with the process, so that torch's outputs cost no page faults),
"default", and "avx2" (warm, both sides kept to AVX2). Contenders take turns case by case. A second round of
processes measures the memory of each of our kernels beside its operands.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cases import LAYERS, Layer

REPEAT_FOR_S = 0.7
FEWEST, MOST = 3, 50
TURNS = 2
# Norm-wise against float64: what the tolerance table allows Winograd and a sum of 512 x 9 products.
BOUND = 1e-4
MOST_UNFOLDED = 4 << 30  # bytes
# Where one call of the slow columns takes longer than this, it is the only one.
PATIENCE_S = 2.0
WARM = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
MODES: dict[str, dict[str, str]] = {
    "warm": WARM,
    "default": {},
    "avx2": {**WARM, "MEDECONV_ISA": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
}
KERNELS = ("forward", "input_grad", "weight_grad")


class Problem:
    """Operands of a layer, and what computes it."""

    def __init__(self, layer: Layer) -> None:
        rng = np.random.default_rng(0)
        from medeconv_fast import backends

        self.layer = layer
        self.arrays = {}
        # On pages as both sides' own outputs have them; see `empty` of the backend.
        empty = backends.resolve("auto").empty
        for name, shape in (("x", layer.x), ("w", layer.w), ("grad", layer.output())):
            array = empty(shape, np.dtype(np.float32))
            array[...] = rng.standard_normal(shape, np.float32)
            self.arrays[name] = array

    def torch(self, dtype: Any, *, gradients: bool) -> Callable[[], tuple[Any, ...]]:
        import torch

        layer = self.layer
        kind = "conv_transpose" if layer.transposed else "conv"
        function = getattr(torch.nn.functional, f"{kind}{len(layer.x) - 2}d")
        x, w, grad = (torch.from_numpy(self.arrays[name]).to(dtype) for name in ("x", "w", "grad"))

        def forward() -> tuple[Any, ...]:
            with torch.no_grad():
                return (function(x, w, **layer.options),)

        def both() -> tuple[Any, ...]:
            a, b = x.detach().requires_grad_(), w.detach().requires_grad_()
            y = function(a, b, **layer.options)
            return (y.detach(), *torch.autograd.grad(y, (a, b), grad))

        return both if gradients else forward

    def precise(self, *, gradients: bool) -> tuple[Any, ...]:
        """In float64 by torch, or by NumPy where torch would copy the input once for every tap."""
        import torch

        taps = math.prod(self.layer.w[2:])
        if 8 * math.prod(self.layer.output()[2:]) * taps * self.layer.w[1] < MOST_UNFOLDED:
            return self.torch(torch.float64, gradients=gradients)()
        wide = {name: array.astype(np.float64) for name, array in self.arrays.items()}
        return self.ours(gradients=gradients, threads=2, arrays=wide, backend="reference")()

    def ours(
        self, *, gradients: bool, threads: int, arrays: Any = None, **choice: Any
    ) -> Callable[[], tuple[Any, ...]]:
        from medeconv_fast import ops

        layer = self.layer
        kind = "conv_transpose" if layer.transposed else "conv"
        choice = {**layer.options, **choice, "num_threads": threads}
        x, w, grad = ((arrays or self.arrays)[name] for name in ("x", "w", "grad"))
        function = getattr(ops, kind)
        to_input, to_weight = getattr(ops, f"{kind}_input_grad"), getattr(ops, f"{kind}_weight_grad")

        def forward() -> tuple[Any, ...]:
            return (function(x, w, **choice),)

        def both() -> tuple[Any, ...]:
            return (
                function(x, w, **choice),
                to_input(grad, w, layer.x, **choice),
                to_weight(grad, x, layer.w, **choice),
            )

        return both if gradients else forward


def disagreement(found: tuple[Any, ...], expected: tuple[Any, ...]) -> float:
    """The largest norm-wise error among result and gradients."""
    pairs = zip(found, expected, strict=True)
    return max(
        float(np.linalg.norm(np.asarray(a, np.float64) - np.asarray(b)) / np.linalg.norm(np.asarray(b)))
        for a, b in pairs
    )


def measure(layer: Layer, mode: str, threads: int) -> dict[str, Any]:
    """Seconds of each contender, after the check."""
    import torch

    torch.set_num_threads(threads)
    problem = Problem(layer)
    contenders: dict[str, dict[str, Any]] = {"medeconv": {}}
    if mode == "warm":
        contenders |= {"medeconv-exact": {"exact": True}}
        contenders |= {"numba": {"backend": "numba", "exact": True}, "NumPy": {"backend": "reference"}}
    row: dict[str, Any] = {"layer": layer.name, "table": layer.table, "mode": mode}
    row |= {"operations": layer.operations, "bytes": layer.bytes, "errors": {}}
    for name, gradients in (("forward", False), ("both", True)):
        expected = problem.precise(gradients=gradients)
        steps = {"torch": problem.torch(torch.float32, gradients=gradients)}
        for contender, choice in contenders.items():
            steps[contender] = problem.ours(gradients=gradients, threads=threads, **choice)
        once = {}
        for contender, step in list(steps.items()):
            if contender == "numba":
                step()  # compiles
            begun = time.perf_counter()
            found = step()
            once[contender] = time.perf_counter() - begun
            error = disagreement(found, expected)
            del found
            if error > BOUND:
                raise RuntimeError(f"{layer.name}: {contender} disagrees with float64 by {error:.2e}")
            row["errors"][f"{contender} {name}"] = error
            if once[contender] > PATIENCE_S and contender in ("numba", "NumPy"):
                row.setdefault(name, {})[contender] = once.pop(contender)
                del steps[contender]
        taken: dict[str, list[float]] = {contender: [] for contender in steps}
        for _ in range(TURNS):
            for contender, step in steps.items():
                time.sleep(0.2)  # the threads of the one before may still be spinning
                begun = time.perf_counter()
                step()
                once[contender] = time.perf_counter() - begun
                fewest = 1 if contender in ("numba", "NumPy") else FEWEST
                rounds = min(max(math.ceil(REPEAT_FOR_S / once[contender]), fewest), MOST)
                for _ in range(rounds):
                    begun = time.perf_counter()
                    step()
                    taken[contender].append(time.perf_counter() - begun)
        row[name] = row.get(name, {}) | {key: statistics.median(times) for key, times in taken.items()}
    return row


def memory(layer: Layer, kernel: str, exact: bool, threads: int) -> dict[str, Any]:
    """Run in a fresh process: the peak beside the operands and the result of one kernel."""
    from machine import bytes_beside
    from medeconv_fast import ops

    kind = "conv_transpose" if layer.transposed else "conv"
    name = kind if kernel == "forward" else f"{kind}_{kernel}"
    small: dict[str, Any] = {"backend": "cpp", "num_threads": threads}
    rng = np.random.default_rng(0)
    x, w, y = (rng.standard_normal(shape, np.float32) for shape in (layer.x, layer.w, layer.output()))
    arguments: tuple[Any, ...] = {
        "forward": (x, w),
        "input_grad": (y, w, layer.x),
        "weight_grad": (y, x, layer.w),
    }[kernel]
    out = np.ones_like({"forward": y, "input_grad": x, "weight_grad": w}[kernel])

    def work() -> None:
        getattr(ops, name)(*arguments, **layer.options, **small, out=out, exact=exact)

    extra = bytes_beside(work)
    read = {"forward": x, "input_grad": y, "weight_grad": x}[kernel]
    other = y if kernel == "weight_grad" else out
    return {
        "layer": layer.name,
        "kernel": kernel,
        "exact": exact,
        "extra_bytes": extra,
        "allowed_bytes": int(0.1 * (read.nbytes + other.nbytes)) + w.nbytes,
    }


def machine_rates(threads: int) -> dict[str, float]:
    import rates

    return {
        "copy_bytes_per_s": rates.bandwidth(rates.Copy(1 << 25, threads)),
        "arithmetic_per_s": rates.arithmetic(rates.Product()),
    }


def _child(arguments: list[Any], mode: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", json.dumps(arguments)]
    environment = {**os.environ, **MODES[mode]}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    row: dict[str, Any] = json.loads(done.stdout)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="TEXT", help="layers with this in their name"
    )
    parser.add_argument("--quick", action="store_true", help="the smallest layer of each table")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, str(arguments.threads))
    layers = {layer.name: layer for layer in LAYERS}
    if arguments.child:
        name, *rest = json.loads(arguments.child)
        if name == "rates":
            print(json.dumps(machine_rates(*rest)))
            return
        work = measure if rest[0] in MODES else memory
        print(json.dumps(work(layers[name], *rest)))
        return
    from machine import describe, save  # notes the load before anything is measured
    from medeconv_fast.backends import cpp

    describe(arguments.threads)  # what it lacks is said now, not when all has been measured

    modes = [mode for mode in MODES if mode != "avx2" or "avx2" in cpp.describe()["supported_isas"]]
    chosen = [layer for layer in LAYERS if any(text in layer.name for text in arguments.only)]
    if arguments.quick:
        least = {t: min((x for x in chosen if x.table == t), key=lambda x: x.bytes) for t in _tables(chosen)}
        chosen = [*least.values()]
    # In a child: what this process takes would count as its children's peak.
    rates_of = _child(["rates", arguments.threads], "default")
    rows, peaks, failed = [], [], 0
    for layer in chosen:
        for mode in modes:
            print(f"networks: {layer.name}, {mode}", flush=True)
            try:
                rows.append(_child([layer.name, mode, arguments.threads], mode))
            except subprocess.CalledProcessError:
                failed += 1
        for kernel in KERNELS:
            for exact in (True, False):
                peaks.append(_child([layer.name, kernel, exact, arguments.threads], "default"))
    save(arguments.output, arguments.threads, **rates_of, networks=rows, network_memory=peaks)
    if failed:
        sys.exit(f"{failed} layers were not measured")


def _tables(layers: list[Layer]) -> list[str]:
    return list(dict.fromkeys(layer.table for layer in layers))


if __name__ == "__main__":
    main()
