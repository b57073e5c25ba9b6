"""How many chapters this machine runs at a time; as a script, prints that number."""

import os
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CHAPTER_BYTES = 3e9  # of memory that a chapter may need


def workers() -> int:
    """As many as there are cores that this process may use, and fewer where memory is short."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    free = available_bytes()
    return cores if free is None else max(1, min(cores, int(free // CHAPTER_BYTES)))


def available_bytes() -> int | None:
    """Memory that programs can still have; None where the system does not say, as outside Linux."""
    if not MEMINFO.exists():
        return None
    entries = dict(line.split(":") for line in MEMINFO.read_text(encoding="utf-8").splitlines())
    return 1024 * int(entries["MemAvailable"].removesuffix("kB"))


if __name__ == "__main__":
    print(workers())
