"""``medeconv train`` and ``medeconv predict``: networks from scans to files and from files to scans."""

from __future__ import annotations

import argparse
import os
from typing import Any, NamedTuple

import numpy as np

import medeconv_fast as mf

from .. import _validate
from .._arrays import result_dtype
from ..nn._data import on_finer_grid
from ..preprocess._step import same_place, unit_factor
from .images import (
    SAME,
    UNITS,
    Psf,
    broadcast,
    check_format,
    given_voxel_size,
    parts,
    psf_for,
    read_image,
    shown_size,
    with_geometry,
)
from .session import Progress, Session, UserError

UNIT_PERCENTILE = 99.9  # of an image: what counts as 1 inside of a network
SAME_GRID = 0.01  # relative difference of voxel sizes that a PSF does not show


def _unit_of(image: np.ndarray) -> float:
    return float(np.percentile(np.abs(image), UNIT_PERCENTILE))


def _unit_to_apply(image: np.ndarray) -> float:
    """Of images with few values that are not 0, the largest; of empty ones 1."""
    unit = _unit_of(image) or float(np.abs(image).max())
    return unit if unit > 0 else 1.0  # NaN as well: predict names it


def _volume(path: str, arguments: argparse.Namespace) -> tuple[mf.io.Volume, np.ndarray]:
    """A file of one channel and time point."""
    volume = with_geometry(read_image(path, arguments), arguments, path)
    places = parts(volume)
    if len(places) > 1:
        raise UserError(
            f"{path}: holds {len(places)} channels or time points, expected one; split them into files first"
        )
    array = np.asarray(volume.array[places[0][1]])
    return volume, array.astype(result_dtype(array.dtype), copy=False)


def _has_psf(arguments: argparse.Namespace) -> bool:
    return any(getattr(arguments, name) is not None for name in ("psf", "fwhm_mm", "fwhm_um"))


def _kind(arguments: argparse.Namespace) -> str:
    return str(arguments.kind or ("rl" if _has_psf(arguments) else "deconv"))


def _check_choice(arguments: argparse.Namespace) -> None:
    """What goes with what."""
    known = _has_psf(arguments)
    if arguments.targets is not None:
        if len(arguments.targets) != len(arguments.images):
            raise UserError(
                f"--targets: got {len(arguments.targets)} files, expected {len(arguments.images)}, "
                "one per image"
            )
        if arguments.without_truth:
            raise UserError("--without-truth: does not go with --targets")
    elif not known:
        raise UserError("train needs --targets, or a PSF (--psf, --fwhm-mm, --fwhm-um) to make pairs with")
    for name in ("photons", "sigma"):
        if getattr(arguments, name) is not None and (
            arguments.targets is not None or arguments.without_truth
        ):
            raise UserError(f"--{name}: belongs to pairs that are made of sharp images and a PSF")
    if arguments.without_truth and arguments.resume:
        raise UserError("--resume: does not go with --without-truth")
    if arguments.photons is not None and arguments.sigma is not None:
        raise UserError("--sigma: does not go with --photons")
    if arguments.kind == "rl" and not known:
        raise UserError("--kind rl: needs a PSF (--psf, --fwhm-mm, --fwhm-um)")
    if arguments.scale != 1 and (arguments.targets is None or _kind(arguments) == "rl"):
        raise UserError(f"--scale {arguments.scale}: needs --targets, and --kind deconv")


def _batch_size(arguments: argparse.Namespace) -> int:
    return int(arguments.batch_size or min(8, arguments.samples))


def _enlarged(shape: tuple[int, ...], ndim: int, scale: int) -> tuple[int, ...]:
    """The last `ndim` axes are the network's."""
    at = len(shape) - ndim
    return shape[:at] + tuple(n * scale for n in shape[at:])


def _patch(arguments: argparse.Namespace, shape: tuple[int, ...]) -> tuple[int, ...]:
    if arguments.patch is not None:
        if len(arguments.patch) not in (len(shape), len(shape) - 1):
            raise UserError(
                f"--patch: got {len(arguments.patch)} numbers, expected {len(shape)} for the axes of "
                "the images, "
                f"or {len(shape) - 1} to train on slices"
            )
        return tuple(arguments.patch)
    return tuple(min(n, 32 if len(shape) == 3 else 64) for n in shape)


def train(arguments: argparse.Namespace, session: Session) -> None:
    _check_choice(arguments)
    session.claim(arguments, "json")
    if arguments.resume and os.path.exists(arguments.net):
        session.overwrite = True  # of the network alone: the other has been claimed
    session.claim(arguments, "net", "json")
    volumes, images, units = [], [], []
    for path in arguments.images:
        volume, image = _volume(path, arguments)
        unit = _unit_of(image)
        if not unit > 0:  # NaN as well
            raise UserError(
                f"{path}: its {UNIT_PERCENTILE}th percentile is {unit:g}, expected values to train on"
            )
        if _kind(arguments) == "rl" and image.min() < 0:
            raise UserError(
                f"{path}: has negative values, the smallest {image.min():g}, which an RLNet does not take; "
                "choose --kind deconv, or shift the values"
            )
        volumes.append(volume)
        images.append(image / image.dtype.type(unit))
        units.append(unit)
    kernel = None
    if _has_psf(arguments):
        kernel = psf_for(volumes[0], arguments, session, arguments.images[0])
        first, *others = [Voxels(volume.voxel_size, volume.unit) for volume in volumes]
        if not all(_same_size(first, other) for other in others):
            session.note("the images' voxel sizes differ: the PSF is that of the first one's grid")
    patch = _patch(arguments, images[0].shape)
    net = _made(arguments, kernel, len(patch))
    net.notes = {"unit_percentile": UNIT_PERCENTILE, "trained_on": [str(p) for p in arguments.images]}
    if volumes[0].voxel_size is not None:
        net.notes |= {"voxel_size": list(volumes[0].voxel_size[-len(patch) :]), "unit": volumes[0].unit}
    options: dict[str, Any] = {
        "checkpoint": arguments.net,
        "resume": arguments.resume,
        "overwrite": session.overwrite,
        "seed": arguments.seed,
        "progress": False if session.quiet else None,
    }
    before = _written_at(arguments.net)
    try:
        history, way = _trained(net, arguments, volumes, images, units, kernel, patch, options)
    except BaseException:
        if _written_at(arguments.net) != before:
            session.kept = f"{arguments.net} holds the last whole epoch"
            if not arguments.without_truth:
                session.kept += ", and --resume goes on from there"
        raise
    session.written.append(arguments.net)
    last = history.epochs[-1]
    session.say(f"{way}; {len(history.epochs)} epochs, loss {last['loss']:.4g}, PSNR {last['psnr']:.2f} dB")
    session.say(f"wrote {arguments.net} ({net!r})")
    session.write_json(
        {
            "command": "train",
            "version": mf.__version__,
            "images": arguments.images,
            "targets": arguments.targets,
            "net": arguments.net,
            "architecture": net.architecture(),
            "way": way,
            "psf": None if kernel is None else kernel.record,
            "patch": patch,
            "epochs": history.epochs,
        }
    )


class Voxels(NamedTuple):
    voxel_size: tuple[float, ...] | None
    unit: str | None


def _ratios(own: Voxels, other: Voxels) -> tuple[float, ...] | None:
    """Own lengths over the other's; None where a unit is missing, and no usual one makes them alike."""
    assert own.voxel_size is not None and other.voxel_size is not None
    factor: float | None = 1.0
    if own.unit is None or other.unit is None:
        factor = 1.0 if own.unit == other.unit else unit_factor(own, other, SAME_GRID)
    elif own.unit != other.unit:
        factor = UNITS[own.unit] / UNITS[other.unit]
    if factor is None:
        return None
    return tuple(factor * a / b for a, b in zip(own.voxel_size, other.voxel_size, strict=True))


def _same_size(own: Voxels, other: Voxels) -> bool:
    if own.voxel_size is None or other.voxel_size is None:
        return own.voxel_size is other.voxel_size
    ratios = _ratios(own, other)
    return ratios is not None and all(abs(r - 1) <= SAME for r in ratios)


def _on_grid_of(
    volume: mf.io.Volume, net: mf.nn.Model, arguments: argparse.Namespace, session: Session
) -> tuple[mf.nn.Model, dict[str, Any] | None]:
    """The network with its PSF on the image's voxels, where they are not those that it was made for."""
    made_for = Voxels(net.notes.get("voxel_size"), net.notes.get("unit"))
    steps = [layer for _, layer in net.leaves() if isinstance(layer, mf.nn.RichardsonLucyStep)]
    if made_for.voxel_size is None or len(made_for.voxel_size) != net.ndim:
        return net, None
    before = shown_size(*made_for)
    known = isinstance(net, mf.nn.RLNet) and steps  # its PSF, so that it can be resampled
    if volume.voxel_size is None:
        if known:
            session.note(
                f"{arguments.input} has no voxel size: taken as {before}, as {arguments.net} knows it"
            )
        return net, None
    own = Voxels(volume.voxel_size[-net.ndim :], volume.unit)
    ratios = _ratios(own, made_for)
    if ratios is not None and all(abs(ratio - 1) <= SAME_GRID for ratio in ratios):
        return net, None
    if not known:
        session.note(
            f"{arguments.input} has voxels of {shown_size(*own)}: {arguments.net} was trained on {before}, "
            "and the blur that it has learnt is so many voxels wide"
        )
        return net, None
    if ratios is None:
        raise UserError(
            f"{arguments.input}: has voxels of {shown_size(*own)}, the PSF of {arguments.net} is made for "
            f"{before}; say what they are with --voxel-size-mm or --voxel-size-um, or give another PSF with "
            "--psf, --fwhm-mm or --fwhm-um"
        )
    assert isinstance(net, mf.nn.RLNet)
    psf = mf.psf.resample(steps[0].weights["psf"], (1.0,) * net.ndim, ratios)
    session.note(
        f"{arguments.input} has voxels of {shown_size(*own)}: the PSF of {arguments.net}, made for {before}, "
        "is resampled to them, its sum kept"
    )
    record = {"kind": "network", **made_for._asdict(), "shape": psf.shape, "resampled": True}
    return net.with_psf(psf), record


def _written_at(path: str) -> tuple[int, int] | None:
    """What changes when a file is written anew."""
    if not os.path.exists(path):
        return None
    found = os.stat(path)
    return found.st_ino, found.st_mtime_ns


def _flips(arguments: argparse.Namespace, kernel: Psf | None, ndim: int) -> tuple[bool, ...] | bool:
    """Along which axes pairs may be mirrored: where the PSF is its own mirror image."""
    if arguments.no_flips or kernel is None:
        return not arguments.no_flips
    # The centre is at shape // 2: of even lengths the first value has no partner but a 0.
    taps = np.pad(kernel.array, [(0, 1 - n % 2) for n in kernel.array.shape])
    bound = 1e-6 * float(np.abs(taps).max())
    axes = range(taps.ndim - ndim, taps.ndim)
    same = tuple(bool(np.abs(taps - np.flip(taps, axis)).max() <= bound) for axis in axes)
    return all(same) or same


def _made(arguments: argparse.Namespace, kernel: Psf | None, ndim: int) -> mf.nn.Model:
    options = {"seed": arguments.seed, "backend": arguments.backend, "num_threads": arguments.threads}
    if _kind(arguments) == "deconv":
        return mf.nn.DeconvNet(arguments.scale, arguments.filters or 64, ndim, **options)
    assert kernel is not None
    if kernel.array.ndim != ndim:
        raise UserError(
            f"--patch: got {ndim} numbers, expected {kernel.array.ndim}, as many as the PSF has axes"
        )
    return mf.nn.RLNet(kernel.array, filters=arguments.filters or 8, **options)


def _trained(
    net: mf.nn.Model,
    arguments: argparse.Namespace,
    volumes: list[mf.io.Volume],
    images: list[np.ndarray],
    units: list[float],
    kernel: Psf | None,
    patch: tuple[int, ...],
    options: dict[str, Any],
) -> tuple[mf.nn.History, str]:
    """Train `net`; returns what happened, and in words how."""
    chosen = {"learning_rate": arguments.learning_rate, "loss": arguments.loss}
    if arguments.without_truth:
        assert kernel is not None
        # A checkpoint would hold the blur behind the network, too, and what only a resumed training needs.
        options = {
            **options,
            "checkpoint": None,
            "resume": False,
            "callbacks": [lambda *_: net.save(arguments.net, overwrite=True)],
        }
        history = mf.nn.fit_without_truth(
            net,
            images,
            kernel.array,
            arguments.epochs,
            _batch_size(arguments),
            patch=patch,
            samples=arguments.samples,
            **chosen,
            **options,
        )
        return history, "trained on the images alone"
    net.compile(**chosen)
    if arguments.targets is not None:
        targets = []
        for path, volume, image, unit in zip(arguments.targets, volumes, images, units, strict=True):
            there, target = _volume(path, arguments)
            wanted = _enlarged(image.shape, len(patch), arguments.scale)
            if target.shape != wanted:
                raise UserError(
                    f"--targets: {path} has shape {target.shape}, expected {wanted} for an image of "
                    f"{image.shape}"
                )
            factors = dict.fromkeys(volume.spatial_axes[-len(patch) :], arguments.scale)
            # A voxel size on the command line is the images'; a finer target's stays unknown.
            if arguments.scale == 1 or given_voxel_size(arguments, volume.spatial_axes) is None:
                try:
                    same_place(there, on_finer_grid(volume, there.array, factors), f"--targets: {path}")
                except ValueError as error:
                    raise UserError(str(error)) from error
            targets.append(target / target.dtype.type(unit))
        pairs = mf.nn.PatchSampler(images, targets, patch, arguments.samples)
        way = "trained on pairs of images and targets"
    else:
        assert kernel is not None
        noise: dict[str, Any] = {"noise": "poisson", "photons": arguments.photons or 1000.0}
        if arguments.sigma is not None:
            noise = {"noise": "gaussian", "sigma": arguments.sigma, "units": units}
        pairs = mf.nn.SimulatedPairs(images, kernel.array, patch, arguments.samples, **noise)
        way = "trained on the images as truths, blurred by the PSF"
    history = net.fit(
        pairs,
        None,
        arguments.epochs,
        _batch_size(arguments),
        augment=mf.nn.Augmentation(_flips(arguments, kernel, len(patch)), rotations=False),
        **options,
    )
    return history, way


def predict(arguments: argparse.Namespace, session: Session) -> None:
    session.claim(arguments, "output", "json")
    net = mf.nn.Model.load(arguments.net, backend=arguments.backend, num_threads=arguments.threads)
    volume = with_geometry(read_image(arguments.input, arguments), arguments, arguments.input)
    axes = volume.spatial_axes
    fits = net.ndim in (len(axes), len(axes) - 1) and all(s.denominator == 1 for s in net.scale)
    if not fits or (net.channels, net.output.channels) != (1, 1):
        raise UserError(
            f"{arguments.net}: got a network of {net.ndim} axes, {net.channels} channels in and "
            f"{net.output.channels} out, scale {' '.join(map(str, net.scale))}; expected one channel, a "
            f"whole scale and the axes ({', '.join(axes)}) or one less"
        )
    record = None
    if _has_psf(arguments):
        if not isinstance(net, mf.nn.RLNet):
            raise UserError(f"{arguments.net}: a {type(net).__name__} knows no PSF, only an RLNet does")
        kernel = psf_for(volume, arguments, session, arguments.input)
        net, record = net.with_psf(kernel.array), kernel.record
    else:
        net, record = _on_grid_of(volume, net, arguments, session)
    tile = (
        None if arguments.tile is None else broadcast(arguments.tile, net.ndim, "--tile", axes[-net.ndim :])
    )
    factors = {axis: int(scale) for axis, scale in zip(axes[-net.ndim :], net.scale, strict=True)}
    if mf.io.is_dicom(arguments.output) and any(factor > 1 for factor in factors.values()):
        raise UserError(f"{arguments.output}: a DICOM series keeps its grid, and the network's is finer")
    shape = tuple(n * factors.get(a, 1) for a, n in zip(volume.axes, volume.shape, strict=True))
    check_format(arguments.output, volume, result_dtype(volume.dtype))
    result = np.empty(shape, dtype=result_dtype(volume.dtype))
    percentile = net.notes.get("unit_percentile")
    places = parts(volume)
    with Progress("predict", len(places), enabled=not session.quiet) as progress:
        for label, index in places:
            image = np.asarray(volume.array[index]).astype(result.dtype, copy=False)
            name = f"{arguments.input}{f' ({label})' if label else ''}"
            unit = image.dtype.type(1.0 if percentile is None else _unit_to_apply(image))
            # Slices of a volume are the batch of a network of two axes.
            batch = (image / unit).reshape(-1, 1, *image.shape[image.ndim - net.ndim :])
            try:
                if net.positive and image.size:  # it would name shares of the unit
                    _validate.non_negative(image, "image", float(image.min()))
                made = net.predict(batch, 1 if net.ndim == 3 else 8, tile=tile)
            except (ValueError, TypeError) as error:
                raise UserError(f"{name}: {error}") from error
            result[index] = made.reshape(result[index].shape) * unit
            progress.step()
    finer = result.shape != volume.shape
    written = on_finer_grid(volume, result, factors) if finer else volume.with_array(result)
    written.metadata["derivation"] = (
        f"version {mf.__version__}, network {type(net).__name__} of {os.path.basename(arguments.net)}"
    )
    with session.output(arguments.output):
        mf.io.write(arguments.output, written, overwrite=session.overwrite)
    session.say(f"wrote {arguments.output} ({result.dtype}), by {net!r}")
    session.write_json(
        {
            "command": "predict",
            "version": mf.__version__,
            "input": arguments.input,
            "output": arguments.output,
            "net": arguments.net,
            "architecture": net.architecture(),
            "psf": record,
            "shape": result.shape,
        }
    )
