"""`restore_volume`: the job is prepared or taken up again, goes through a driver, and is ended."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import _validate, backends
from .. import io as files
from .._grid import Grid
from .._planner import bytes_of
from .._record import Record
from .._threads import get_num_threads
from ..algorithms._options import unusual
from ..algorithms._tile import Numbers, Restorer
from ..io import _convert, _store, _zarr
from ..io._files import check_parent
from . import _cluster, _drivers
from ._job import Job
from ._manifest import Manifest
from ._numbers import METHODS, channel_psfs, check_options, resolve
from ._plan import Costs, VolumePlan, halo_for
from ._regions import is_source, taken
from ._sample import draw
from ._seam import estimate_seam


class VolumeResult(Record):
    """The record of a run: a dict whose entries can also be read as attributes.

    Entries
    -------
    path : str
        The result, or what it will be called.
    finished : bool
        It is whole and has its name; False where other shards of the job are still missing.
    tiles, done, computed : int
        Of the job; finished by now; by this run.
    seconds, voxels_per_second : float
        Of this run; voxels computed, halos included.
    plan : dict
        As `VolumePlan`.
    numbers : dict
        Channel -> what all its tiles share: method, options, noise, acceleration factors and what they were
        found in.
    seam : dict or None
        Estimated difference from a whole run, in shares of the range: largest, and per axis.
    clipped, negative : int
        Voxels of the result that its dtype could not hold; values that were read, negative and set to zero
        (in halos more than once).
    warnings : list of str
    """


def restore_volume(
    source: Any,
    destination: Any,
    psf: Any,
    *,
    method: str = "auto",
    memory: Any = "4 GB",
    resume: bool = True,
    workers: int | None = None,
    client: Any = None,
    shard: tuple[int, int] | None = None,
    halo: Any = "auto",
    tile: Any = None,
    dtype: Any = "float32",
    scale: Any = None,
    chunks: Any = "auto",
    shards: Any = "auto",
    overwrite: bool = False,
    verify: bool = True,
    seed: int = 0,
    num_threads: int | None = None,
    psf_name: str | None = None,
    progress: Callable[[dict[str, Any]], Any] | None = None,
    **options: Any,
) -> VolumeResult:
    """Restore a volume that need not fit into memory, tile by tile, from file to file.

    What is finished stays finished: a run that ends for whatever reason is gone on with by the same call, and
    its voxels are those of an unbroken run.

    Parameters
    ----------
    source : path-like, Volume, array_like or Source
        As `mf.io.open_source` takes it: OME-Zarr, Zarr, NIfTI, TIFF, .npy, dask arrays, ... Time points and
        channels are restored one by one.
    destination : path-like
        As `mf.io.create_store` takes it. The result grows in NAME.partial and gets its name when whole;
        NAME.job.json beside it records the job.
    psf : array_like, or list of array_like
        As in `richardson_lucy`; of a list one for each channel.
    method : {"auto", "rl", "richardson_lucy", "wiener", "tikhonov"}
        As in `restore`; of a source in Hounsfield units (metadata ``intensity_unit``) "auto" is the Wiener
        filter.
    memory : int or str
        What each process may take: bytes, or text such as "4 GB".
    resume : bool
        Go on with an unfinished job. False: begin anew.
    workers : int, optional
        Work in so many processes of this machine (a `dask.distributed.LocalCluster`) instead of in this one.
        Each runs the script that calls this: at its top level put the call under
        ``if __name__ == "__main__":``.
    client : dask.distributed.Client, optional
        Work on its cluster. Source and destination must be files that all workers see.
    shard : (int, int), optional
        Work on part i of n of the tiles, i from 0, for job arrays; whoever does the last tile finishes.
    halo : "auto", "exact", int or sequence of int
        Voxels of real data around each tile's core. "auto": the rule in Notes. "exact": as far as anything
        can matter, twice the PSF's reach per iteration.
    tile : sequence of int, optional
        The cores' shape, rounded up to whole blocks of the destination, instead of what `memory` allows.
    dtype, scale, chunks, shards
        Of the destination, see `mf.io.create_store`. Shards that are left to it are given up, for a file per
        chunk, where memory does not hold a tile of one, or `tile` is not made of them.
    overwrite : bool
        Replace an existing destination that is not this job's result.
    verify : bool
        When resuming, read back what is finished and compare checksums; what is damaged is done again.
    seed : int
        Of the places of the sample.
    num_threads : int, optional
        Of each process; default: the library's setting, of `workers` their share. The result does not depend
        on it.
    psf_name : str, optional
        What the PSF is called where the result's metadata (``"derivation"``, of a DICOM series its Derivation
        Description) say what was done; by default its shape.
    progress : callable, optional
        Called with a dict before the first tile and after each: done, tiles, voxels_per_second, seconds_left.
    **options
        Of the method, as in `restore`; ``voxel_size`` is the source's unless given. `weights` and `initial`
        may be arrays of the shape of an image or of all of them, files or sources, on the image's grid: they
        are read tile by tile. Other options must be numbers.

    Returns
    -------
    VolumeResult

    Raises
    ------
    ValueError, TypeError
        As the method; a destination that is, or lies in, what is read; a time budget; memory that does not
        hold one tile; an unfinished job whose input, PSF, options, instruction set or version are not the
        same (the message says which).
    FileExistsError
        The destination exists and is not the result of this very job.
    BlockingIOError
        Another process is at work on these tiles, or on any while ``resume=False`` is to begin anew.
    TileError
        Some tiles could not be read; all others are done.
    OSError
        The disk is full, the input has vanished, or changed while it was being read (looked at once more when
        the last tile is in), ...

    Notes
    -----
    Every number that depends on the data (noise, regularizer weight, balance, smallest divisor, number of
    iterations, acceleration factors) is found once, in a seeded sample, and is the same for all tiles: the
    whole volume up to 8.4 million voxels, else 24 blocks as many together; iterations, factors and balance in
    its three brightest blocks. Grid and numbers do not depend on the number of workers.

    The sides of a tile inside the volume see real data as far as the halo, beyond which nothing is assumed
    (boundary "extended"); `boundary` is what lies outside the volume's own border. The default halo is
    2 s (sqrt(k) + 1.5) voxels for k iterations of Richardson-Lucy, 3.5 s (sqrt(k) + 1.5) accelerated, with s
    the PSF's spread (standard deviation) along the axis, with a regularizer at least 1; of a filter, as far
    as its response matters. The result then differs from that of the whole volume by less than 1e-3 of its
    range, a filter's within a few voxels of the volume's border by more (docs/volumes.md); ``result.seam`` is
    the estimate for this run's cuts.

    Examples
    --------
    >>> import medeconv_fast as mf
    >>> psf = mf.psf.gaussian(fwhm=(3, 2, 2), voxel_size=(1, 1, 1))
    >>> mf.restore_volume("in.zarr", "out.zarr", psf, memory="2 GB")  # doctest: +SKIP
    """
    begun = time.perf_counter()
    _check_calls(workers, client, shard)
    resume, verify = _validate.flag(resume, "resume"), _validate.flag(verify, "verify")
    overwrite = _validate.flag(overwrite, "overwrite")
    if not isinstance(psf_name, str | None):
        raise TypeError(f"psf_name: got {_validate.shown(psf_name)}, expected a text or None")
    if progress is not None and not callable(progress):
        raise TypeError(f"progress: got {_validate.shown(progress)}, expected a function or None")
    if not isinstance(destination, str | os.PathLike) or not os.fspath(destination):
        raise TypeError(f"destination: got {_validate.shown(destination)}, expected the name of a file")
    setup = _Setup(
        source, psf, method, memory, halo, tile, dtype, scale, chunks, shards, seed, num_threads, options
    )
    path = Path(destination).absolute()
    setup.spare(path)
    check_parent(path)
    manifest = Manifest(path)
    look = functools.partial(setup.look, manifest)
    computed = voxels = 0
    with contextlib.ExitStack() as ending:
        with contextlib.ExitStack() as working:
            with manifest.alone():
                if _is_finished(manifest, setup, resume, overwrite):
                    return _result(manifest, begun, finished=True, computed=0, voxels=0)
                if workers is not None:
                    _cluster.expect()
                job = setup.job(manifest, resume=resume, overwrite=overwrite, psf_name=psf_name)
                # From now on nobody begins it anew, or discards the image.
                log = working.enter_context(manifest.logging(shard))
                if job.store is not None:
                    working.enter_context(job.store.at_work())
            number = manifest.record.get("store")
            failures = _drivers.Failures(job, look)
            done, damaged = _what_is_done(job, manifest, verify)
            todo = job.in_order([n for n in _share(len(job), shard) if n not in done])
            mine = len(todo)

            def tell() -> None:
                if progress is not None:
                    seconds = time.perf_counter() - begun
                    progress(
                        {
                            "done": len(done) + computed,
                            "tiles": len(job),
                            "voxels_per_second": voxels / seconds,
                            "seconds_left": seconds / computed * (mine - computed) if computed else None,
                        }
                    )

            tell()
            with _driver(job, todo, failures, workers, client, ending) as finished_tiles:
                for entry in finished_tiles:
                    log.add(entry)
                    damaged.discard(entry.number)
                    computed += 1
                    voxels += int(np.prod(job.place(entry.number)[1].shape))
                    tell()
            failures.end()
            look()  # what was read before a change is no part of the same image
        finished = False
        with manifest.alone():
            if not manifest.load() or manifest.record.get("store") != number:
                raise FileNotFoundError(f"{path}: another process has begun the job anew meanwhile")
            if manifest.record.get("finished"):
                finished = True
            elif len(manifest.done()) == len(job) and not damaged:
                _end(job, manifest, overwrite)
                finished = True
    return _result(manifest, begun, finished=finished, computed=computed, voxels=voxels, damaged=len(damaged))


def plan_volume(
    source: Any,
    psf: Any,
    *,
    method: str = "auto",
    memory: Any = "4 GB",
    halo: Any = "auto",
    tile: Any = None,
    dtype: Any = "float32",
    scale: Any = None,
    chunks: Any = "auto",
    shards: Any = "auto",
    seed: int = 0,
    num_threads: int | None = None,
    **options: Any,
) -> VolumePlan:
    """What `restore_volume` with the same arguments would do: grid, memory, disk, time; nothing is written.

    Reads the sample, and restores parts of it on trial where the method has something to find there.

    Parameters
    ----------
    source, psf, method, memory, halo, tile, dtype, scale, chunks, shards, seed, num_threads, **options
        As in `restore_volume`.

    Returns
    -------
    VolumePlan

    Raises
    ------
    ValueError, TypeError, OSError
        As `restore_volume`.
    """
    setup = _Setup(
        source, psf, method, memory, halo, tile, dtype, scale, chunks, shards, seed, num_threads, options
    )
    return setup.planned()[2]


class _Setup:
    """The checked arguments of a call, and the way from them to a job."""

    def __init__(
        self,
        source: Any,
        psf: Any,
        method: str,
        memory: Any,
        halo: Any,
        tile: Any,
        dtype: Any,
        scale: Any,
        chunks: Any,
        shards: Any,
        seed: int,
        num_threads: int | None,
        options: dict[str, Any],
    ) -> None:
        method = _validate.choice(method, "method", METHODS)
        self.method = "rl" if method.startswith("richardson") else method
        self.memory = bytes_of(memory)
        self.seed = _validate.integer(seed, "seed", minimum=0)
        self.source = source if is_source(source) else files.open_source(source)
        ndim = len(self.source.shape)
        options = {name: _plain(value) for name, value in options.items()}
        if options.get("voxel_size") is None and self.source.voxel_size is not None:
            options["voxel_size"] = self.source.voxel_size
        if options.get("voxel_size") is not None:
            options["voxel_size"] = _validate.voxel_size(options["voxel_size"], "voxel_size", ndim)
        self.channels = sorted({c for _, c in self.source.items})
        self.psfs = channel_psfs(
            psf, len(self.channels), ndim, options.get("voxel_size"), options.pop("psf_voxel_size", None)
        )
        self.maps = taken(options, self.source)
        check_options(self.method, options, self.maps)
        self.options = options
        self.identity = self._identities()
        self.halo, self.tile = halo, tile
        self.output = {"dtype": dtype, "scale": scale, "chunks": chunks, "shards": shards}
        if self.stored_dtype().kind == "b":
            raise ValueError(f"dtype: got {dtype!r}, which is bool here and holds no restored values")
        self.num_threads = num_threads
        kernels = backends.resolve(options.get("backend", "auto"))
        self.backend, self.isa = kernels.NAME, kernels.describe().get("isa")

    def _identities(self) -> dict[str, Any]:
        maps = {name: source.identity() for name, source in self.maps.items()}
        return {"input": self.source.identity(), "maps": maps}

    def spare(self, destination: Path) -> None:
        """Refuse a destination that would take the place of what is read, also with overwrite=True."""
        made = [path.resolve() for path in files.destinations(destination)]
        read = {"source": self.identity["input"], **self.identity["maps"]}
        for name, identity in read.items():
            given = identity.get("path")  # of mapped arrays too
            if given is None:
                continue
            for part in (path.resolve() for path in files.sources(given)):
                for path in made:
                    if path == part or part in path.parents or path in part.parents:
                        raise ValueError(
                            f"destination: {destination} would replace {given} or part of it, which is read "
                            f"({name}); choose another name"
                        )

    def description(self) -> dict[str, Any]:
        """What makes two calls the same job."""
        from .. import __version__

        psfs = [{"shape": list(p.shape), "sha256": _digest(p)} for p in self.psfs]
        return {
            **self.identity,
            "psf": psfs,
            "method": self.method,
            "options": {name: _shown(value) for name, value in sorted(self.options.items())},
            "memory": self.memory,
            "halo": _shown(self.halo),
            "tile": _shown(self.tile),
            "output": {name: _shown(value) for name, value in self.output.items()},
            "seed": self.seed,
            "backend": self.backend,
            "isa": self.isa,
            "version": __version__,
        }

    def look(self, manifest: Manifest) -> None:
        """Raise if the input is not what it was when the job began; that is noted if it has changed."""
        for source in (self.source, *self.maps.values()):
            path = getattr(source, "path", None)
            if path is not None and not path.exists():
                raise OSError(errno.ESTALE, "the input has vanished", str(path))
        changes = _differences(self.identity, self._identities())
        if not changes:
            return
        with manifest.alone():
            # Nobody knows which tiles saw which input, also if it is as it was when somebody goes on.
            if manifest.load() and not manifest.record.get("finished"):
                manifest.save(changed=changes)
        raise OSError(
            errno.ESTALE,
            f"the input has been changed while it was being restored ({'; '.join(changes)}); tiles of both "
            "are done, resume=False (--no-resume) begins anew",
        )

    def _blocks(self, shards: Any) -> tuple[int, ...]:
        """Those that a store has with these shards."""
        inner, outer = _store._grid(self.source.shape, self.output["chunks"], shards)
        return outer or inner

    def stored_dtype(self) -> Any:
        return _convert.output(self.output["dtype"], self.output["scale"], self.source.stored_dtype)[0]

    def planned(self) -> tuple[list[Numbers], Grid, VolumePlan, Any]:
        """Numbers, grid, plan, and the shards of the store, given up where they are too large."""
        shape = tuple(self.source.shape)
        numbers = []
        self.samples = []
        for channel, psf in zip(self.channels, self.psfs, strict=True):
            items = [i for i, (_, c) in enumerate(self.source.items) if c == channel]
            sample = draw(
                self.source, items, psf.shape, memory=self.memory, seed=self.seed + channel, maps=self.maps
            )
            unit = self.source.metadata.get("intensity_unit")
            found = resolve(sample, psf, self.method, self.options, self.num_threads, unit)
            found.sample.update(
                whole=sample.whole,
                blocks=len(sample.parts),
                voxels=sum(p.size for p in sample.parts),
                seed=self.seed,
            )
            numbers.append(found)
            self.samples.append(sample.places[sample.trials[0]])
        halo = halo_for(numbers, self.psfs, self.halo, shape)
        periodic = all(each.options.get("boundary") == "wrap" for each in numbers)
        maps = [source.dtype for source in self.maps.values()]
        shards = self.output["shards"]
        blocks = self._blocks(shards)
        costs = Costs(
            numbers,
            self.psfs,
            self.source.dtype,
            self.stored_dtype(),
            self.num_threads,
            maps,
            0 if self.source.resident else int(np.prod(self.source.chunks)),
            int(np.prod(blocks)),
            sum(
                getattr(source, "resident", 0)
                for source in (self.source, *self.maps.values())
                if getattr(source, "path", None) is not None  # arrays are the caller's
            ),
            max(each.sample["voxels"] for each in numbers),
        )
        automatic = isinstance(shards, str)
        if self.tile is None:
            smallest = Grid(shape, tuple(map(min, blocks, shape)), halo, periodic).largest
            if automatic and costs.bytes_of(smallest) > self.memory:
                shards, blocks = None, self._blocks(None)
            grid = costs.grid(shape, blocks, halo, self.memory, periodic=periodic)
        else:
            core = _validate.shape(self.tile, "tile")
            if len(core) != len(shape):
                raise ValueError(f"tile: got {core}, expected {len(shape)} lengths, one per axis")
            if automatic and any(c % k and c < n for c, k, n in zip(core, blocks, shape, strict=True)):
                shards, blocks = None, self._blocks(None)
            core = tuple(min(n, -(-c // b) * b) for c, b, n in zip(core, blocks, shape, strict=True))
            grid = Grid(shape, core, halo, periodic)
            if costs.bytes_of(grid.largest) > self.memory:
                raise ValueError(
                    f"tile: got {core}, which takes {costs.bytes_of(grid.largest) / 1e9:.3g} GB with halo; "
                    f"expected less, or more memory than {self.memory / 1e9:.3g} GB"
                )
        each = [sum(c == channel for _, c in self.source.items) for channel in self.channels]
        return numbers, grid, costs.predicted(grid, each, self.memory), shards

    def job(self, manifest: Manifest, *, resume: bool, overwrite: bool, psf_name: str | None = None) -> Job:
        """The job that the manifest records, or a new one."""
        record = manifest.record
        partial = manifest.destination.with_name(manifest.destination.name + _store.SUFFIX)
        if record.get("plan") is not None and (resume or record.get("finished")):
            if partial.exists() or manifest.destination.exists():
                # All tiles may be in, and a run that was killed then may have given it its name already.
                store = files.open_partial(manifest.destination) if partial.exists() else None
                job = self._job(record, store)
                if len(manifest.done()) == len(job) if store is None else store.id == record.get("store"):
                    return job
            raise FileNotFoundError(
                f"{partial}: has vanished, with what was finished of the job; resume=False begins anew"
            )
        _store.check_new(
            manifest.destination, self.source, self.output["dtype"], self.output["scale"], overwrite=overwrite
        )
        manifest.check_idle()
        if record:
            # The job was being prepared, or is to be begun anew: nothing of it is kept.
            _remove_partial(partial)
        manifest.discard()
        _store._check_free(partial, overwrite)
        numbers, grid, plan, shards = self.planned()
        seam = self._seam(numbers, grid)
        manifest.save(**self.description())
        output = {**self.output, "shards": shards, "derivation": self._derivation(numbers, psf_name)}
        try:
            store = files.create_store(manifest.destination, self.source, overwrite=overwrite, **output)
        except Exception:
            manifest.discard()  # nothing is there to go on with
            raise
        manifest.save(
            plan={**plan, "blocks": list(store.blocks), "periodic": grid.periodic},
            numbers=[each.record() for each in numbers],
            seam=seam,
            store=store.id,
            finished=False,
        )
        manifest.load()  # as any later run will find it
        return self._job(manifest.record, store)

    def _derivation(self, numbers: list[Numbers], psf_name: str | None) -> str:
        """What was done, as a run on the whole says it."""
        from .. import __version__

        done = []
        for each in numbers:
            boundary = each.options.get("boundary", "extended" if each.iterative else "reflect")
            done.append(f"{described(each.record())}, boundary {boundary}")
        shapes = [f"of {' x '.join(map(str, psf.shape))} voxels" for psf in self.psfs]
        name = "; ".join(dict.fromkeys(shapes)) if psf_name is None else psf_name
        return f"version {__version__}, restored in tiles by {'; '.join(dict.fromkeys(done))}; PSF {name}"

    def _job(self, record: dict[str, Any], store: Any) -> Job:
        plan = record["plan"]
        grid = Grid(tuple(plan["shape"]), tuple(plan["core"]), tuple(plan["halo"]), bool(plan["periodic"]))
        # Workers know nothing of what this process has chosen by use_backend.
        numbers = [
            Numbers.from_record({**each, "options": {**each["options"], "backend": self.backend}})
            for each in record["numbers"]
        ]
        channels = dict(zip(self.channels, zip(numbers, self.psfs, strict=True), strict=True))
        return Job(
            self.source, store, grid, channels, self.num_threads, self.backend, self.isa, maps=self.maps
        )

    def _seam(self, numbers: list[Numbers], grid: Grid) -> dict[str, Any] | None:
        """The largest of any channel."""
        found = []
        for each, psf, (item, around) in zip(numbers, self.psfs, self.samples, strict=True):
            if grid.periodic:  # the part is not, nor are its tiles
                boundary = "extended" if each.iterative else "reflect"
                each = replace(each, options={**each.options, "boundary": boundary})
            restorer = Restorer(each, psf, periodic=False, num_threads=self.num_threads)
            limit = int(np.prod(grid.largest))
            made = estimate_seam(self.source, self.maps, item, around, grid, restorer, limit)
            if made is not None:
                found.append(made)
        return max(found, key=lambda entry: entry["largest"], default=None)


def described(entry: dict[str, Any]) -> str:
    """The method of a record of `Numbers`, and what was chosen for it, in a few words."""
    options = entry["options"]
    words = [entry["method"].replace("_", "-")]
    if options.get("acceleration"):
        words.append(options["acceleration"])
    if isinstance(options.get("regularizer"), tuple | list):
        words.append("{} {:.4g}".format(*options["regularizer"]))
    if "num_iter" in options:
        words.append(f"{options['num_iter']} iterations")
    words += [f"{name} {options[name]:.4g}" for name in ("balance", "weight") if name in options]
    return ", ".join(words + unusual(options))


def _plain(value: Any) -> Any:
    """An option whose NumPy numbers are Python's, as the job's record needs them."""
    if type(value) is tuple:
        return tuple(map(_plain, value))
    return value.item() if hasattr(value, "item") and np.ndim(value) == 0 else value


def _shown(value: Any) -> Any:
    """A value of an option as JSON gives it back."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return _digest(value)
    if isinstance(value, list | tuple):
        return [_shown(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return repr(value)


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array, "<f8").tobytes()).hexdigest()


def _check_calls(workers: Any, client: Any, shard: Any) -> None:
    if workers is not None:
        _validate.integer(workers, "workers", minimum=1)
    if workers is not None and client is not None:
        raise ValueError(
            "workers: got it together with client, which has workers of its own; expected one of them"
        )
    if client is not None and not hasattr(client, "scheduler_info"):
        raise TypeError(f"client: got {_validate.shown(client)}, expected a dask.distributed.Client")
    if shard is not None:
        if not (isinstance(shard, tuple) and len(shard) == 2):
            raise TypeError(f"shard: got {shard!r}, expected a pair (index, number)")
        number = _validate.integer(shard[1], "shard[1]", minimum=1)
        _validate.integer(shard[0], "shard[0]", minimum=0, maximum=number - 1)


def _is_finished(manifest: Manifest, setup: _Setup, resume: bool, overwrite: bool) -> bool:
    """Whether the destination is the result of this very job already; refuse it if it is another's."""
    if not manifest.load():
        return False
    if manifest.record.get("plan") is None:
        return False  # it was being prepared: nothing is done of it
    changes = _differences(manifest.record, setup.description())
    if manifest.record.get("changed"):
        changes.append("its input changed while it was being read")
    if manifest.record.get("finished"):
        exists = manifest.destination.exists()
        if exists and not overwrite:
            own = manifest.record.get("result") in (None, _state_of(manifest.destination))
            if own and not changes:
                return True
            why = f"made by another job ({'; '.join(changes)})" if changes else "changed or replaced since"
            raise FileExistsError(
                f"{manifest.destination}: exists already, {why}; overwrite=True (on the command line "
                "--overwrite) replaces it"
            )
        manifest.discard()
        return False
    if changes and resume:
        raise ValueError(
            f"{manifest.destination}: an unfinished job of these names is there, but not the same one: "
            f"{'; '.join(changes)}. resume=False (--no-resume) begins anew"
        )
    return False


def _state_of(result: Path) -> list[list[Any]]:
    """Names, sizes and times of the files that a result is; of Zarr its metadata, which come last."""
    found: list[Path] = []
    for path in files.destinations(result):
        if files.is_zarr(path):
            found += (path / name for name in _zarr.METADATA_FILES)
        else:
            found += sorted(path.rglob("*")) if path.is_dir() else [path]
    states = ((path.name, path.stat()) for path in found if path.is_file())
    return [[name, state.st_size, state.st_mtime_ns] for name, state in states]


def _differences(before: dict[str, Any], now: dict[str, Any], name: str = "") -> list[str]:
    """What changed, in words."""
    changes = []
    for key in dict.fromkeys([*now, *(k for k in before if name)]):
        title = f"{name}.{key}" if name else key
        old, new = before.get(key), _shown_deep(now.get(key))
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            changes += _differences(old, new, title)
        elif key == "sha256" or title.startswith("psf"):
            changes.append("the psf is another one")
        else:
            changes.append(f"{title} was {_short(old)}, is {_short(new)}")
    return list(dict.fromkeys(changes))


def _shown_deep(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _shown_deep(v) for key, v in value.items()}
    return _shown(value) if not isinstance(value, list | tuple) else [_shown_deep(v) for v in value]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _remove_partial(partial: Path) -> None:
    if (partial / _store.STATE).is_file():
        _store.remove(partial)


def _share(number: int, shard: tuple[int, int] | None) -> range:
    if shard is None:
        return range(number)
    index, shards = shard
    return range(number * index // shards, number * (index + 1) // shards)


def _what_is_done(job: Job, manifest: Manifest, verify: bool) -> tuple[dict[int, Any], set[int]]:
    """Finished tiles, and with `verify` those of them whose voxels are no longer what was written."""
    done = manifest.done()
    if not done or not verify or job.store is None or job.store.named:
        return done, set()
    damaged = {n for n, entry in done.items() if not job.intact(entry)}
    return {n: entry for n, entry in done.items() if n not in damaged}, damaged


@contextlib.contextmanager
def _driver(
    job: Job, todo: list[int], failures: Any, workers: int | None, client: Any, ending: contextlib.ExitStack
) -> Iterator[Any]:
    if not todo:
        yield iter(())
        return
    if workers is None and client is None:
        yield _drivers.in_process(job, todo, failures)
        return
    name = f"medeconv-{uuid.uuid4().hex[:8]}"
    with _client(workers, client, ending) as (one, threads):
        if job.num_threads is None and threads is not None:
            job.num_threads = threads
        yield _cluster.on_cluster(job, todo, failures, one, name)


@contextlib.contextmanager
def _client(
    workers: int | None, client: Any, ending: contextlib.ExitStack
) -> Iterator[tuple[Any, int | None]]:
    if client is not None:
        yield client, None
        return
    assert workers is not None
    with _cluster.local(workers, ending) as one:
        yield one, max(1, get_num_threads() // workers)


def _end(job: Job, manifest: Manifest, overwrite: bool) -> None:
    """The result gets its name, and the job is recorded as finished."""
    job.release()
    if job.store is not None:
        # The store forgets it when it is finished, and this process may end before it has said so.
        manifest.save(clipped=int(job.store.clipped))
        job.store.finish(overwrite=overwrite)
    negative = sum(entry.negative for entry in manifest.done().values())
    manifest.finish(negative=negative, result=_state_of(manifest.destination))


def _result(
    manifest: Manifest, begun: float, *, finished: bool, computed: int, voxels: int, damaged: int = 0
) -> VolumeResult:
    record = manifest.record
    seconds = time.perf_counter() - begun
    # Channels may have the same.
    warnings = list(dict.fromkeys(text for each in record["numbers"] for text in each["warnings"]))
    negative = record.get("negative", 0)
    if negative:
        warnings.append(f"source: {negative} negative values were set to zero (those in halos counted again)")
    if damaged:
        warnings.append(
            f"{damaged} finished tiles of other shards are damaged: whoever has them must run once more"
        )
    return VolumeResult(
        path=str(manifest.destination),
        finished=finished,
        tiles=record["plan"]["tiles"],
        done=record["plan"]["tiles"] if finished else len(manifest.done()) - damaged,
        computed=computed,
        seconds=seconds,
        voxels_per_second=voxels / seconds,
        plan=VolumePlan(record["plan"]),
        numbers=record["numbers"],
        seam=record["seam"],
        clipped=record.get("clipped", 0),
        negative=negative,
        warnings=warnings,
    )
