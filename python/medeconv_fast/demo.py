"""``medeconv demo``: real scans, a known blur, and what is won back.

The scans ship inside the nibabel wheel. The first part takes one as the truth, blurs it with an anisotropic
Gaussian given in mm, adds photon noise and restores it, so that the gain can be measured. The second part
restores scans as they are: nobody knows their truth, so only the pictures can be judged.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import medeconv_fast as mf

from ._cli.session import jsonable, peak_memory_bytes, write_text
from ._figures import orthogonal_slices, require_matplotlib

# A blur of two to three voxels, the noise of 3000 photons at the brightest voxel (1.8 per cent there), and
# the library's default number of iterations: moderate values, not the ones with the largest gain.
FWHM = (6.0, 4.0, 4.0)  # mm, (z, y, x)
PHOTONS = 3000.0
SEED = 0
NUM_ITER = 30
# The blur of the scans themselves is not known. About one voxel, and few iterations: more makes thin
# structures brighter than their surroundings explain.
ASSUMED_FWHM = (2.2, 2.2, 2.2)
ASSUMED_NUM_ITER = 6
AIR_MARGIN = 6  # voxels of air kept around the head
RECORD = "demo.json"

Say = Callable[[str], None]


def scan_path(name: str) -> Path:
    """A scan inside the installed nibabel.

    Raises
    ------
    ImportError
        nibabel is missing.
    FileNotFoundError
        It was installed without its test data (some Linux distributions strip them).
    """
    try:
        import nibabel
    except ImportError as error:
        raise ImportError(
            "the demo reads scans that ship with nibabel: pip install 'medeconv-fast[io]'"
        ) from error
    path = Path(nibabel.__file__).parent / "tests" / "data" / name
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not in this installation of nibabel; the wheel on PyPI has it")
    return path


def _part(volume: Any, index: tuple[slice | int, ...]) -> Any:
    """Time point and box of a volume, its affine moved along; in `index`, integers come before slices."""
    box = [s for s in index if isinstance(s, slice)]
    starts = np.array([s.start or 0 for s in box], dtype=float)
    affine = np.array(volume.affine, dtype=float)
    affine[:3, 3] += affine[:3, :3] @ starts[::-1]  # the affine takes reversed indices (x, y, z)
    return dataclasses.replace(
        volume, array=np.ascontiguousarray(volume.array[index]), affine=affine, axes="zyx"
    )


def load_truth() -> Any:
    """First time point of ``example4d.nii.gz``, most of the air beside the head cut away."""
    scan = mf.io.read(scan_path("example4d.nii.gz"))
    first = np.asarray(scan.array)[0]
    inside = np.flatnonzero((first > 0.1 * first.max()).any(axis=(0, 1)))
    start, stop = max(inside[0] - AIR_MARGIN, 0), min(inside[-1] + 1 + AIR_MARGIN, first.shape[2])
    truth = _part(scan, (0, slice(None), slice(None), slice(int(start), int(stop))))
    return dataclasses.replace(truth, array=np.maximum(truth.array, 0).astype(np.float32))


def _claim(out: Path, overwrite: bool) -> None:
    """An empty or new directory, or one that an earlier demo filled."""
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out}: is a file, expected a directory")
    if out.is_dir() and any(out.iterdir()) and not (out / RECORD).is_file() and not overwrite:
        raise FileExistsError(
            f"{out}: holds files that no demo wrote; choose another --out, or add --overwrite"
        )
    out.mkdir(parents=True, exist_ok=True)
    mf.io.check_writable(out / RECORD, overwrite=True)


def run(
    out: str | os.PathLike[str] = "demo_output",
    *,
    backend: str = "auto",
    num_threads: int | None = None,
    overwrite: bool = False,
    say: Say = print,
    written: list[str] | None = None,
) -> dict[str, Any]:
    """Restore real scans, write volumes and pictures into `out`, and say what was measured.

    Parameters
    ----------
    out : path
        Directory, made if needed. Files of an earlier demo in it are replaced.
    backend, num_threads
        As for :func:`medeconv_fast.richardson_lucy`.
    overwrite : bool
        Also use a directory that holds other files.
    say : callable
        Takes each line of the report.
    written : list, optional
        Receives the name of every file as soon as it stands.

    Returns
    -------
    dict
        What was measured, and the files written.

    Raises
    ------
    ImportError
        nibabel or matplotlib is missing.
    FileExistsError
        `out` holds files that no demo wrote.
    """
    require_matplotlib()
    out = Path(out)
    paths = [scan_path("example4d.nii.gz"), scan_path("anatomical.nii")]
    _claim(out, overwrite)
    common: dict[str, Any] = {"backend": backend, "num_threads": num_threads}
    record: dict[str, Any] = {"files": [] if written is None else written}

    started = time.perf_counter()
    known = _known_blur(out, paths[0], common, record, say)
    as_it_is = [_as_it_is(out, path, common, record, say) for path in paths]
    report = {
        "command": "demo",
        "version": mf.__version__,
        **record,
        "known_blur": known,
        "as_it_is": as_it_is,
        "seconds": time.perf_counter() - started,
    }
    write_text(out / RECORD, json.dumps(jsonable(report), indent=2) + "\n", overwrite=True)
    report["files"].append(str(out / RECORD))
    say(f"files       {out.resolve()}")
    for name in sorted(p.name for p in out.iterdir()):
        say(f"            {name}")
    return report


def _write(out: Path, name: str, like: Any, array: np.ndarray, record: dict[str, Any]) -> None:
    mf.io.write(
        out / name, dataclasses.replace(like, array=np.asarray(array, dtype=np.float32)), overwrite=True
    )
    record["files"].append(str(out / name))


def _mib(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 2**20:.0f} MiB"


def _known_blur(
    out: Path, path: Path, common: dict[str, Any], record: dict[str, Any], say: Say
) -> dict[str, Any]:
    truth = load_truth()
    shape = truth.array.shape
    say(f"scan        {path.name} (nibabel's wheel), first time point, {' x '.join(map(str, shape))} voxels")
    psf = mf.psf.gaussian(fwhm=FWHM, voxel_size=truth.voxel_size)
    # The blur reaches beyond the slab: tissue outside is taken to mirror what is inside. The restoration does
    # not know that; its boundary is "extended".
    blurred = mf.simulate(truth.array, psf, noise="poisson", photons=PHOTONS, seed=SEED, boundary="reflect")
    wide = " x ".join(f"{v:g}" for v in FWHM)
    say(
        f"blur        Gaussian, FWHM {wide} mm (z, y, x); Poisson noise of {PHOTONS:g} photons at "
        f"the brightest voxel, seed {SEED}"
    )

    restored, info = mf.richardson_lucy(blurred, psf, NUM_ITER, return_info=True, **common)
    milliseconds = 1e3 * float(np.median([step["seconds"] for step in info["trace"]]))
    before, after = _scores(truth.array, blurred), _scores(truth.array, restored)
    memory = peak_memory_bytes()

    for name, array in (("truth", truth.array), ("blurred", blurred), ("restored", restored)):
        _write(out, f"{name}.nii.gz", truth, array, record)
    picture = out / "demo.png"
    orthogonal_slices(
        picture,
        [
            ("truth", truth.array),
            (f"blurred, noisy\n{before['psnr']:.2f} dB, SSIM {before['ssim']:.3f}", blurred),
            (f"restored, {NUM_ITER} iterations\n{after['psnr']:.2f} dB, SSIM {after['ssim']:.3f}", restored),
        ],
        voxel_size=truth.voxel_size,
        unit=truth.unit,
        affine=truth.affine,
    )
    record["files"].append(str(picture))

    threads = info["settings"]["num_threads"]
    say(
        f"restored    Richardson-Lucy, {info['num_iter']} iterations, {milliseconds:.2f} ms each (median), "
        f"{info['seconds']:.3f} s in all"
    )
    say(
        f"computed    backend {info['backend']}{_isa(info['backend'])}, engine {info['engine']}, "
        f"{threads} threads"
    )
    say("                        PSNR / dB    SSIM")
    say(f"            blurred     {before['psnr']:9.2f}  {before['ssim']:6.3f}")
    say(f"            restored    {after['psnr']:9.2f}  {after['ssim']:6.3f}")
    gain = after["psnr"] - before["psnr"]
    say(f"            gain        {gain:+9.2f}  {after['ssim'] - before['ssim']:+6.3f}")
    say(
        f"memory      peak of this process {_mib(memory)}, working memory of the restoration "
        f"{_mib(info['bytes'])}"
    )
    return {
        "scan": path.name,
        "shape": shape,
        "voxel_size": truth.voxel_size,
        "unit": truth.unit,
        "fwhm_mm": FWHM,
        "photons": PHOTONS,
        "seed": SEED,
        "num_iter": info["num_iter"],
        "before": before,
        "after": after,
        "gain_db": gain,
        "milliseconds_per_iteration": milliseconds,
        "seconds": info["seconds"],
        "backend": info["backend"],
        "engine": info["engine"],
        "num_threads": threads,
        "working_bytes": info["bytes"],
        "peak_memory_bytes": memory,
    }


def _scores(truth: np.ndarray, image: np.ndarray) -> dict[str, float]:
    return {"psnr": float(mf.metrics.psnr(truth, image)), "ssim": float(mf.metrics.ssim(truth, image))}


def _isa(backend: str) -> str:
    if backend != "cpp":
        return ""
    from .backends import cpp

    return f" ({cpp.describe()['isa']})"


def _as_it_is(
    out: Path, path: Path, common: dict[str, Any], record: dict[str, Any], say: Say
) -> dict[str, Any]:
    scan = mf.io.read(path)
    image = np.asarray(scan.array)
    psf = mf.psf.gaussian(fwhm=ASSUMED_FWHM, voxel_size=scan.voxel_size)
    parts = image if image.ndim == 4 else image[np.newaxis]
    results = np.empty(parts.shape, dtype=np.float32)
    seconds, clipped = 0.0, 0
    for part, result in zip(parts, results, strict=True):
        result[...], info = mf.richardson_lucy(
            part, psf, ASSUMED_NUM_ITER, negative="clip", return_info=True, **common
        )
        seconds += info["seconds"]
        clipped += info["settings"]["clipped"]
    stem = path.name.split(".")[0]
    _write(out, f"{stem}_as_it_is.nii.gz", scan, results.reshape(image.shape), record)
    picture = out / f"{stem}_as_it_is.png"
    orthogonal_slices(
        picture,
        [
            (f"{path.name}\nas it is", np.asarray(parts[0])),
            (f"restored, {ASSUMED_NUM_ITER} iterations\nassumed PSF", results[0]),
        ],
        voxel_size=scan.voxel_size,
        unit=scan.unit,
        affine=scan.affine,
    )
    record["files"].append(str(picture))
    wide, size = (" x ".join(f"{v:g}" for v in values) for values in (ASSUMED_FWHM, image.shape))
    say(
        f"as it is    {path.name}, {size} voxels: {ASSUMED_NUM_ITER} iterations, "
        f"assumed FWHM {wide} mm, {clipped} values below 0 set to 0, {seconds:.3f} s; judge by eye"
    )
    return {
        "scan": path.name,
        "shape": image.shape,
        "assumed_fwhm_mm": ASSUMED_FWHM,
        "num_iter": ASSUMED_NUM_ITER,
        "clipped": clipped,
        "seconds": seconds,
    }
