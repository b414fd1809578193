"""Where training pairs come from: arrays, or patches of volumes that may lie on disk."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import _arrays, _validate, io
from .._planner import bytes_of
from ..preprocess._step import Move, same_place

Pair = tuple[np.ndarray, ...]
Change = Callable[[np.ndarray, np.ndarray, np.random.Generator], Any]


class Pairs:
    """Base: numbered pairs (image, target) of (C, *spatial), each from a random generator of its own.

    A third array of the target's shape weights the loss: 0 leaves a value out.

    So a sample depends on seed, epoch and number only, whatever was drawn before it.
    """

    def __len__(self) -> int:
        """Samples of one epoch."""
        raise NotImplementedError

    def order(self, generator: np.random.Generator) -> np.ndarray:
        """The numbers of one epoch, shuffled."""
        return generator.permutation(len(self))

    def pair(self, number: int, generator: np.random.Generator) -> Pair:
        raise NotImplementedError

    def measured(self, number: int, generator: np.random.Generator) -> np.ndarray:
        """The image of `pair`, before noise is drawn and added to it."""
        return self.pair(number, generator)[0]

    def changed_pair(self, number: int, generator: np.random.Generator, augment: Change) -> Pair:
        """`pair` after augmentation."""
        pair = self.pair(number, generator)
        if len(pair) > 2:
            raise ValueError(
                f"augment: got {_validate.shown(augment)} with a sampler whose pairs have weights, expected "
                "None: weights would stay where they are"
            )
        return changed(augment, pair[0], pair[1], generator)


def changed(augment: Change, x: np.ndarray, y: np.ndarray, generator: np.random.Generator) -> Pair:
    """What `augment`, which may be a function of the user's, makes of copies: it may write to them."""
    made = augment(x.copy(), y.copy(), generator)
    if (
        not isinstance(made, tuple | list)
        or len(made) != 2
        or not all(isinstance(a, np.ndarray) and a.ndim == x.ndim for a in made)
    ):
        raise TypeError(
            f"augment: got {_validate.shown(made)} from it, expected (x, y), two arrays of {x.ndim} axes, "
            "(C, *spatial)"
        )
    return tuple(made)


class ArrayPairs(Pairs):
    """Arrays (N, C, *spatial), checked.

    Parameters
    ----------
    x, y : array_like
    ndim, channels : int
        Of the network's input.
    dtype : numpy.dtype
        What it is trained in: values must be in its range.
    names : pair of str
        The arguments' names, for messages.
    positive : bool
        The network takes no images with values below 0.
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        ndim: int,
        channels: int,
        dtype: np.dtype,
        names: tuple[str, str],
        positive: bool = False,
    ) -> None:
        self._arrays: list[np.ndarray] = []
        for value, name in ((x, names[0]), (y, names[1])):
            array, _ = _arrays.to_numpy(value, name)
            check_batch(array, name, ndim)
            data = _arrays.computable(array, _arrays.result_dtype(array.dtype))
            lowest, highest = _validate.finite(data, name, batch_axes(ndim))
            _validate.scale(max(-lowest, highest), name, dtype)
            if positive and not self._arrays:
                _validate.non_negative(data, name, lowest)
            self._arrays.append(array)
        check_channels(self._arrays[0], names[0], channels)
        if len(self._arrays[0]) != len(self._arrays[1]):
            raise ValueError(
                f"{names[1]}: got {len(self._arrays[1])} samples, expected {len(self._arrays[0])}, as "
                "many as "
                f"in {names[0]}"
            )

    def __len__(self) -> int:
        return len(self._arrays[0])

    def pair(self, number: int, generator: np.random.Generator) -> Pair:
        return self._arrays[0][number], self._arrays[1][number]


def batch_axes(ndim: int) -> str:
    return f"(N, C, {_validate.AXES[ndim].strip('()')})"


def check_batch(array: np.ndarray, name: str, ndim: int) -> None:
    """(N, C, *spatial) with at least one sample and one value."""
    if array.ndim != ndim + 2:
        raise ValueError(
            f"{name}: got {array.ndim} axes (shape {array.shape}), expected {ndim + 2}: {batch_axes(ndim)}; "
            "for one image x[None, None]"
        )
    if array.shape[0] == 0:
        raise ValueError(f"{name}: got shape {array.shape}, an empty data set; expected at least one sample")
    if array.size == 0:
        raise ValueError(f"{name}: got shape {array.shape}, expected at least one value per sample")


def check_channels(array: np.ndarray, name: str, channels: int) -> None:
    if array.shape[1] != channels:
        raise ValueError(
            f"{name}: got {array.shape[1]} channels (shape {array.shape}), expected {channels} as the "
            "network "
            "takes"
        )


def on_finer_grid(volume: io.Volume, array: np.ndarray, factors: dict[str, int]) -> io.Volume:
    """The volume around an array of `factors` times as many voxels along axes, in the same field."""
    steps = tuple(1 / factors.get(axis, 1) for axis in volume.spatial_axes)
    # Pixel centres: the first new one lies half an old voxel less half a new one before the first old one.
    move = Move(tuple((step - 1) / 2 for step in steps), steps)
    shape = tuple(array.shape[volume.axes.index(axis)] for axis in volume.spatial_axes)
    return dataclasses.replace(volume, array=array, **move.geometry(volume, shape))


class _Volume:
    """One source of patches: an array, anything that is sliced like one, or a file."""

    def __init__(self, value: Any, name: str) -> None:
        self.name = name
        self.path: Path | None = None
        self.array: Any = None
        if isinstance(value, str | Path):
            self.path = Path(value)
            if not self.path.exists():
                raise FileNotFoundError(f"{name}: {self.path} does not exist")
            if self.path.suffix == ".npy":
                self.array = np.load(self.path, mmap_mode="r")
        elif hasattr(value, "shape") and hasattr(value, "dtype") and hasattr(value, "__getitem__"):
            _validate.unmasked(value, name)
            self.array = value  # a memory map or a zarr array is read where it is sliced
        else:
            raise TypeError(f"{name}: got {_validate.shown(value)}, expected an array or a file")


class PatchSampler(Pairs):
    """Random patches of pairs of volumes, read when they are needed.

    Arrays, memory maps, zarr arrays and ``.npy`` files are sliced where they are; of other files (what
    `medeconv_fast.io.read` takes) whole volumes are kept, the latest ones, up to `memory`. The samples of one
    volume then follow each other, so that an epoch reads every file once.

    Parameters
    ----------
    images, targets : sequence of array_like or path
        Volumes of as many axes as `patch`, or one more: then a place along the first axis is drawn too
        (slices for a network of two axes). A target may be larger than its image by a whole factor. Where
        both are files that say where their voxels lie, they must lie at one place.
    patch : tuple of int
        Shape of an image's patch, [z,] y, x.
    samples : int
        Patches of one epoch, at least one per volume.
    memory : int or str
        Bytes (or "1 GB") of volumes read from files to keep; one volume is kept whatever its size.

    Raises
    ------
    ValueError, TypeError
        Volumes that do not fit to each other or to the patch; the message says which.
    FileNotFoundError
        A file that is not there.
    """

    def __init__(
        self,
        images: Sequence[Any],
        targets: Sequence[Any],
        patch: Any,
        samples: int = 256,
        *,
        memory: Any = "1 GB",
    ) -> None:
        self.patch = _validate.shape(patch, "patch")
        self.samples = _validate.integer(samples, "samples", minimum=1)
        self.memory = bytes_of(memory)
        self._sources = [
            [_Volume(value, f"{name}[{i}]") for i, value in enumerate(values)]
            for values, name in ((images, "images"), (targets, "targets"))
        ]
        if not self._sources[0]:
            raise ValueError("images: got no volumes, an empty data set; expected at least one")
        if len(self._sources[0]) != len(self._sources[1]):
            raise ValueError(
                f"targets: got {len(self._sources[1])} volumes, expected {len(self._sources[0])}, as "
                "many as images"
            )
        if self.samples < len(self._sources[0]):
            raise ValueError(
                f"samples: got {samples}, expected at least {len(self._sources[0])}, one for every volume"
            )
        self._kept: OrderedDict[Path, io.Volume] = OrderedDict()
        self._compared: set[int] = set()  # sources whose image and target lie at one place
        self.files = any(volume.array is None for kind in self._sources for volume in kind)

    def __len__(self) -> int:
        return self.samples

    def order(self, generator: np.random.Generator) -> np.ndarray:
        if not self.files:
            return super().order(generator)
        sources = generator.permutation(len(self._sources[0]))
        numbers = np.arange(self.samples)
        return np.concatenate([numbers[numbers % len(sources) == source] for source in sources])

    def _read(self, volume: _Volume) -> Any:
        if volume.array is not None:
            return volume.array
        path = volume.path
        assert path is not None
        if path not in self._kept:
            read = io.read(path)
            while self._kept and sum(v.array.nbytes for v in (*self._kept.values(), read)) > self.memory:
                self._kept.popitem(last=False)
            self._kept[path] = read
        self._kept.move_to_end(path)
        return self._kept[path]

    def _factor(self, image: Any, target: Any, source: int) -> tuple[int, ...]:
        ndim, axes = len(self.patch), len(image.shape)
        if axes not in (ndim, ndim + 1):
            raise ValueError(
                f"images[{source}]: got {axes} axes (shape {image.shape}), expected {ndim} or {ndim + 1} for "
                f"patches of {self.patch}"
            )
        if len(target.shape) != axes or (axes > ndim and image.shape[0] != target.shape[0]):
            raise ValueError(
                f"targets[{source}]: got shape {target.shape}, expected a whole multiple of "
                f"{image.shape}, the "
                "shape of its image (the same along an axis of slices)"
            )
        lengths, wanted = image.shape[axes - ndim :], target.shape[axes - ndim :]
        if any(p > n for p, n in zip(self.patch, lengths, strict=True)):
            raise ValueError(
                f"patch: got {self.patch}, expected at most {lengths}, the size of images[{source}]"
            )
        if any(w % n or w < n for n, w in zip(lengths, wanted, strict=True)):
            raise ValueError(
                f"targets[{source}]: got shape {target.shape}, expected a whole multiple of "
                f"{image.shape}, the "
                "shape of its image"
            )
        return tuple(w // n for n, w in zip(lengths, wanted, strict=True))

    def pair(self, number: int, generator: np.random.Generator) -> Pair:
        source = number % len(self._sources[0])
        read = [self._read(kind[source]) for kind in self._sources]
        image, target = (v.array if isinstance(v, io.Volume) else v for v in read)
        factor = self._factor(image, target, source)
        if source not in self._compared and all(isinstance(v, io.Volume) for v in read):
            axes = read[0].axes[-len(factor) :]
            finer = on_finer_grid(read[0], target, dict(zip(axes, factor, strict=True)))
            same_place(read[1], finer, f"targets[{source}]")
            self._compared.add(source)
        place: tuple[Any, ...] = ()
        if len(image.shape) > len(self.patch):
            place = (int(generator.integers(image.shape[0])),)
        lengths = image.shape[len(place) :]
        starts = [int(generator.integers(n - p + 1)) for n, p in zip(lengths, self.patch, strict=True)]
        cuts = tuple(slice(s, s + p) for s, p in zip(starts, self.patch, strict=True))
        wide = tuple(slice(c.start * f, c.stop * f) for c, f in zip(cuts, factor, strict=True))
        return np.asarray(image[(*place, *cuts)])[None], np.asarray(target[(*place, *wide)])[None]
