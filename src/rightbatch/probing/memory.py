"""Prediction of whether a larger batch fits into memory."""

import os
import sys
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

SHARE = 0.8  # of the free memory
# Limit, usage and its file-cache part, for both versions of Linux control groups.
CONTAINERS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


class Memory:
    """Predicts whether a larger batch fits, from the growth of the peak memory.

    If a step on b samples raised the peak by u bytes above the initial usage, a step on b' > b needs at most u·b'/b,
    since part of u does not grow. As long as earlier work of this process determines the peak, every size is allowed.

    Args:
        device: the model's device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._held_bytes = held_bytes(device)
        self._first_peak_bytes = peak_bytes(device)

    def allows(self, tried: int, samples: int) -> bool:
        """Whether a batch of `samples` is predicted to fit, given that `tried` is the largest that was run."""
        peak = peak_bytes(self._device)
        if peak <= self._first_peak_bytes:
            return True
        needed = (peak - self._held_bytes) * samples / tried
        return needed <= SHARE * (free_bytes(self._device) + held_bytes(self._device) - self._held_bytes)


def held_bytes(device: torch.device) -> int:
    """Memory that this process uses now."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return peak_bytes(device)
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_bytes(device: torch.device) -> int:
    """Peak memory of this process; 0 if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None or device.type != "cpu":
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def free_bytes(device: torch.device) -> float:
    """Memory available without swapping, within the limit of the container; inf if unknown."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return min(_machine_free_bytes(), _container_free_bytes())


def _machine_free_bytes() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        pass
    # Not Linux: POSIX values, where available.
    for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES"):
        try:
            return float(os.sysconf(name) * os.sysconf("SC_PAGE_SIZE"))
        except (ValueError, OSError, AttributeError):
            continue
    return float("inf")


def _container_free_bytes() -> float:
    for folder, limit, usage, cache in CONTAINERS:
        try:
            lines = (Path(folder) / "memory.stat").read_text().splitlines()
            cached = next(int(line.split()[1]) for line in lines if line.startswith(cache + " "))
            used = int((Path(folder) / usage).read_text()) - cached
            return int((Path(folder) / limit).read_text()) - used
        except (OSError, ValueError, StopIteration):  # no such group, or its limit is the word "max"
            continue
    return float("inf")
