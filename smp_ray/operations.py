"""What is done to a workspace beside its stages: planning a pass, and making few files of many."""

from operator import itemgetter
from pkgutil import resolve_name

from smp_ray.errors import SmpRayError
from smp_ray.families.registry import looking
from smp_ray.features.forecast import Figures, Forecast, figures_of, forecast, read_figures, write_figures
from smp_ray.features.placement import place
from smp_ray.features.store_stage import stored
from smp_ray.pipeline import ingested
from smp_ray.progress import say
from smp_ray.resources import nodes_of
from smp_ray.run import Run
from smp_ray.store.compact import compact as rewrite
from smp_ray.store.compact import is_interrupted, is_scattered
from smp_ray.store.lease import holding
from smp_ray.store.manifest import Manifest
from smp_ray.store.parquet import read_table
from smp_ray.store.reader import family_of, remote


def compact(run: Run) -> None:
    """Rewrite, one after the other, the families that lie in many small files; the workspace is held meanwhile.

    Raises:
        SmpRayError: the posts are not committed for these settings.
        WorkspaceError: another process is writing to the workspace.
    """
    with holding(run.workspace):
        posts = ingested(run, bring=False)
        if posts is None:
            raise SmpRayError("compact: the posts are not committed for these settings; run `smp-ray ingest` first")
        found = [run.workspace.manifest(key.folder, key.fingerprint) for key in run.families.values()]
        scattered = [manifest for manifest in found if manifest and is_scattered(manifest)]
        for manifest in scattered:
            name, before = family_of(manifest), len(manifest.fragments)
            if is_interrupted(run.workspace, manifest):
                say(f"{name}: left as it is: a pass was interrupted; run `smp-ray features` with its --retry first")
                continue
            say(f"{name}: {before:,} fragments → {len(rewrite(run.workspace, posts, manifest).fragments):,}")
        if not scattered:
            say("compact: nothing to do, no family lies in many small files")


def plan(run: Run, posts: int | None = None, profile: int | None = None, figures: str | None = None) -> Forecast:
    """What the feature pass would take where it would run: on `ray.cluster`, else on what Ray has here.

    Args:
        run: its posts are ingested for a profile.
        posts: for how many; None: as many as are ingested, a million where none are.
        profile: posts that are computed at first to measure each step; None: by the figures, else by what the largest
            pass over this workspace took, else by rough numbers.
        figures: JSON file of figures: read, or with `profile` written.

    Raises:
        ConfigError: no plan fits, or the figures cannot be read.
    """
    measured = Figures()
    # A plan needs no data at hand.
    there = None if posts and profile is None else ingested(run, bring=profile is not None)
    if profile is not None and there is not None:
        with holding(run.workspace):
            measured = resolve_name("smp_ray.features.profile:profile")(run, there, profile)
        if figures is not None:
            write_figures(measured, figures)
    elif figures is not None:
        measured = read_figures(figures)
    else:
        measured = _of_workspace(run)
    config = run.config
    nodes = nodes_of(config.ray.cluster) if config.ray.cluster else run.session.nodes()
    placed = place(config.features, tuple(config.features.sections), nodes, _fetches(run, there))
    return forecast(placed, measured, posts or (1_000_000 if there is None else there.rows))


def _fetches(run: Run, posts: Manifest | None) -> bool:
    """Whether pictures lie on servers: by the first posts, where there are none by the source's settings."""
    if not looking(run.config.features.sections):
        return False
    if posts is None:
        values = run.config.source.model_dump().values()
        return any("://" in str(value) for value in (run.config.workspace, *values))
    return remote(read_table(run.workspace, posts.fragments[0].path, ["image_uri"])["image_uri"])


def _of_workspace(run: Run) -> Figures:
    """What was measured by the pass over this workspace that computed most posts."""
    made = list(stored(run).values())
    passes = [stats for manifest in made if (stats := manifest.details.get("last_pass")) and stats["steps"]]
    if not passes:
        return Figures()
    files = {file.path: file.bytes for manifest in made for file in manifest.fragments}
    return figures_of(max(passes, key=itemgetter("computed")), sum(files.values()) / max(m.rows for m in made))
