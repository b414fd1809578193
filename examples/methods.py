"""One picture per algorithm and what an iteration of it costs: the pictures and the table of docs/methods.

    python examples/methods.py --pictures docs/methods             # all, NAME.png each
    python examples/methods.py --pictures docs/methods wiener      # some
    python examples/methods.py --costs docs/methods/README.md      # measures, writes between its marks

The scan is real: an MR volume that ships in nibabel's wheel. It is taken for the truth, blurred by a known
Gaussian and made noisy with a fixed seed, so that what was gained can be told. For research, not a medical
device.
"""

import argparse
import dataclasses
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import medeconv_fast as mf
from medeconv_fast import _figures
from medeconv_fast.demo import scan_path

FWHM = (5.0, 5.0, 5.0)  # mm
COSTS_SHAPE = (64, 128, 128)
ROUNDS = 9
BEGIN, END = "<!-- table: examples/methods.py --costs -->", "<!-- end of table -->"


class Case(NamedTuple):
    """One algorithm: the noise it is made for, and the call."""

    noise: dict[str, Any]
    restore: Callable[[np.ndarray, np.ndarray, tuple[float, ...]], Any]
    call: str


def _blind(image: np.ndarray, psf: np.ndarray, voxels: tuple[float, ...]) -> np.ndarray:
    wide = mf.psf.gaussian([1.3 * f for f in FWHM], voxels, psf.shape)  # all that is known of the blur
    return mf.blind_richardson_lucy(image, wide, 25, psf_iterations=8, symmetry="axial")[0]


COUNTS = {"noise": "poisson", "photons": 3000.0}  # at the brightest voxel
NOISY = {"noise": "gaussian", "sigma": 8.0}  # of 540, the 99.9th percentile
QUIET = {"noise": "gaussian", "sigma": 2.0}

CASES: dict[str, Case] = {
    "richardson_lucy": Case(
        COUNTS,
        lambda image, psf, voxels: mf.richardson_lucy(
            image, psf, 40, regularizer=("tv", 0.001), voxel_size=voxels
        ),
        'richardson_lucy, 40 iterations, ("tv", 0.001)',
    ),
    "blind_richardson_lucy": Case(COUNTS, _blind, "blind_richardson_lucy, from 1.3 times the width"),
    "wiener": Case(NOISY, lambda image, psf, voxels: mf.wiener(image, psf), "wiener"),
    "tikhonov": Case(
        NOISY,
        lambda image, psf, voxels: mf.tikhonov(image, psf, regularizer=1, voxel_size=voxels),
        "tikhonov, order 1",
    ),
    "inverse_filter": Case(
        QUIET, lambda image, psf, voxels: mf.inverse_filter(image, psf, 0.1), "inverse_filter, threshold 0.1"
    ),
    "unsupervised_wiener": Case(
        NOISY, lambda image, psf, voxels: mf.unsupervised_wiener(image, psf), "unsupervised_wiener"
    ),
    "landweber": Case(
        NOISY,
        lambda image, psf, voxels: mf.landweber(
            image, psf, non_negative=True, stop=mf.stop.Discrepancy("gaussian", sigma=NOISY["sigma"])
        ),
        "landweber, to the discrepancy",
    ),
    "fista": Case(
        NOISY,
        lambda image, psf, voxels: mf.fista(image, psf, 0.1 * NOISY["sigma"], voxel_size=voxels),
        "fista, weight 0.1 of the noise",
    ),
    "van_cittert": Case(
        QUIET, lambda image, psf, voxels: mf.van_cittert(image, psf, 6), "van_cittert, 6 iterations"
    ),
}

ITERATIVE: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "richardson_lucy": (mf.richardson_lucy, {}),
    "richardson_lucy, biggs-andrews": (mf.richardson_lucy, {"acceleration": "biggs-andrews"}),
    "richardson_lucy, heavy-ball": (mf.richardson_lucy, {"acceleration": "heavy-ball"}),
    "richardson_lucy, tv": (mf.richardson_lucy, {"regularizer": ("tv", 0.002)}),
    "richardson_lucy, tikhonov": (mf.richardson_lucy, {"regularizer": ("tikhonov", 0.002)}),
    "richardson_lucy, good-roughness": (mf.richardson_lucy, {"regularizer": ("good-roughness", 0.002)}),
    "richardson_lucy, entropy": (mf.richardson_lucy, {"regularizer": ("entropy", 0.002)}),
    "richardson_lucy, damping": (mf.richardson_lucy, {"damping": 1.0}),
    "richardson_lucy, reflect": (mf.richardson_lucy, {"boundary": "reflect"}),
    "richardson_lucy, i-divergence": (mf.richardson_lucy, {"stop": mf.stop.IDivergenceSlope(1e-300)}),
    "blind_richardson_lucy": (mf.blind_richardson_lucy, {}),
    "landweber": (mf.landweber, {}),
    "fista": (lambda image, psf, n, **options: mf.fista(image, psf, 0.8, num_iter=n, **options), {}),
    "van_cittert, reflect": (mf.van_cittert, {}),
}
CLOSED: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "wiener": (mf.wiener, {}),
    "wiener, balance given": (mf.wiener, {"balance": 0.01}),
    "tikhonov": (mf.tikhonov, {}),
    "inverse_filter": (mf.inverse_filter, {}),
    "unsupervised_wiener": (mf.unsupervised_wiener, {}),
}


def scan() -> mf.io.Volume:
    """The first time point of nibabel's MR volume, (24, 96, 128) voxels of 2.2 x 2 x 2 mm."""
    volume = mf.io.read(scan_path("example4d.nii.gz"))
    array = np.ascontiguousarray(volume.array[0], np.float32)
    return dataclasses.replace(volume, array=array, axes="zyx")


class Result(NamedTuple):
    truth: np.ndarray
    image: np.ndarray
    estimate: np.ndarray
    gained: dict[str, tuple[float, float]]


def restored(name: str, truth: np.ndarray, voxels: tuple[float, ...]) -> Result:
    case = CASES[name]
    psf = mf.psf.gaussian(FWHM, voxels)
    image = np.maximum(mf.simulate(truth, psf, seed=1, **case.noise), 0)  # magnitudes: never negative
    estimate = case.restore(image, psf, voxels)
    gained = {
        "PSNR / dB": (mf.metrics.psnr(truth, image), mf.metrics.psnr(truth, estimate)),
        "SSIM": (mf.metrics.ssim(truth, image), mf.metrics.ssim(truth, estimate)),
    }
    return Result(truth, image, estimate, gained)


def picture(name: str, result: Result, volume: mf.io.Volume) -> Any:
    """The same axial slice of truth, image and estimate, on one grey scale."""
    case, psnr = CASES[name], result.gained["PSNR / dB"]
    noise = (
        f"{case.noise['photons']:.0f} photons at the peak"
        if "photons" in case.noise
        else f"Gaussian noise of {case.noise['sigma']:g}"
    )
    titles = (
        "an MR scan,\ntaken for the truth",
        f"blurred by {FWHM[0]:g} mm, {noise}\n{psnr[0]:.1f} dB",
        f"{case.call}\n{psnr[1]:.1f} dB",
    )
    arrays = (result.truth, result.image, result.estimate)
    scene = _figures.Scene(
        list(zip(titles, arrays, strict=True)), volume.voxel_size, volume.affine, width=3.2
    )
    window = _figures.grey_window(result.truth)
    width, height = scene.inches(scene.views[0])
    figure = _figures.require_matplotlib().Figure(
        figsize=(3 * width + 0.3, height + 0.5), layout="constrained", facecolor="white"
    )
    for panel, title, array in zip(figure.subplots(1, 3), titles, scene.arrays, strict=True):
        scene.show(panel, array, scene.views[0], window, "gray")
        panel.set_title(title, fontsize=8, parse_math=False)
    return figure


def pictures(directory: Path, names: list[str]) -> None:
    volume = scan()
    for name in names or CASES:
        result = restored(name, volume.array, volume.voxel_size)
        for what, (before, after) in result.gained.items():
            print(f"{name:22} {what:10} {before:7.3f} -> {after:7.3f}")
        figure = picture(name, result, volume)
        figure.savefig(directory / f"{name}.png", dpi=96, pil_kwargs={"optimize": True})


def costs(shape: tuple[int, ...] = COSTS_SHAPE, rounds: int = ROUNDS, iterations: int = 10) -> list[str]:
    """Lines of the table: how many iterations of plain Richardson-Lucy each method takes.

    Processor time of one thread, so that waiting does not count. In every round each method is measured
    between two runs of plain Richardson-Lucy.
    """
    volume = scan()
    around = [(0, max(n - m, 0)) for n, m in zip(shape, volume.shape, strict=True)]
    larger = np.pad(volume.array, around, mode="symmetric")
    middle = (slice((m - n) // 2, (m - n) // 2 + n) for n, m in zip(shape, larger.shape, strict=True))
    image = np.ascontiguousarray(larger[tuple(middle)]) + np.float32(1)
    psf = mf.psf.gaussian(FWHM, volume.voxel_size)

    def seconds(function: Callable[..., Any], *arguments: Any, **options: Any) -> float:
        started = time.process_time()
        function(image, psf, *arguments, num_threads=1, **options)
        return time.process_time() - started

    def per_iteration(function: Callable[..., Any], options: dict[str, Any]) -> float:
        # Set-up is in both; an acceleration does nothing before the second iteration.
        few, many = (seconds(function, n, engine="spectral", **options) for n in (2, 2 + iterations))
        return (many - few) / iterations

    def in_all(function: Callable[..., Any], options: dict[str, Any]) -> float:
        return seconds(function, **options)

    plain: list[float] = []

    def baseline() -> float:
        plain.append(per_iteration(*ITERATIVE["richardson_lucy"]))
        return plain[-1]

    rows = []
    for measure, unit, table in ((per_iteration, "iteration", ITERATIVE), (in_all, "call", CLOSED)):
        for name, (function, options) in table.items():
            measure(function, options)  # warm
            ratios = sorted(
                2 * measure(function, options) / (before + baseline())
                for before in (baseline() for _ in range(rounds))
            )
            low, middle, high = (ratios[round(share * (rounds - 1))] for share in (0.25, 0.5, 0.75))
            method, _, option = name.partition(", ")
            shown = f"[{method}]({method}.md)" + (f", {option}" if option else "")
            rows.append(f"| {shown} | {unit} | {middle:.1f} | {low:.1f} to {high:.1f} |")
    return [
        f"{' x '.join(map(str, shape))} voxels, float32, processor time of one thread of {processor()}; "
        f"an iteration of plain Richardson-Lucy took {1e3 * statistics.median(plain):.0f} ms.",
        "",
        f"| method | unit | plain iterations | middle half of {rounds} rounds |",
        "|---|---|---|---|",
        *rows,
    ]


def processor() -> str:
    """The processor's model, as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_costs(page: Path, lines: list[str]) -> None:
    """Put the table between the page's two marks."""
    before, mark, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (mark and end):
        raise SystemExit(f"{page}: the lines {BEGIN} and {END} are missing")
    page.write_text("\n".join([before + BEGIN, *lines, END + after]), encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pictures", type=Path, metavar="DIRECTORY", help="draw NAME.png")
    parser.add_argument("--costs", type=Path, metavar="PAGE", help="measure, and write the table into a page")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(CASES)} (default: all)")
    given = parser.parse_args(arguments)
    if not (given.pictures or given.costs):
        parser.error("nothing to do: give --pictures or --costs")
    if unknown := set(given.names) - set(CASES):
        parser.error(f"no method named {', '.join(sorted(unknown))}")
    if given.pictures:
        pictures(given.pictures, given.names)
    if given.costs:
        lines = costs()
        print("\n".join(lines))
        write_costs(given.costs, lines)


if __name__ == "__main__":
    main()
