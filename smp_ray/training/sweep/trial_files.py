"""What a trial leaves behind: its record as JSON and its out-of-fold predictions, both in the workspace.

`trials/<number>.json` is written by the driver when the trial has ended, so a trial with a record is over, whatever
became of the sweep; `trials/<number>.npy` by the trial itself, before it says how well it did. A sweep that is started
again takes the records and trains what has none.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from smp_ray.store.workspace import Workspace

Status = Literal["completed", "stopped", "failed"]
#: Keys of what a trial reports to Ray: its objective and its rounds so far, and at rungs and end its record as JSON.
OBJECTIVE, ROUNDS, RECORD = "objective", "rounds", "record"


@dataclass(frozen=True)
class TrialRecord:
    """One trial of the sweep.

    Attributes:
        number: place in the order of suggestions, from 0.
        params: what was searched.
        status: `completed` (by early stopping or all its rounds), `stopped` (at a rung or by the time budget) or
            `failed`.
        objective: mean over the folds of the objective at the best round; None: failed.
        rounds: the best round.
        rounds_trained: all rounds, those after the best one included.
        rungs: lowest mean objective up to each rung of the successive halving.
        metrics: `src`, `mae` and `mape` of all out-of-fold predictions together.
        folds: `fold`, `posts`, `src`, `mae` and `mape` of each fold.
        seconds: wall clock of the trial.
        started_after_seconds: from the start of the sweep; an interrupted sweep's clock stands still.
        error: why it failed.
    """

    number: int
    params: dict[str, Any]
    status: Status
    objective: float | None = None
    rounds: int = 0
    rounds_trained: int = 0
    rungs: list[float] = field(default_factory=list)
    metrics: dict[str, float | None] = field(default_factory=dict)
    folds: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    started_after_seconds: float = 0.0
    error: str | None = None

    def to_json(self) -> str:
        """One line of JSON; `from_json` is the inverse."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> TrialRecord:
        """The inverse of `to_json`."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class TrialFiles:
    """The records and predictions of one sweep's trials, in a folder of the workspace."""

    workspace: Workspace
    folder: str

    def records(self) -> dict[int, TrialRecord]:
        """All trials that have ended, by number."""
        names = [info.path for info in self.workspace.files(self.folder) if info.path.endswith(".json")]
        found = [TrialRecord(**self.workspace.read_json(self.workspace.relative(name))) for name in names]
        return {record.number: record for record in found}

    def write_record(self, record: TrialRecord) -> None:
        """Store a record: the trial is over."""
        self.workspace.write_json(asdict(record), self.folder, f"{record.number:05d}.json")

    def predictions(self, number: int) -> np.ndarray:
        """Out-of-fold predictions, float64 (posts of `Splits`,); NaN where no fold judged the post."""
        data = self.workspace.read(self.folder, f"{number:05d}.npy")
        return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))

    def write_predictions(self, number: int, prediction: np.ndarray) -> None:
        """Store a trial's predictions; a reader sees the old file or the whole new one."""
        buffer = io.BytesIO()
        np.save(buffer, prediction, allow_pickle=False)
        self.workspace.write(buffer.getvalue(), self.folder, f"{number:05d}.npy")
