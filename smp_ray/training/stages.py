"""The training stages of one run: what each needs, what it says, and the tables at the end.

Each stage brings what it builds on up to date first, so `smp-ray predict` alone does all that is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from rich.console import Console

from smp_ray.config import Config, Family
from smp_ray.progress import console, say
from smp_ray.ray_session import RaySession
from smp_ray.schema import StoredFamily
from smp_ray.training.evaluate import METRICS_FILE, gather_metrics, measured, out_of_fold_fragment, read_out_of_fold
from smp_ray.training.keys import TrainingKeys, training_keys
from smp_ray.training.splits import Splits, load_splits, make_splits
from smp_ray.workspace import Manifest, Workspace

#: The tuned model's name in metrics and tables.
TUNED = "tuned"


@dataclass
class Training:
    """Everything between the committed features and the predictions."""

    config: Config
    workspace: Workspace
    posts: Manifest
    families: Mapping[Family, Manifest]
    session: RaySession
    #: Stages that this command has already spoken of.
    _said: set[str] = field(default_factory=set)
    #: Whether this command brought `metrics.json` up to date.
    _measured: bool = False

    @cached_property
    def keys(self) -> TrainingKeys:
        """Fingerprints of all artefacts."""
        return training_keys(self.config, self.posts, self.families)

    @cached_property
    def splits(self) -> Splits:
        """The folds, made and stored where that was not done."""
        known = self.workspace.manifest("splits", self.keys.splits) is not None
        manifest = make_splits(self.config, self.workspace, self.posts, self.keys.splits)
        splits = load_splits(self.workspace, manifest)
        if not known:
            users = len(np.unique(splits.users))
            posts = len(splits.row_ids)
            say(f"splits: {posts:,} labelled posts of {users:,} users in {splits.count} folds by {splits.kind}")
        for warning in manifest.details["warnings"]:
            say(f"splits: {warning}")
        self.warnings = list(manifest.details["warnings"])
        return splits

    def adapt(self) -> Manifest | None:
        """Cross-fitted adapters; None where the matrix does not use them."""
        if self.keys.adapted is None:
            self._say("adapt", "adapt: nothing to do, the matrix has no adapted features")
            return None
        splits = self.splits
        if (done := self.workspace.manifest("features/adapted", self.keys.adapted)) is not None:
            self._say("adapt", f"adapt: up to date, {done.rows:,} posts")
            return done
        from smp_ray.training.adapt import adapt

        self._said.add("adapt")
        return adapt(
            self.config, self.workspace, self.posts, self.families["clip"], splits, self.session, self.keys.adapted
        )

    @cached_property
    def stored(self) -> dict[StoredFamily, Manifest]:
        """The stored families that the matrix may read."""
        found: dict[StoredFamily, Manifest] = dict(self.families.items())
        if (adapted := self.adapt()) is not None:
            found["adapted"] = adapted
        return found

    @cached_property
    def matrix(self) -> Manifest:
        """The encoded matrices of all folds."""
        from smp_ray.training.build import build_matrix

        stored, known = self.stored, self.workspace.manifest("matrix", self.keys.matrix) is not None
        done = build_matrix(
            self.config, self.workspace, self.posts, self.splits, stored, self.session, self.keys.matrix
        )
        if not known:
            columns = len(done.details["columns"])
            say(f"matrix: {columns} columns of {', '.join(done.details['families'])} in {done.wall_seconds:.1f} s")
        for warning in done.details["warnings"]:
            say(f"matrix: {warning}")
        return done

    @cached_property
    def baselines(self) -> Manifest:
        """Out-of-fold predictions of the configured baselines."""
        from smp_ray.training.baselines import baselines

        known = self.workspace.manifest("baselines", self.keys.baselines) is not None
        done = baselines(self.config, self.workspace, self.splits, self.matrix, self.session, self.keys.baselines)
        if not known:
            say(f"baselines: {', '.join(self.config.training.baselines)} in {done.wall_seconds:.1f} s")
        return done

    @cached_property
    def tuned(self) -> Manifest:
        """The sweep and the final model."""
        if (done := self.workspace.manifest("tune", self.keys.tune)) is not None:
            self._say("tune", f"tune: up to date, {done.rows:,} trials")
            return done
        from smp_ray.training.matrix import load_final, load_fold
        from smp_ray.training.tune import tune

        matrix, splits = self.matrix, self.splits

        def folds() -> list[Any]:
            return [load_fold(self.workspace, matrix, splits, fold) for fold in range(splits.count)]

        def final() -> tuple[Any, np.ndarray]:
            every, row_ids, training = load_final(self.workspace, matrix)
            order = np.argsort(splits.row_ids)
            positions = order[np.searchsorted(splits.row_ids, row_ids[training], sorter=order)]
            return every.rows(training), splits.popularity[positions]

        self._said.add("tune")
        return tune(self.config, self.workspace, splits, folds, final, self.session, self.keys.tune)

    def tune(self) -> None:
        """Baselines, sweep, metrics."""
        if self.workspace.manifest("tune", self.keys.tune) is None:
            _ = self.matrix
        _ = self.baselines, self.tuned
        self.gather()

    def predict(self) -> Manifest:
        """Predictions of every post and the challenge's submission."""
        tuned = self.tuned
        from smp_ray.training.predict import predict

        known = self.workspace.manifest("predict", self.keys.predict) is not None
        done = predict(self.config, self.workspace, self.posts, self.splits, self.matrix, tuned, self.keys.predict)
        if known:
            self._say("predict", f"predict: up to date, {done.rows:,} posts")
        else:
            counts = f"{done.counts['out_of_fold']:,} posts out of fold, {done.counts['model']:,} by the model"
            self._say("predict", f"predict: {counts}")
        for name in ("predictions", "submission"):
            self._say(name, f"predict: {name} → {self.workspace.path(done.details[name])}")
        return done

    def ablate(self) -> Manifest:
        """The ablation table."""
        from smp_ray.training.ablate import ablate

        known = self.workspace.manifest("ablate", self.keys.ablate) is not None
        done = ablate(self.config, self.workspace, self.splits, self.matrix, self.session, self.keys.ablate)
        if known:
            say(f"ablate: up to date, {len(done.details['variants'])} variants")
        else:
            say(f"ablate: {len(done.details['variants'])} variants in {done.wall_seconds:.1f} s")
        self.gather()
        return done

    def gather(self) -> dict[str, Any]:
        """Bring `metrics.json` and the ablation's tables up to date with what is committed."""
        parts: dict[str, dict[str, Any]] = {}
        resamples = self.config.training.resamples
        others: dict[str, np.ndarray] = {}
        if (base := self.workspace.manifest("baselines", self.keys.baselines)) is not None:
            names = list(self.config.training.baselines)
            parts["baselines"] = measured(self.workspace, base, self.splits, resamples, {n: n for n in names}, [])
            others = {
                name: read_out_of_fold(self.workspace, out_of_fold_fragment(base), self.splits, name) for name in names
            }
        if (tuned := self.workspace.manifest("tune", self.keys.tune)) is not None:
            pairs = [(TUNED, name) for name in others]
            parts["tune"] = measured(
                self.workspace, tuned, self.splits, resamples, {TUNED: "prediction"}, pairs, others
            )
        if (ablated := self.workspace.manifest("ablate", self.keys.ablate)) is not None:
            from smp_ray.training.ablate import comparisons

            names = list(ablated.details["variants"])
            parts["ablate"] = measured(
                self.workspace, ablated, self.splits, resamples, {n: n for n in names}, comparisons(names)
            )
        self._measured = True
        metrics = gather_metrics(self.workspace, self.splits, parts, self.warnings)
        if ablated is not None:
            from smp_ray.training.tables import write_ablation

            write_ablation(self.workspace, ablated, parts["ablate"])
        return metrics

    def show(self) -> None:
        """The measured variants as a table in the terminal."""
        metrics = self.workspace.read_json(METRICS_FILE)
        if metrics is None or not self._measured:
            return
        from smp_ray.training.tables import differences_table, metrics_table

        protocol = metrics["protocol"]
        posts = f"{protocol['judged_posts']:,} posts of {protocol['users']:,} users"
        folds = f"{protocol['folds']} folds by {protocol['split']}"
        console.print(f"\nout of fold, {posts}, {folds}; [95 % interval over users]", markup=False)
        # A log is not as narrow as the terminal that it pretends to be.
        wide = Console(stderr=True, highlight=False, width=max(console.width, 130))
        wide.print(metrics_table(metrics["variants"]))
        if metrics["differences"]:
            console.print()
            wide.print(differences_table(metrics["differences"]))
        console.print(f"more in {self.workspace.path(METRICS_FILE)}", markup=False)

    def _say(self, stage: str, line: str) -> None:
        if stage not in self._said:
            self._said.add(stage)
            say(line)
