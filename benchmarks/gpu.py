"""Times the CUDA backend beside what else a user of a GPU would call; verified before it is timed.

    python benchmarks/gpu.py OUT.json        writes OUT.json after every case, and OUT.md at the end
    python benchmarks/gpu.py --dry OUT.json  tiny sizes, NumPy in CuPy's place: whether the script runs at all

Peers: Richardson-Lucy in CuPy on cuFFT as a good user would write it (cached plans, fused pointwise kernels),
cuCIM's, torch.fft's; convolutions of networks through torch (cuDNN, TF32 off). A peer that is not there is
marked absent. Times are medians between device events, inputs random; the fraction of the roofline is bytes
that the scheme must move over time, as a share of what a device-to-device copy reaches in the same run.
"""

import argparse
import importlib
import json
import statistics
import sys
import time
import traceback
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import emulated  # noqa: F401, before the package

import medeconv_fast as mf

VOLUMES = {
    "256^3": (256, 256, 256),
    "512^3": (512, 512, 512),
    "1024x1024x256": (256, 1024, 1024),
    "2-D 4096^2": (4096, 4096),
}
TINY = {"12^3": (12, 12, 12), "2-D 24^2": (24, 24)}
FEW, MANY = 5, 25  # iterations; a time per iteration is from the difference
# That a plain iteration by fused lines reads and writes (docs/gpu.md).
BYTES_PER_VOXEL = {3: 21.0 * 4, 2: 13.0 * 4}
CONVOLUTIONS = {
    "conv2d 1->64 3x3, 512^2": ((1, 1, 512, 512), (64, 1, 3, 3), {"padding": 1}),
    "conv2d 64->1 3x3, 512^2": ((1, 64, 512, 512), (1, 64, 3, 3), {"padding": 1}),
    "depthwise 64 7x7, 256^2": ((1, 64, 256, 256), (64, 1, 7, 7), {"padding": 3, "groups": 64}),
    "conv3d 1->16 3^3, 96^3": ((1, 1, 96, 96, 96), (16, 1, 3, 3, 3), {"padding": 1}),
    "conv3d 16->16 3^3, 96^3": ((1, 16, 96, 96, 96), (16, 16, 3, 3, 3), {"padding": 1}),
    "conv3d 1->1 9^3, 128^3": ((1, 1, 128, 128, 128), (1, 1, 9, 9, 9), {"padding": 4}),
}
AGREE = 2e-4


class Machine:
    """Arrays, clocks and names of the GPU; in a dry run NumPy's and the host's."""

    def __init__(self, dry):
        self.dry = dry
        self.xp = np if dry else importlib.import_module("cupy")

    def median_ms(self, call, repeats):
        call()
        times = []
        for _ in range(repeats):
            if self.dry:
                begun = time.perf_counter()
                call()
                times.append((time.perf_counter() - begun) * 1e3)
                continue
            start, stop = self.xp.cuda.Event(), self.xp.cuda.Event()
            start.record()
            call()
            stop.record()
            stop.synchronize()
            times.append(self.xp.cuda.get_elapsed_time(start, stop))
        return statistics.median(times)

    def host(self, array):
        return np.asarray(array) if self.dry else self.xp.asnumpy(array)

    def describe(self):
        if self.dry:
            return {"device": "none: a dry run, whose times mean nothing"}
        properties = self.xp.cuda.runtime.getDeviceProperties(0)
        return {
            "device": properties["name"].decode(),
            "driver": self.xp.cuda.runtime.driverGetVersion(),
            "cupy": self.xp.__version__,
        }

    def copy_bandwidth(self):
        """Bytes read and written per second by a copy that no cache holds."""
        size = 1 << 16 if self.dry else 1 << 30
        a = self.xp.random.default_rng(0).random(size // 4, dtype=self.xp.float32)
        b = self.xp.empty_like(a)
        return 2 * a.nbytes / (self.median_ms(lambda: b.__setitem__(..., a), 20) / 1e3)


def blurred_image(machine, shape):
    random = np.random.default_rng(0)
    psf = random.random(tuple(min(n, 33) if len(shape) == 3 else min(n, 65) for n in shape)) ** 4
    return machine.xp.asarray(random.poisson(50, shape).astype(np.float32)), (psf / psf.sum()).astype(
        np.float32
    )


def ours(machine, image, psf, iterations):
    return mf.richardson_lucy(image, psf, iterations, boundary="wrap", backend="cuda", engine="spectral")


def memory_taken(machine, image, psf):
    """What a run adds to the memory in use, as a number of volumes; pools keep what was used at most."""
    if machine.dry:
        return {}
    runtime = machine.xp.cuda.runtime
    machine.xp.get_default_memory_pool().free_all_blocks()
    mf.release_memory()
    before = runtime.memGetInfo()[0]
    result, info = mf.richardson_lucy(
        image, psf, 3, boundary="wrap", backend="cuda", engine="spectral", return_info=True
    )
    machine.xp.cuda.Device().synchronize()
    taken = before - runtime.memGetInfo()[0] - result.nbytes
    return {"volumes_taken": taken / image.nbytes, "volumes_predicted": info.bytes / image.nbytes}


def _otf(xp, psf, shape):
    placed = np.zeros(shape, np.float32)
    placed[tuple(slice(0, k) for k in psf.shape)] = psf
    placed = np.roll(placed, [-(k // 2) for k in psf.shape], range(psf.ndim))
    return xp.fft.rfftn(xp.asarray(placed))


def cufft(machine, image, psf, iterations):
    """Plans are cached by CuPy; the pointwise steps are one kernel each."""
    xp, shape, axes = machine.xp, image.shape, tuple(range(image.ndim))
    otf = _otf(xp, psf, shape)
    back = otf.conj()

    def divide(image, blurred):
        return image / xp.maximum(blurred, 1e-4)

    def multiply(estimate, correction):
        return xp.maximum(estimate * correction, 0)

    if not machine.dry:
        divide, multiply = xp.fuse(divide), xp.fuse(multiply)
    estimate = xp.full(shape, float(image.mean()), xp.float32)
    for _ in range(iterations):
        blurred = xp.fft.irfftn(xp.fft.rfftn(estimate) * otf, shape, axes)
        ratio = divide(image, blurred)
        estimate = multiply(estimate, xp.fft.irfftn(xp.fft.rfftn(ratio) * back, shape, axes))
    return estimate


def torch_fft(machine, image, psf, iterations):
    torch = importlib.import_module("torch")
    device = "cpu" if machine.dry else "cuda"
    data = torch.as_tensor(machine.host(image), device=device)
    otf = torch.as_tensor(machine.host(_otf(machine.xp, psf, image.shape)), device=device)
    axes = tuple(range(data.ndim))
    estimate = torch.full_like(data, float(data.mean()))
    for _ in range(iterations):
        blurred = torch.fft.irfftn(torch.fft.rfftn(estimate) * otf, data.shape, axes)
        ratio = data / blurred.clamp_min_(1e-4)
        estimate = (
            estimate * torch.fft.irfftn(torch.fft.rfftn(ratio) * otf.conj(), data.shape, axes)
        ).clamp_min_(0)
    return estimate.cpu().numpy() if machine.dry else machine.xp.from_dlpack(estimate)


def cucim(machine, image, psf, iterations):
    """Zeros outside, and no division by the normalizer: timed, and compared in the middle only."""
    restoration = importlib.import_module("cucim.skimage.restoration")
    return restoration.richardson_lucy(image, machine.xp.asarray(psf), num_iter=iterations, clip=False)


DECONVOLUTIONS = {"ours": ours, "cupy + cufft": cufft, "torch.fft": torch_fft, "cucim": cucim}


def deconvolution(machine, shape, bandwidth):
    image, psf = blurred_image(machine, shape)
    wanted = machine.host(ours(machine, image, psf, 3))
    record = {}
    for name, run in DECONVOLUTIONS.items():
        try:
            got = machine.host(run(machine, image, psf, 3))
            error = float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))
            if name != "cucim" and not error < AGREE:
                record[name] = {"error": error, "refused": "differs too much to be timed"}
                continue
            few, many = (
                machine.median_ms(lambda n=n, run=run: run(machine, image, psf, n), 5) for n in (FEW, MANY)
            )
            each = (many - few) / (MANY - FEW)
            record[name] = {"ms_per_iteration": each, "difference": error}
            if name == "ours":
                least = BYTES_PER_VOXEL[image.ndim] * image.size / bandwidth * 1e3
                record[name] |= {"roofline_ms": least, "share_of_roofline": least / each}
                record[name] |= memory_taken(machine, image, psf)
        except ImportError as error:
            record[name] = {"absent": str(error)}
        except Exception:
            record[name] = {"failed": traceback.format_exc(limit=3)}
    return record


def convolution(machine, case):
    torch = importlib.import_module("torch")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    x_shape, w_shape, options = case
    device = "cpu" if machine.dry else "cuda"
    random = torch.Generator().manual_seed(0)
    x, w = (torch.randn(s, generator=random).to(device) for s in (x_shape, w_shape))
    peer = getattr(torch.nn.functional, f"conv{len(x_shape) - 2}d")
    backend = "cuda"

    def both(forward, input_grad, weight_grad):
        grad = forward()
        return lambda: (forward(), input_grad(grad), weight_grad(grad))

    keywords = dict(options, backend=backend)
    calls = {
        "ours": (
            lambda: mf.ops.conv(x, w, **keywords),
            lambda g: mf.ops.conv_input_grad(g, w, x_shape, **keywords),
            lambda g: mf.ops.conv_weight_grad(g, x, w_shape, **keywords),
        ),
        "torch": (
            lambda: peer(x, w, **options),
            lambda g: torch.nn.grad.__dict__[f"conv{len(x_shape) - 2}d_input"](x_shape, w, g, **options),
            lambda g: torch.nn.grad.__dict__[f"conv{len(x_shape) - 2}d_weight"](x, w_shape, g, **options),
        ),
    }
    wanted = peer(x.double(), w.double(), **options)
    record = {}
    for name, (forward, input_grad, weight_grad) in calls.items():
        try:
            error = float((forward().double() - wanted).norm() / wanted.norm())
            if not error < 1e-5:
                record[name] = {"error": error, "refused": "differs too much to be timed"}
                continue
            record[name] = {
                "forward_ms": machine.median_ms(forward, 3 if machine.dry else 20),
                "all_ms": machine.median_ms(both(forward, input_grad, weight_grad), 3 if machine.dry else 20),
                "difference": error,
            }
        except Exception:
            record[name] = {"failed": traceback.format_exc(limit=3)}
    return record


def same_bits_on_two_streams(machine):
    """Two runs at once, each on a stream of its own, and one alone."""
    image, psf = blurred_image(machine, (64, 64, 64))
    if machine.dry:
        return {"skipped": "dry run"}
    streams = [machine.xp.cuda.Stream(non_blocking=True) for _ in range(2)]
    machine.xp.cuda.Device().synchronize()
    results = []
    for stream in streams:
        with stream:
            results.append(ours(machine, image, psf, 10))
    machine.xp.cuda.Device().synchronize()
    results.append(ours(machine, image, psf, 10))
    first, *others = (machine.host(r) for r in results)
    return {"same_bits": all(np.array_equal(first, other) for other in others)}


def table(record):
    lines = [f"# GPU benchmark: {record['machine']['device']}", ""]
    lines += [f"copy: {record['copy_bandwidth'] / 1e12:.2f} TB/s, bytes read and written", ""]
    names = list(DECONVOLUTIONS)
    lines += [
        f"| Richardson-Lucy, ms per iteration | {' | '.join(names)} | share of the roofline |",
        "|---" * (len(names) + 2) + "|",
    ]

    def cell(entry, key):
        return f"{entry[key]:.3g}" if key in entry else next(iter(entry), "not run")

    for case, entries in record["richardson_lucy"].items():
        cells = [cell(entries.get(name, {}), "ms_per_iteration") for name in names]
        lines.append(
            f"| {case} | {' | '.join(cells)} | {cell(entries.get('ours', {}), 'share_of_roofline')} |"
        )
    lines += [
        "",
        "| convolution, ms | ours | torch | ours, with gradients | torch, with gradients |",
        "|---|---|---|---|---|",
    ]
    for case, entries in record["convolution"].items():
        cells = [
            cell(entries.get(name, {}), key) for key in ("forward_ms", "all_ms") for name in ("ours", "torch")
        ]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"two streams at once: {record['streams']}", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--dry", action="store_true")
    arguments = parser.parse_args()
    machine = Machine(arguments.dry)
    record = {"machine": machine.describe(), "richardson_lucy": {}, "convolution": {}, "streams": "not run"}

    def save():
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")
        arguments.out.with_suffix(".md").write_text(table(record))

    record["copy_bandwidth"] = machine.copy_bandwidth()
    save()
    for name, shape in (TINY if arguments.dry else VOLUMES).items():
        record["richardson_lucy"][name] = deconvolution(machine, shape, record["copy_bandwidth"])
        save()
    record["streams"] = same_bits_on_two_streams(machine)
    for name, (x, w, options) in CONVOLUTIONS.items():
        if arguments.dry:
            x = (*x[:2], *(12 for _ in x[2:]))
        record["convolution"][name] = convolution(machine, (x, w, options))
        save()
    print(table(record))


if __name__ == "__main__":
    main()
