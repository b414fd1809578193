"""Other tools on these kernels: a MONAI-style dictionary transform, a dask array larger than memory, and code
written for scipy and scikit-image that nobody touches.

    python examples/integrations.py

Each part is about ten lines to copy. The transform needs nothing but this library, and goes into monai's
Compose; the others need dask[array], scipy and scikit-image. For research, not a medical device.
"""

import sys
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

import medeconv_fast as mf


class Deblurd:
    """A dictionary transform: monai.transforms.Compose([LoadImaged("image"), Deblurd(["image"], psf), ...]).

    Images are (channel, [z,] y, x), NumPy arrays or torch tensors on the CPU, as MONAI's are.
    """

    def __init__(self, keys: Sequence[Hashable], psf: Any, **options: Any) -> None:
        self.keys, self.psf, self.options = tuple(keys), psf, {"num_iter": 10, "negative": "clip"} | options

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.keys:
            channels = [mf.richardson_lucy(values, self.psf, **self.options) for values in result[key]]
            stack = np.stack if isinstance(channels[0], np.ndarray) else sys.modules["torch"].stack
            result[key] = stack(channels)
        return result


def deblur_blocks(image: Any, psf: np.ndarray, num_iter: int = 10) -> Any:
    """Richardson-Lucy on a dask array, block by block; blocks overlap by twice the PSF's reach."""
    import dask.array as da

    depth = tuple(2 * (k // 2) for k in psf.shape)

    def block(values: np.ndarray) -> np.ndarray:
        return mf.richardson_lucy(values, psf, num_iter=num_iter, boundary="reflect", num_threads=1)

    return da.map_overlap(block, image, depth=depth, boundary="none", dtype=image.dtype, meta=image._meta)


def smooth_and_deblur(image: np.ndarray, psf: np.ndarray) -> np.ndarray:
    """Code that knows scipy and scikit-image only: it runs on our kernels under `mf.compat.patched`."""
    from scipy import ndimage
    from skimage import restoration

    return restoration.richardson_lucy(ndimage.gaussian_filter(image, 0.5), psf, num_iter=10, clip=False)


def main() -> None:
    rng = np.random.default_rng(0)
    truth = np.zeros((16, 96, 96), np.float32)
    truth[4:12, 20:70, 30:60] = 50
    psf = mf.psf.gaussian(fwhm=(2, 4, 4), voxel_size=(1, 1, 1))
    image = mf.simulate(truth, psf, noise="poisson", seed=1)
    print(f"blurred                    {mf.metrics.psnr(truth, image):6.2f} dB")

    restored = Deblurd(["image"], psf)({"image": image[None], "label": rng.random()})["image"][0]
    print(f"dictionary transform       {mf.metrics.psnr(truth, restored):6.2f} dB")

    import dask.array as da

    blocks = deblur_blocks(da.from_array(image, chunks=(16, 48, 48)), psf).compute()
    print(f"dask, 4 blocks             {mf.metrics.psnr(truth, blocks):6.2f} dB")

    with mf.compat.patched("skimage", "scipy"):
        patched = smooth_and_deblur(image, psf)
    print(f"scikit-image, our kernels  {mf.metrics.psnr(truth, patched):6.2f} dB")
    for name, counts in mf.compat.calls().items():
        print(f"  {name}: {counts.own} computed here, {sum(counts.delegated.values())} handed back")


if __name__ == "__main__":
    main()
