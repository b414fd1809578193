"""
Compiled CPU kernels of medeconv_fast; called through medeconv_fast.backends.cpp.
"""

from __future__ import annotations

import collections.abc
import typing

import numpy
import numpy.typing

__all__: list[str] = [
    "ChainF32",
    "ChainF64",
    "ConvPlanF32",
    "ConvPlanF64",
    "CosineChainF32",
    "CosineChainF64",
    "CosinePlanF32",
    "CosinePlanF64",
    "CosineTransferF32",
    "CosineTransferF64",
    "DirectChainF32",
    "DirectChainF64",
    "DirectFiltersF32",
    "DirectFiltersF64",
    "DirectPlanF32",
    "DirectPlanF64",
    "OverlapChainF32",
    "OverlapChainF64",
    "OverlapFiltersF32",
    "OverlapFiltersF64",
    "OverlapPlanF32",
    "OverlapPlanF64",
    "SeparableChainF32",
    "SeparableChainF64",
    "SeparableFiltersF32",
    "SeparableFiltersF64",
    "SeparablePlanF32",
    "SeparablePlanF64",
    "SpectralPlanF32",
    "SpectralPlanF64",
    "TransferF32",
    "TransferF64",
    "apply_formula",
    "cached_bytes",
    "denoise_step",
    "denoised",
    "empty_F32",
    "empty_F64",
    "fold",
    "good_size",
    "isa",
    "pad",
    "penalty",
    "release_memory",
    "smallest_divisor",
    "sum_channels",
    "supported_isas",
]

class TransferF32:
    pass

class SpectralPlanF32:
    def __init__(
        self,
        grid: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
        estimate_box: collections.abc.Sequence[
            tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ],
        image_box: collections.abc.Sequence[
            tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ],
        reach: collections.abc.Sequence[
            tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ] = [],
    ) -> None: ...
    def gcv(
        self,
        image: numpy.typing.NDArray[numpy.float32],
        psf_transfer: TransferF32,
        regularizer_transfer: TransferF32,
        balances: numpy.typing.NDArray[numpy.float64],
        num_threads: typing.SupportsInt | typing.SupportsIndex,
    ) -> tuple[numpy.typing.NDArray[numpy.float64], numpy.typing.NDArray[numpy.float64]]: ...
    def transfer(
        self,
        psf: numpy.typing.NDArray[numpy.float32],
        centre: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
        symmetric: bool,
        num_threads: typing.SupportsInt | typing.SupportsIndex,
    ) -> TransferF32: ...
    def transfer_bytes(self, symmetric: bool) -> int: ...
    def wiener_transfer(
        self,
        psf_transfer: TransferF32,
        regularizer_transfer: TransferF32,
        balance: typing.SupportsFloat | typing.SupportsIndex,
    ) -> TransferF32: ...
    @property
    def spectrum_bytes(self) -> int: ...

class ChainF32:
    def __init__(
        self, plan: SpectralPlanF32, num_threads: typing.SupportsInt | typing.SupportsIndex
    ) -> None: ...
    def load(self, x: numpy.typing.NDArray[numpy.float32], adjoint: bool = False, **kwargs) -> typing.Any: ...
    def sweep(
        self, transfer: TransferF32, formula: str, *, adjoint: bool = False, keep: bool = True, **kwargs
    ) -> typing.Any: ...

class TransferF64:
    pass

class SpectralPlanF64:
    def __init__(
        self,
        grid: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
        estimate_box: collections.abc.Sequence[
            tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ],
        image_box: collections.abc.Sequence[
            tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ],
        reach: collections.abc.Sequence[
            tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ] = [],
    ) -> None: ...
    def gcv(
        self,
        image: numpy.typing.NDArray[numpy.float64],
        psf_transfer: TransferF64,
        regularizer_transfer: TransferF64,
        balances: numpy.typing.NDArray[numpy.float64],
        num_threads: typing.SupportsInt | typing.SupportsIndex,
    ) -> tuple[numpy.typing.NDArray[numpy.float64], numpy.typing.NDArray[numpy.float64]]: ...
    def transfer(
        self,
        psf: numpy.typing.NDArray[numpy.float64],
        centre: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
        symmetric: bool,
        num_threads: typing.SupportsInt | typing.SupportsIndex,
    ) -> TransferF64: ...
    def transfer_bytes(self, symmetric: bool) -> int: ...
    def wiener_transfer(
        self,
        psf_transfer: TransferF64,
        regularizer_transfer: TransferF64,
        balance: typing.SupportsFloat | typing.SupportsIndex,
    ) -> TransferF64: ...
    @property
    def spectrum_bytes(self) -> int: ...

class ChainF64:
    def __init__(
        self, plan: SpectralPlanF64, num_threads: typing.SupportsInt | typing.SupportsIndex
    ) -> None: ...
    def load(self, x: numpy.typing.NDArray[numpy.float64], adjoint: bool = False, **kwargs) -> typing.Any: ...
    def sweep(
        self, transfer: TransferF64, formula: str, *, adjoint: bool = False, keep: bool = True, **kwargs
    ) -> typing.Any: ...

class SeparableFiltersF32:
    pass

class SeparablePlanF32:
    def __init__(
        self,
        estimate_box: collections.abc.Sequence[
            tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ],
        image_box: collections.abc.Sequence[
            tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ],
        boundary: str,
        unfolded_box: collections.abc.Sequence[
            tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ],
    ) -> None: ...
    def filters(
        self,
        terms: collections.abc.Sequence[
            collections.abc.Sequence[collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex]]
        ],
        centre: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
    ) -> SeparableFiltersF32: ...

class SeparableChainF32:
    def __init__(
        self, plan: SeparablePlanF32, num_threads: typing.SupportsInt | typing.SupportsIndex
    ) -> None: ...
    def load(self, x: numpy.typing.NDArray[numpy.float32], adjoint: bool = False, **kwargs) -> typing.Any: ...
    def sweep(
        self,
        filters: SeparableFiltersF32,
        formula: str,
        *,
        adjoint: bool = False,
        keep: bool = True,
        **kwargs,
    ) -> typing.Any: ...

class SeparableFiltersF64:
    pass

class SeparablePlanF64:
    def __init__(
        self,
        estimate_box: collections.abc.Sequence[
            tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ],
        image_box: collections.abc.Sequence[
            tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ],
        boundary: str,
        unfolded_box: collections.abc.Sequence[
            tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ],
    ) -> None: ...
    def filters(
        self,
        terms: collections.abc.Sequence[
            collections.abc.Sequence[collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex]]
        ],
        centre: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
    ) -> SeparableFiltersF64: ...

class SeparableChainF64:
    def __init__(
        self, plan: SeparablePlanF64, num_threads: typing.SupportsInt | typing.SupportsIndex
    ) -> None: ...
    def load(self, x: numpy.typing.NDArray[numpy.float64], adjoint: bool = False, **kwargs) -> typing.Any: ...
    def sweep(
        self,
        filters: SeparableFiltersF64,
        formula: str,
        *,
        adjoint: bool = False,
        keep: bool = True,
        **kwargs,
    ) -> typing.Any: ...

class DirectFiltersF32:
    pass

class DirectPlanF32:
    def __init__(
        self,
        estimate_box: collections.abc.Sequence[
            tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ],
        image_box: collections.abc.Sequence[
            tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ],
        periodic: bool,
    ) -> None: ...
    def filters(
        self,
        psf: numpy.typing.NDArray[numpy.float32],
        centre: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
    ) -> DirectFiltersF32: ...

class DirectChainF32:
    def __init__(
        self, plan: DirectPlanF32, num_threads: typing.SupportsInt | typing.SupportsIndex
    ) -> None: ...
    def load(self, x: numpy.typing.NDArray[numpy.float32], adjoint: bool = False, **kwargs) -> typing.Any: ...
    def sweep(
        self, filters: DirectFiltersF32, formula: str, *, adjoint: bool = False, keep: bool = True, **kwargs
    ) -> typing.Any: ...

class DirectFiltersF64:
    pass

class DirectPlanF64:
    def __init__(
        self,
        estimate_box: collections.abc.Sequence[
            tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ],
        image_box: collections.abc.Sequence[
            tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ],
        periodic: bool,
    ) -> None: ...
    def filters(
        self,
        psf: numpy.typing.NDArray[numpy.float64],
        centre: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
    ) -> DirectFiltersF64: ...

class DirectChainF64:
    def __init__(
        self, plan: DirectPlanF64, num_threads: typing.SupportsInt | typing.SupportsIndex
    ) -> None: ...
    def load(self, x: numpy.typing.NDArray[numpy.float64], adjoint: bool = False, **kwargs) -> typing.Any: ...
    def sweep(
        self, filters: DirectFiltersF64, formula: str, *, adjoint: bool = False, keep: bool = True, **kwargs
    ) -> typing.Any: ...

class CosineTransferF32:
    pass

class CosinePlanF32:
    def __init__(
        self, shape: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]
    ) -> None: ...
    def transfer(
        self, psf: numpy.typing.NDArray[numpy.float32], num_threads: typing.SupportsInt | typing.SupportsIndex
    ) -> CosineTransferF32: ...
    @property
    def spectrum_bytes(self) -> int: ...
    @property
    def transfer_bytes(self) -> int: ...

class CosineChainF32:
    def __init__(
        self, plan: CosinePlanF32, num_threads: typing.SupportsInt | typing.SupportsIndex
    ) -> None: ...
    def load(self, x: numpy.typing.NDArray[numpy.float32], adjoint: bool = False, **kwargs) -> typing.Any: ...
    def sweep(
        self, transfer: CosineTransferF32, formula: str, *, adjoint: bool = False, keep: bool = True, **kwargs
    ) -> typing.Any: ...

class CosineTransferF64:
    pass

class CosinePlanF64:
    def __init__(
        self, shape: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]
    ) -> None: ...
    def transfer(
        self, psf: numpy.typing.NDArray[numpy.float64], num_threads: typing.SupportsInt | typing.SupportsIndex
    ) -> CosineTransferF64: ...
    @property
    def spectrum_bytes(self) -> int: ...
    @property
    def transfer_bytes(self) -> int: ...

class CosineChainF64:
    def __init__(
        self, plan: CosinePlanF64, num_threads: typing.SupportsInt | typing.SupportsIndex
    ) -> None: ...
    def load(self, x: numpy.typing.NDArray[numpy.float64], adjoint: bool = False, **kwargs) -> typing.Any: ...
    def sweep(
        self, transfer: CosineTransferF64, formula: str, *, adjoint: bool = False, keep: bool = True, **kwargs
    ) -> typing.Any: ...

class OverlapFiltersF32:
    pass

class OverlapPlanF32:
    def __init__(
        self,
        estimate_box: collections.abc.Sequence[
            tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ],
        image_box: collections.abc.Sequence[
            tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ],
        periodic: bool,
    ) -> None: ...
    def filters(
        self,
        psf: numpy.typing.NDArray[numpy.float32],
        centre: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
    ) -> OverlapFiltersF32: ...

class OverlapChainF32:
    def __init__(
        self, plan: OverlapPlanF32, num_threads: typing.SupportsInt | typing.SupportsIndex
    ) -> None: ...
    def load(self, x: numpy.typing.NDArray[numpy.float32], adjoint: bool = False, **kwargs) -> typing.Any: ...
    def sweep(
        self, filters: OverlapFiltersF32, formula: str, *, adjoint: bool = False, keep: bool = True, **kwargs
    ) -> typing.Any: ...

class OverlapFiltersF64:
    pass

class OverlapPlanF64:
    def __init__(
        self,
        estimate_box: collections.abc.Sequence[
            tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ],
        image_box: collections.abc.Sequence[
            tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ],
        periodic: bool,
    ) -> None: ...
    def filters(
        self,
        psf: numpy.typing.NDArray[numpy.float64],
        centre: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
    ) -> OverlapFiltersF64: ...

class OverlapChainF64:
    def __init__(
        self, plan: OverlapPlanF64, num_threads: typing.SupportsInt | typing.SupportsIndex
    ) -> None: ...
    def load(self, x: numpy.typing.NDArray[numpy.float64], adjoint: bool = False, **kwargs) -> typing.Any: ...
    def sweep(
        self, filters: OverlapFiltersF64, formula: str, *, adjoint: bool = False, keep: bool = True, **kwargs
    ) -> typing.Any: ...

class ConvPlanF32:
    def __init__(
        self,
        input_shape: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
        weight_shape: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
        stride: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
        padding: collections.abc.Sequence[
            tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ],
        dilation: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
        groups: typing.SupportsInt | typing.SupportsIndex,
        padding_mode: str,
        exact: bool,
    ) -> None: ...
    def forward(
        self,
        x: numpy.typing.NDArray[numpy.float32],
        w: numpy.typing.NDArray[numpy.float32],
        bias: numpy.typing.NDArray[numpy.float32] | None,
        out: numpy.typing.NDArray[numpy.float32],
        relu: bool,
        addend: numpy.typing.NDArray[numpy.float32] | None,
        slope: typing.SupportsFloat | typing.SupportsIndex,
        num_threads: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...
    def input_grad(
        self,
        grad: numpy.typing.NDArray[numpy.float32],
        w: numpy.typing.NDArray[numpy.float32],
        bias: numpy.typing.NDArray[numpy.float32] | None,
        out: numpy.typing.NDArray[numpy.float32],
        relu: bool,
        addend: numpy.typing.NDArray[numpy.float32] | None,
        slope: typing.SupportsFloat | typing.SupportsIndex,
        num_threads: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...
    def weight_grad(
        self,
        grad: numpy.typing.NDArray[numpy.float32],
        x: numpy.typing.NDArray[numpy.float32],
        out: numpy.typing.NDArray[numpy.float32],
        num_threads: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...
    def workspace_bytes(self, num_threads: typing.SupportsInt | typing.SupportsIndex) -> int: ...
    @property
    def family(self) -> str: ...

class ConvPlanF64:
    def __init__(
        self,
        input_shape: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
        weight_shape: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
        stride: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
        padding: collections.abc.Sequence[
            tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ],
        dilation: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
        groups: typing.SupportsInt | typing.SupportsIndex,
        padding_mode: str,
        exact: bool,
    ) -> None: ...
    def forward(
        self,
        x: numpy.typing.NDArray[numpy.float64],
        w: numpy.typing.NDArray[numpy.float64],
        bias: numpy.typing.NDArray[numpy.float64] | None,
        out: numpy.typing.NDArray[numpy.float64],
        relu: bool,
        addend: numpy.typing.NDArray[numpy.float64] | None,
        slope: typing.SupportsFloat | typing.SupportsIndex,
        num_threads: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...
    def input_grad(
        self,
        grad: numpy.typing.NDArray[numpy.float64],
        w: numpy.typing.NDArray[numpy.float64],
        bias: numpy.typing.NDArray[numpy.float64] | None,
        out: numpy.typing.NDArray[numpy.float64],
        relu: bool,
        addend: numpy.typing.NDArray[numpy.float64] | None,
        slope: typing.SupportsFloat | typing.SupportsIndex,
        num_threads: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...
    def weight_grad(
        self,
        grad: numpy.typing.NDArray[numpy.float64],
        x: numpy.typing.NDArray[numpy.float64],
        out: numpy.typing.NDArray[numpy.float64],
        num_threads: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...
    def workspace_bytes(self, num_threads: typing.SupportsInt | typing.SupportsIndex) -> int: ...
    @property
    def family(self) -> str: ...

@typing.overload
def apply_formula(
    formula: str,
    c: numpy.typing.NDArray[numpy.float32],
    *,
    num_threads: typing.SupportsInt | typing.SupportsIndex = 1,
    **kwargs,
) -> typing.Any: ...
@typing.overload
def apply_formula(
    formula: str,
    c: numpy.typing.NDArray[numpy.float64],
    *,
    num_threads: typing.SupportsInt | typing.SupportsIndex = 1,
    **kwargs,
) -> typing.Any: ...
def cached_bytes() -> int: ...
@typing.overload
def denoise_step(
    z: numpy.typing.NDArray[numpy.float32],
    ahead: numpy.typing.NDArray[numpy.float32],
    dual: numpy.typing.NDArray[numpy.float32],
    weight: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
    step: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
    momentum: typing.SupportsFloat | typing.SupportsIndex,
    lowest: typing.SupportsFloat | typing.SupportsIndex,
    num_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None: ...
@typing.overload
def denoise_step(
    z: numpy.typing.NDArray[numpy.float64],
    ahead: numpy.typing.NDArray[numpy.float64],
    dual: numpy.typing.NDArray[numpy.float64],
    weight: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
    step: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
    momentum: typing.SupportsFloat | typing.SupportsIndex,
    lowest: typing.SupportsFloat | typing.SupportsIndex,
    num_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None: ...
@typing.overload
def denoised(
    z: numpy.typing.NDArray[numpy.float32],
    dual: numpy.typing.NDArray[numpy.float32],
    out: numpy.typing.NDArray[numpy.float32],
    weight: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
    lowest: typing.SupportsFloat | typing.SupportsIndex,
    num_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None: ...
@typing.overload
def denoised(
    z: numpy.typing.NDArray[numpy.float64],
    dual: numpy.typing.NDArray[numpy.float64],
    out: numpy.typing.NDArray[numpy.float64],
    weight: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
    lowest: typing.SupportsFloat | typing.SupportsIndex,
    num_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None: ...
def empty_F32(
    shape: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
) -> numpy.typing.NDArray[numpy.float32]: ...
def empty_F64(
    shape: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
) -> numpy.typing.NDArray[numpy.float64]: ...
@typing.overload
def fold(
    y: numpy.typing.NDArray[numpy.float32],
    low: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
    high: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
    boundary: str,
    num_threads: typing.SupportsInt | typing.SupportsIndex,
    out: numpy.typing.NDArray[numpy.float32] | None = None,
) -> numpy.typing.NDArray[numpy.float32]: ...
@typing.overload
def fold(
    y: numpy.typing.NDArray[numpy.float64],
    low: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
    high: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
    boundary: str,
    num_threads: typing.SupportsInt | typing.SupportsIndex,
    out: numpy.typing.NDArray[numpy.float64] | None = None,
) -> numpy.typing.NDArray[numpy.float64]: ...
def good_size(n: typing.SupportsInt | typing.SupportsIndex, even: bool = False) -> int: ...
def isa() -> str: ...
@typing.overload
def pad(
    x: numpy.typing.NDArray[numpy.float32],
    low: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
    high: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
    boundary: str,
    num_threads: typing.SupportsInt | typing.SupportsIndex,
    out: numpy.typing.NDArray[numpy.float32] | None = None,
) -> numpy.typing.NDArray[numpy.float32]: ...
@typing.overload
def pad(
    x: numpy.typing.NDArray[numpy.float64],
    low: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
    high: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
    boundary: str,
    num_threads: typing.SupportsInt | typing.SupportsIndex,
    out: numpy.typing.NDArray[numpy.float64] | None = None,
) -> numpy.typing.NDArray[numpy.float64]: ...
@typing.overload
def penalty(
    kind: str,
    x: numpy.typing.NDArray[numpy.float32],
    out: numpy.typing.NDArray[numpy.float32],
    spacing: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
    weight: typing.SupportsFloat | typing.SupportsIndex,
    level: typing.SupportsFloat | typing.SupportsIndex,
    num_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None: ...
@typing.overload
def penalty(
    kind: str,
    x: numpy.typing.NDArray[numpy.float64],
    out: numpy.typing.NDArray[numpy.float64],
    spacing: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
    weight: typing.SupportsFloat | typing.SupportsIndex,
    level: typing.SupportsFloat | typing.SupportsIndex,
    num_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None: ...
def release_memory() -> None: ...
def smallest_divisor(scale: typing.SupportsFloat | typing.SupportsIndex, single: bool) -> float: ...
@typing.overload
def sum_channels(
    x: numpy.typing.NDArray[numpy.float32],
    out: numpy.typing.NDArray[numpy.float32],
    num_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None: ...
@typing.overload
def sum_channels(
    x: numpy.typing.NDArray[numpy.float64],
    out: numpy.typing.NDArray[numpy.float64],
    num_threads: typing.SupportsInt | typing.SupportsIndex,
) -> None: ...
def supported_isas() -> list[str]: ...
