"""Fingerprints of all training artefacts, computed ahead from the config and the committed posts and features.

What an artefact is called depends only on settings and on the fingerprints of its inputs, so a changed setting makes
new artefacts of what depends on it and of nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from smp_ray.config import Config, Family, MatrixFamily
from smp_ray.errors import ConfigError
from smp_ray.workspace import Manifest, fingerprint

#: Raised when the same settings and inputs would give another result.
VERSIONS = {"splits": 1, "adapted": 1, "matrix": 1, "baselines": 1, "tune": 1, "predict": 1, "ablate": 1}
#: Which feature family each family of the matrix is computed from.
NEEDS: dict[MatrixFamily, Family] = {
    "clip": "clip", "adapted": "clip", "similarity": "clip", "perplexity": "perplexity",
}  # fmt: skip
#: Settings that change how an artefact is computed but not what it is.
_ADAPTER_HOW = {"workers", "use_gpu", "cpus_per_worker", "max_failures"}
_TUNE_HOW = {"cpus_per_trial"}


@dataclass(frozen=True)
class TrainingKeys:
    """Fingerprint of each training artefact; `adapted` is None where the matrix does not use it."""

    splits: str
    adapted: str | None
    matrix: str
    baselines: str
    tune: str
    predict: str
    ablate: str


def matrix_families(config: Config) -> tuple[MatrixFamily, ...]:
    """The families of the matrix: those configured, else all that the configured features allow.

    Raises:
        ConfigError: a family needs features that are not configured.
    """
    asked = config.training.matrix.families
    for family in asked or ():
        if family in NEEDS and NEEDS[family] not in config.features.families:
            raise ConfigError(
                f"training.matrix.families: '{family}' needs '{NEEDS[family]}' in features.families, "
                f"found {', '.join(config.features.families)}"
            )
    every: tuple[MatrixFamily, ...] = ("metadata", "text", "clip", "adapted", "similarity", "perplexity")
    available = [family for family in every if family not in NEEDS or NEEDS[family] in config.features.families]
    return tuple(family for family in available if asked is None or family in asked)


def training_keys(config: Config, posts: Manifest, families: Mapping[Family, Manifest]) -> TrainingKeys:
    """Fingerprints of what these settings make of these posts and features.

    Args:
        config: the resolved configuration.
        posts: the committed posts artefact.
        families: the committed manifest of each configured feature family.
    """
    training = config.training
    wanted = matrix_families(config)
    # Posts computed again under the same fingerprint (`--retry`) come in new files.
    stored = {family: [m.fingerprint, [f.path for f in m.fragments]] for family, m in families.items()}
    splits = fingerprint("splits", VERSIONS["splits"], training.split.model_dump(mode="json"), posts.fingerprint)
    adapted = None
    if "adapted" in wanted:
        settings = training.adapter.model_dump(mode="json", exclude=_ADAPTER_HOW)
        adapted = fingerprint("adapted", VERSIONS["adapted"], settings, splits, stored["clip"])
    columns = training.matrix.model_dump(mode="json", exclude={"families", "max_bin"})
    used = sorted({NEEDS[family] for family in wanted if family in NEEDS})
    matrix = fingerprint(
        "matrix", VERSIONS["matrix"], wanted, columns, splits, adapted, {family: stored[family] for family in used}
    )
    sweep, max_bin = training.tune, training.matrix.max_bin
    rounds = [sweep.objective, sweep.max_rounds, sweep.early_stopping_rounds, sweep.seed]
    baselines = fingerprint("baselines", VERSIONS["baselines"], matrix, max_bin, rounds, training.baselines)
    tuned = fingerprint("tune", VERSIONS["tune"], matrix, max_bin, sweep.model_dump(mode="json", exclude=_TUNE_HOW))
    drawn = sweep.model_dump(mode="json", include={"space", "params"})
    candidates = training.ablation.model_dump(mode="json")
    ablate = fingerprint("ablate", VERSIONS["ablate"], matrix, max_bin, rounds, drawn, candidates)
    predict = fingerprint("predict", VERSIONS["predict"], tuned)
    return TrainingKeys(splits, adapted, matrix, baselines, tuned, predict, ablate)
