"""The machine that figures are taken on: what it is, and how much memory is used and free."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

GIB = 2**30


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    gpu = run_tool("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return {
        "processor": processor(),
        "cores": processors(),
        "gpu": gpu.splitlines()[0] if gpu else None,
        "system": platform.system(),
        "date": str(datetime.now(UTC).date()),
    }


def processor() -> str:
    with_names = Path("/proc/cpuinfo")
    names = (
        [line for line in with_names.read_text().splitlines() if line.startswith("model name")]
        if with_names.exists()
        else []
    )
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> float:
    """Bytes; a guess where the system does not tell."""
    told = Path("/proc/meminfo")
    for line in told.read_text().splitlines() if told.exists() else ():
        if line.startswith("MemAvailable:"):
            return float(line.split()[1]) * 1024
    return 8.0 * GIB


def peak_memory() -> int | None:
    """The most bytes of memory that this process held at a time; None where the system does not tell."""
    told = Path("/proc/self/status")  # unlike getrusage it forgets what the process was started from
    for line in told.read_text().splitlines() if told.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def gpu_memory(device: str) -> int | None:
    """Bytes in use on a GPU, by whomever."""
    index = device.partition(":")[2] or "0"
    told = run_tool("nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", f"--id={index}")
    return int(told.split()[0]) * 2**20 if told and told.split()[0].isdecimal() else None


def run_tool(*command: str) -> str | None:
    """What a program prints; None where it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
