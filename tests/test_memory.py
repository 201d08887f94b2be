"""Free memory: what Linux says, within the limit of a container."""

from __future__ import annotations

import os

import pytest

from scaledreamer import memory

GIB = 2**30
TOTAL = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, (TOTAL, TOTAL)),
        ({"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    1024 kB\n"}, (2**20, TOTAL)),
        ({"memory.max": str(GIB // 2), "memory.current": str(GIB // 8)}, (GIB // 2 - GIB // 8, GIB // 2)),
        (
            {"/proc/meminfo": "MemAvailable: 1 kB", "memory.max": str(GIB // 2), "memory.current": "0"},
            (1024, GIB // 2),
        ),
        ({"memory.max": "5", "memory.current": "7"}, (0, 5)),
        ({"memory.max": "max", "memory.current": "7"}, (TOTAL, TOTAL)),
        ({"memory.max": str(2 * TOTAL), "memory.current": "7"}, (TOTAL, TOTAL)),
    ],
)
def test_memory_bytes_are_those_of_the_narrowest_limit(
    files: dict[str, str], expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        memory, "read_text", lambda path: files.get(path, files.get(path.rpartition("/")[2], ""))
    )
    assert memory.memory_bytes() == expected


def test_memory_of_this_machine() -> None:
    free, total = memory.memory_bytes()
    assert 2**24 < free < total <= TOTAL
    assert memory.read_text("/no/such/file") == ""
