"""How much memory this process has needed."""

from __future__ import annotations

import re
from pathlib import Path


def peak_mb() -> float:
    """Its most resident memory in MB. Linux's ``ru_maxrss`` may be that of the process which started it."""
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) / 1024
