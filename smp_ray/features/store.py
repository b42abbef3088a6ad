"""The feature store: families by the fingerprint of what computed them, and what they cover.

`features/<family>/<fingerprint>/manifest.json` names the Parquet files (fragments) that hold a family, oldest first;
the files lie where a pass wrote them, `features/passes/<pass>/data/`. `smp_ray.store` reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from smp_ray.config import Config, Family
from smp_ray.models.identity import model_identity
from smp_ray.schema import ERROR, FAMILIES
from smp_ray.workspace import Manifest, fingerprint

#: Raised when the meaning of a stored column changes.
STORE_VERSION = 1
PASSES = "features/passes"
#: Settings of a model section that do not change its results, so that they stay out of its fingerprint.
_HOW_NOT_WHAT = {"batch_size", "num_gpus", "num_cpus", "min_actors", "max_actors"}


@dataclass(frozen=True)
class FamilyKey:
    """What computes a family: its fingerprint, the settings and the model identity behind it."""

    family: Family
    fingerprint: str
    settings: dict[str, Any]
    model: dict[str, Any]
    inputs: dict[str, str]

    @property
    def stage(self) -> str:
        """Folder of the family in the workspace."""
        return stage_of(self.family)


def stage_of(family: Family) -> str:
    """Folder of a family's manifests in the workspace."""
    return f"features/{family}"


def family_keys(config: Config) -> dict[Family, FamilyKey]:
    """The key of each configured family, without loading a model. clip depends on what writes its captions.

    Raises:
        ModelError: a model's folder is missing, or its revision cannot be resolved.
    """
    features = config.features
    sections: dict[Family, Any] = {
        "caption": features.captioner,
        "clip": features.clip,
        "perplexity": features.perplexity,
    }
    limits = {"max_bytes": features.images.max_bytes, "max_pixels": features.images.max_pixels}
    keys: dict[Family, FamilyKey] = {}
    for family in FAMILIES:
        if family not in features.families:
            continue
        section = sections[family]
        settings = section.model_dump(mode="json", exclude=_HOW_NOT_WHAT)
        if family != "perplexity":
            settings["images"] = limits
        model = model_identity("captioner" if family == "caption" else family, section)
        inputs = {"caption": keys["caption"].fingerprint} if family == "clip" and "caption" in keys else {}
        # A model is what its files are, not what its folder is called.
        what = {name: value for name, value in settings.items() if name not in ("model", "revision")}
        identity = model.get("files") or model
        key = fingerprint("features", family, STORE_VERSION, what, identity, inputs)
        keys[family] = FamilyKey(family, key, settings, model, inputs)
    return keys


def covers(manifest: Manifest | None, posts: str) -> bool:
    """Whether a family holds a finished row for every post of a posts artefact (an `error` row is not finished)."""
    if manifest is None:
        return False
    counts = manifest.details.get("covers", {}).get(posts)
    return counts is not None and counts.get(ERROR, 0) == 0
