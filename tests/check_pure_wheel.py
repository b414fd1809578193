"""What an installation without the compiled module must do: import, say what it lacks, compute."""

import numpy as np

import medeconv_fast as mf

available = mf.backends.available()
assert "cpp" not in available, available
image = np.random.default_rng(0).poisson(20.0, (12, 16, 20)).astype(np.float32)
estimate = mf.richardson_lucy(image, np.ones((3, 3, 3), np.float32), 3)
assert estimate.shape == image.shape and estimate.dtype == np.float32 and np.isfinite(estimate).all()
try:
    mf.richardson_lucy(image, np.ones((3, 3, 3)), 1, backend="cpp")
except (ImportError, RuntimeError) as error:
    assert "cpp" in str(error), error
else:
    raise AssertionError("an unavailable backend must be refused")
print("1 passed: pure wheel imports, backends:", ", ".join(available))
