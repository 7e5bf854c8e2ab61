"""How large a batch may become before memory runs out: predicted before it is tried."""

import os
import sys
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

SHARE = 0.8  # of what is free
# Limit, usage and the part of it that is file cache, of the two forms of Linux control groups.
CONTAINERS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


class Memory:
    """Predicts whether a larger batch fits, from how the peak has grown.

    A step on b samples raised the peak by u bytes above what was held at the start; one on b' > b will need
    u·b'/b at most, since part of u does not grow. While the peak is still that of earlier, larger work of this
    process, nothing is known yet and nothing is refused.

    Args:
        device: where the model is.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._held_bytes = held_bytes(device)
        self._first_peak_bytes = peak_bytes(device)

    def allows(self, tried: int, samples: int) -> bool:
        """Whether a batch of `samples` is predicted to fit, `tried` being the largest that was run."""
        peak = peak_bytes(self._device)
        if peak <= self._first_peak_bytes:
            return True
        needed = (peak - self._held_bytes) * samples / tried
        return needed <= SHARE * (free_bytes(self._device) + held_bytes(self._device) - self._held_bytes)


def held_bytes(device: torch.device) -> int:
    """What this process holds now."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return peak_bytes(device)
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_bytes(device: torch.device) -> int:
    """The most this process has held so far; 0 where that cannot be known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None or device.type != "cpu":
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def free_bytes(device: torch.device) -> float:
    """What could still be had, without swapping and within the limit of a container; inf where that cannot be known."""
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
    # Not Linux: the best that is standardised.
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
