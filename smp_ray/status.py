"""What is committed for a configuration, what is stale and why. Loads no model and starts no Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from smp_ray.config import Config, Family
from smp_ray.errors import SmpRayError
from smp_ray.features.store import covers, family_keys
from smp_ray.sources import posts_fingerprint
from smp_ray.training.keys import training_keys
from smp_ray.workspace import Manifest, Workspace

#: Folder of each training artefact, where it is not called as its stage.
_FOLDERS = {"adapted": "features/adapted"}


def committed_posts(config: Config, workspace: Workspace) -> Manifest:
    """The posts artefact of this configuration.

    Raises:
        SmpRayError: it was never committed.
    """
    manifest = workspace.manifest("ingest", posts_fingerprint(config, workspace))
    if manifest is None:
        before = (
            "the raw data or its settings changed since the last ingest"
            if workspace.manifests("ingest")
            else "no posts"
        )
        raise SmpRayError(f"{before}; run `smp-ray run` first")
    return manifest


def committed_families(config: Config, workspace: Workspace) -> dict[Family, Manifest]:
    """The manifests of those configured feature families that are there."""
    found = {family: workspace.manifest(key.stage, key.fingerprint) for family, key in family_keys(config).items()}
    return {family: manifest for family, manifest in found.items() if manifest is not None}


def training_artefacts(
    config: Config, workspace: Workspace, posts: Manifest, families: Mapping[Family, Manifest]
) -> dict[str, Manifest | None]:
    """The training artefacts of this configuration by name; None for what is not committed."""
    keys = training_keys(config, posts, families)
    return {
        name: None if key is None else workspace.manifest(_FOLDERS.get(name, name), key)
        for name, key in asdict(keys).items()
    }


def is_labelled(posts: Manifest | None) -> bool:
    """Whether any post has a popularity."""
    return posts is not None and posts.counts.get("labelled", 0) > 0


@dataclass(frozen=True)
class StageStatus:
    """One line of `smp-ray status`."""

    name: str
    fingerprint: str
    state: str
    rows: int | None = None
    counts: dict[str, int] = field(default_factory=dict)
    why: str = ""


def status(config: Config, workspace: Workspace) -> list[StageStatus]:
    """A line for each artefact of this configuration."""
    fingerprint = posts_fingerprint(config, workspace)
    posts = workspace.manifest("ingest", fingerprint)
    lines = [_ingest_status(workspace, fingerprint, posts, config)]
    for family, key in family_keys(config).items():
        manifest = workspace.manifest(key.stage, key.fingerprint)
        lines.append(_family_status(workspace, key, manifest, posts, family))
    if is_labelled(posts) or posts is None:
        lines += _training_status(config, workspace, posts, committed=all(x.state == "committed" for x in lines))
    return lines


def _training_status(
    config: Config, workspace: Workspace, posts: Manifest | None, committed: bool
) -> list[StageStatus]:
    """A line for each stage that needs labels; what they are called is only known once the features are there."""
    folders = {"adapt": "features/adapted", "tune": "tune", "predict": "predict", "ablate": "ablate"}
    if posts is None or not committed:
        why = "its inputs are not there"
        states = {name: "stale" if workspace.manifests(folder) else "missing" for name, folder in folders.items()}
        return [StageStatus(name, "", state, why=why) for name, state in states.items()]
    keys = training_keys(config, posts, committed_families(config, workspace))
    lines = []
    for name, folder in folders.items():
        key = keys.adapted if name == "adapt" else getattr(keys, name)
        if key is None:
            continue
        if (manifest := workspace.manifest(folder, key)) is not None:
            lines.append(StageStatus(name, key, "committed", manifest.rows, manifest.counts))
        elif workspace.manifests(folder):
            lines.append(StageStatus(name, key, "stale", why="its settings or inputs changed"))
        else:
            lines.append(StageStatus(name, key, "missing", why=f"never run: smp-ray {name}"))
    return lines


def _ingest_status(workspace: Workspace, fingerprint: str, posts: Manifest | None, config: Config) -> StageStatus:
    if posts is not None:
        return StageStatus("ingest", fingerprint, "committed", posts.rows, posts.counts)
    earlier = workspace.manifests("ingest")
    if not earlier:
        return StageStatus("ingest", fingerprint, "missing", why="never ingested")
    changed = _changes(earlier[-1].config, config.source.model_dump(mode="json"))
    return StageStatus("ingest", fingerprint, "stale", earlier[-1].rows, why=changed or "the raw data changed")


def _family_status(
    workspace: Workspace, key: Any, manifest: Manifest | None, posts: Manifest | None, name: str
) -> StageStatus:
    if manifest is None:
        earlier = workspace.manifests(key.stage)
        if not earlier:
            return StageStatus(name, key.fingerprint, "missing", why="never computed")
        why = _changes(earlier[-1].config, key.settings) or _other_cause(earlier[-1], key)
        return StageStatus(name, key.fingerprint, "stale", sum(earlier[-1].counts.values()), earlier[-1].counts, why)
    if posts is None:
        return StageStatus(
            name, key.fingerprint, "stale", sum(manifest.counts.values()), manifest.counts, "the posts are stale"
        )
    counts = manifest.details["covers"].get(posts.fingerprint)
    if counts is None:
        return StageStatus(
            name, key.fingerprint, "stale", sum(manifest.counts.values()), manifest.counts, "the posts changed since"
        )
    if not covers(manifest, posts.fingerprint):
        why = f"{counts['error']:,} posts with status error are tried again"
        return StageStatus(name, key.fingerprint, "stale", posts.rows, counts, why)
    return StageStatus(name, key.fingerprint, "committed", posts.rows, counts)


def _other_cause(earlier: Manifest, key: Any) -> str:
    if earlier.models.get(key.family) != key.model:
        return "the model's files or revision changed"
    if earlier.inputs != key.inputs:
        return "the captions that it uses changed"
    return "computed by another version of smp_ray"


def _changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    return ", ".join(f"{name}: {before.get(name)} → {now.get(name)}" for name in names)
