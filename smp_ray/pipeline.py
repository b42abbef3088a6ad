"""The stages in order: the one place where they are listed. Commands, jobs, status and report iterate over it."""

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from pkgutil import resolve_name
from typing import Any

from pydantic import BaseModel

from smp_ray.config import ADAPTED, Config, embeddings, external_data, matrix_families, matrix_groups
from smp_ray.errors import ConfigError, SmpRayError
from smp_ray.features.store_stage import FeatureStage
from smp_ray.progress import Reporter
from smp_ray.ray_session import RaySession
from smp_ray.run import Run
from smp_ray.sources import ingest
from smp_ray.sources.piece import VERSION
from smp_ray.stage import Stage, bring_all
from smp_ray.store.export import as_it_is, export_folder, is_folder
from smp_ray.store.export import export as write_export
from smp_ray.store.lease import holding
from smp_ray.store.manifest import Made, Manifest
from smp_ray.store.workspace import Place, writing
from smp_ray.training.examples import POSTS


def ingest_posts(run: Run, folder: str) -> Made:
    """Raw dataset → posts."""
    return ingest(run.reader, run.workspace, folder, run.session)


def _adapts(config: Config) -> bool:
    return ADAPTED in matrix_groups(config)


def _embedder(config: Config) -> Sequence[str]:
    found = embeddings(config)
    return [] if found is None else [found[0]]


def _matrix_parts(config: Config) -> Sequence[str]:
    return [POSTS, *matrix_families(config)]


def _of(*keys: str, without: Iterable[str] = ()) -> Callable[[Config], dict[str, Any]]:
    """Values of sections and of single keys; `without` what says how a result is computed, not what it is."""

    def values(config: Config) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key in keys:
            above, _, name = key.rpartition(".")
            value = attrgetter(key)(config)
            if isinstance(value, BaseModel):
                found |= value.model_dump(mode="json", exclude=set(without))
            else:
                found |= attrgetter(above)(config).model_dump(mode="json", include={name})
        return found

    return values


_BOOSTING = tuple(f"training.tune.{name}" for name in ("objective", "max_rounds", "early_stopping_rounds", "seed"))
_baselines = _of(*_BOOSTING, "training.baselines")
_columns = _of("training.matrix", without=("families",))

STAGES: tuple[Stage, ...] = (
    Stage(
        "ingest", "Raw dataset → posts.", "smp_ray.pipeline:ingest_posts", raw=True, settings=_of("source"),
        version=VERSION,
    ),
    FeatureStage(
        "features", "Posts → feature store: the columns of every configured family.",
        "smp_ray.features.one_pass:compute", reads=("ingest",), ray=True,
    ),
    Stage(
        "gather", "The posts to learn from, with their features.", "smp_ray.training.examples:gather",
        reads=("ingest", "features"), settings=_of("training.max_labelled"), families=matrix_families, labels=True,
        kept=True, version=2,
    ),
    Stage(
        "splits", "The folds of the labelled posts, the same for every later stage.",
        "smp_ray.training.splits:make_splits", reads=("gather",), settings=_of("training.split"),
        families=lambda config: [POSTS], labels=True, version=2,
    ),
    Stage(
        "adapt", "Cross-fitted CLIP-adapters on Ray Train.",
        "smp_ray.training.adapter.adapt:adapt", reads=("gather", "splits"), families=_embedder, wanted=_adapts,
        settings=_of("training.adapter", without=("workers", "use_gpu", "cpus_per_worker", "max_failures")),
        labels=True, ray=True, version=4,
    ),
    Stage(
        "matrix", "The columns that the predictor sees, encoded fold by fold.",
        "smp_ray.training.matrix.build:build_matrix", reads=("gather", "splits", "adapt"), families=_matrix_parts,
        settings=lambda config: {
            "groups": list(matrix_groups(config)), "seed": config.training.split.seed, **_columns(config)
        },
        labels=True, ray=True, version=7,
    ),
    Stage(
        "baselines", "What the sweep is compared with, on the same folds.", "smp_ray.training.baselines:baselines",
        reads=("matrix", "splits"), beside=("evaluate",), labels=True, ray=True, version=2,
        settings=lambda config: {**_baselines(config), **config.training.tune.bins},
    ),
    Stage(
        "tune", "Hyperparameter sweep on Ray Tune over the stored features, and the final models.",
        "smp_ray.training.sweep.tune:tune",
        reads=("matrix", "splits"), beside=("baselines", "evaluate"), labels=True, ray=True, version=2,
        settings=_of("training.predictor", "training.tune", "training.boosting", without=("cpus_per_trial",)),
    ),
    Stage(
        "calibrate", "How far predictions may be off: intervals from out-of-fold errors.",
        "smp_ray.predictor.calibrate:calibrate", reads=("splits", "matrix", "tune"), labels=True,
    ),
    Stage(
        "predict", "predictions.parquet, and the challenge's submission.json for the posts of split test.",
        "smp_ray.predictor.predict:predict",
        reads=("ingest", "features", "splits", "adapt", "matrix", "tune"), families=matrix_families,
        settings=lambda config: {"external_data": external_data(config)}, labels=True, version=4,
    ),
    Stage(
        "ablate", "What each group of columns is worth: the ablation table.", "smp_ray.training.ablate:ablate",
        reads=("matrix", "splits"), beside=("evaluate",), labels=True, ray=True, version=2,
        settings=_of(
            "training.predictor", *_BOOSTING, "training.tune.space", "training.tune.params", "training.ablation",
        ),
    ),
    Stage(
        "evaluate", "SRC, MAE and MAPE of all that is committed, with intervals: metrics.json.",
        "smp_ray.training.measure:measure", reads=("splits",), uses=("baselines", "tune", "ablate"), labels=True,
        settings=_of("training.resamples"), alone=True, version=2,
        show="smp_ray.training.measure:show",
    ),
    Stage(
        "bundle", "All that was learned as one file, which scores posts elsewhere.", "smp_ray.predictor.pack:make",
        folder="predictor",
        reads=("gather", "splits", "adapt", "matrix", "tune", "calibrate"), uses=("evaluate",), labels=True,
        families=_matrix_parts, settings=_of("features", "source"), version=3,
    ),
    Stage(
        "report", "The HTML report of what is there: report/index.html opens offline, report/*.csv has its numbers.",
        "smp_ray.report.write:write_report", reads=("ingest", "features"), alone=True,
        uses=("splits", "adapt", "matrix", "baselines", "tune", "calibrate", "predict", "ablate", "evaluate"),
        settings=_of("report", "training.resamples", "training.tune.objective"), version=3,
    ),
)  # fmt: skip


def open_run(config: Config, session: RaySession | None = None, retry: Sequence[str] = (), keep: bool = False) -> Run:
    """A run of all stages; a stage that needs Ray starts it in `session`, without one in a session of its own.

    With `keep`, what was learned from is what it was, although there may be other posts with a popularity by now.
    """
    return Run(config, session or RaySession(config.ray), STAGES, retry, keep)


#: The names of all stages, which is what `smp-ray run` goes through.
ALL = tuple(stage.name for stage in STAGES)


def run_stages(run: Run, names: Sequence[str] = ALL) -> None:
    """Bring stages up to date, with all that they need; the workspace is held meanwhile.

    Raises:
        WorkspaceError: another process is writing to the workspace.
    """
    with holding(run.workspace):
        bring_all(run, names)


def ingested(run: Run, bring: bool = True) -> Manifest | None:
    """The posts of a run, brought up to date where `bring` says so; None where they are not committed."""
    if bring:
        run_stages(run, ["ingest"])
    found = run.artefact("ingest")
    return found if isinstance(found, Manifest) else None


def computed(run: Run) -> dict[str, Manifest]:
    """The feature store of a run, brought up to date: a manifest a family."""
    run_stages(run, ["features"])
    found = run.artefact("features")
    assert isinstance(found, dict)
    return found


def pack(run: Run, out: str) -> dict[str, Any]:
    """Bring the predictor of a configuration up to date, and copy its file; returns its card.

    Raises:
        ConfigError: `out` does not end in .predictor.
        WorkspaceError: it cannot be written.
    """
    if not out.split("?")[0].endswith(".predictor"):
        raise ConfigError(f"--out: found {out}, allowed: a name that ends in .predictor")
    run_stages(run, ["evaluate", "bundle"])
    found = run.artefact("bundle")
    assert isinstance(found, Manifest)
    place = Place.open(out)
    with writing(out):
        place.filesystem.create_dir(place.root.rpartition("/")[0] or ".", recursive=True)
        place.write(run.workspace.read(found.details["file"]))
    return dict(found.details["card"])


def export(run: Run, out: str) -> int:
    """Posts joined with all feature families, and what the adapters made of them, into Parquet; returns the rows.

    `out` is one file (`….parquet`), or a folder of files that Ray writes in parallel (a name that ends in `/`).

    Raises:
        SmpRayError: the posts or a family are not committed for these settings, or some posts have status error.
    """
    posts, store = run.artefact("ingest"), run.artefact("features")
    if not isinstance(posts, Manifest) or not isinstance(store, dict):
        lines = [line for line in (*run.stage("ingest").status(run), *run.stage("features").status(run)) if line.why]
        raise SmpRayError("; ".join(f"{line.name}: {line.why}" for line in lines) + "; run `smp-ray features` first")
    adapted, splits, add = run.artefact("adapt"), run.artefact("splits"), as_it_is
    if isinstance(adapted, Manifest) and isinstance(splits, Manifest):
        adapters = resolve_name("smp_ray.training.adapter.apply:Adapters").of(run.workspace, adapted, splits)
        add = adapters.beside
    families = list(store.values())
    if not is_folder(out):
        return write_export(run.workspace, posts, families, out, add)
    run.start()
    return export_folder(
        run.workspace, posts, families, out, lambda tasks: run.session.gather(tasks, Reporter("export", "files")), add
    )
