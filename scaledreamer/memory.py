"""Main memory of this machine. Needs no torch, imports nothing of the package."""

from __future__ import annotations

import os
from pathlib import Path


def memory_bytes() -> tuple[int, int]:
    """Main memory that is free to use, and all of it; a container's limit where that is less."""
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
    """What a file of the system says, stripped; nothing where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
