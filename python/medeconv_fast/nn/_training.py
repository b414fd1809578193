"""The training loop: batches, updates, validation, checkpoints.

Every sample has a random generator of its own, seeded by (seed, epoch, number), and every sum has a fixed
order, so that the same call gives the same weights bit for bit, for any number of threads, and a run that was
killed and resumed ends where an unbroken one does.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _arrays, _validate
from ._augmentation import Augmentation
from ._callbacks import Callback, EarlyStopping
from ._data import Pairs, batch_axes, check_channels
from ._engine import Engine
from ._history import History
from ._layer import Gradients, Layer, Tape
from ._losses import Loss, mean_squared_error
from ._optimizers import Optimizer
from ._progress import ProgressBar
from ._storage import description, read_architecture, read_tensors, write_tensors

if TYPE_CHECKING:
    from ._model import Model

Batch = tuple[np.ndarray, np.ndarray, np.ndarray | None]

# Beside the numbers of samples and epochs, in the seeds: what is measured on is not what an epoch drew.
_SHUFFLE, _LOOK, _SCORE = 1 << 40, 1 << 41, 1 << 42
LOOKED_AT = 4  # samples that tell one data set from another
# Of a sample's deviation: where a volume's values are rounded otherwise, photons may be drawn anew.
SAME_DATA = 0.05


class BadDataError(ValueError, FloatingPointError):
    """Samples with values that are not finite: the data is at fault, and the loss is not finite."""


class _Score:
    """Mean loss and PSNR over batches."""

    def __init__(self) -> None:
        self._loss = self._square = 0.0
        self._samples = 0
        self._low, self._high = math.inf, -math.inf

    def add(self, loss: float, prediction: np.ndarray, target: np.ndarray, square: float | None) -> None:
        count = len(target)
        if square is None:
            difference = prediction - target
            square = float(np.square(difference, out=difference).mean(dtype=np.float64))
        self._loss += loss * count
        self._square += square * count
        self._samples += count
        self._low, self._high = min(self._low, float(target.min())), max(self._high, float(target.max()))

    @property
    def loss(self) -> float:
        return self._loss / self._samples

    @property
    def psnr(self) -> float:
        """Over the range of the targets seen; infinite where nothing is wrong, NaN where they are flat."""
        peak, square = (self._high - self._low) ** 2, self._square / self._samples
        if peak == 0:
            return math.nan
        return math.inf if square == 0 else 10 * math.log10(peak / square)


class Training:
    """One call of `Model.fit`.

    Attributes
    ----------
    model : Model
    epoch : int
        Of those done, the number of the last one (from 1).
    optimizer : Optimizer
    history : History
    weights : list of numpy.ndarray
        What is trained, changed in place.
    """

    def __init__(
        self,
        model: Model,
        pairs: Pairs,
        validation: Pairs | None,
        *,
        loss: Loss,
        optimizer: Optimizer,
        callbacks: Sequence[Callback],
        augment: Callable[..., Any] | None,
        epochs: int,
        batch_size: int,
        shuffle: bool,
        seed: int,
    ) -> None:
        self.model, self.optimizer, self.callbacks = model, optimizer, callbacks
        self.epoch = 0
        self.history = History()
        self._pairs, self._validation = pairs, validation
        self._loss, self._augment = loss, augment
        self._epochs, self._batch_size, self._shuffle, self._seed = epochs, batch_size, shuffle, seed
        self._trained: list[tuple[Layer, str]] = model.trained()
        self._stopped: str | None = None
        if not self._trained:
            raise ValueError("fit: every layer is frozen (trainable=False), expected weights to train")
        if not optimizer.fits(self.weights):
            optimizer.reset(self.weights)

    @property
    def weights(self) -> list[np.ndarray]:
        return [layer.weights[name] for layer, name in self._trained]

    def stop(self, reason: str) -> None:
        """End the training after this epoch."""
        self._stopped = reason

    # ------------------------------------------------------------ epochs

    def run(self, checkpoint: Path | None, resume: bool, progress: Any) -> History:
        if checkpoint is not None:
            description(self.model)  # what cannot be written is refused before the first epoch, not after
            self._data = self._look()
        if resume and checkpoint is not None and checkpoint.exists():
            self._resume(checkpoint)
        else:
            for callback in self.callbacks:
                callback.begin(self)
        bar = ProgressBar(self._epochs - self.epoch, -(-len(self._pairs) // self._batch_size), progress)
        first = self.epoch
        while self.epoch < self._epochs and self._stopped is None:
            begun = time.monotonic()
            rate = self.optimizer.learning_rate
            score = self._one_epoch(self.epoch, bar, first)
            self.epoch += 1
            logs = {"loss": score.loss, "psnr": score.psnr, "learning_rate": rate}
            if self._validation is not None:
                found = score_of(self.model, self._validation, self._loss, self._batch_size)
                logs |= {"val_loss": found.loss, "val_psnr": found.psnr}
            for callback in self.callbacks:
                callback.epoch_end(self, logs)
            self.history.epochs.append({**logs, "seconds": time.monotonic() - begun})
            bar.epoch_end(self.epoch - first, logs)
            if checkpoint is not None:
                self._save(checkpoint)
        for callback in self.callbacks:
            callback.end(self)
        self.history.stopped_by = self._stopped or "epochs"
        return self.history

    def _one_epoch(self, epoch: int, bar: ProgressBar, first: int) -> _Score:
        size, count = self._batch_size, len(self._pairs)
        numbers = np.arange(count)
        if self._shuffle:
            numbers = self._pairs.order(np.random.default_rng([self._seed, epoch, _SHUFFLE]))
        score = _Score()
        for batch, start in enumerate(range(0, count, size), 1):
            chosen = numbers[start : start + size]
            x, y, weights = self._batch(chosen, epoch)
            self._update(
                x, y, weights, score, f"batch {batch} of epoch {epoch + 1} (samples {_listed(chosen)})"
            )
            bar.step(epoch - first + 1, batch, score.loss, score.psnr)
        return score

    def _batch(self, numbers: np.ndarray, epoch: int) -> Batch:
        return make_batch(self.model, self._pairs, numbers, (self._seed, epoch), self._augment)

    def _update(
        self, x: np.ndarray, y: np.ndarray, weights: np.ndarray | None, score: _Score, where: str
    ) -> None:
        model, engine = self.model, self.model.engine
        tape: Tape = {}
        prediction = model.forward([x], engine, tape)
        _check_target(prediction, y)
        value, grad = _of_loss(self._loss, prediction, y, engine, weights)
        if not math.isfinite(value):
            self._go_back()
            told = (
                f"fit: the loss of {where} is {value}; stopped, and the network has the weights of the last "
                "update with a finite loss"
            )
            if fault := _not_finite(x, y, weights):
                raise BadDataError(f"{told}. {fault}")
            raise FloatingPointError(
                f"{told}. A smaller learning rate, clip_norm=1 or data of unit scale may help"
            )
        score.add(
            value, prediction, y, value if weights is None and self._loss is mean_squared_error else None
        )
        del prediction
        gradients = Gradients()
        model.backward(_checked(grad, y.shape, model.dtype), tape, engine, gradients, (False,))
        self._good = [weight.copy() for weight in self.weights]
        grads = [gradients.of(layer, name) for layer, name in self._trained]
        self.optimizer.update(self.weights, grads)
        if not all(math.isfinite(float(w.sum(dtype=np.float64))) for w in self.weights):
            self._go_back()
            raise FloatingPointError(
                f"fit: {where} made weights that are not finite; stopped, and the network has those before it"
            )
        for layer, _ in self._trained:
            if fault := layer.fault():
                self._go_back()
                raise FloatingPointError(
                    f"fit: {where} made weights that layer {layer.name} cannot work with: {fault}; stopped, "
                    "and the network has those before it. A smaller learning rate or clip_norm=1 may help"
                )

    _good: list[np.ndarray] | None = None
    _data: list[list[float]]  # of a run with a checkpoint

    def _go_back(self) -> None:
        if self._good is not None:
            for weight, good in zip(self.weights, self._good, strict=True):
                weight[...] = good
        self.optimizer.reset(self.weights)

    # ------------------------------------------------------------ checkpoints

    def _settings(self) -> dict[str, Any]:
        """What must be the same for a resumed run to end where an unbroken one does."""
        describe = getattr(self._augment, "describe", None)
        describe_loss = getattr(self._loss, "describe", dict)
        return {
            "optimizer": self.optimizer.describe(),
            "loss": getattr(self._loss, "__name__", type(self._loss).__name__),
            "loss_options": describe_loss() or None,  # None as where files written earlier do not say
            "batch_size": self._batch_size,
            "samples": len(self._pairs),
            "shuffle": self._shuffle,
            "seed": self._seed,
            "augment": describe() if describe else None if self._augment is None else "a function",
            "callbacks": [type(callback).__name__ for callback in self.callbacks],
            "trained": [f"{layer.name}.{name}" for layer, name in self._trained],
        }

    def _look(self) -> list[list[float]]:
        """Means and deviations of images and targets of a few samples: they tell data sets apart."""
        found = []
        for pairs in (self._pairs, self._validation):
            count = 0 if pairs is None else len(pairs)
            for number in np.linspace(0, count - 1, min(count, LOOKED_AT)).astype(int).tolist():
                assert pairs is not None
                sample = pairs.pair(number, np.random.default_rng([self._seed, _LOOK, number]))
                for array in sample[:2]:
                    values = np.asarray(array, np.float64)
                    found.append([float(values.mean()), float(values.std())])
        return found

    def _save(self, path: Path) -> None:
        tensors = {f"weights/{name}": w for name, w in self.model.named_weights().items()}
        for slot, arrays in self.optimizer.state.items():
            tensors |= {f"optimizer/{slot}/{i}": array for i, array in enumerate(arrays)}
        states = []
        best: dict[str, str] = {}  # where the weights are that `end` will put back
        paths = {id(layer): place for place, layer in self.model.leaves()}
        for number, callback in enumerate(self.callbacks):
            numbers, arrays_of = callback.state()
            states.append(numbers)
            tensors |= {f"callbacks/{number}/{name}": array for name, array in arrays_of.items()}
            if isinstance(callback, EarlyStopping):
                for i, (layer, name) in zip(arrays_of, self._trained, strict=False):
                    best[f"{paths[id(layer)]}.{name}"] = f"callbacks/{number}/{i}"
        progress = {
            "epoch": self.epoch,
            "updates": self.optimizer.updates,
            "factor": self.optimizer.factor,
            "history": self.history.epochs,
            "stopped": self._stopped,
            "callbacks": states,
        }
        training = {"settings": self._settings(), "progress": progress, "best": best, "data": self._data}
        write_tensors(path, tensors, self.model, {"training": json.dumps(training)}, overwrite=True)

    def _resume(self, path: Path) -> None:
        tensors, metadata = read_tensors(path)
        if "training" not in metadata:
            raise ValueError(f"{path}: holds a network, not a checkpoint; expected one that fit wrote")
        training = json.loads(metadata["training"])
        described = read_architecture(path, metadata)
        network = self.model.architecture()
        held = {"kind": described["kind"], "dtype": metadata["dtype"], "network": described["arguments"]}
        held |= training["settings"]
        wanted = {"kind": network["kind"], "dtype": self.model.dtype.name, "network": network["arguments"]}
        # Through JSON, so that both sides know the same kinds of values.
        for name, value in json.loads(json.dumps(wanted | self._settings())).items():
            if held.get(name) != value:
                shown = _validate.shown if name == "network" else repr  # it may have hundreds of layers
                raise ValueError(
                    f"{path}: the checkpoint's {name} is {shown(held.get(name))}, expected {shown(value)} as "
                    "in this call; remove it to start anew"
                )
        held_data = np.array(training.get("data", self._data))  # files written earlier do not say
        data = np.array(self._data)
        if held_data.shape != data.shape or np.any(abs(held_data - data) > SAME_DATA * held_data[:, 1:]):
            raise ValueError(
                f"{path}: the checkpoint was trained on other images, targets, PSF or validation data (their "
                "means or deviations differ), expected the same as in this call; remove it to start anew"
            )
        kinds: dict[str, dict[str, np.ndarray]] = {"weights": {}, "optimizer": {}, "callbacks": {}}
        for name, array in tensors.items():
            kind, _, rest = name.partition("/")
            kinds[kind][rest] = array
        trained = {id(layer.weights[name]) for layer, name in self._trained}
        for name, weight in self.model.named_weights().items():
            other = kinds["weights"].get(name)
            if id(weight) in trained or other is None or other.shape != weight.shape:
                continue
            if np.any(abs(other - weight) > 1e-5 * abs(weight).max(initial=0)):
                raise ValueError(
                    f"{path}: the checkpoint's {name}, which is not trained (of a known PSF, or frozen), has "
                    "other values than this network's; expected the same, remove it to start anew"
                )
        self.model.set_named_weights(kinds["weights"], str(path))
        progress = training["progress"]
        self.epoch, self._stopped = progress["epoch"], progress["stopped"]
        self.history.epochs = progress["history"]
        self.optimizer.updates, self.optimizer.factor = progress["updates"], progress["factor"]
        for slot, arrays in self.optimizer.state.items():
            for i, array in enumerate(arrays):
                array[...] = kinds["optimizer"][f"{slot}/{i}"]
        for number, (callback, numbers) in enumerate(zip(self.callbacks, progress["callbacks"], strict=True)):
            prefix = f"{number}/"
            own = {n.removeprefix(prefix): a for n, a in kinds["callbacks"].items() if n.startswith(prefix)}
            callback.restore(numbers, own)


def make_batch(
    model: Model,
    pairs: Pairs,
    numbers: Sequence[int] | np.ndarray,
    seeds: tuple[int, int],
    augment: Callable[..., Any] | None = None,
) -> Batch:
    """Images, targets and weights of the samples of these numbers, in the network's dtype."""
    arrays: list[np.ndarray] = []
    for place, number in enumerate(numbers):
        generator = np.random.default_rng([*seeds, int(number)])
        if augment is None:
            pair = pairs.pair(int(number), generator)
        else:
            pair = pairs.changed_pair(int(number), generator, augment)
        if place == 0:
            arrays = [model.engine.empty((len(numbers), *a.shape), model.dtype) for a in pair]
            check_channels(arrays[0], "x", model.channels)
        for array, sample, name in zip(arrays, pair, ("x", "y", "weights"), strict=False):
            if sample.shape != array.shape[1:]:
                raise ValueError(
                    f"{name}: sample {int(number)} has shape {sample.shape}, expected "
                    f"{array.shape[1:]} as the "
                    "others of its batch"
                )
            _validate.numeric(sample.dtype, name)
            array[place] = _arrays.computable(sample, model.dtype)
        if model.positive and arrays[0][place].min() < 0:
            source = arrays[0][place]
            if augment is None or isinstance(augment, Augmentation):  # of others it is not known what they do
                source = pairs.measured(int(number), np.random.default_rng([*seeds, int(number)]))
            _validate.non_negative(source, f"x: sample {int(number)}", float(source.min()))
            np.maximum(arrays[0][place], 0, out=arrays[0][place])
    return arrays[0], arrays[1], arrays[2] if len(arrays) > 2 else None


def score_of(model: Model, pairs: Pairs, loss: Loss, batch_size: int) -> _Score:
    """Loss and PSNR on all samples, as they are."""
    score = _Score()
    for start in range(0, len(pairs), batch_size):
        numbers = range(start, min(start + batch_size, len(pairs)))
        x, y, weights = make_batch(model, pairs, numbers, (0, _SCORE))
        prediction = model.forward([x], model.engine, None)
        _check_target(prediction, y)
        value, _ = _of_loss(loss, prediction, y, model.engine, weights)
        if not math.isfinite(value) and (fault := _not_finite(x, y, weights)):
            told = f"the loss of samples {_listed(np.array(numbers))} of the data to measure on is {value}"
            raise BadDataError(f"{told}. {fault}")
        score.add(value, prediction, y, None)
    return score


def _check_target(prediction: np.ndarray, y: np.ndarray) -> None:
    if prediction.shape != y.shape:
        raise ValueError(
            f"y: got samples of shape {y.shape[1:]}, expected {prediction.shape[1:]}, what the "
            "network makes of x"
        )


def _of_loss(
    loss: Loss, prediction: np.ndarray, y: np.ndarray, engine: Engine, weights: np.ndarray | None
) -> tuple[float, Any]:
    """Value and gradient of a loss, which may be a function of the user's."""
    made = loss(prediction, y, engine, weights)
    fits = isinstance(made, tuple | list) and len(made) == 2 and np.ndim(made[0]) == 0
    if not fits or not isinstance(made[0], int | float | np.number | np.ndarray):
        raise TypeError(f"loss: got {_validate.shown(made)} from it, expected (value, gradient)")
    return float(made[0]), made[1]


def _checked(grad: object, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The gradient of a loss, which may be a function of the user's, as the backward pass wants it."""
    if not isinstance(grad, np.ndarray) or grad.shape != shape:
        raise ValueError(
            f"loss: got a gradient {getattr(grad, 'shape', type(grad).__name__)}, expected an array of "
            f"shape {shape}"
        )
    return np.ascontiguousarray(grad, dtype)


def _not_finite(*arrays: np.ndarray | None) -> str | None:
    """Which of images, targets and weights of a batch have NaN or Inf, and where."""
    for array, name in zip(arrays, ("x", "y", "weights"), strict=False):
        if array is not None:
            try:
                _validate.finite(array, f"{name} of this batch", batch_axes(array.ndim - 2))
            except ValueError as error:
                return str(error)
    return None


def _listed(numbers: np.ndarray) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return shown + (", ..." if len(numbers) > 8 else "")
