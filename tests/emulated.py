"""Lets the emulator stand for a GPU: what MEDECONV_TEST_EMULATOR names becomes medeconv_fast._cuda.

Import this before medeconv_fast.
"""

import importlib.machinery
import importlib.util
import os
import sys

PATH = os.environ.get("MEDECONV_TEST_EMULATOR", "")
if PATH:
    loader = importlib.machinery.ExtensionFileLoader("_cuda_emu", PATH)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("_cuda_emu", loader))
    loader.exec_module(module)
    sys.modules["medeconv_fast._cuda"] = module
