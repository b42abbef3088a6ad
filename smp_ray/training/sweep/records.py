"""What a trial leaves behind: its record, `trials/<number>.json` in the artefact's folder.

It is written by the driver when the trial has ended, so a trial with a record is over, whatever became of the sweep. A
sweep that is started again takes the records and tries as many more as are lacking.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from smp_ray.store.workspace import Workspace


@dataclass(frozen=True)
class TrialRecord:
    """One trial of the sweep; with the sweep's own settings it is all that refitting takes.

    Attributes:
        number: place in the order of suggestions, from 0.
        status: `completed` (by early stopping or all its rounds), `stopped` (by successive halving or the time budget)
            or `failed`.
        objective: mean over the folds of the objective at the best round; None: failed.
        rounds: the best round.
        nested: for each fold, the best round by the other folds alone: their mean `objective` there, and `rounds`.
        rounds_trained: all rounds, those after the best one included.
        metrics: `src`, `mae` and `mape` of all out-of-fold predictions together, at the best round.
        folds: `fold`, `posts`, `src`, `mae` and `mape` of each fold, at the best round.
        started_after_seconds: from the start of the sweep; an interrupted sweep's clock stands still.
    """

    number: int
    params: dict[str, Any]
    status: Literal["completed", "stopped", "failed"]
    objective: float | None = None
    rounds: int = 0
    rounds_trained: int = 0
    nested: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, float | None] = field(default_factory=dict)
    folds: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    started_after_seconds: float = 0.0
    error: str | None = None


def read_records(workspace: Workspace, folder: str) -> dict[int, TrialRecord]:
    """All trials that have ended, by number."""
    names = [workspace.relative(info.path) for info in workspace.files(folder, "trials")]
    found = [TrialRecord(**workspace.read_json(name)) for name in names if name.endswith(".json")]
    return {record.number: record for record in found}


def clock(records: dict[int, TrialRecord]) -> float:
    """Seconds from the start of the sweep to the end of the last trial so far."""
    return max((record.started_after_seconds + record.seconds for record in records.values()), default=0.0)
