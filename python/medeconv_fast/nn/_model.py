"""Model: a network that can be trained, applied, saved."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any, Self

import numpy as np

from .. import _arrays, _validate, backends
from .._threads import resolve_num_threads
from ..io._files import check_writable
from ._callbacks import as_callback
from ._data import ArrayPairs, Pairs, batch_axes, check_batch, check_channels
from ._engine import Engine
from ._graph import Graph, describe, in_order, layer_of, wired
from ._history import History
from ._layer import Input, Layer, Signal
from ._layouts import check_layout, from_layout, to_layout
from ._losses import Loss, as_loss
from ._optimizers import Optimizer, as_optimizer
from ._storage import path_of, read_architecture, read_tensors, write_tensors
from ._tiles import aligned, tiles
from ._training import Training, score_of

_LARGEST_SEED = 2**63 - 1


def _dtype(value: Any) -> np.dtype:
    try:
        made = np.dtype(value)
    except TypeError:
        made = np.dtype(object)
    if made not in (np.float32, np.float64):
        raise ValueError(f"dtype: got {_validate.shown(value)}, expected 'float32' or 'float64'")
    return made


class Model(Graph):
    """A network of layers, from one input to one output.

    Parameters
    ----------
    inputs : Signal
        From `Input`.
    output : Signal
        What the layers made of it.
    seed : int
        Same seed, same initial weights; also `fit`'s default.
    dtype : {"float32", "float64"}
        Of the weights and of training. `predict` computes in the dtype that follows the image.
    backend : {"auto", "cpp", "numba", "reference", "cuda"}
    num_threads : int, optional
        Neither changes a bit of the weights' start; the number of threads changes no bit of any result.
    name : str, optional

    Attributes
    ----------
    channels, ndim : int
        Of the images that it takes.
    scale : tuple of Fraction
        Size of the result over that of the image, per axis.
    notes : dict
        Anything that JSON knows, saved with the network.
    positive : bool
        Whether `predict`, `fit` and `evaluate` refuse images with negative values. What noise that is drawn
        in training would make negative becomes 0.

    Raises
    ------
    ValueError, TypeError
        Signals that do not hang together; options out of their range.

    Examples
    --------
    >>> import medeconv_fast as mf
    >>> image = mf.nn.Input(channels=1, ndim=2)
    >>> features = mf.nn.Conv(16, 3, activation="relu")(image)
    >>> result = mf.nn.Add()(image, mf.nn.Conv(1, 3)(features))
    >>> net = mf.nn.Model(image, result).compile(optimizer="adam", loss="mse")
    """

    def __init__(
        self,
        inputs: Signal,
        output: Signal,
        *,
        seed: int = 0,
        dtype: Any = "float32",
        backend: str = "auto",
        num_threads: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(inputs, output, name=name)
        if len(self.inputs) != 1:
            raise ValueError(f"inputs: got {len(self.inputs)}, expected one for a Model (several: a Graph)")
        self.seed = _validate.integer(seed, "seed", minimum=0, maximum=_LARGEST_SEED)
        self.dtype = _dtype(dtype)
        backends.resolve(backend)
        resolve_num_threads(num_threads)
        self.engine = Engine(backend, num_threads)
        self.channels, self.ndim = self.inputs[0].channels, self.inputs[0].ndim
        self.scale = output.scale
        self.notes: dict[str, Any] = {}
        self.positive = False
        self._loss: Loss | None = None
        self._optimizer: Optimizer | None = None
        for number, (_, layer) in enumerate(self.leaves()):
            if layer.shapes() and not layer.weights:
                layer.initialize(np.random.default_rng([self.seed, number]), self.dtype)
            for weight in layer.weights.values():
                if weight.dtype != self.dtype:
                    raise ValueError(
                        f"dtype: got {self.dtype.name!r}, expected {weight.dtype.name!r} as the weights that "
                        f"{layer._title()} has from another network"
                    )

    def __repr__(self) -> str:
        count = sum(w.size for w in self.named_weights().values())
        return f"{type(self).__name__}({len(self.layers)} layers, {count} weights, {self.dtype})"

    # ------------------------------------------------------------ weights

    def trained(self) -> list[tuple[Layer, str]]:
        """Layer and name of every weight that training changes."""
        return [(layer, name) for layer in self.trained_leaves() for name in layer.shapes()]

    def named_weights(self) -> dict[str, np.ndarray]:
        """Every weight itself, by the path of its layer and its name."""
        return {
            f"{path}.{name}": layer.weights[name] for path, layer in self.leaves() for name in layer.shapes()
        }

    def set_named_weights(self, weights: dict[str, np.ndarray], source: str = "weights") -> None:
        """Set every weight; names, shapes and finite values are checked before any is changed."""
        own = self.named_weights()
        missing, unknown = own.keys() - weights.keys(), weights.keys() - own.keys()
        if missing or unknown:
            text = f"{min(missing)!r} is missing" if missing else f"{min(unknown)!r} belongs to no layer"
            raise ValueError(f"{source}: weights of another architecture, {text}; expected those of {self!r}")
        for name, array in weights.items():
            if array.shape != own[name].shape:
                raise ValueError(
                    f"{source}: got {name!r} of shape {array.shape}, expected {own[name].shape}; weights of "
                    "another architecture"
                )
            _validate.numeric(array.dtype, f"{source}: {name}")
            _validate.finite(array, f"{source}: {name}", "")
            _validate.finite(_arrays.computable(array, self.dtype), f"{source}: {name} in {self.dtype}", "")
        for name, array in weights.items():
            own[name][...] = array

    def get_weights(self, layout: str = "torch") -> list[np.ndarray]:
        """Copies of all weights, layer by layer, each layer's weight before its bias.

        Parameters
        ----------
        layout : {"torch", "keras"}
            Convolutions in torch's axes, (out, in, [z,] y, x), or Keras's, ([z,] y, x, in, out). The order is
            that of torch's ``module.parameters()`` and of Keras's ``model.get_weights()`` of the same layers.

        Returns
        -------
        list of numpy.ndarray

        Raises
        ------
        ValueError
            Another layout.
        """
        layout = check_layout(layout)
        return [
            to_layout(layer, name, layer.weights[name], layout)
            for _, layer in self.leaves()
            for name in layer.shapes()
        ]

    def set_weights(self, weights: Sequence[Any], layout: str = "torch") -> None:
        """Set all weights from a list such as `get_weights` gives.

        Parameters
        ----------
        weights : sequence of array_like
        layout : {"torch", "keras"}

        Raises
        ------
        ValueError, TypeError
            Another number of arrays, a shape that does not fit (the message names the layer), NaN or Inf.
        """
        layout = check_layout(layout)
        if not isinstance(weights, Iterable):
            raise TypeError(
                f"weights: got {_validate.shown(weights)}, expected arrays as get_weights gives them"
            )
        weights = list(weights)
        places = [(path, layer, name) for path, layer in self.leaves() for name in layer.shapes()]
        if len(weights) != len(places):
            raise ValueError(f"weights: got {len(weights)} arrays, expected {len(places)}, those of {self!r}")
        named = {}
        for i, ((path, layer, name), value) in enumerate(zip(places, weights, strict=True)):
            array, _ = _arrays.to_numpy(value, f"weights[{i}]")
            if array.ndim == len(layer.shapes()[name]):
                array = from_layout(layer, name, array, layout)
            named[f"{path}.{name}"] = array
        self.set_named_weights(named)

    # ------------------------------------------------------------ training

    def compile(
        self,
        optimizer: Any = "adam",
        loss: Any = "mse",
        *,
        learning_rate: Any = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> Self:
        """Choose how the network is trained.

        Parameters
        ----------
        optimizer : {"adam", "sgd", "adamw", "muon"} or optimizer
            Such as ``nn.Adam(1e-3, beta1=0.9)``; one that was in use for the same weights goes on where it
            stands, for others it starts anew.
        loss : {"mse", "mae", "ssim", "poisson", "rln"} or callable
            Mean squared or absolute error, 1 - SSIM, the likelihood of counts, squared error with SSIM as in
            Li et al. 2022; or a function (prediction, target, engine, weights) -> (value, gradient to the
            prediction).
        learning_rate : float or schedule, optional
            For an optimizer given by name: a number, `ExponentialDecay` or `CosineDecay`.
        clip_norm, clip_value : float, optional
            For an optimizer given by name: the largest norm of all gradients together, the largest absolute
            value of one.

        Returns
        -------
        Model
            This network.

        Raises
        ------
        ValueError, TypeError
            Unknown names, numbers out of their range.
        """
        made = as_optimizer(
            optimizer, learning_rate=learning_rate, clip_norm=clip_norm, clip_value=clip_value
        )
        self._loss, self._optimizer = as_loss(loss), made
        weights = [layer.weights[name] for layer, name in self.trained()]
        if not made.fits(weights):
            made.reset(weights)
        return self

    def _compiled(self) -> tuple[Loss, Optimizer]:
        if self._loss is None or self._optimizer is None:
            raise RuntimeError("the network is not compiled yet: call compile(optimizer=..., loss=...) first")
        return self._loss, self._optimizer

    def fit(
        self,
        x: Any,
        y: Any = None,
        epochs: int = 10,
        batch_size: int = 32,
        validation_data: Any = None,
        *,
        callbacks: Sequence[Any] = (),
        augment: Callable[..., Any] | None = None,
        shuffle: bool = True,
        seed: int | None = None,
        checkpoint: Any = None,
        resume: bool = False,
        progress: bool | None = None,
        overwrite: bool = False,
    ) -> History:
        """Train on pairs of images and targets.

        Parameters
        ----------
        x : array_like or sampler
            Images (N, C, [z,] y, x), or a `PatchSampler` (then `y` is None). They are never rescaled;
            training goes best on data of unit scale.
        y : array_like
            Targets (N, C, [z,] y, x) of the size that the network makes of an image.
        epochs : int
            How often all pairs are gone through; with `resume` in all.
        batch_size : int
            Pairs of one update, at most N. Where it does not divide N, each epoch's last batch is smaller.
        validation_data : (x, y) or sampler, optional
            Pairs to measure on after every epoch.
        callbacks : sequence
            `EarlyStopping`, `ReduceOnPlateau`, another `Callback`, or functions of (epoch, logs).
        augment : Augmentation or callable, optional
            (x, y, generator) -> (x, y) for single pairs (C, *spatial).
        shuffle : bool
            A new order in every epoch.
        seed : int, optional
            Of order and augmentation; default: the network's.
        checkpoint : path-like, optional
            File to write after every epoch; `load` reads it too, with `EarlyStopping`'s best weights. One
            that exists needs `resume` or `overwrite`.
        resume : bool
            Go on from `checkpoint` where it exists. The weights then are bit for bit those of a run that was
            not interrupted. Refused with other settings, another PSF, or data that are another in mean or
            deviation of a few samples.
        progress : bool, optional
            Draw loss, PSNR and time left on stderr; default: where that is a terminal.
        overwrite : bool
            Start anew and replace a `checkpoint` that exists, once the first epoch is done.

        Returns
        -------
        History

        Raises
        ------
        ValueError, TypeError
            Arrays that do not fit each other or the network, an empty data set, fewer samples than a batch,
            NaN in the data, values of x below 0 where the network is `positive`, a checkpoint of another
            training.
        FileExistsError
            `checkpoint` exists, and neither `resume` nor `overwrite` is True.
        RuntimeError
            Not compiled.
        FloatingPointError
            A loss that is not finite, or weights that a layer cannot work with; the message names the batch,
            and the network keeps the last good weights. NaN or Inf from a sampler: a ValueError as well.
        """
        loss, optimizer = self._compiled()
        pairs = self._pairs(x, y)
        epochs = _validate.integer(epochs, "epochs", minimum=1)
        batch_size = _validate.integer(batch_size, "batch_size", minimum=1)
        if batch_size > len(pairs):
            raise ValueError(
                f"batch_size: got {batch_size}, expected at most {len(pairs)}, the number of samples"
            )
        if augment is not None and not callable(augment):
            raise TypeError(
                f"augment: got {_validate.shown(augment)}, expected nn.Augmentation or a function"
            )
        if resume and checkpoint is None:
            raise ValueError("resume: got True without a checkpoint, expected checkpoint='FILE.safetensors'")
        resume, overwrite = _validate.flag(resume, "resume"), _validate.flag(overwrite, "overwrite")
        path = None if checkpoint is None else path_of(checkpoint, "checkpoint")
        if path is not None:
            if path.exists() and not (resume or overwrite):
                raise FileExistsError(
                    f"checkpoint: {path} exists already; expected resume=True to go on from it, or "
                    "overwrite=True"
                )
            check_writable(path, overwrite=True)
        if not isinstance(callbacks, Iterable):
            raise TypeError(f"callbacks: got {_validate.shown(callbacks)}, expected a list of them")
        training = Training(
            self,
            pairs,
            self._validation(validation_data),
            loss=loss,
            optimizer=optimizer,
            callbacks=[as_callback(callback) for callback in callbacks],
            augment=augment,
            epochs=epochs,
            batch_size=batch_size,
            shuffle=_validate.flag(shuffle, "shuffle"),
            seed=self.seed
            if seed is None
            else _validate.integer(seed, "seed", minimum=0, maximum=_LARGEST_SEED),
        )
        return training.run(path, resume, progress)

    def _validation(self, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, tuple | list):
            if len(value) != 2:
                raise ValueError(f"validation_data: got {len(value)} values, expected (x, y)")
            x, y = value
        else:
            x, y = value, None
        names = ("validation_data[0]", "validation_data[1]")
        return self._pairs(x, y, names)

    def _pairs(self, x: Any, y: Any, names: tuple[str, str] = ("x", "y")) -> Pairs:
        """What `fit` is given as a source of pairs."""
        if isinstance(x, Pairs):
            if y is not None:
                raise TypeError(
                    f"{names[1]}: got {_validate.shown(y)}, expected None beside a sampler of pairs"
                )
            return x
        if y is None:
            raise TypeError(f"{names[1]}: got None, expected the targets, an array (N, C, ...)")
        return ArrayPairs(x, y, self.ndim, self.channels, self.dtype, names, self.positive)

    def evaluate(self, x: Any, y: Any = None, batch_size: int = 32) -> dict[str, float]:
        """Loss and PSNR on pairs, without training.

        Parameters
        ----------
        x, y, batch_size
            As in `fit`.

        Returns
        -------
        dict
            loss, psnr (dB, over the range of the targets).

        Raises
        ------
        ValueError, TypeError, RuntimeError
            As `fit`.
        """
        loss, _ = self._compiled()
        batch_size = _validate.integer(batch_size, "batch_size", minimum=1)
        score = score_of(self, self._pairs(x, y), loss, batch_size)
        return {"loss": score.loss, "psnr": score.psnr}

    # ------------------------------------------------------------ applying

    def predict(self, x: Any, batch_size: int = 8, *, tile: Any = None) -> Any:
        """Apply the network to images of any size.

        Parameters
        ----------
        x : array_like
            (N, C, [z,] y, x).
        batch_size : int
            Images passed through at once.
        tile : int or one int per axis, optional
            Cut images into tiles of this size and so much around them as the result depends on; less memory,
            and the same result up to rounding, but for the smallest divisor of `RichardsonLucyStep`, which
            follows the largest value of a tile.

        Returns
        -------
        array of the kind of `x`
            (N, C, [z,] y, x) times `scale`; float64 for float64 and 32- and 64-bit integers, else float32.

        Raises
        ------
        ValueError, TypeError
            An array that does not fit the network, NaN or Inf; where the network is `positive` values below
            0, and an image whose largest value `richardson_lucy` would refuse as too small or too large;
            `tile` for a network with layers that look at whole images (normalization, periodic padding or
            boundaries), or whose results are not as long as the image times `scale`.
        """
        array, restore = _arrays.to_numpy(x, "x")
        check_batch(array, "x", self.ndim)
        check_channels(array, "x", self.channels)
        batch_size = _validate.integer(batch_size, "batch_size", minimum=1)
        data = _arrays.computable(array, _arrays.result_dtype(array.dtype))
        lowest, _ = _validate.finite(data, "x", batch_axes(self.ndim))
        if self.positive:
            _validate.non_negative(data, "x", lowest)
            for item in data:
                _validate.scale(float(item.max()), "x", data.dtype)
        out: np.ndarray | None = None
        doubt: str | None = None
        lengths = data.shape[2:]
        everything = (slice(None),)
        engine = self.engine.settled()
        cuts = list(tiles(lengths, *self._tiling(tile, lengths), self.scale))
        if tile is not None:
            for sizes in {tuple(cut.stop - cut.start for cut in window) for window, _, _ in cuts}:
                self._check_lengths(sizes)
        for start in range(0, len(data), batch_size):
            batch = slice(start, start + batch_size)
            for window, inner, place in cuts:
                part = np.ascontiguousarray(data[(batch, *everything, *window)])
                made = self.forward([part], engine, None)
                doubt = doubt or self._doubt(part, made, engine)
                if tile is None:
                    inner = place = tuple(slice(0, n) for n in made.shape[2:])
                if out is None:
                    if tile is None and len(part) == len(data):
                        out = made.copy() if made is part else made  # a Crop may have none to make
                        break
                    spatial = made.shape[2:]
                    if tile is not None:
                        spatial = tuple(int(n * s) for n, s in zip(lengths, self.scale, strict=True))
                    out = self.engine.empty((len(data), made.shape[1], *spatial), data.dtype)
                out[(batch, *everything, *place)] = made[(*everything, *everything, *inner)]
        assert out is not None
        if doubt is not None:
            warnings.warn(f"predict: {doubt}", UserWarning, stacklevel=2)
        return restore(out)

    def _doubt(self, image: np.ndarray, result: np.ndarray, engine: Engine) -> str | None:
        """Why a result should not be trusted, if it can be seen; a batch of each."""
        return None

    def _tiling(self, tile: Any, lengths: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Core and halo of the tiles."""
        if tile is None:
            return lengths, (0,) * self.ndim
        given = (tile,) * self.ndim if np.ndim(tile) == 0 else tuple(tile)
        if len(given) != self.ndim:
            raise ValueError(f"tile: got {len(given)} values, expected one or {self.ndim}, one per axis")
        core = [_validate.integer(n, "tile", minimum=1) for n in given]
        if math.inf in self.output.reach:
            first = next(signal.layer for signal in self._made() if math.inf in signal.reach)
            assert first is not None
            raise ValueError(
                f"tile: got {tile!r}, expected None: {first._title()} looks at whole images "
                "(normalization, or a periodic padding or boundary)"
            )
        # Where a network makes images smaller, tiles must begin where its strides do.
        steps = self._steps()
        return (
            tuple(aligned(n, step) for n, step in zip(core, steps, strict=True)),
            tuple(aligned(reach, step) for reach, step in zip(self.output.reach, steps, strict=True)),
        )

    def _check_lengths(self, lengths: tuple[int, ...]) -> None:
        """Refuse tiles whose results are longer or shorter than their place in the whole one."""
        made = self.all_lengths([lengths])
        scales = [signal.scale for signal in (*self.inputs, *self._made())]
        wanted = [tuple(int(n * s) for n, s in zip(lengths, scale, strict=True)) for scale in scales]
        if made[-1] == wanted[-1]:
            return
        at = len(made) - 1
        while others := [i for i in self.nodes[at - 1].inputs if made[i] != wanted[i]]:
            at = others[0]
        raise ValueError(
            f"tile: {self.nodes[at - 1].layer._title()} makes {made[at]} values of a part of {lengths}, "
            f"expected {wanted[at]}, so that parts can be joined; without tile any number will do"
        )

    def _steps(self) -> tuple[int, ...]:
        """Per axis the least common multiple of all strides so far from the input."""
        scales = self.scales((Fraction(1),) * self.ndim)
        return tuple(math.lcm(*(s.denominator for s in axis)) for axis in zip(*scales, strict=True))

    def summary(self) -> str:
        """The layers in a table: what they make, and how many weights they have."""
        rows = [("layer", "kind", "channels", "scale", "weights", "shapes")]
        changing = {id(leaf) for leaf in self.trained_leaves()}
        for node in self._made():
            layer = node.layer
            assert layer is not None
            leaves = [leaf for _, leaf in layer.leaves()] if isinstance(layer, Graph) else [layer]
            shapes = [s for leaf in leaves for s in leaf.shapes().values()]
            frozen = " (frozen)" if shapes and not any(id(leaf) in changing for leaf in leaves) else ""
            rows.append(
                (
                    layer.name,
                    type(layer).__name__,
                    str(node.channels),
                    " ".join(str(s) for s in node.scale),
                    f"{sum(math.prod(s) for s in shapes)}{frozen}",
                    ", ".join("x".join(map(str, s)) for s in shapes),
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        weights = self.named_weights()
        trained = sum(layer.weights[name].size for layer, name in self.trained())
        total = sum(w.size for w in weights.values())
        reach = ", ".join("the whole image" if math.isinf(r) else f"{r:g}" for r in self.output.reach)
        lines += [
            f"{total} weights, {trained} of them trained, "
            f"{sum(w.nbytes for w in weights.values()) / 1e3:.1f} kB",
            f"a value depends on so many pixels around it: {reach}",
        ]
        return "\n".join(lines)

    def _made(self) -> list[Signal]:
        return in_order(self.inputs, self.output)

    # ------------------------------------------------------------ files

    def architecture(self) -> dict[str, Any]:
        """What makes this network again, but for its weights, as JSON knows it."""
        frozen = [path for path, layer in self._freezable() if not layer.trainable]
        return {"kind": type(self).__name__, "arguments": self.arguments(), "frozen": frozen}

    def _freezable(self) -> list[tuple[str, Layer]]:
        """This network, as "", and in it what holds weights."""
        return [
            ("", self),
            *(pair for pair in self.members() if isinstance(pair[1], Graph) or pair[1].shapes()),
        ]

    def arguments(self) -> dict[str, Any]:
        """Those of `from_arguments`."""
        return Graph.options(self)

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any], **options: Any) -> Model:
        """The network that `arguments` describes; `options` are seed, dtype, backend and num_threads."""
        inputs, output = wired(arguments)
        return Model(inputs[0], output, **options)

    def save(self, path: Any, *, overwrite: bool = False) -> None:
        """Write architecture, weights and notes to a safetensors file.

        Parameters
        ----------
        path : path-like
        overwrite : bool
            Replace an existing file.

        Raises
        ------
        FileExistsError
            The file exists.
        ImportError
            safetensors is not installed (extra nn).
        """
        write_tensors(
            path_of(path, "path"),
            self.named_weights(),
            self,
            {},
            overwrite=_validate.flag(overwrite, "overwrite"),
        )

    def to_onnx(self, path: Any, *, overwrite: bool = False) -> None:
        """Write the network as ONNX: opset 17, IR version 8, float32, images of any number and size.

        A blur with boundary "reflect" or "wrap" needs images at least as long as its filters reach, one with
        "mirror" longer ones; running the file on shorter ones fails.

        Parameters
        ----------
        path : path-like
        overwrite : bool
            Replace an existing file.

        Raises
        ------
        NotImplementedError
            A layer or an option that opset 17 does not have; the message names the layer.
        FileExistsError
            The file exists.
        ImportError
            onnx is not installed (extra onnx).
        """
        from ._onnx import write_onnx  # here: it knows every layer, and models are made of layers

        write_onnx(self, path_of(path, "path"), overwrite=_validate.flag(overwrite, "overwrite"))

    @classmethod
    def load(cls, path: Any, *, backend: str = "auto", num_threads: int | None = None) -> Any:
        """Read a network that `save`, or `fit` as a checkpoint, wrote.

        Of a checkpoint of a training with `EarlyStopping` it has the best weights so far.

        Parameters
        ----------
        path : path-like
        backend, num_threads
            As the network's own.

        Returns
        -------
        Model
            Of the class that was saved; called on a class other than `Model`, of that class.

        Raises
        ------
        FileNotFoundError
            No such file.
        ValueError
            Not a network's file, damaged weights, or a network of another architecture.
        ImportError
            safetensors is not installed (extra nn).
        """
        path = path_of(path, "path")
        tensors, metadata = read_tensors(path)
        described = read_architecture(path, metadata)
        known = {kind.__name__: kind for kind in _kinds(Model)}
        kind = known.get(described["kind"])
        if kind is None or not issubclass(kind, cls):
            raise ValueError(
                f"{path}: holds a network of the architecture {described['kind']!r}, expected "
                f"{cls.__name__!r}"
            )
        try:
            model = kind.from_arguments(
                described["arguments"], dtype=metadata["dtype"], backend=backend, num_threads=num_threads
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: its description of the network does not make one ({error})") from error
        if "frozen" in described:  # files written earlier do not say
            for name, layer in model._freezable():
                layer.trainable = name not in described["frozen"]
        weights = tensors
        if "training" in metadata:
            weights = {n.removeprefix("weights/"): a for n, a in tensors.items() if n.startswith("weights/")}
            best = json.loads(metadata["training"]).get("best", {})
            weights |= {name: tensors[place] for name, place in best.items()}
        model.set_named_weights(weights, str(path))
        model.notes = _notes(metadata)
        return model


def _notes(metadata: dict[str, str]) -> dict[str, Any]:
    notes: dict[str, Any] = json.loads(metadata.get("notes", "{}"))
    return notes


def _kinds(kind: type[Model]) -> list[type[Model]]:
    return [kind, *(deeper for child in kind.__subclasses__() for deeper in _kinds(child))]


class Sequential(Model):
    """A network of layers one after the other.

    Parameters
    ----------
    layers : sequence of Layer
    channels, ndim : int
        Of the images that it takes.
    seed, dtype, backend, num_threads, name
        As in `Model`.

    Raises
    ------
    ValueError, TypeError
        Layers that do not fit each other; the message names the layer.

    Examples
    --------
    >>> import medeconv_fast as mf
    >>> layers = [mf.nn.Conv(64, 3, activation="relu"), mf.nn.UpSampling(2), mf.nn.Conv(1, 3)]
    >>> net = mf.nn.Sequential(layers).compile(optimizer="adam", loss="mse")
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        channels: int = 1,
        ndim: int = 2,
        *,
        seed: int = 0,
        dtype: Any = "float32",
        backend: str = "auto",
        num_threads: int | None = None,
        name: str | None = None,
    ) -> None:
        start = signal = Input(channels, ndim)
        if not layers:
            raise ValueError("layers: got none, expected at least one")
        for layer in layers:
            if not isinstance(layer, Layer):
                raise TypeError(f"layers: got {_validate.shown(layer)}, expected layers of mf.nn")
            signal = layer(signal)
        super().__init__(
            start, signal, seed=seed, dtype=dtype, backend=backend, num_threads=num_threads, name=name
        )

    def arguments(self) -> dict[str, Any]:
        return {
            "layers": [describe(layer) for layer in self.layers],
            "order": [self.layers.index(node.layer) for node in self.nodes],
            "channels": self.channels,
            "ndim": self.ndim,
        }

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any], **options: Any) -> Model:
        layers = [layer_of(description) for description in arguments["layers"]]
        # Files without an order are of networks that use each layer once.
        order = arguments.get("order", range(len(layers)))
        return cls([layers[i] for i in order], arguments["channels"], arguments["ndim"], **options)
