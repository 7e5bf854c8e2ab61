"""The run folder: settings, event log and ledger, and how to read them."""

from .events import EventLog, iterate_events, read_events
from .folder import RunFolder
from .history import History, counted_events, read_history
from .ledger import Irregularity, Ledger, LedgerReport, verify_ledger
from .lock import RunLock
from .replaying import replay_of

__all__ = [
    "EventLog",
    "History",
    "Irregularity",
    "Ledger",
    "LedgerReport",
    "RunFolder",
    "RunLock",
    "counted_events",
    "iterate_events",
    "read_events",
    "read_history",
    "replay_of",
    "verify_ledger",
]
