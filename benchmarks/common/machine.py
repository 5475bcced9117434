"""Where something was measured, and how much memory it took."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

import torch


def machine(device: str) -> dict[str, Any]:
    """Processor, cores, GPU, and the load of other work before."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.is_file() else ""
    model = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return {
        "cpu": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name(device) if "cuda" in device else None,
        "load_average_before": os.getloadavg() if hasattr(os, "getloadavg") else None,
    }


def resident_mib(line: str) -> float | None:
    """A line of /proc/self/status in MiB, None where there is no such file.

    Not `ru_maxrss`: a new process inherits its parent's.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    found = re.search(rf"^{line}:\s+(\d+) kB", status.read_text(), re.MULTILINE)
    return None if found is None else int(found[1]) / 1024
