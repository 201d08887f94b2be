"""Main memory of this machine. Needs no torch and imports nothing of the package."""

from __future__ import annotations

import os
from pathlib import Path


def memory_bytes() -> tuple[int, int]:
    """Available and total main memory; within a container, at most its limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = total
    for line in read_text("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            free = 1024 * int(line.split()[1])
    limit, used = read_text("/sys/fs/cgroup/memory.max"), read_text("/sys/fs/cgroup/memory.current")
    if limit.isdecimal() and used.isdecimal() and int(limit) < total:
        total, free = int(limit), min(free, int(limit) - int(used))
    return max(free, 0), total


def read_text(path: str) -> str:
    """The stripped content of a system file; empty if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
