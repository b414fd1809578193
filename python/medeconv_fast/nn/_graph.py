"""A network: layers joined by signals, run forward and backward; itself a layer of larger networks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from .. import _validate
from ._convolutions import Conv, ConvTranspose
from ._engine import Engine
from ._joining import Add, Concat, Crop
from ._layer import Gradients, Input, Layer, Result, Signal, Tape


class _Node(NamedTuple):
    layer: Layer
    inputs: tuple[int, ...]  # numbers of values: the network's inputs first, then the nodes' results


class _Join(NamedTuple):
    """A layer that can add, and whose result is only added to an earlier value: one pass does both."""

    other: int  # number of that value
    add: int  # number of the node that adds
    skipped: tuple[int, ...]  # nodes


class _Place(NamedTuple):
    """Channels of a Concat that a layer writes itself."""

    concat: int  # number of its node
    channels: slice


def in_order(inputs: Sequence[Signal], output: Signal) -> list[Signal]:
    """All signals between, each behind what it is made of."""
    found: list[Signal] = []
    seen = {id(signal) for signal in inputs}
    waiting = [(output, False)]  # no recursion: an unrolled network is deep
    while waiting:
        signal, ready = waiting.pop()
        if ready:
            found.append(signal)
        elif id(signal) not in seen:
            seen.add(id(signal))
            if signal.layer is None:
                raise ValueError("inputs: the output depends on an nn.Input that is not among them")
            waiting.append((signal, True))
            waiting.extend((source, False) for source in reversed(signal.inputs))
    return found


class Graph(Layer):
    """Layers from input signals to one output signal.

    Parameters
    ----------
    inputs : Signal or sequence of Signal
        From `Input`.
    output : Signal
        What the layers made of them.
    recompute : bool
        As a layer of a larger network: keep nothing of the forward pass but its inputs, and pass forward
        again when the backward pass comes. Less memory for a third more time; for deep unrolling [1]_.
    name : str, optional

    Raises
    ------
    ValueError, TypeError
        Signals that do not hang together, two layers of one name, one layer with weights in two graphs.

    References
    ----------
    .. [1] T. Chen et al.: Training deep nets with sublinear memory cost. arXiv:1604.06174 (2016).
    """

    def __init__(
        self,
        inputs: Signal | Sequence[Signal],
        output: Signal,
        *,
        recompute: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.recompute = _validate.flag(recompute, "recompute")
        starts = (inputs,) if isinstance(inputs, Signal) else tuple(inputs)
        for signal in (*starts, output):
            if not isinstance(signal, Signal):
                raise TypeError(f"inputs, output: got {_validate.shown(signal)}, expected signals")
        if not starts or any(signal.layer is not None for signal in starts):
            raise ValueError("inputs: expected one or more signals made by nn.Input")
        self.arity = len(starts)
        self.inputs, self.output = starts, output
        order = in_order(starts, output)
        if not order:
            raise ValueError("output: got an input, expected what a layer made of it")
        self._signals = (*starts, *order)  # of every value
        number = {id(signal): i for i, signal in enumerate(self._signals)}
        self.nodes = []
        for signal in order:
            assert signal.layer is not None
            self.nodes.append(_Node(signal.layer, tuple(number[id(source)] for source in signal.inputs)))
        self.layers: list[Layer] = list({id(node.layer): node.layer for node in self.nodes}.values())
        unnamed = [layer for layer in self.layers if not layer.name]
        self._name_layers(unnamed)
        try:
            self._check_owners()
        except ValueError:
            for layer in unnamed:
                layer.name = ""
            raise
        uses = [i for node in self.nodes for i in node.inputs]
        self._last_use = {i: n for n, node in enumerate(self.nodes) for i in node.inputs}
        self._joins = self._find_joins(uses)
        self._places = self._find_places()
        unused = [i for i in range(len(starts)) if i not in uses]
        if unused:
            raise ValueError(f"inputs: the output does not depend on number {unused[0]}")

    def _name_layers(self, unnamed: Sequence[Layer]) -> None:
        names = [layer.name for layer in self.layers if layer.name]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"name: got two layers of the name {twice!r}, expected one name each")
        counts: dict[str, int] = {}
        for layer in self.layers:
            kind = type(layer).__name__.lower()
            counts[kind] = counts.get(kind, 0) + 1
            if layer in unnamed:
                number = counts[kind]
                while f"{kind}_{number}" in names:  # a layer brings it from another network
                    number += 1
                layer.name = f"{kind}_{number}"
                names.append(layer.name)

    def _check_owners(self) -> None:
        """A layer with weights stands in one graph, or it would be trained and saved twice."""
        seen: dict[int, str] = {}
        for path, layer in self.leaves():
            if layer.shapes() and id(layer) in seen:
                raise ValueError(
                    f"layers: {seen[id(layer)]!r} and {path!r} are one layer in two graphs, expected "
                    "that the graph itself is shared"
                )
            seen[id(layer)] = path

    def _find_joins(self, uses: Sequence[int]) -> dict[int, _Join]:
        """By the number of the convolution's node; between may lie a Crop, which may have nothing to cut."""
        first = len(self.inputs)
        joins = {}
        for number, node in enumerate(self.nodes):
            if not isinstance(node.layer, Add) or len(node.inputs) != 2:
                continue
            for own, other in (node.inputs, node.inputs[::-1]):
                skipped = [number]
                maker = self.nodes[own - first] if own >= first else None
                if maker is not None and isinstance(maker.layer, Crop) and uses.count(own) == 1:
                    if maker.inputs[1] != other:  # what it is cut to may be another size
                        continue
                    skipped.append(own - first)
                    own = maker.inputs[0]
                alone = own >= first and uses.count(own) == 1 and other < own
                if alone and can_add(self.nodes[own - first].layer):
                    joins[own - first] = _Join(other, number, tuple(skipped))
                    break
        return joins

    def _find_places(self) -> dict[int, _Place]:
        """By the number of the layer's node."""
        first = len(self.inputs)
        places: dict[int, _Place] = {}
        for number, node in enumerate(self.nodes):
            if not isinstance(node.layer, Concat):
                continue
            start = 0
            for i in node.inputs:
                signal = self._signals[i]
                if i >= first and takes_out(self.nodes[i - first].layer):
                    places.setdefault(i - first, _Place(number, slice(start, start + signal.channels)))
                start += signal.channels
        return places

    # ------------------------------------------------------------ as a layer

    def connect(self, signals: Sequence[Signal]) -> Result:
        for number, (given, own) in enumerate(zip(signals, self.inputs, strict=True)):
            if (given.channels, given.ndim) != (own.channels, own.ndim):
                raise ValueError(
                    f"input {number}: got {given.channels} channels and {given.ndim} axes, expected "
                    f"{own.channels} and {own.ndim}"
                )
        return Result(self.output.channels, self.output.scale, self.output.reach)

    def lengths(self, inputs: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        return self.all_lengths(inputs)[-1]

    def all_lengths(self, inputs: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Samples of every value along each axis: the inputs, and the nodes' results."""
        made = list(inputs)
        for node in self.nodes:
            made.append(node.layer.lengths([made[i] for i in node.inputs]))
        return made

    def members(self, prefix: str = "") -> Iterator[tuple[str, Layer]]:
        """Every layer, a graph before what is in it, once, with its path: names joined by '.'."""
        for layer in self.layers:
            yield prefix + layer.name, layer
            if isinstance(layer, Graph):
                yield from layer.members(f"{prefix}{layer.name}.")

    def leaves(self) -> Iterator[tuple[str, Layer]]:
        """Of `members` those that hold weights of their own."""
        return ((path, layer) for path, layer in self.members() if not isinstance(layer, Graph))

    def trained_leaves(self) -> Iterator[Layer]:
        """Leaves whose weights training changes: neither they nor a graph around them are frozen."""
        for layer in self.layers if self.trainable else ():
            if isinstance(layer, Graph):
                yield from layer.trained_leaves()
            elif layer.trainable and layer.shapes():
                yield layer

    def scales(self, before: tuple[Fraction, ...]) -> Iterator[tuple[Fraction, ...]]:
        """Samples of every result, inside of graphs too, per sample where `before` is that of the inputs."""
        for signal in in_order(self.inputs, self.output):
            yield tuple(a * b for a, b in zip(before, signal.scale, strict=True))
            if isinstance(signal.layer, Graph):
                inside = signal.inputs[0].scale
                yield from signal.layer.scales(tuple(a * b for a, b in zip(before, inside, strict=True)))

    def trains(self) -> bool:
        return any(True for _ in self.trained_leaves())

    # ------------------------------------------------------------ passes

    def forward(self, inputs: Sequence[np.ndarray], engine: Engine, tape: Tape | None) -> np.ndarray:
        if tape is not None and self.recompute:
            tape["inputs"] = list(inputs)
            return self._forward(inputs, engine, None)
        return self._forward(inputs, engine, tape)

    def forward_added(
        self, inputs: Sequence[np.ndarray], addend: np.ndarray, activation: Layer | None, engine: Engine
    ) -> np.ndarray:
        """As of a convolution, if the last layer can add."""
        return self._forward(inputs, engine, None, (addend, activation))

    def _forward(
        self,
        inputs: Sequence[np.ndarray],
        engine: Engine,
        tape: Tape | None,
        ending: tuple[np.ndarray, Layer | None] | None = None,
    ) -> np.ndarray:
        """`ending`: what is added to the result, and an activation of the sum."""
        values: dict[int, np.ndarray] = dict(enumerate(inputs))
        tapes: list[Tape] = []
        first = len(inputs)
        done: set[int] = set()  # nodes, by another one
        whole: dict[int, np.ndarray] = {}  # what Concats will give
        for number, node in enumerate(self.nodes):
            own: Tape | None = None if tape is None else {}
            try:
                made = None
                if tape is None and number in self._joins:
                    made = self._joined(node, self._joins[number], values, engine)
                if made is not None:
                    values[first + self._joins[number].add] = made
                    done.update(self._joins[number].skipped)
                elif ending is not None and number == len(self.nodes) - 1:
                    taken = [values[i] for i in node.inputs]
                    values[first + number] = adder(node.layer)(taken, *ending, engine)
                elif number not in done:
                    values[first + number] = self._result(number, values, engine, own, whole)
            except (ValueError, TypeError) as error:
                if str(error).startswith("layer "):
                    raise
                raise type(error)(f"{node.layer._title()}: {error}") from error
            if own is not None:
                tapes.append(own)
            for i in set(node.inputs):
                if self._last_use[i] == number:
                    values.pop(i, None)  # its memory serves the next layer
        if tape is not None:
            tape["tapes"] = tapes
        return values[first + len(self.nodes) - 1]

    def _joined(
        self, node: _Node, join: _Join, values: dict[int, np.ndarray], engine: Engine
    ) -> np.ndarray | None:
        """What the sum would be; None where sizes differ, or where another layer is to say that they do."""
        adding = self.nodes[join.add].layer
        assert isinstance(adding, Add)
        taken, other = [values[i] for i in node.inputs], values[join.other]
        lengths, wanted = node.layer.lengths([x.shape[2:] for x in taken]), other.shape[2:]
        # Where a Crop follows, what it leaves out is not made.
        cut = len(join.skipped) > 1 and can_cut(node.layer, lengths, wanted)
        if len(taken[0]) != len(other) or (lengths != wanted and not cut):
            return None
        return adder(node.layer)(taken, other, adding.activation, engine)

    def _result(
        self,
        number: int,
        values: dict[int, np.ndarray],
        engine: Engine,
        tape: Tape | None,
        whole: dict[int, np.ndarray],
    ) -> np.ndarray:
        """Of a node; of one image without a tape, what is concatenated is written where it will lie."""
        node = self.nodes[number]
        taken = [values[i] for i in node.inputs]
        if tape is not None or len(taken[0]) != 1:
            return node.layer.forward(taken, engine, tape)
        if number in whole:
            assert isinstance(node.layer, Concat)
            return node.layer.completed(taken, whole.pop(number))
        if number not in self._places:
            return node.layer.forward(taken, engine, tape)
        place, lengths = self._places[number], node.layer.lengths([x.shape[2:] for x in taken])
        if place.concat not in whole:
            shape = (1, self._signals[len(self.inputs) + place.concat].channels, *lengths)
            whole[place.concat] = engine.empty(shape, taken[0].dtype)
        out = whole[place.concat][:, place.channels]
        if out.shape[2:] != lengths:  # the Concat will say so
            return node.layer.forward(taken, engine, tape)
        return node.layer.forward(taken, engine, tape, out=out)  # type: ignore[call-arg]

    def backward(
        self, grad: np.ndarray, tape: Tape, engine: Engine, gradients: Gradients, needs: Sequence[bool]
    ) -> Sequence[np.ndarray | None]:
        if "inputs" in tape:
            again: Tape = {}
            self._forward(tape.pop("inputs"), engine, again)
            tape = again
        tapes: list[Tape] = tape["tapes"]
        first = len(needs)
        wanted = self._wanted(needs)
        grads: dict[int, np.ndarray] = {first + len(self.nodes) - 1: grad}
        del grad
        for number in reversed(range(len(self.nodes))):
            node, own = self.nodes[number], tapes.pop()
            arriving = grads.pop(first + number, None)
            asked = [wanted[i] for i in node.inputs]
            if arriving is None or not wanted[first + number]:
                continue
            results = node.layer.backward(arriving, own, engine, gradients, asked)
            del arriving
            for i, made in zip(node.inputs, results, strict=True):
                if made is None or not wanted[i]:
                    continue
                if i in grads:
                    engine.pointwise(lambda total, more: np.add(total, more, out=total), grads[i], made)
                else:
                    grads[i] = made
        return [grads.get(i) if need else None for i, need in enumerate(needs)]

    def _wanted(self, needs: Sequence[bool]) -> list[bool]:
        """Of every value: whether its gradient leads to an input that `needs` one, or to trainable
        weights.
        """
        wanted = list(needs)
        for node in self.nodes:
            layer = node.layer
            own = layer.trains() if isinstance(layer, Graph) else layer.trainable and bool(layer.shapes())
            wanted.append(own or any(wanted[i] for i in node.inputs))
        return wanted

    # ------------------------------------------------------------ as JSON

    def options(self) -> dict[str, Any]:
        number = {id(layer): i for i, layer in enumerate(self.layers)}
        return {
            "inputs": [[signal.channels, signal.ndim] for signal in self.inputs],
            "layers": [describe(layer) for layer in self.layers],
            "nodes": [[number[id(node.layer)], list(node.inputs)] for node in self.nodes],
            "recompute": self.recompute,
        }

    @classmethod
    def from_options(cls, options: dict[str, Any], name: str | None = None) -> Graph:
        """The network that `options` describes, without weights."""
        inputs, output = wired(options)
        return cls(inputs, output, recompute=options["recompute"], name=name)


def can_add(layer: Layer) -> bool:
    """Whether it has a `forward_added` for its results: convolutions, and graphs that end with one."""
    if isinstance(layer, Graph):
        return type(layer).forward is Graph.forward and can_add(layer.nodes[-1].layer)
    convolution = isinstance(layer, Conv | ConvTranspose) and layer.activation is None
    return convolution and type(layer) in (Conv, ConvTranspose)  # and not what overrides `forward`


def can_cut(layer: Layer, made: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether its `forward_added` makes so many values of what would be more."""
    return isinstance(layer, ConvTranspose) and layer.can_cut(made, wanted)


def takes_out(layer: Layer) -> bool:
    """Whether `forward` can be told where its result goes; a class that overrides it may not."""
    return "out" in inspect.signature(layer.forward).parameters


def adder(layer: Layer) -> Callable[..., np.ndarray]:
    assert isinstance(layer, Graph | Conv | ConvTranspose)
    return layer.forward_added


def describe(layer: Layer) -> dict[str, Any]:
    # A ready-made network inside of another is described by its layers.
    kind = "Graph" if isinstance(layer, Graph) else type(layer).__name__
    return {"kind": kind, "name": layer.name, "trainable": layer.trainable, **layer.options()}


def wired(options: dict[str, Any]) -> tuple[list[Signal], Signal]:
    """Input signals and output signal of a described network."""
    layers = [layer_of(description) for description in options["layers"]]
    inputs = [Input(*pair) for pair in options["inputs"]]
    values = list(inputs)
    for index, sources in options["nodes"]:
        values.append(layers[index](*(values[i] for i in sources)))
    return inputs, values[-1]


KINDS: dict[str, type[Layer]] = {"Graph": Graph}  # what a description may name


def register(*kinds: type[Layer]) -> None:
    """Let descriptions name these layers."""
    KINDS.update((kind.__name__, kind) for kind in kinds)


def layer_of(description: dict[str, Any]) -> Layer:
    options = dict(description)
    kind, name, trainable = options.pop("kind"), options.pop("name"), options.pop("trainable")
    if kind not in KINDS:
        raise ValueError(f"got a layer of kind {kind!r}, expected one of {', '.join(sorted(KINDS))}")
    made = KINDS[kind]
    layer = made.from_options(options, name) if issubclass(made, Graph) else made(**options, name=name)
    layer.trainable = trainable
    return layer
