"""What a process has needed, as Linux tells it."""

from __future__ import annotations

import os
import re
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def peak_mb(process: int | str = "self") -> float:
    """A process's most resident memory in MB, by default this one's.

    Linux's ``ru_maxrss`` may be that of the process which started it.
    """
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(kilobytes) / 1024


def resident_mb(process: int) -> float:
    """A process's resident memory in MB, now."""
    (kilobytes,) = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(kilobytes) / 1024


def cpu_seconds(process: int) -> float:
    """Seconds of user and system time that a process has used, and its children that have ended."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS


def group_of(leader: int) -> list[int]:
    """The processes of a process group that are there now."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[2]) == leader:
                found.append(int(folder.name))
        except OSError:  # it has just ended
            continue
    return found
