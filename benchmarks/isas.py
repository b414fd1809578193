"""The iteration at 256 cubed on every instruction set of this machine, by MEDECONV_ISA in fresh processes.

    python benchmarks/isas.py -o FILE.json [--shape 256 256 256]

Processes take turns, so that a slow minute of the machine falls on all instruction sets.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

TURNS = 3
ROUNDS = 15
CASES = (("spectral", "general", 33), ("separable", "gaussian", 13))


def measure(shape: tuple[int, ...], engine: str, kind: str, psf: int, threads: int) -> float:
    """Median seconds of an iteration, after the check against float64."""
    from medeconv_fast._cli import peers

    given = peers.problem(shape, tuple(min(psf, n - 1 + n % 2) for n in shape), kind, "wrap", threads)
    task = peers.task(f"medeconv-{engine}", given, "iteration")
    error = peers.disagreement(task, "iteration", peers.reference(given, "iteration"))
    if error > peers.BOUNDS["iteration"]:
        raise RuntimeError(f"{engine} disagrees with float64 by {error:.2e}")
    taken = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        task.step()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--shape", type=int, nargs="+", default=[256] * 3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        engine, kind, psf = json.loads(arguments.child)
        print(measure(tuple(arguments.shape), engine, kind, psf, arguments.threads))
        return
    from machine import save  # notes the load before anything is measured
    from medeconv_fast.backends import cpp

    shape = [*map(str, arguments.shape)]
    rows = []
    for case in CASES:
        taken: dict[str, list[float]] = {isa: [] for isa in cpp.describe()["supported_isas"]}
        for turn in range(TURNS):
            for isa, times in taken.items():
                print(f"isas: {case[0]}, {isa}, turn {turn + 1} of {TURNS}", flush=True)
                command = [sys.executable, __file__, "--child", json.dumps(case), "--shape", *shape]
                command += ["--threads", str(arguments.threads)]
                environment = {**os.environ, "MEDECONV_ISA": isa}
                done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                times.append(float(done.stdout))
        for isa, times in taken.items():
            rows.append(
                {"engine": case[0], "isa": isa, "shape": arguments.shape, "psf": case[2]}
                | {"median_s": statistics.median(times), "turns_s": times}
            )
    save(arguments.output, arguments.threads, isas=rows)


if __name__ == "__main__":
    main()
