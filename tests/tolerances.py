"""How far results may be from what they should be, each with its reason. Norm-wise relative unless said
otherwise.

Loaded through the fixture ``tol``: ``tol("adjoint", dtype)``.
"""

from typing import NamedTuple


class Tolerance(NamedTuple):
    float32: float
    float64: float
    reason: str


TABLE = {
    "adjoint": Tolerance(
        1e-6,
        1e-13,
        "|<Hx,y> - <x,H'y>| / (|x||y|): rounding of two transforms, a few units of the dtype times "
        "log2(size)",
    ),
    "forward": Tolerance(2e-6, 1e-13, "one convolution against a direct sum in float64"),
    "formula": Tolerance(
        1e-5,
        1e-12,
        "a formula of one sweep against float64: the blur's own error, enlarged by divisors down to a tenth "
        "of the mean and by damping's tenth powers",
    ),
    "sums": Tolerance(
        1e-5, 1e-11, "sums over a sweep against float64: rounding of rows summed in the dtype, of either sign"
    ),
    "same_grid": Tolerance(2e-6, 1e-13, "the same operator by another route: transforms of other sizes"),
    "convolution": Tolerance(
        2e-6, 1e-12, "the contract's bound against scipy.signal (float32 inputs widened for scipy)"
    ),
    "transcription": Tolerance(
        1e-4,
        1e-10,
        "the contract's bound for Richardson-Lucy against dense matrices; float32 against float64 formulas",
    ),
    "flat": Tolerance(
        1e-4, 1e-9, "largest deviation of a flat image's estimate; the contract's bound in float32"
    ),
    "flux": Tolerance(
        1e-4,
        1e-10,
        "sum of an estimate over what it must be; the contract's bound in float32, exact but for rounding",
    ),
    "scale": Tolerance(
        2e-5, 1e-10, "the same run on a scaled image: rounding through 20 iterations, nothing systematic"
    ),
    "precision": Tolerance(
        1e-4, 1e-4, "float32 against float64 over 100 iterations on zero background: the contract's bound"
    ),
    "simpleitk": Tolerance(1e-4, 1e-9, "the contract's bound against SimpleITK inside a frame of zeros"),
    "skimage_wiener": Tolerance(
        1e-4, 1e-9, "the contract's bound against scikit-image, whose transforms are as exact"
    ),
    "backends": Tolerance(1e-4, 1e-10, "another backend's result of the same algorithm"),
    "seam": Tolerance(
        1e-3,
        1e-3,
        "tiles against the whole, largest difference over the range: the bound that docs/volumes.md states",
    ),
    "wiener": Tolerance(
        1e-4,
        1e-10,
        "the filter amplifies rounding by up to 1 / (2 sqrt(balance)); balances of 1e-2 and more are tested",
    ),
    "conv": Tolerance(
        1e-6,
        1e-14,
        "largest error over the largest sum of the terms' absolute values: rounding of up to some thousand "
        "products, added in blocks",
    ),
    "conv_adjoint": Tolerance(
        1e-6, 1e-14, "|<Hx,y> - <x,H'y>| over <|H||x|,|y|>: rounding of the two sums that are compared"
    ),
    "winograd": Tolerance(
        2e-5,
        1e-13,
        "64 and more channels: the transformation's constants amplify rounding (measured 6e-6 at 64, "
        "2e-5 at 512 channels)",
    ),
    "conv_spectral": Tolerance(
        2e-6, 1e-14, "as conv, through transforms: their rounding grows with the logarithm of the size"
    ),
    "conv_torch": Tolerance(1e-5, 1e-11, "the contract's bound against torch's own sample inputs"),
    "conv_onnx": Tolerance(1e-5, 1e-11, "largest error over the largest expected value; stored in float32"),
    "compat": Tolerance(
        5e-6,
        1e-12,
        "a stand-in against scipy: largest difference over what the weights can make of the array; scipy "
        "sums or transforms float32 in float32 as well (ndimage: in float64, rounded between axes)",
    ),
    "compat_restoration": Tolerance(
        1e-4,
        1e-9,
        "a stand-in against scikit-image, largest difference over the largest value: its own rtol is 1e-3",
    ),
    "finite_differences": Tolerance(
        1e-3,
        1e-7,
        "a gradient along random directions against central differences of 1e-5, relative to the product of "
        "the norms: their own error is the third derivative times 1e-10 and rounding over 1e-5",
    ),
    "nn_torch": Tolerance(
        1e-3,
        1e-5,
        "the contract's bound on the losses of 50 updates against torch's, each relative to its own",
    ),
    "nn_onnx": Tolerance(1e-5, 1e-5, "a network in onnxruntime, in float32: rounding through a few layers"),
}
