"""Who takes part in a benchmark: our engines and other libraries, on one problem, behind one interface.

The others get every help that their own interface offers: transforms planned ahead or run in place, pointwise
work in blocks that stay in cache on as many threads as the transforms, transfer functions computed once. A
library is imported when it is asked for, never before.

A `Task` is one contender at work on one operation of one `Problem`. Before it is timed, `disagreement`
compares what it computes with scipy.fft in float64.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import medeconv_fast as mf

# Module -> what to install.
PACKAGES = {
    "scipy": "scipy",
    "skimage": "scikit-image",
    "torch": "torch",
    "pyfftw": "pyfftw",
    "SimpleITK": "SimpleITK",
}
# Norm-wise bounds against float64. A transform in float32 errs by a few 1e-7, an iteration adds to that; the
# Wiener filter amplifies by 1 / (2 sqrt(balance)); whole functions start and divide by rules of their own.
BOUNDS = {"iteration": 1e-5, "convolution": 5e-6, "convolve": 5e-6, "wiener": 1e-4, "function": 1e-4}
# Iterations that are compared: two see the estimate of the first come back.
CHECKED_ITERATIONS = 2
# Iterations in one timed call of our own function, a third of its default: plan and checks are in the time.
# Other libraries' functions do the same work in every iteration and get CHECKED_ITERATIONS.
OWN_ITERATIONS = 10
BALANCE = 0.01


# ---------------------------------------------------------------- problems


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """An image and a PSF of odd lengths: where the centre of an even one lies is each library's choice."""

    image: np.ndarray  # float32
    psf: np.ndarray  # float64, sums to 1
    lines: tuple[np.ndarray, ...] | None  # whose outer product is the PSF
    boundary: str  # "wrap" or "extended"
    threads: int

    @property
    def centre(self) -> tuple[int, ...]:
        return tuple(k // 2 for k in self.psf.shape)

    @property
    def reached(self) -> tuple[int, ...]:
        """Shape of the estimate."""
        if self.boundary == "wrap":
            return self.image.shape
        return tuple(n + k - 1 for n, k in zip(self.image.shape, self.psf.shape, strict=True))

    @property
    def frame(self) -> tuple[slice, ...]:
        """The image's place in the estimate."""
        if self.boundary == "wrap":
            return tuple(slice(0, n) for n in self.image.shape)
        starts = (k - 1 - c for k, c in zip(self.psf.shape, self.centre, strict=True))
        return tuple(slice(a, a + n) for a, n in zip(starts, self.image.shape, strict=True))

    @functools.cached_property
    def level(self) -> float:
        """Of the flat first estimate."""
        return float(self.image.mean(dtype=np.float64))

    @functools.cached_property
    def eps(self) -> float:
        return 1e-6 * float(self.image.max())

    def estimate(self) -> np.ndarray:
        """What a convolution is applied to: the image, its edge repeated as far as the estimate reaches."""
        around = [(s.start, n - s.stop) for s, n in zip(self.frame, self.reached, strict=True)]
        return np.pad(self.image, around, mode="edge")


def psf_of(shape: tuple[int, ...], kind: str) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
    """A PSF that sums to 1, and its lines: "gaussian" is a product of them; "general" has no symmetry."""
    if kind == "general":
        psf = np.random.default_rng(1).random(shape) + 0.1
        return psf / psf.sum(), None
    lines = []
    for k in shape:
        line = np.exp(-0.5 * ((np.arange(k) - k // 2) / max(k / 6, 0.3)) ** 2)
        lines.append(line / line.sum())
    return functools.reduce(np.multiply.outer, lines), tuple(lines)


def problem(
    shape: tuple[int, ...],
    psf_shape: tuple[int, ...],
    kind: str,
    boundary: str,
    threads: int,
    *,
    framed: bool = False,
) -> Problem:
    """A seeded problem.

    The image is well above zero everywhere: an estimate that decays through the denormal numbers would slow
    down libraries that do not switch them off. `framed` puts two PSF widths of zeros around it, where
    libraries that assume zeros outside, and do not divide by the normalizer, give the same result as ours.
    """
    image = np.random.default_rng(0).random(shape, np.float32)
    image *= 90
    image += 10
    psf, lines = psf_of(psf_shape, kind)
    if framed:
        for axis, (n, k) in enumerate(zip(shape, psf_shape, strict=True)):
            width = 2 * (k - 1)
            if n <= 2 * width:
                raise ValueError(f"shape: got {n} on an axis, expected more than {2 * width} for a frame")
            view = np.moveaxis(image, axis, 0)
            view[:width] = view[n - width :] = 0
    return Problem(image, psf, lines, boundary, threads)


# ---------------------------------------------------------------- other libraries' transforms


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


class _Blocks:
    """Applies a function to corresponding blocks of arrays, small enough for the caches, on some threads."""

    size = 1 << 16

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = _pool(threads)

    def __call__(self, function: Callable[..., Any], *arrays: np.ndarray) -> None:
        flat = [array.reshape(-1) for array in arrays]
        length, step = flat[0].size, self._threads * self.size

        def share(first: int) -> None:
            for start in range(first, length, step):
                function(*(array[start : start + self.size] for array in flat))

        list(self._pool.map(share, range(0, step, self.size)))


def _ratio(image: np.ndarray, blurred: np.ndarray, eps: Any) -> None:
    np.maximum(blurred, eps, out=blurred)
    np.divide(image, blurred, out=blurred)


def _update(estimate: np.ndarray, correction: np.ndarray) -> None:
    np.multiply(estimate, correction, out=estimate)


def _update_seen(estimate: np.ndarray, correction: np.ndarray, gain: np.ndarray, unseen: np.ndarray) -> None:
    np.multiply(correction, gain, out=correction)
    np.add(correction, unseen, out=correction)  # there the gain is 0: the voxel keeps its value
    np.multiply(estimate, correction, out=estimate)


def _wiener(image: np.ndarray, transfer: np.ndarray, penalty: np.ndarray, balance: Any) -> None:
    weight = np.square(np.abs(transfer))
    weight += balance * np.square(np.abs(penalty))
    np.conj(transfer, out=transfer)
    np.multiply(image, transfer, out=image)
    np.divide(image, weight, out=image)


class ScipyTransforms:
    """scipy.fft (pocketfft); pointwise work by NumPy in blocks."""

    scale = 1.0

    def __init__(self, grid: tuple[int, ...], threads: int, dtype: Any = np.float32) -> None:
        self.fft: Any = importlib.import_module("scipy.fft")
        self.grid, self.threads, self.dtype = grid, threads, np.dtype(dtype)
        self._blocks = _Blocks(threads)

    def real(self, values: np.ndarray) -> Any:
        """An own copy of an array, as `forward` takes it."""
        return values.astype(self.dtype)

    def adopted(self, values: np.ndarray) -> Any:
        """The same without a copy where the library can do without."""
        return values

    def array(self, real: Any) -> np.ndarray:
        return real

    def forward(self, real: Any) -> Any:
        return self.fft.rfftn(real, workers=self.threads)

    def backward(self, spectrum: Any) -> Any:
        return self.fft.irfftn(spectrum, s=self.grid, workers=self.threads, overwrite_x=True)

    def keep(self, spectrum: Any) -> Any:
        """A spectrum that the next `forward` must not overwrite."""
        return spectrum

    def scaled(self, transfer: Any) -> tuple[Any, Any]:
        """The transfer function and its conjugate, with the transforms' scale."""
        transfer = transfer * transfer.dtype.type(self.scale)
        return transfer, np.conj(transfer)

    def multiply(self, spectrum: Any, transfer: Any) -> None:
        self._blocks(lambda a, b: np.multiply(a, b, out=a), spectrum, transfer)

    def ratio(self, image: Any, blurred: Any, eps: float) -> None:
        small = self.dtype.type(eps)
        self._blocks(lambda a, b: _ratio(a, b, small), image, blurred)

    def update(self, estimate: Any, correction: Any, gain: Any, unseen: Any) -> None:
        if gain is None:
            self._blocks(_update, estimate, correction)
        else:
            self._blocks(_update_seen, estimate, correction, gain, unseen)

    def wiener(self, image: Any, transfer: Any, penalty: Any, balance: float) -> None:
        factor = self.dtype.type(balance)
        self._blocks(lambda a, b, c: _wiener(a, b, c, factor), image, transfer, penalty)
        if self.scale != 1:
            self._blocks(lambda a: np.multiply(a, self.dtype.type(self.scale), out=a), image)


class FftwTransforms(ScipyTransforms):
    """pyFFTW, planned by measurement for these very arrays' alignment, one spectrum reused.

    Measuring may take minutes at large sizes; after `limit_s` FFTW settles for the best that it has found.
    """

    def __init__(
        self, grid: tuple[int, ...], threads: int, dtype: Any = np.float32, limit_s: float = 60.0
    ) -> None:
        self.fft = importlib.import_module("pyfftw")
        self.grid, self.threads, self.dtype = grid, threads, np.dtype(dtype)
        self._blocks = _Blocks(threads)
        self.scale = 1.0 / math.prod(grid)
        self._spectrum = self.fft.empty_aligned(
            (*grid[:-1], grid[-1] // 2 + 1), np.result_type(dtype, 1j * np.ones(1, dtype))
        )
        self._real = self.fft.empty_aligned(grid, self.dtype)
        axes = tuple(range(len(grid)))
        options = {"axes": axes, "threads": threads, "planning_timelimit": limit_s}
        self._forward = self.fft.FFTW(self._real, self._spectrum, flags=("FFTW_MEASURE",), **options)
        self._backward = self.fft.FFTW(
            self._spectrum,
            self._real,
            direction="FFTW_BACKWARD",
            flags=("FFTW_MEASURE", "FFTW_DESTROY_INPUT"),
            **options,
        )

    def real(self, values: np.ndarray) -> Any:
        made = self.fft.empty_aligned(self.grid, self.dtype)
        made[...] = values
        return made

    adopted = real

    def forward(self, real: Any) -> Any:
        self._forward.update_arrays(real, self._spectrum)
        self._forward.execute()
        return self._spectrum

    def backward(self, spectrum: Any) -> Any:
        self._backward.execute()
        return self._real

    def keep(self, spectrum: Any) -> Any:
        return spectrum.copy()


class TorchTransforms:
    """torch.fft (MKL where torch is built with it), pointwise work by torch in place."""

    def __init__(self, grid: tuple[int, ...], threads: int, dtype: Any = np.float32) -> None:
        self.torch: Any = importlib.import_module("torch")
        self.torch.set_num_threads(threads)
        self.grid = grid

    def real(self, values: np.ndarray) -> Any:
        return self.torch.from_numpy(np.array(values, np.float32, order="C"))

    def adopted(self, values: np.ndarray) -> Any:
        return self.torch.from_numpy(values)

    def array(self, real: Any) -> np.ndarray:
        return real.numpy()

    def forward(self, real: Any) -> Any:
        return self.torch.fft.rfftn(real)

    def backward(self, spectrum: Any) -> Any:
        return self.torch.fft.irfftn(spectrum, s=self.grid)

    def keep(self, spectrum: Any) -> Any:
        return spectrum

    def scaled(self, transfer: Any) -> tuple[Any, Any]:
        return transfer, transfer.conj().resolve_conj()

    def multiply(self, spectrum: Any, transfer: Any) -> None:
        spectrum.mul_(transfer)

    def ratio(self, image: Any, blurred: Any, eps: float) -> None:
        self.torch.div(image, blurred.clamp_(min=eps), out=blurred)

    def update(self, estimate: Any, correction: Any, gain: Any, unseen: Any) -> None:
        if gain is not None:
            self.torch.addcmul(unseen, correction, gain, out=correction)
        estimate.mul_(correction)

    def wiener(self, image: Any, transfer: Any, penalty: Any, balance: float) -> None:
        weight = transfer.abs().square_().add_(penalty.abs().square_(), alpha=balance)
        image.mul_(transfer.conj()).div_(weight)


TRANSFORMS: dict[str, Any] = {
    "pyfftw": FftwTransforms,
    "scipy.fft": ScipyTransforms,
    "torch.fft": TorchTransforms,
}


class FftSolver:
    """A problem on a library's transforms, on the cheapest grid that holds the estimate."""

    def __init__(self, given: Problem, transforms: Any, dtype: Any = np.float32) -> None:
        self.given, self.dtype = given, np.dtype(dtype)
        self.grid = given.reached
        if given.boundary != "wrap":
            good: Any = importlib.import_module("scipy.fft").next_fast_len
            last = len(self.grid) - 1
            self.grid = tuple(good(n, real=axis == last) for axis, n in enumerate(self.grid))
        begun = time.perf_counter()
        self.on = transforms(self.grid, given.threads, dtype)
        self.planning_s = time.perf_counter() - begun
        self.frame = given.frame

    def placed(self, values: np.ndarray, at: tuple[int, ...]) -> np.ndarray:
        whole = np.zeros(self.grid, self.dtype)
        whole[tuple(slice(a, a + n) for a, n in zip(at, values.shape, strict=True))] = values
        return whole

    def spectrum_of(self, taps: np.ndarray) -> Any:
        """The transfer function of taps whose centre is at shape // 2."""
        whole = np.zeros(self.grid, self.dtype)
        at = [(np.arange(k) - k // 2) % n for k, n in zip(taps.shape, self.grid, strict=True)]
        whole[np.ix_(*at)] = taps
        return self.on.keep(self.on.forward(self.on.adopted(whole)))

    def prepare_transfer(self) -> None:
        self.transfer, self.conjugate = self.on.scaled(self.spectrum_of(self.given.psf))

    def prepare_iteration(self, initial: str = "flat") -> None:
        self.prepare_transfer()
        given, on = self.given, self.on
        at, origin = tuple(s.start for s in self.frame), (0,) * given.image.ndim
        self.image = on.real(self.placed(given.image, at))
        first = np.full(given.reached, given.level, self.dtype) if initial == "flat" else given.estimate()
        self.estimate = on.real(self.placed(first, origin))
        self.gain = self.unseen = None
        if given.boundary != "wrap":
            ones = self.placed(np.ones(given.image.shape, self.dtype), at)
            spectrum = on.forward(on.real(ones))
            on.multiply(spectrum, self.conjugate)
            gain = gain_of(on.array(on.backward(spectrum)).copy())
            self.gain, self.unseen = on.real(gain), on.real(gain == 0)

    def iterate(self) -> None:
        on = self.on
        spectrum = on.forward(self.estimate)
        on.multiply(spectrum, self.transfer)
        blurred = on.backward(spectrum)
        on.ratio(self.image, blurred, self.given.eps)
        spectrum = on.forward(blurred)
        on.multiply(spectrum, self.conjugate)
        on.update(self.estimate, on.backward(spectrum), self.gain, self.unseen)

    def restored(self) -> np.ndarray:
        return self.on.array(self.estimate)[self.frame]

    def prepare_convolution(self) -> None:
        self.prepare_transfer()
        self.x = self.on.real(self.placed(self.given.estimate(), (0,) * self.given.image.ndim))

    def convolve(self) -> np.ndarray:
        spectrum = self.on.forward(self.x)
        self.on.multiply(spectrum, self.transfer)
        return self.on.array(self.on.backward(spectrum))[self.frame]

    def wiener(self) -> np.ndarray:
        """The whole filter, from image and PSF."""
        given, on = self.given, self.on
        laplacian = np.zeros((3,) * given.image.ndim)
        laplacian[(1,) * given.image.ndim] = 2 * given.image.ndim
        for axis in range(given.image.ndim):
            for at in (0, 2):
                laplacian[tuple(at if a == axis else 1 for a in range(given.image.ndim))] = -1
        transfer, penalty = self.spectrum_of(given.psf), self.spectrum_of(laplacian)
        spectrum = on.forward(on.adopted(given.image.astype(self.dtype, copy=False)))
        on.wiener(spectrum, transfer, penalty, BALANCE)
        return on.array(on.backward(spectrum))


def gain_of(normalizer: np.ndarray) -> np.ndarray:
    """1 / normalizer; 0 where the image hardly sees the voxel, by `richardson_lucy`'s rule."""
    from ..algorithms._start import SMALLEST_NORMALIZER

    seen = normalizer >= SMALLEST_NORMALIZER
    return np.divide(1, normalizer, out=np.zeros_like(normalizer), where=seen)


# ---------------------------------------------------------------- tasks


@dataclasses.dataclass
class Task:
    """What is timed, and what is compared."""

    step: Callable[[], Any]
    result: Callable[[], np.ndarray]  # after CHECKED_ITERATIONS steps of an iteration, one of anything else
    iterations: int = 1  # in one step
    initial: str = "flat"  # first estimate, "flat" or "image"
    check: Callable[[], np.ndarray] | None = None  # gives what is compared, where `step` does more
    info: dict[str, Any] = dataclasses.field(default_factory=dict)


def disagreement(task: Task, operation: str, expected: np.ndarray) -> float:
    """Norm of the difference from `expected` relative to its norm; runs the task."""
    if task.check is not None:
        got = np.array(task.check(), np.float64)
    else:
        for _ in range(CHECKED_ITERATIONS if operation == "iteration" else 1):
            task.step()
        got = np.array(task.result(), np.float64)
    if got.shape != expected.shape:
        raise ValueError(f"result: got shape {got.shape}, expected {expected.shape}")
    got -= expected
    return float(np.linalg.norm(got.ravel()) / np.linalg.norm(expected.ravel().astype(np.float64)))


def reference(given: Problem, operation: str, initial: str = "flat") -> np.ndarray:
    """What `operation` is to give, by scipy.fft in float64; `initial` is the first estimate, as in `Task`."""
    if operation == "function":
        given, operation = dataclasses.replace(given, boundary="extended"), "iteration"
    if operation == "convolve":
        signal: Any = importlib.import_module("scipy.signal")
        return signal.fftconvolve(given.image.astype(np.float64), given.psf, mode="same")
    solver = FftSolver(given, ScipyTransforms, np.float64)
    if operation == "wiener":
        return solver.wiener()
    if operation == "convolution":
        solver.prepare_convolution()
        return solver.convolve()
    solver.prepare_iteration(initial)
    for _ in range(CHECKED_ITERATIONS):
        solver.iterate()
    return solver.restored()


def _fft_task(name: str, given: Problem, operation: str, planning_limit_s: float) -> Task:
    transforms = TRANSFORMS[name]
    if transforms is FftwTransforms:
        transforms = functools.partial(transforms, limit_s=planning_limit_s)
    solver = FftSolver(given, transforms)
    info = {"grid": solver.grid, "planning_s": solver.planning_s}
    if operation == "iteration":
        solver.prepare_iteration()
        return Task(solver.iterate, solver.restored, info=info)
    last: list[np.ndarray] = []
    if operation == "convolution":
        solver.prepare_convolution()
    work = solver.convolve if operation == "convolution" else solver.wiener

    def step() -> None:
        last[:] = [work()]

    return Task(step, lambda: last[0], info=info)


def _engine_task(engine: str, given: Problem, operation: str, backend: str) -> Task:
    begun = time.perf_counter()
    blur = mf.Blur(
        given.psf,
        given.image.shape,
        boundary=given.boundary,
        engine=engine,
        backend=backend,
        dtype=np.float32,
        num_threads=given.threads,
    )
    info: dict[str, Any] = {
        "workspace_bytes": blur.workspace_bytes
    }  # asking for it makes plan and transfer function
    info |= {"planning_s": time.perf_counter() - begun, "grid": blur.grid, "engine": blur.engine}
    if operation == "convolution":
        x, out = given.estimate(), np.empty(given.image.shape, np.float32)
        return Task(lambda: blur.begin(x).sweep("copy", keep=False, out=out), lambda: out, info=info)
    estimate = np.full(blur.estimate_shape, given.level, np.float32)
    gain = None if given.boundary == "wrap" else gain_of(blur.normalizer())
    chain = blur.begin(estimate)

    def iterate() -> None:
        chain.sweep("ratio", image=given.image, weights=None, background=0.0, eps=given.eps)
        chain.sweep("multiply", adjoint=True, out=estimate, estimate=estimate, gain=gain)

    return Task(iterate, lambda: estimate[blur.frame], info=info)


def _call_task(call: Callable[[], np.ndarray], iterations: int = 1) -> Task:
    last: list[np.ndarray] = []

    def step() -> None:
        last[:] = [call()]

    return Task(step, lambda: last[0], iterations)


def _own_function(given: Problem, operation: str, backend: str) -> Task:
    options: dict[str, Any] = {"backend": backend, "num_threads": given.threads}
    if operation == "wiener":
        return _call_task(lambda: mf.wiener(given.image, given.psf, BALANCE, boundary="wrap", **options))
    if operation == "convolve":
        return _call_task(lambda: mf.convolve(given.image, given.psf, mode="same", **options))

    def restore(iterations: int) -> np.ndarray:
        return mf.richardson_lucy(given.image, given.psf, iterations, **options)

    made = _call_task(lambda: restore(OWN_ITERATIONS), OWN_ITERATIONS)
    made.check = lambda: restore(CHECKED_ITERATIONS)
    return made


def _skimage_task(given: Problem, operation: str, workers: int) -> Task:
    restoration: Any = importlib.import_module("skimage.restoration")
    fft: Any = importlib.import_module("scipy.fft")
    psf = given.psf.astype(np.float32)

    def call() -> np.ndarray:
        with fft.set_workers(workers):
            if operation == "wiener":
                return restoration.wiener(given.image, psf, BALANCE, clip=False)
            return restoration.richardson_lucy(given.image, psf, CHECKED_ITERATIONS, clip=False)

    return _call_task(call, 1 if operation == "wiener" else CHECKED_ITERATIONS)


def _sitk_task(given: Problem) -> Task:
    sitk: Any = importlib.import_module("SimpleITK")
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(given.threads)
    image = sitk.GetImageFromArray(given.image)
    psf = sitk.GetImageFromArray(given.psf.astype(np.float32))

    def call() -> np.ndarray:
        return sitk.GetArrayFromImage(sitk.RichardsonLucyDeconvolution(image, psf, CHECKED_ITERATIONS))

    made = _call_task(call, CHECKED_ITERATIONS)
    made.initial = "image"
    return made


def _ndimage_task(given: Problem, operation: str) -> Task:
    ndimage: Any = importlib.import_module("scipy.ndimage")
    image, weights = given.image, given.psf.astype(np.float32)
    spare = np.empty_like(image)

    def apply(x: np.ndarray, out: np.ndarray, adjoint: bool) -> None:
        if given.lines is None:
            (ndimage.correlate if adjoint else ndimage.convolve)(x, weights, output=out, mode="wrap")
            return
        work = ndimage.correlate1d if adjoint else ndimage.convolve1d
        for axis, line in enumerate(given.lines):
            work(x if axis == 0 else out, line, axis, output=out, mode="wrap")

    if operation == "convolution":
        return Task(lambda: apply(image, spare, False), lambda: spare)
    estimate, blocks, eps = np.full_like(image, given.level), _Blocks(given.threads), np.float32(given.eps)
    correction = np.empty_like(image)

    def iterate() -> None:
        apply(estimate, spare, False)
        blocks(lambda a, b: _ratio(a, b, eps), image, spare)
        apply(spare, correction, True)
        blocks(_update, estimate, correction)

    return Task(iterate, lambda: estimate)


def _torch_conv_task(given: Problem) -> Task:
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(given.threads)
    ndim = given.image.ndim
    conv = (torch.conv1d, torch.conv2d, torch.conv3d)[ndim - 1]
    x = torch.from_numpy(given.image)[None, None]
    taps = torch.from_numpy(np.flip(given.psf).astype(np.float32).copy())[None, None]
    around = [c for c in reversed(given.centre) for _ in range(2)]
    last: list[Any] = []

    def step() -> None:
        with torch.no_grad():
            last[:] = [conv(torch.nn.functional.pad(x, around, mode="circular"), taps)]

    return Task(step, lambda: last[0][0, 0].numpy())


def _signal_task(given: Problem) -> Task:
    signal: Any = importlib.import_module("scipy.signal")
    fft: Any = importlib.import_module("scipy.fft")
    psf = given.psf.astype(np.float32)

    def call() -> np.ndarray:
        with fft.set_workers(given.threads):
            return signal.fftconvolve(given.image, psf, mode="same")

    return _call_task(call)


# Contender -> the module that it needs ("" for none) and what its times stand for.
CONTENDERS = {
    "pyfftw": ("pyfftw", "pyFFTW transforms, planned by measurement"),
    "scipy.fft": ("scipy", "scipy.fft transforms"),
    "torch.fft": ("torch", "torch.fft transforms"),
    "scipy.ndimage": ("scipy", "scipy.ndimage, one filter per axis where the PSF allows"),
    "scipy.signal": ("scipy", "scipy.signal.fftconvolve with workers"),
    "torch.conv": ("torch", "torch's direct convolution"),
    "scikit-image": ("skimage", "skimage.restoration, as called"),
    "scikit-image-workers": ("skimage", "skimage.restoration under scipy.fft.set_workers"),
    "SimpleITK": ("SimpleITK", "SimpleITK.RichardsonLucyDeconvolution"),
}


def own_engine(contender: str) -> str | None:
    """The engine that "medeconv-ENGINE" names."""
    start, _, engine = contender.partition("-")
    return engine if start == "medeconv" and engine else None


def task(
    contender: str,
    given: Problem,
    operation: str,
    *,
    backend: str = "auto",
    planning_limit_s: float = 60.0,
) -> Task:
    """Prepare a contender for an operation.

    iteration    one Richardson-Lucy iteration, everything planned and allocated
    convolution  one application of H, likewise
    wiener       the whole filter from image and PSF, periodic, balance given
    function     the library's Richardson-Lucy function, called with its defaults (a framed problem)
    convolve     the library's convolution function, zeros outside, mode "same"

    Raises ImportError where the library is missing, ValueError where an engine refuses the PSF.
    """
    engine = own_engine(contender)
    if engine is not None:
        return _engine_task(engine, given, operation, backend)
    if contender == "medeconv":
        return _own_function(given, operation, backend)
    if contender in TRANSFORMS:
        return _fft_task(contender, given, operation, planning_limit_s)
    if contender.startswith("scikit-image"):
        return _skimage_task(given, operation, given.threads if contender.endswith("workers") else 1)
    if contender == "SimpleITK":
        return _sitk_task(given)
    if contender == "scipy.ndimage":
        return _ndimage_task(given, operation)
    if contender == "torch.conv":
        return _torch_conv_task(given)
    if contender == "scipy.signal":
        return _signal_task(given)
    raise ValueError(f"contender: got {contender!r}, expected medeconv, medeconv-ENGINE or {[*CONTENDERS]}")


def shown(contender: str) -> str:
    """A contender's name in tables."""
    return contender.replace("-", " ", 1) if own_engine(contender) else contender
