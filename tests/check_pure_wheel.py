"""What an installation without the compiled module must do: import, say what it lacks, compute.

check_pure_wheel.py [numba]    with Numba beside it: then nothing is slow, and nothing warns
"""

import sys
import warnings

import numpy as np

import medeconv_fast as mf

expected = (*sys.argv[1:], "reference")
available = mf.backends.available()
assert available == expected, available
image = np.random.default_rng(0).poisson(20.0, (12, 16, 20)).astype(np.float32)
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    for _ in range(2):
        estimate, info = mf.richardson_lucy(image, np.ones((3, 3, 3), np.float32), 3, return_info=True)
assert info.backend == expected[0]
assert [w.category for w in seen] == ([] if "numba" in expected else [RuntimeWarning]), seen
if "numba" not in expected:
    try:
        mf.richardson_lucy(image, np.ones((3, 3, 3)), 1, backend="numba")
    except ImportError as error:
        assert 'pip install "medeconv-fast[numba]"' in str(error), error
    else:
        raise AssertionError("an unavailable backend must be refused")
assert estimate.shape == image.shape and estimate.dtype == np.float32 and np.isfinite(estimate).all()
try:
    mf.richardson_lucy(image, np.ones((3, 3, 3)), 1, backend="cpp")
except (ImportError, RuntimeError) as error:
    assert "cpp" in str(error), error
else:
    raise AssertionError("an unavailable backend must be refused")
print("1 passed: pure wheel imports, backends:", ", ".join(available))
