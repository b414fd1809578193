"""The one table of comparisons: what is computed, on which image and PSF, by whom. It drives the suite
(`test_cpu.py`), the layers of networks (`networks.py`) and the report (`report.py`), and counts the bytes
and operations that the rooflines stand on.
"""

from __future__ import annotations

import dataclasses
import math

FFT = ("pyfftw", "scipy.fft", "torch.fft")
FUNCTIONS = ("medeconv", "scikit-image", "scikit-image-workers", "SimpleITK")
ENGINES = "engines"  # stands for every engine that this build has

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Case:
    operation: str  # of medeconv_fast._cli.peers.task; or copy, precision
    shape: Shape
    psf: Shape = ()
    kind: str = "general"  # "general": no symmetry, no product of lines. "gaussian": a product
    boundary: str = "wrap"
    contenders: tuple[str, ...] = (ENGINES,)

    @property
    def id(self) -> str:
        words = [self.operation, times(self.shape)]
        if self.psf:
            words += [self.kind, times(self.psf)]
        if self.operation in ("iteration", "convolution"):
            words.append(self.boundary)
        return "-".join(words)

    @property
    def voxels(self) -> int:
        return math.prod(self.shape)

    @property
    def large(self) -> bool:
        """Takes gigabytes and, for other libraries, minutes."""
        return self.voxels >= 1 << 27

    @property
    def quick(self) -> bool:
        """Small enough to see in a moment whether everything works."""
        return self.voxels <= 1 << 18


def times(numbers: Shape) -> str:
    """16x16x16 for (16, 16, 16)."""
    return "x".join(map(str, numbers))


def cube(n: int) -> Shape:
    return (n, n, n)


def square(n: int) -> Shape:
    return (n, n)


# Peers run once per image under "wrap": there their time does not depend on the PSF.
_PERIODIC = [
    (cube(64), cube(9)),
    (cube(128), cube(17)),
    (cube(256), cube(33)),
    (cube(320), cube(33)),
    (cube(512), cube(33)),
    ((64, 1024, 1024), (9, 17, 17)),
    ((40, 2048, 2048), (9, 33, 33)),
    ((100, 301, 257), cube(17)),
    (square(512), square(17)),
    (square(1024), square(33)),
    (square(2048), square(33)),
    (square(4096), square(65)),
    ((100_000,), (65,)),
    ((1_000_000,), (65,)),
]
# The PSF widens the grid here: image, PSF, whether peers run as well.
_EXTENDED = [
    (cube(64), cube(9), True),
    (cube(128), cube(9), False),
    (cube(128), cube(33), True),
    (cube(128), cube(65), False),
    (cube(256), cube(9), False),
    (cube(256), cube(33), True),
    (cube(256), cube(65), False),
    (cube(512), cube(33), False),
    ((64, 1024, 1024), (9, 17, 17), False),
    ((100, 301, 257), cube(17), True),
    (square(512), square(17), True),
    (square(2048), square(33), True),
    (square(4096), square(65), False),
    ((1_000_000,), (65,), True),
]
# Gaussians: image, taps per axis, whether scipy.ndimage runs as well.
_GAUSSIAN = [
    (cube(64), 9, True),
    (cube(128), 13, True),
    (cube(128), 25, False),
    (cube(256), 9, False),
    (cube(256), 13, True),
    (cube(256), 17, False),
    (cube(256), 25, True),
    (cube(256), 33, False),
    (cube(256), 65, False),
    (cube(512), 13, False),
    ((64, 1024, 1024), 13, False),
    ((100, 301, 257), 13, True),
    (square(512), 13, True),
    (square(2048), 13, True),
    (square(2048), 65, False),
    ((100_000,), 65, True),
    ((1_000_000,), 65, True),
]
_GAUSSIAN_EXTENDED = [
    (cube(128), 13),
    (cube(256), 13),
    (cube(256), 25),
    (square(2048), 25),
    ((1_000_000,), 65),
]
# Small PSFs that are no products: where a direct sum may be faster than transforms.
_SMALL = [
    (cube(64), cube(3), ("scipy.ndimage", "torch.conv")),
    (cube(64), cube(5), ("scipy.ndimage", "torch.conv")),
    (cube(64), cube(9), ("scipy.ndimage", "torch.conv")),
    (cube(128), cube(3), ("scipy.ndimage", "torch.conv")),
    (cube(128), cube(5), ("torch.conv",)),
    (cube(128), cube(7), ()),
    (cube(128), cube(9), ()),
    (cube(256), cube(5), ()),
    (square(2048), square(5), ("scipy.ndimage", "torch.conv")),
    (square(2048), square(9), ("scipy.ndimage", "torch.conv")),
]


def _table() -> list[Case]:
    cases = [Case("copy", shape, contenders=("NumPy",)) for shape in (cube(128), cube(256), cube(512))]
    for shape, psf in _PERIODIC:
        cases.append(Case("iteration", shape, psf, contenders=(ENGINES, *FFT)))
    for shape, psf, peers in _EXTENDED:
        cases.append(
            Case("iteration", shape, psf, boundary="extended", contenders=(ENGINES, *(FFT if peers else ())))
        )
    for shape, taps, peer in _GAUSSIAN:
        psf, others = (taps,) * len(shape), ("scipy.ndimage",) if peer else ()
        for operation in ("convolution", "iteration"):
            cases.append(Case(operation, shape, psf, "gaussian", contenders=(ENGINES, *others)))
    for shape, taps in _GAUSSIAN_EXTENDED:
        cases.append(Case("iteration", shape, (taps,) * len(shape), "gaussian", "extended"))
    for shape, psf, others in _SMALL:
        cases.append(Case("convolution", shape, psf, contenders=(ENGINES, *others)))
    for shape, psf, _ in _SMALL[5:]:
        cases.append(Case("iteration", shape, psf))
    for shape, psf in (
        (cube(128), cube(17)),
        (cube(256), cube(33)),
        ((100, 301, 257), cube(17)),
        (square(2048), square(33)),
        ((1_000_000,), (65,)),
    ):
        cases.append(Case("convolution", shape, psf, contenders=(ENGINES, *FFT)))
    for shape, psf in _PERIODIC:
        others = (*FFT, "scikit-image") if math.prod(shape) <= 1 << 24 else FFT
        if len(shape) > 1:
            cases.append(Case("wiener", shape, psf, contenders=("medeconv", *others)))
    for shape, psf in ((cube(128), cube(17)), (cube(256), cube(33)), (square(1024), square(33))):
        cases.append(Case("convolve", shape, psf, contenders=("medeconv", "scipy.signal")))
    for shape, psf in ((cube(64), cube(9)), (cube(256), cube(33)), (square(1024), square(33))):
        cases.append(Case("function", shape, psf, contenders=FUNCTIONS))
    cases.append(Case("precision", (64, 128, 128), cube(13), "gaussian"))
    return sorted(cases, key=lambda case: case.large)  # the sort is stable


CASES = _table()


# ---------------------------------------------------------------- layers of networks


@dataclasses.dataclass(frozen=True)
class Layer:
    """`table`: "restoration" (networks that restore), "extra" (what else users have), "small" (no target)."""

    name: str
    table: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    transposed: bool = False

    @property
    def options(self) -> dict[str, int]:
        return {key: getattr(self, key) for key in ("stride", "padding", "dilation", "groups")}

    def output(self) -> tuple[int, ...]:
        spatial = []
        for n, k in zip(self.x[2:], self.w[2:], strict=True):
            reach = self.dilation * (k - 1)
            if self.transposed:
                spatial.append((n - 1) * self.stride - 2 * self.padding + reach + 1)
            else:
                spatial.append((n + 2 * self.padding - reach - 1) // self.stride + 1)
        channels = self.w[1] * self.groups if self.transposed else self.w[0]
        return (self.x[0], channels, *spatial)

    @property
    def operations(self) -> float:
        """Of the direct sum, forward: what GFLOP/s are counted from, whatever the kernel saves."""
        positions = math.prod((self.x if self.transposed else self.output())[2:]) * self.x[0]
        return 2.0 * positions * math.prod(self.w)

    @property
    def bytes(self) -> int:
        """Input, weight and output once, float32."""
        return 4 * sum(math.prod(shape) for shape in (self.x, self.w, self.output()))


LAYERS = (
    Layer("2-D 1-64 3x3, 512", "restoration", (1, 1, 512, 512), (64, 1, 3, 3)),
    Layer("2-D 64-64 3x3, 256", "restoration", (1, 64, 256, 256), (64, 64, 3, 3)),
    Layer("2-D 64-1 3x3, 512", "restoration", (1, 64, 512, 512), (1, 64, 3, 3)),
    Layer("2-D depthwise 64 7x7, 256", "restoration", (1, 64, 256, 256), (64, 1, 7, 7), groups=64),
    Layer("3-D 1-16 3x3x3, 96", "restoration", (1, 1, 96, 96, 96), (16, 1, 3, 3, 3)),
    Layer("3-D 16-16 3x3x3, 96", "restoration", (1, 16, 96, 96, 96), (16, 16, 3, 3, 3)),
    Layer("3-D 1-1 9x9x9, 128", "restoration", (1, 1, 128, 128, 128), (1, 1, 9, 9, 9)),
    Layer(
        "transposed 2-D 64-64 4x4 s2, 128",
        "restoration",
        (1, 64, 128, 128),
        (64, 64, 4, 4),
        2,
        transposed=True,
    ),
    Layer(
        "transposed 2-D 64-1 3x3 s2, 256", "restoration", (1, 64, 256, 256), (64, 1, 3, 3), 2, transposed=True
    ),
    Layer(
        "transposed 3-D 16-16 2x2x2 s2, 48",
        "restoration",
        (1, 16, 48, 48, 48),
        (16, 16, 2, 2, 2),
        2,
        transposed=True,
    ),
    Layer(
        "transposed 3-D 16-1 4x4x4 s2, 48",
        "restoration",
        (1, 16, 48, 48, 48),
        (16, 1, 4, 4, 4),
        2,
        transposed=True,
    ),
    Layer("1-D 1-32 9, 65536", "extra", (1, 1, 65536), (32, 1, 9), padding=4),
    Layer("1-D 64-64 3, 16384", "extra", (1, 64, 16384), (64, 64, 3), padding=1),
    Layer("1-D 32-32 5, 16 of 1000", "extra", (16, 32, 1000), (32, 32, 5), padding=2),
    Layer("2-D 512-512 3x3, 7", "extra", (1, 512, 7, 7), (512, 512, 3, 3), padding=1),
    Layer("2-D 512-512 3x3, 8 of 7", "extra", (8, 512, 7, 7), (512, 512, 3, 3), padding=1),
    Layer("2-D 256-256 3x3, 14", "extra", (1, 256, 14, 14), (256, 256, 3, 3), padding=1),
    Layer("2-D 128-128 3x3, 28", "extra", (1, 128, 28, 28), (128, 128, 3, 3), padding=1),
    Layer("2-D 64-64 3x3, 56", "extra", (1, 64, 56, 56), (64, 64, 3, 3), padding=1),
    Layer("2-D 64-64 3x3, 8 of 56", "extra", (8, 64, 56, 56), (64, 64, 3, 3), padding=1),
    Layer("2-D 64-64 3x3 dilation 2, 128", "extra", (1, 64, 128, 128), (64, 64, 3, 3), padding=2, dilation=2),
    Layer("2-D 64-64 3x3 groups 4, 128", "extra", (1, 64, 128, 128), (64, 16, 3, 3), padding=1, groups=4),
    Layer("2-D 64-64 3x3 s2, 128", "extra", (1, 64, 128, 128), (64, 64, 3, 3), 2, padding=1),
    Layer("2-D 3-64 7x7 s2, 224", "extra", (1, 3, 224, 224), (64, 3, 7, 7), 2, padding=3),
    Layer("2-D 64-64 1x1, 128", "extra", (1, 64, 128, 128), (64, 64, 1, 1)),
    Layer("2-D 256-64 1x1, 56", "extra", (1, 256, 56, 56), (64, 256, 1, 1)),
    Layer("2-D 256-512 1x1 s2, 56", "extra", (1, 256, 56, 56), (512, 256, 1, 1), 2),
    Layer("3-D 32-32 3x3x3, 32", "extra", (1, 32, 32, 32, 32), (32, 32, 3, 3, 3), padding=1),
    Layer(
        "2-D depthwise 128 3x3 s2, 56", "small", (1, 128, 56, 56), (128, 1, 3, 3), 2, padding=1, groups=128
    ),
    Layer("2-D depthwise 512 3x3, 14", "small", (1, 512, 14, 14), (512, 1, 3, 3), padding=1, groups=512),
)


# ---------------------------------------------------------------- rooflines


def bytes_moved(case: Case, engine: str, grid: Shape, estimate: Shape, itemsize: int = 4) -> int:
    """Bytes that an operation moves to and from memory if every pass touches its arrays once.

    Spectral, after the design (13 volumes an iteration on a periodic grid, 0.87 GB at 256 cubed): the column
    pass reads and writes the spectrum and reads the transfer function; the slab pass reads and writes the
    spectrum and what its formula needs. Slices of the grid in which there is nothing are not touched.
    A product of filters and a direct sum need nothing but their operands.
    """
    image_bytes, estimate_bytes = (math.prod(shape) * itemsize for shape in (case.shape, estimate))
    gain = 0 if case.boundary == "wrap" else estimate_bytes
    if engine != "spectral":
        if case.operation == "convolution":
            return estimate_bytes + image_bytes
        ratio = estimate_bytes + 2 * image_bytes  # reads estimate and image, writes the ratio
        return ratio + image_bytes + 2 * estimate_bytes + gain
    plane = math.prod(grid[1:]) * itemsize
    whole, wide, narrow = (n * plane for n in (grid[0], estimate[0], case.shape[0]))
    to_image = wide + narrow + whole  # a column pass from the estimate's slices to the image's
    if case.operation == "convolution":
        return estimate_bytes + wide + to_image + narrow + image_bytes
    ratio = 2 * narrow + image_bytes
    update = 2 * wide + 2 * estimate_bytes + gain
    return to_image + ratio + to_image + update


def operations(case: Case, engine: str, grid: Shape, estimate: Shape) -> float:
    """Floating-point operations: 5 N log2 N / 2 for each real transform, 2 for each tap of a filter."""
    applications = 1 if case.operation == "convolution" else 2
    if engine == "spectral":
        n = math.prod(grid)
        return applications * 2 * 2.5 * n * math.log2(max(n, 2))
    taps = sum(case.psf) if engine == "separable" else math.prod(case.psf)
    return applications * 2.0 * taps * math.prod(estimate)


def working_set(grid: Shape, case: Case, itemsize: int = 4) -> int:
    """Spectrum, transfer function, image and estimate; within the last cache, memory is no bound."""
    return (2 * math.prod(grid) + 2 * case.voxels) * itemsize
