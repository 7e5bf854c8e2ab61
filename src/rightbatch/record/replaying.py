"""The rule that replays the batch sizes of a recorded run."""

import os

from ..errors import RunFolderError
from ..rules.batch_size import BATCH_SIZE_RULES, Replay
from .folder import RunFolder
from .history import History, read_history


def replay_of(path: str | os.PathLike[str]) -> Replay:
    """The batch sizes of a run, by samples consumed, as a rule for another run.

    A size applies from the batch after its decision; for a rule that enlarges the current batch, from that batch. Steps
    that a resume discarded do not count.

    Args:
        path: the run folder.

    Returns:
        A rule whose `sizes` are plain (samples consumed before the batch, batch size) pairs.

    Raises:
        RunFolderError: the folder contains no run, or the run has not decided on a batch size.
    """
    history = read_history(RunFolder.open(path).events)
    decided = [event for event in history.decisions if event["what"] == "batch_size"]
    if not decided:
        raise RunFolderError(f"{path} contains no batch-size decision: give the folder of a run that has started")
    enlarges = _enlarges_current(history)
    grown = dict(zip(history.steps["samples"], history.steps["batch_size"], strict=True)) if enlarges else {}
    sizes: dict[int, int] = {}
    for event in decided:
        begins, size = int(event["samples"]), int(event["new"])
        batch = int(grown.get(begins, 0))
        if batch >= size > (event["old"] or 0):
            sizes[begins - batch] = batch  # its real size, which may exceed the decision by one
        sizes[begins] = size
    return Replay(tuple(sorted(sizes.items())))


def _enlarges_current(history: History) -> bool:
    """Whether the run's rule, or a rule it wraps, enlarges the current batch, judged by its name in the start event."""
    text = str(history.start.get("batch_size", ""))
    rules = [rule for rule in BATCH_SIZE_RULES.values() if vars(rule).get("enlarges_current") is True]
    return any(f"{rule.__name__}(" in text or rule.name in text for rule in rules)
