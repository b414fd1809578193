"""Whole networks against torch (oneDNN): a training step, inference, and the memory of both.

    python benchmarks/nets.py -o benchmarks/results/nets.json [--only deconv ...] [--seconds S]

Every contender works in a process of its own, in turns, with the heap kept warm (torch's best) or as it is by
default; its result is compared with ours. Training: forward, mean squared error, backward, an update of Adam.
Memory: what a process's peak grows by from before the network's first use to after the steps.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from machine import peak_bytes, save  # notes the load before anything is measured

WARM = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
MODES: dict[str, dict[str, str]] = {"warm": WARM, "default": {}}
WORK = {"training": "training step", "inference": "inference"}
TURNS = 2
FEWEST = 5
BOUND = 1e-4  # norm-wise, float32


class Case(NamedTuple):
    title: str
    shape: tuple[int, ...]


CASES = {
    "deconv": Case("DeconvNet 1-64-1, 256 squared, batch 8", (8, 1, 256, 256)),
    "rlnet": Case("RLNet 3-D, 16 filters, 2 steps, 64 cubed", (1, 1, 64, 64, 64)),
}


def data(case: Case) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x, y = (1 + rng.random(case.shape, np.float32) for _ in range(2))
    return x, y


def our_net(name: str, threads: int | None = None) -> Any:
    import medeconv_fast as mf

    if name == "deconv":
        return mf.nn.DeconvNet(residual=False, num_threads=threads)
    return mf.nn.RLNet(steps=2, filters=16, num_threads=threads)


def torch_net(name: str) -> Any:
    """The same layers, with our initial weights."""
    import torch
    from torch import nn

    if name == "deconv":
        net: Any = nn.Sequential(
            nn.Conv2d(1, 64, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(64, 1, 3, padding=1)
        )
    else:

        class Unrolled(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.forward_projector, self.back_projector = (
                    nn.Sequential(
                        nn.Conv3d(1, 16, 3, padding=1),
                        nn.ReLU(),
                        nn.Conv3d(16, 16, 3, padding=1),
                        nn.ReLU(),
                        nn.Conv3d(16, 1, 3, padding=1),
                        nn.Softplus(),
                    )
                    for _ in range(2)
                )

            def forward(self, y: Any) -> Any:
                estimate = y
                for _ in range(2):
                    divisor = self.forward_projector(estimate).clamp(min=1e-3)
                    estimate = estimate * self.back_projector(y / divisor)
                return estimate

        net = Unrolled()
    with torch.no_grad():
        for parameter, weight in zip(net.parameters(), our_net(name).get_weights(), strict=True):
            parameter.copy_(torch.from_numpy(weight))
    return net


def by_us(name: str, threads: int) -> tuple[Callable[[], Any], Callable[[], np.ndarray]]:
    """A training step, and inference."""
    from medeconv_fast.nn._data import ArrayPairs
    from medeconv_fast.nn._training import Training, _Score, make_batch

    x, y = data(CASES[name])
    net = our_net(name, threads).compile("adam", "mse")
    loss, optimizer = net._compiled()
    pairs = ArrayPairs(x, y, net.ndim, net.channels, net.dtype, ("x", "y"))
    training = Training(
        net,
        pairs,
        None,
        loss=loss,
        optimizer=optimizer,
        callbacks=(),
        augment=None,
        epochs=1,
        batch_size=len(x),
        shuffle=False,
        seed=0,
    )

    def step() -> None:
        batch, target, _ = make_batch(net, pairs, range(len(x)), (0, 0))
        training._update(batch, target, None, _Score(), "batch")

    return step, lambda: np.asarray(net.predict(x))


def by_torch(name: str, threads: int) -> tuple[Callable[[], Any], Callable[[], np.ndarray]]:
    import torch

    torch.set_num_threads(threads)
    x, y = (torch.from_numpy(array) for array in data(CASES[name]))
    net = torch_net(name)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(net(x), y).backward()
        optimizer.step()

    def predict() -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(net(x).numpy())

    return step, predict


CONTENDERS = {"medeconv_fast": by_us, "torch": by_torch}


def milliseconds(call: Callable[[], Any], seconds: float) -> list[float]:
    call()
    call()
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < FEWEST or time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return times


def worker(name: str, contender: str, path: str, threads: int, seconds: float) -> None:
    """Times of one contender, and its first prediction in a file."""
    step, predict = CONTENDERS[contender](name, threads)
    before = peak_bytes()
    np.save(path, predict())
    inference = milliseconds(predict, seconds)
    after_inference = peak_bytes()
    training = milliseconds(step, seconds)
    found = {
        "inference_ms": inference,
        "training_ms": training,
        "inference_bytes": after_inference - before,
        "training_bytes": peak_bytes() - before,
    }
    print(json.dumps(found))


def _in_a_process(
    name: str, contender: str, mode: str, threads: int, seconds: float
) -> tuple[dict[str, Any], np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "result.npy"))
        command = [sys.executable, __file__, "--worker", name, contender, path]
        command += ["--threads", str(threads), "--seconds", str(seconds)]
        environment = os.environ | MODES[mode]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found, np.load(path).astype(np.float64)


def measure(name: str, mode: str, threads: int, seconds: float, turns: int) -> dict[str, Any]:
    """Medians in ms and peaks in bytes, of both contenders."""
    runs: dict[str, list[dict[str, Any]]] = {contender: [] for contender in CONTENDERS}
    results = {}
    for _ in range(turns):
        for contender, own in runs.items():
            found, results[contender] = _in_a_process(name, contender, mode, threads, seconds)
            own.append(found)
    ours, theirs = results["medeconv_fast"], results["torch"]
    error = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
    if not error <= BOUND:
        raise SystemExit(f"{name}: the results differ by {error:.2g}, at most {BOUND:g} is expected")
    row: dict[str, Any] = {"net": CASES[name].title, "mode": mode, "error": error}
    for work in WORK:
        row[work] = {
            contender: {
                "median_ms": statistics.median(t for run in own for t in run[f"{work}_ms"]),
                "least_ms": min(t for run in own for t in run[f"{work}_ms"]),
                "times": sum(len(run[f"{work}_ms"]) for run in own),
                "bytes": max(run[f"{work}_bytes"] for run in own),
            }
            for contender, own in runs.items()
        }
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=tuple(CASES), default=list(CASES))
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement (default: 3)")
    parser.add_argument("--quick", action="store_true", help="each a few times only: does everything work?")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(*arguments.worker, arguments.threads, arguments.seconds)
        return
    seconds, turns = (0.0, 1) if arguments.quick else (arguments.seconds, TURNS)
    rows = []
    for name in arguments.only:
        for mode in MODES:
            row = measure(name, mode, arguments.threads, seconds, turns)
            rows.append(row)
            for work, title in WORK.items():
                ours, theirs = (row[work][contender] for contender in CONTENDERS)
                ratio = theirs["median_ms"] / ours["median_ms"]
                print(
                    f"{row['net']}, {mode} heap, {title}: {ours['median_ms']:.1f} ms and "
                    f"{ours['bytes'] / 1e6:.0f} MB, torch {theirs['median_ms']:.1f} ms and "
                    f"{theirs['bytes'] / 1e6:.0f} MB: {ratio:.2f} times as fast",
                    flush=True,
                )
    save(arguments.output, arguments.threads, nets=rows)


if __name__ == "__main__":
    main()
