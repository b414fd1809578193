"""What happened in training, epoch by epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .._extras import matplotlib_figure
from ..io._files import write_whole


class History:
    """Numbers of every epoch.

    Attributes
    ----------
    epochs : list of dict
        One per epoch: loss, psnr (dB, over the range of the epoch's targets), learning_rate, seconds, and
        with validation data val_loss and val_psnr.
    stopped_by : str
        "epochs", "early stopping", or what a callback gave.
    """

    def __init__(self, epochs: list[dict[str, float]] | None = None) -> None:
        self.epochs = [] if epochs is None else epochs
        self.stopped_by = "epochs"

    def __repr__(self) -> str:
        last = ", ".join(f"{k} {v:.4g}" for k, v in self.epochs[-1].items()) if self.epochs else "nothing yet"
        return f"History({len(self.epochs)} epochs; the last: {last})"

    @property
    def history(self) -> dict[str, list[float]]:
        """The same as a list per name, as Keras has it."""
        names = list(dict.fromkeys(name for epoch in self.epochs for name in epoch))
        return {name: [epoch[name] for epoch in self.epochs if name in epoch] for name in names}

    def __getitem__(self, name: str) -> list[float]:
        return self.history[name]

    def plot(self, path: Any = None, *, overwrite: bool = False) -> Any:
        """Draw loss and PSNR over the epochs.

        Parameters
        ----------
        path : path-like, optional
            PNG file to write.
        overwrite : bool
            Replace an existing file.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        ValueError
            Nothing was trained.
        ImportError
            matplotlib is not installed.
        FileExistsError
            The file exists.
        """
        if not self.epochs:
            raise ValueError("history: no epochs, expected at least one to draw")
        figure = matplotlib_figure("History.plot").Figure(figsize=(8, 3), dpi=100, layout="constrained")
        curves = self.history
        for panel, name, label in zip(
            figure.subplots(1, 2), ("loss", "psnr"), ("loss", "PSNR, dB"), strict=True
        ):
            for key, text in ((name, "training"), (f"val_{name}", "validation")):
                if key in curves:
                    numbers = range(1, len(curves[key]) + 1)
                    panel.plot(numbers, curves[key], marker="." if len(numbers) < 30 else None, label=text)
            panel.set(xlabel="epoch", ylabel=label)
            panel.legend(frameon=False)
        figure.axes[0].set_yscale("log" if min(curves["loss"]) > 0 else "linear")
        if path is not None:
            write_whole(Path(path), lambda p: figure.savefig(p, format="png", dpi=110), overwrite=overwrite)
        return figure
