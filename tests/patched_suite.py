"""pytest plugin: a peer's own tests, run with our stand-ins in the peer's place; see `run_patched`.

The swap happens after collection: scipy's decorators look its functions up by identity. Environment:
MEDECONV_PATCHED names the peer, MEDECONV_CALLS the file that the counts of `compat.calls` are written to,
MEDECONV_SKIMAGE_DATA where what scikit-image's tests download lies, and MEDECONV_SAMPLE=n keeps one in n of
the cases of a test that has more than a hundred.
"""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

import medeconv_fast as mf

PEER = os.environ["MEDECONV_PATCHED"]
SAMPLE = int(os.environ.get("MEDECONV_SAMPLE", "1"))


def pytest_collection_modifyitems(config, items):
    of_test = Counter(item.function for item in items)
    seen = Counter()
    kept, left_out = [], []
    for item in items:
        seen[item.function] += 1
        (left_out if of_test[item.function] > 100 and seen[item.function] % SAMPLE else kept).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)


def pytest_collection_finish(session):
    block = mf.compat.patched(PEER)
    block.__enter__()
    session.config.add_cleanup(lambda: block.__exit__(None, None, None))
    # What a module names is swapped; what parametrize took hold of is not.
    ours = {}
    for names in mf.compat._patch._replaced.values():
        for namespace, key, theirs in names:
            ours[id(theirs)] = namespace[key]
    for item in session.items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        for name, value in parameters.items():
            parameters[name] = ours.get(id(value), value)
        # Test modules outside the peer's package took hold of scikit-image's download function.
        data = os.environ.get("MEDECONV_SKIMAGE_DATA")
        if data and hasattr(item.module, "fetch"):
            item.module.fetch = lambda path, data=data: Path(data) / Path(path).name


def pytest_sessionfinish(session):
    counts = {name: [c.own, c.delegated] for name, c in mf.compat.calls().items()}
    Path(os.environ["MEDECONV_CALLS"]).write_text(json.dumps(counts))


@pytest.fixture
def test_root_dir(request):
    """What scikit-image's own conftest.py gives; that one needs pytest-pretty."""
    return Path(request.path).parents[1]
