"""What the algorithms share: the record of a run, PSFs on the image's grid, options not built yet."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _arrays, _validate

ACCELERATIONS = ("biggs-andrews", "heavy-ball")
BACK_PROJECTORS = ("gaussian", "butterworth", "wiener-butterworth", "otf-masked-wiener")
REGULARIZERS = ("tv", "tikhonov", "good-roughness", "entropy")
STOPS = ("relative-change", "i-divergence", "discrepancy", "thinning")


class Info(dict[str, Any]):
    """The record of a run: a dict whose entries can also be read as attributes.

    Entries
    -------
    num_iter : int
        Iterations done.
    stopped_by : str
        What ended the run.
    trace : list of dict
        One entry per iteration: iteration (from 1) and seconds.
    settings : dict
        Every option as it was resolved.
    engine, backend : str
    bytes : int
        Predicted working memory beside input and output.
    seconds : float
        Wall time of the call.
    warnings : list of str
        What the user should know about the result.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no entry {name!r}; there are {', '.join(self)}") from None


def refuse_unbuilt(
    *,
    readout_variance: Any = None,
    damping: Any = None,
    regularizer: Any = None,
    acceleration: Any = None,
    back_projector: Any = "matched",
    stop: Any = None,
) -> None:
    """Options that no algorithm has yet: valid values raise NotImplementedError, others ValueError."""
    for name, value in (("readout_variance", readout_variance), ("damping", damping)):
        if value is not None:
            if np.ndim(value) == 0:
                _validate.number(value, name, minimum=0)
            _validate.planned(name, value)
    if acceleration is not None:
        _validate.choice(acceleration, "acceleration", (), unbuilt=ACCELERATIONS)
    if isinstance(back_projector, str):
        _validate.choice(back_projector, "back_projector", ("matched",), unbuilt=BACK_PROJECTORS)
    else:
        _arrays.to_numpy(back_projector, "back_projector")
        _validate.planned("back_projector", back_projector)
    _refuse_pair(regularizer, "regularizer", REGULARIZERS, "weight")
    if isinstance(stop, str):
        _validate.choice(stop, "stop", (), unbuilt=STOPS)
    _refuse_pair(stop, "stop", ("time",), "seconds")


def _refuse_pair(value: Any, name: str, kinds: tuple[str, ...], unit: str) -> None:
    if value is None:
        return
    if not isinstance(value, tuple) or len(value) != 2:
        raise TypeError(
            f"{name}: got {_validate.shown(value)}, expected None or a pair (kind, {unit}) with kind one of "
            + ", ".join(repr(kind) for kind in kinds)
        )
    if value[0] not in kinds:
        _validate.choice(value[0], f"{name}[0]", kinds)
    _validate.number(value[1], f"{name}[1]", minimum=0)
    _validate.planned(name, value)


def psf_on_grid(psf: Any, ndim: int, voxel_size: Any, psf_voxel_size: Any) -> tuple[Any, dict[str, Any]]:
    """The PSF on the image's voxels (resampled, its sum kept, where the sizes differ), and the settings."""
    settings: dict[str, Any] = {"voxel_size": None, "psf_voxel_size": None, "psf_resampled": False}
    if voxel_size is not None:
        settings["voxel_size"] = _validate.voxel_size(voxel_size, "voxel_size", ndim)
    if psf_voxel_size is None:
        return psf, settings
    settings["psf_voxel_size"] = _validate.voxel_size(psf_voxel_size, "psf_voxel_size", ndim)
    if voxel_size is None:
        raise ValueError(
            f"psf_voxel_size: got {_validate.shown(psf_voxel_size)} without voxel_size; expected both, or "
            "neither when the PSF is sampled on the image's voxels"
        )
    if np.allclose(settings["voxel_size"], settings["psf_voxel_size"], rtol=1e-6, atol=0):
        return psf, settings
    from .. import psf as psf_module

    values, _ = _arrays.as_psf(psf, ndim, normalize=False)
    settings["psf_resampled"] = True
    return psf_module.resample(values, settings["psf_voxel_size"], settings["voxel_size"]), settings
