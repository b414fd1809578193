"""What is done to an image before it is restored, and undone afterwards.

Every function takes an array (NumPy, torch; 1 to 3 axes) or a `medeconv_fast.io.Volume` and returns
``(result, step)``; ``step.undo(restored)`` brings a restored image back to where and how the original was.
What a step took away comes back as it was measured, so that undoing the result itself gives the original to
rounding. `apply` does several steps, and its `Chain` undoes them in reverse order.

==============  ======================================  =======================================
crop            a box, the content or a mask            undo pastes into the original
pad             by any of the library's boundaries      undo cuts off
resample        to a voxel size or shape                undo interpolates, adds lost details
normalize       min-max, z-score, percentiles           undo is exact
window          level and width, as in CT               undo restores what was outside
taper           fade to a constant at the edges         undo adds what was taken away
background      subtract a constant, given or found     undo is exact
==============  ======================================  =======================================
"""

from ._apply import apply
from ._background import Background, background, estimate_background
from ._extent import crop, pad
from ._resample import resample
from ._step import Chain, Step
from ._values import normalize, taper, window

__all__ = [
    "Background",
    "Chain",
    "Step",
    "apply",
    "background",
    "crop",
    "estimate_background",
    "normalize",
    "pad",
    "resample",
    "taper",
    "window",
]
