"""The stages in order; `run` is a short loop over them. Every stage is a function, the command is a thin skin."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from smp_ray.config import Config
from smp_ray.errors import SmpRayError
from smp_ray.features.export import export as export_features
from smp_ray.features.stage import FeatureResult, compute_features
from smp_ray.progress import Reporter, say
from smp_ray.ray_session import RaySession
from smp_ray.sources import ingest, posts_fingerprint
from smp_ray.status import committed_families, committed_posts, is_labelled, training_artefacts
from smp_ray.training.keys import matrix_families, training_keys
from smp_ray.training.stages import Training
from smp_ray.workspace import Manifest, Workspace, fingerprint


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


def report_stage(run: Run) -> None:
    """The HTML report of whatever is committed; labels are not needed."""
    if run.features is None:
        features_stage(run)
    assert run.posts is not None
    assert run.features is not None
    families = run.features.manifests
    artefacts = training_artefacts(run.config, run.workspace, run.posts, families)
    made_of = fingerprint(
        "report", REPORT_VERSION, run.config.report.model_dump(mode="json"), run.config.training.resamples,
        run.posts.fingerprint, {name: [m.fingerprint, m.created_at] for name, m in families.items()},
        {name: None if m is None else [m.fingerprint, m.created_at] for name, m in artefacts.items()},
    )  # fmt: skip
    page = run.workspace.path("report", "index.html")
    if run.workspace.read_json("report", "made_of.json") == made_of:
        say(f"report: up to date → {page}")
        return
    from smp_ray.report.write import write_report

    began = time.monotonic()
    write_report(run.config, run.workspace, run.posts, families, artefacts)
    run.workspace.write_json(made_of, "report", "made_of.json")
    say(f"report: written in {time.monotonic() - began:.1f} s → {page}")


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
    "report": report_stage,
}
#: Raised when the same artefacts would give another report.
REPORT_VERSION = 1
#: Stages that need labels.
TRAINING_STAGES = ("adapt", "tune", "predict", "ablate")


def run_stages(run: Run, names: Sequence[str] = tuple(STAGES)) -> None:
    """Go through the stages in order; each is a no-op where its artefact is there.

    Where all stages are asked for and no post has a label, those that need labels are left out.
    """
    for name in names:
        if name in TRAINING_STAGES and tuple(names) == tuple(STAGES) and not is_labelled(run.posts):
            if name == TRAINING_STAGES[0]:
                say(f"no post has a popularity, so there is nothing to learn: {', '.join(TRAINING_STAGES)} left out")
            continue
        STAGES[name](run)


def export(config: Config, workspace: Workspace, out: str) -> int:
    """Posts joined with all feature families into one Parquet file; returns its rows."""
    posts = committed_posts(config, workspace)
    return export_features(config, workspace, posts, out, _adapted(config, workspace, posts))


def _adapted(config: Config, workspace: Workspace, posts: Manifest) -> Manifest | None:
    """The adapted features of this configuration, if they are committed."""
    families = committed_families(config, workspace)
    if len(families) < len(config.features.families):
        return None
    key = training_keys(config, posts, families).adapted
    return None if key is None else workspace.manifest("features/adapted", key)
