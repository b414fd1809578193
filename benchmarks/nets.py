"""Whole networks against torch (oneDNN): a training step, inference, and the memory of both.

    python benchmarks/nets.py -o FILE.json [--only deconv ...] [--seconds S]

Every contender works in a process of its own, in turns, with the heap kept warm (torch's best) or as it is by
default; before it is timed, its result is compared with ours. Training: forward, mean squared error,
backward, an update of Adam. Memory: what a process's peak grows by from before the network to after the
steps.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

WARM = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
MODES: dict[str, dict[str, str]] = {"warm": WARM, "default": {}}
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


def our_net(name: str) -> Any:
    import medeconv_fast as mf

    if name == "deconv":
        return mf.nn.DeconvNet(residual=False)
    return mf.nn.RLNet(steps=2, filters=16)


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


def by_us(name: str) -> tuple[Callable[[], Any], Callable[[], np.ndarray]]:
    """A training step, and inference."""
    from medeconv_fast.nn._data import ArrayPairs
    from medeconv_fast.nn._training import Training, _Score, make_batch

    x, y = data(CASES[name])
    net = our_net(name).compile("adam", "mse")
    loss, optimizer = net._compiled()
    pairs = ArrayPairs(x, y, net.ndim, net.channels)
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


def by_torch(name: str) -> tuple[Callable[[], Any], Callable[[], np.ndarray]]:
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
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


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


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


def worker(name: str, contender: str, path: str, seconds: str) -> None:
    """Times of one contender, and its first prediction in a file."""
    step, predict = CONTENDERS[contender](name)
    before = peak()
    np.save(path, predict())
    inference = milliseconds(predict, float(seconds))
    after_inference = peak()
    training = milliseconds(step, float(seconds))
    found = {
        "inference_ms": inference,
        "training_ms": training,
        "inference_bytes": after_inference - before,
        "training_bytes": peak() - before,
    }
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", metavar="FILE")
    parser.add_argument("--only", nargs="+", choices=tuple(CASES), default=list(CASES))
    parser.add_argument("--seconds", type=float, default=4.0, help="per measurement (default: 4)")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(*arguments.worker)
        return
    import tempfile

    records = []
    for name in arguments.only:
        for mode, environment in MODES.items():
            found: dict[str, list[dict[str, Any]]] = {contender: [] for contender in CONTENDERS}
            results = {}
            for _ in range(TURNS):
                for contender in CONTENDERS:
                    with tempfile.TemporaryDirectory() as folder:
                        path = str(Path(folder, "result.npy"))
                        done = subprocess.run(
                            [
                                sys.executable,
                                __file__,
                                "--worker",
                                name,
                                contender,
                                path,
                                str(arguments.seconds),
                            ],
                            env=os.environ | environment,
                            capture_output=True,
                            text=True,
                            check=True,
                        )
                        results[contender] = np.load(path).astype(np.float64)
                    found[contender].append(json.loads(done.stdout.splitlines()[-1]))
            ours, theirs = results["medeconv_fast"], results["torch"]
            error = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
            if error > BOUND:
                raise SystemExit(f"{name}: the results differ by {error:.2g}, at most {BOUND:g} is expected")
            record: dict[str, Any] = {"case": CASES[name].title, "mode": mode, "error": error}
            for contender, runs in found.items():
                for kind in ("training", "inference"):
                    times = [t for run in runs for t in run[f"{kind}_ms"]]
                    record[f"{contender} {kind} ms"] = statistics.median(times)
                    record[f"{contender} {kind} fastest ms"] = min(times)
                    record[f"{contender} {kind} MB"] = max(run[f"{kind}_bytes"] for run in runs) / 1e6
            for kind in ("training", "inference"):
                ratio = record[f"torch {kind} ms"] / record[f"medeconv_fast {kind} ms"]
                record[f"{kind} speedup"] = ratio
                print(
                    f"{record['case']}, {mode} heap, {kind}: {record[f'medeconv_fast {kind} ms']:.1f} ms and "
                    f"{record[f'medeconv_fast {kind} MB']:.0f} MB, torch "
                    f"{record[f'torch {kind} ms']:.1f} ms and "
                    f"{record[f'torch {kind} MB']:.0f} MB: {ratio:.2f} times as fast",
                    flush=True,
                )
            records.append(record)
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
