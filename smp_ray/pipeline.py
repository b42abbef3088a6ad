"""The stages in order; `run` is a short loop over them. Every stage is a function, the command is a thin skin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from smp_ray.config import Config, Family
from smp_ray.errors import SmpRayError
from smp_ray.features.export import export as export_features
from smp_ray.features.stage import FeatureResult, compute_features
from smp_ray.features.store import covers, family_keys
from smp_ray.progress import Reporter, say
from smp_ray.ray_session import RaySession
from smp_ray.sources import ingest, posts_fingerprint
from smp_ray.training.keys import matrix_families, training_keys
from smp_ray.training.stages import Training
from smp_ray.workspace import Manifest, Workspace


@dataclass
class Run:
    """What the stages of one command share: the config, the workspace, one Ray, and what earlier stages committed."""

    config: Config
    session: RaySession
    retry: Sequence[str] = ()
    workspace: Workspace = field(init=False)
    posts: Manifest | None = None
    features: FeatureResult | None = None
    training: Training | None = None

    def __post_init__(self) -> None:
        self.workspace = Workspace.open(self.config.workspace)


def ingest_stage(run: Run) -> None:
    """Raw dataset → posts. A no-op where the same data and settings were ingested before."""
    fingerprint = posts_fingerprint(run.config, run.workspace)
    if (done := run.workspace.manifest("ingest", fingerprint)) is not None:
        run.posts = done
        say(f"ingest: up to date, {done.rows:,} posts")
        return
    with Reporter("ingest") as reporter:
        posts = ingest(run.config, run.workspace, lambda note, done, total: reporter.update(done, total, note))
    run.posts = posts
    rejected = posts.counts.get("rejected", 0)
    aside = f", {rejected:,} rejected (see {run.workspace.path(posts.details['rejected'])})" if rejected else ""
    say(f"ingest: {posts.rows:,} posts in {posts.wall_seconds:.1f} s{aside}")


def features_stage(run: Run) -> None:
    """Posts → feature store; ingests first where that was not done.

    Raises:
        SmpRayError: posts ended with status `error`; the next run tries them again.
    """
    if run.posts is None:
        ingest_stage(run)
    assert run.posts is not None
    run.features = compute_features(run.config, run.workspace, run.posts, run.session, run.retry)
    if run.features.up_to_date:
        say(f"features: up to date, {', '.join(run.features.manifests)} of {run.posts.rows:,} posts")
    else:
        stats = run.features.stats
        steady = stats.get("rows_per_second_steady")
        speed = f", {steady:.1f} posts/s after a first batch at {stats['first_batch_seconds']:.1f} s" if steady else ""
        done = max(run.features.computed.values())
        say(f"features: {done - run.features.kept:,} posts computed{speed}")
    if failed := run.features.failed(run.posts.fingerprint):
        counts = ", ".join(f"{family} {count:,}" for family, count in failed.items())
        raise SmpRayError(f"posts with status error: {counts} (reasons in <family>_error); run again to retry them")


def adapt_stage(run: Run) -> None:
    """Cross-fitted CLIP-adapters; adapted features into the store."""
    _training(run).adapt()


def tune_stage(run: Run) -> None:
    """Baselines, the LightGBM sweep over the stored features, and the final model."""
    _training(run).tune()


def predict_stage(run: Run) -> None:
    """Predictions of every post and the challenge's submission of the unlabelled ones."""
    _training(run).predict()


def ablate_stage(run: Run) -> None:
    """The ablation: what each family of columns is worth."""
    _training(run).ablate()


def _training(run: Run) -> Training:
    """The training stages, on features that are committed first where they were not."""
    if run.training is None:
        matrix_families(run.config)  # a family that cannot be there is found before anything is computed
        if run.features is None:
            features_stage(run)
        assert run.posts is not None
        assert run.features is not None
        run.training = Training(run.config, run.workspace, run.posts, run.features.manifests, run.session)
    return run.training


#: Name and function of each stage, in the order in which `run` goes through them.
STAGES: dict[str, Callable[[Run], None]] = {
    "ingest": ingest_stage,
    "features": features_stage,
    "adapt": adapt_stage,
    "tune": tune_stage,
    "predict": predict_stage,
    "ablate": ablate_stage,
}
#: Stages that need labels.
TRAINING_STAGES = ("adapt", "tune", "predict", "ablate")


def run_stages(run: Run, names: Sequence[str] = tuple(STAGES)) -> None:
    """Go through the stages in order; each is a no-op where its artefact is there.

    Where all stages are asked for and no post has a label, those that need labels are left out.
    """
    for name in names:
        if name in TRAINING_STAGES and tuple(names) == tuple(STAGES) and not _labelled(run.posts):
            say(f"no post has a popularity, so there is nothing to learn: {', '.join(TRAINING_STAGES)} left out")
            return
        STAGES[name](run)


def _labelled(posts: Manifest | None) -> bool:
    return posts is not None and posts.counts.get("labelled", 0) > 0


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


def export(config: Config, workspace: Workspace, out: str) -> int:
    """Posts joined with all feature families into one Parquet file; returns its rows."""
    posts = committed_posts(config, workspace)
    return export_features(config, workspace, posts, out, _adapted(config, workspace, posts))


def _adapted(config: Config, workspace: Workspace, posts: Manifest) -> Manifest | None:
    """The adapted features of this configuration, if they are committed."""
    families = _committed_families(config, workspace)
    if len(families) < len(config.features.families):
        return None
    key = training_keys(config, posts, families).adapted
    return None if key is None else workspace.manifest("features/adapted", key)


def _committed_families(config: Config, workspace: Workspace) -> dict[Family, Manifest]:
    found = {family: workspace.manifest(key.stage, key.fingerprint) for family, key in family_keys(config).items()}
    return {family: manifest for family, manifest in found.items() if manifest is not None}


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
    """What is committed for this configuration, what is stale and why. Loads no model and starts no Ray."""
    fingerprint = posts_fingerprint(config, workspace)
    posts = workspace.manifest("ingest", fingerprint)
    lines = [_ingest_status(workspace, fingerprint, posts, config)]
    for family, key in family_keys(config).items():
        manifest = workspace.manifest(key.stage, key.fingerprint)
        lines.append(_family_status(workspace, key, manifest, posts, family))
    if _labelled(posts) or posts is None:
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
    keys = training_keys(config, posts, _committed_families(config, workspace))
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
