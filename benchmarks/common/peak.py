"""Runs a module as `python -m` does, and writes the most memory that was resident, in MiB.

python benchmarks/common/peak.py FILE MODULE ARGUMENT ...
"""

from __future__ import annotations

import atexit
import re
import runpy
import sys
from pathlib import Path


def write_peak(path: Path) -> None:
    """VmHWM of this process; not `ru_maxrss`, which a new process inherits from its parent."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    path.write_text(str(int(found[1]) / 1024 if found else "nan"))


if __name__ == "__main__":
    _, file, module, *rest = sys.argv
    atexit.register(write_peak, Path(file).resolve())
    sys.path[0] = str(Path.cwd())  # as `python -m` has it
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
