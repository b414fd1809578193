"""Runs the whole measurement unattended and writes RESULTS.md: what `make bench` calls.

    python benchmarks/run.py                      suite, memory, isas, planner, networks, nets, report
    python benchmarks/run.py --only suite -k "256x256x256 and wrap" --results DIRECTORY
    python benchmarks/run.py --only large         512 cubed and the like

A contender that disagrees fails its test; everything else is still measured and reported, and the exit status
is 1. A selection by -k replaces the file of the whole suite, so give it a directory of its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from report import RESULTS

HERE = Path(__file__).parent
STEPS = ("suite", "large", "memory", "isas", "planner", "networks", "nets")
MARKS = {"suite": "not large", "large": "large"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=STEPS, nargs="+", default=[s for s in STEPS if s != "large"])
    parser.add_argument("--quick", action="store_true", help="tiny cases only: does everything work?")
    parser.add_argument("-k", metavar="EXPRESSION", default="", help="pytest's selection by name")
    parser.add_argument("--results", type=Path, default=RESULTS, help="directory of the JSON files")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if (arguments.quick or arguments.k) and arguments.results == RESULTS:
        parser.error("--quick and -k measure a part: give --results another directory")
    arguments.results.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "BENCH_THREADS": str(arguments.threads)}
    failed = []
    for step in arguments.only:
        target = arguments.results / f"{step}.json"
        print(f"=== {step}", flush=True)
        begun = time.monotonic()
        if step in MARKS:
            raw = target.with_suffix(".raw")
            raw.unlink(missing_ok=True)
            command = [
                sys.executable,
                "-m",
                "pytest",
                str(HERE),
                "-v",
                "--tb=short",
                "-p",
                "no:cacheprovider",
            ]
            command += ["-m", "quick" if arguments.quick else MARKS[step], "-k", arguments.k]
            command += [f"--benchmark-json={raw}", "--benchmark-quiet", "--benchmark-sort=fullname"]
            command += ["--benchmark-columns=median,min,rounds"]
        else:
            command = [sys.executable, str(HERE / f"{step}.py")]
            command += ["-o", str(target), "--threads", str(arguments.threads)]
            if arguments.quick:
                command += ["--quick"] if step in ("networks", "nets") else ["--shape", "48", "48", "48"]
        status = subprocess.run(command, env=environment, check=False).returncode
        if step in MARKS and raw.exists() and raw.stat().st_size:
            slim = [sys.executable, str(HERE / "report.py"), "--slim", str(raw), "-o", str(target)]
            status = subprocess.run(slim, check=False).returncode or status
            raw.unlink()
        if status:
            failed.append(step)
        print(f"=== {step}: {'FAILED' if status else 'done'} in {time.monotonic() - begun:.0f} s", flush=True)
    report = [sys.executable, str(HERE / "report.py"), "--results", str(arguments.results)]
    if arguments.results != RESULTS:
        report += ["-o", str(arguments.results / "RESULTS.md")]
    subprocess.run(report, check=True)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
