"""What a run tells: to its folder, if it has one, and to the terminal."""

import os
import platform
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

import torch

from ..data import Interval
from ..decision import Decision
from ..errors import MissingExtraError, RunFolderError
from ..loop.callback import Callback
from ..loop.distributed.rank_sync import cpu_name
from ..measurements import Audit, StepTime
from ..record import EventLog, Ledger, RunFolder, RunLock
from ..report import Progress, write_report

REPORT_SHARE = 0.01  # of the time of a run, for reports before its end
FIRST_REPORT_S = 60.0


class Recorder(Callback):
    """The observer of a run.

    Args:
        folder: where to write; None writes nothing.
        progress: the terminal's view.
        lock: the right to write there, given back with the files.
        clock: seconds; reports before the end of a run are written by it.
    """

    def __init__(
        self,
        folder: RunFolder | None,
        progress: Progress,
        lock: RunLock | None = None,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._clock = clock
        self._report_due_s = clock() + FIRST_REPORT_S
        self.folder = folder
        self.progress = progress
        self._lock = lock
        self._events = EventLog(folder.events) if folder is not None else None
        self._ledger = Ledger(folder.ledger) if folder is not None else None

    def event(self, kind: str, **fields: Any) -> None:
        """Append one event."""
        if self._events is not None:
            self._events.append(kind, **fields)

    def step(self, row: dict[str, Any]) -> None:
        """A step was taken."""
        if self._events is not None:
            self._events.append("step", **row)
        self.progress.step(row)

    def evaluation(self, row: dict[str, Any]) -> None:
        """An evaluation was made."""
        self.event("evaluation", **row)
        self.progress.evaluation(row)
        if self._events is not None and self._clock() >= self._report_due_s:
            self._events.flush()
            self._report()

    def _report(self) -> None:
        """Write the report of the run so far; one that cannot be written is written, or complained of, at the end."""
        started_s = self._clock()
        if self.folder is not None:
            with suppress(MissingExtraError, RunFolderError):
                write_report(self.folder.path)
        now_s = self._clock()
        self._report_due_s = now_s + max(FIRST_REPORT_S, (now_s - started_s) * (1 / REPORT_SHARE - 1))

    def decision(self, step: int, samples: int, what: str, old: float | None, new: float, decision: Decision) -> None:
        """A rule decided something worth telling."""
        reason, evidence = decision.reason, dict(decision.evidence)
        self.event(
            "decision", step=step, samples=samples, what=what, old=old, new=new, reason=reason, evidence=evidence
        )
        self.progress.note(reason)

    def consumed(self, step: int, intervals: list[Interval]) -> None:
        """Samples were used up."""
        if self._ledger is not None:
            for interval in intervals:
                self._ledger.append(step, *interval)

    def failure(self, step: int, samples: int, reason: str, lr: float, restored_step: int) -> None:
        """A step was not taken."""
        self.event(
            "failure",
            step=step,
            samples=samples,
            reason=reason,
            lr=lr,
            restored_step=restored_step,
        )
        self.progress.note(f"step {step} not taken: {reason}; back to step {restored_step} with a lower learning rate")

    def audit(self, step: int, samples: int, method: str, audit: Audit) -> None:
        """A cheap estimate of the noise was held against the exact one."""
        self.event("audit", step=step, samples=samples, method=method, **asdict(audit), discrepancy=audit.discrepancy)

    def memory(self, step: int, samples: int, old: int, new: int, rank: int | None, device: str) -> None:
        """Forward passes are smaller, memory having run out (of several processes, in `rank`), or larger again."""
        self.event("memory", step=step, samples=samples, old=old, new=new, rank=rank, device=device)
        if new > old:
            self.progress.note(f"trying forward passes of up to {new:,} samples again")
        else:
            where = device if rank is None else f"{device} (rank {rank})"
            self.progress.note(
                f"out of memory on {where} with {old:,} samples; at most {new:,} in one forward pass from now on"
            )

    def measuring(self, step: int, samples: int, method: str) -> None:
        """The noise is measured otherwise than before."""
        self.event("measuring", step=step, samples=samples, method=method)
        self.progress.note(f"the gradient noise is measured by {method}")

    def timing(self, step: int, samples: int, points: list[tuple[int, float, int]], fit: StepTime | None) -> None:
        """The model of the seconds per step was fitted again."""
        if fit is not None:
            self.event(
                "timing",
                step=step,
                samples=samples,
                points=[list(point) for point in points],
                fixed_s=fit.fixed_s,
                per_sample_s=fit.per_sample_s,
                half_performance=fit.half_performance,
                standard_error=fit.standard_error,
            )

    def resumed(
        self, step: int, epoch: int, position: int, log_bytes: int, warning: str = "", processes: int = 1
    ) -> None:
        """The run resumes after `step`; log and ledger drop what came later."""
        warned = {"warning": warning} if warning else {}
        self.event("resume", step=step, log_bytes=log_bytes, time=now(), processes=processes, **warned)
        if self._ledger is not None:
            self._ledger.rewind(step, epoch, position)
        if warning and self.folder is not None:
            warnings.warn(f"{self.folder.path}: {warning}", stacklevel=2)

    def overflow(self, step: int, samples: int, scale: float) -> None:
        self.event("overflow", step=step, samples=samples, scale=scale)
        self.progress.note(
            f"step {step} not taken: the gradient overflowed at a loss scale of {scale:g}, which is lowered"
        )

    def change(self, step: int, samples: int, name: str, old: Any, new: Any) -> None:
        self.event("change", step=step, samples=samples, name=name, old=old, new=new)
        self.progress.note(f"{name} is {new} from now on, it was {old}")

    def note(self, text: str) -> None:
        """Something found before the first step that the user should know."""
        self.event("note", text=text)
        self.progress.note(text)

    def sync(self) -> int:
        """Flush all events to the disk; return the bytes of the event log."""
        if self._ledger is not None:
            self._ledger.sync()
        return self._events.sync() if self._events is not None else 0

    def release(self) -> None:
        """Close the files and give back the lock; twice is allowed."""
        with ExitStack() as stack:  # the lock too if a file cannot be written
            if self._lock is not None:
                stack.callback(self._lock.release)
            for file in (self._events, self._ledger):
                if file is not None:
                    stack.callback(file.close)

    def close(self, text: str) -> None:
        """End the run: close the files, write the report, say where it is."""
        self.release()
        if self.folder is not None:
            try:
                text += f"; report: {write_report(self.folder.path)}"
            except MissingExtraError as error:
                text += f"; {error}"
        self.progress.end(text)


def machine(device: torch.device) -> Mapping[str, Any]:
    """What the numbers of a run depend on."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
    }


def now() -> str:
    """The present time, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
