"""Runs the tests of the backend cpp once per ISA of this machine; says which of the build's cannot run here.

``--list`` prints the ISAs, one per line. The pytest arguments that follow are passed on.
"""

import os
import subprocess
import sys

BUILT_ON_X86 = ["baseline", "avx2", "avx512"]


def isas() -> list[str]:
    from medeconv_fast.backends import cpp

    return list(cpp.describe()["supported_isas"])


def main() -> int:
    names = isas()
    if sys.argv[1:] == ["--list"]:
        print("\n".join(names))
        return 0
    for name in BUILT_ON_X86:
        if name not in names:
            print(f"SKIPPED ISA {name}: this machine cannot run it", flush=True)
    # The fastest one is what `make test` has just run.
    for name in names[:-1]:
        print(f"--- MEDECONV_ISA={name}", flush=True)
        command = [sys.executable, "-m", "pytest", "-q", "-m", "not peers", "-k", "cpp", *sys.argv[1:]]
        status = subprocess.run(command, env={**os.environ, "MEDECONV_ISA": name}, check=False).returncode
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
