"""One final model trained by several processes, each on a part of the posts: LightGBMTrainer of Ray Train.

Each process reads its own rows of the stored matrix alone; what they exchange are sums over them. A lost process costs
the model's training from its first round.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import ray.train.lightgbm

from smp_ray.store.join import locate
from smp_ray.store.manifest import Manifest
from smp_ray.store.workspace import Workspace
from smp_ray.training.boosting.base import Predictor
from smp_ray.training.boosting.cross_fit import fit
from smp_ray.training.matrix.matrix import load_final
from smp_ray.training.ray_train import RUNS, failing, run_config
from smp_ray.training.splits import Splits

#: Lost processes that are survived.
MAX_FAILURES = 3
_MODEL = "model.txt"


@dataclass(frozen=True)
class Together:
    """What several processes train a final model from; pickled into them.

    Attributes:
        folder: of the artefact; nothing stays there.
        matrix: whose rows of all labelled posts they share.
        workers: how many processes.
        cpus: logical CPUs of each.
    """

    workspace: Workspace
    folder: str
    matrix: Manifest
    splits: Splits
    workers: int
    cpus: float

    def fit(self, predictor: Predictor, params: dict[str, Any], rounds: int) -> str:
        """The model of all labelled posts as text, by complete parameters. Runs as a Ray task.

        Raises:
            SmpRayError: it failed more than `MAX_FAILURES` times.
        """
        self.workspace.delete_dir(self.folder, RUNS)  # of a run that was killed
        trainer = ray.train.lightgbm.LightGBMTrainer(
            lambda: self._work(predictor, params, rounds),
            scaling_config=ray.train.ScalingConfig(num_workers=self.workers, resources_per_worker={"CPU": self.cpus}),
            run_config=run_config(self.workspace, self.folder, "final", MAX_FAILURES),
        )
        with failing("the final model's training"):
            trainer.fit()
        text = self.workspace.read(self.folder, RUNS, _MODEL).decode()
        self.workspace.delete_dir(self.folder, RUNS)
        return text

    def _work(self, predictor: Predictor, params: dict[str, Any], rounds: int) -> None:
        """What each process does."""
        rank = ray.train.get_context().get_world_rank()
        own, row_ids = load_final(self.workspace, self.matrix, rank, self.workers)
        popularity: np.ndarray = self.splits.popularity[locate(row_ids, self.splits.row_ids)]
        shared = predictor.together(params, ray.train.lightgbm.get_network_params())
        assert shared is not None  # else the tune stage has refused
        text = fit(predictor, own, popularity, shared, rounds).text()
        if rank == 0:  # all have the same
            self.workspace.write(text.encode(), self.folder, RUNS, _MODEL)
