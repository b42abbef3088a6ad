"""The `smp-ray` command: a thin skin over the stages, one command each, and a few that look at what is there.

Exit status: 0 only if everything asked for is there, 1 for a failed run, 2 for a bad config or bad usage, 130 after
Ctrl-C.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Annotated

import typer

import smp_ray.asking  # noqa: F401  (adds its commands)
from smp_ray.config import build_config, load_config
from smp_ray.demo import tour
from smp_ray.operations import compact, plan
from smp_ray.pipeline import ALL, STAGES, export, open_run, run_stages
from smp_ray.progress import say
from smp_ray.ray_session import ray_session
from smp_ray.run import Run
from smp_ray.shell import (
    ConfigArgument,
    DebugOption,
    KeepOption,
    RetryOption,
    SetOption,
    WorkspaceOption,
    app,
    errors,
    opened,
    print_json,
    print_summary,
    with_cluster,
)
from smp_ray.starting_config import write_starting_config
from smp_ray.store.lease import holding
from smp_ray.upkeep import collect


def _add_command(name: str, about: str, stages: Sequence[str]) -> None:
    """A command that brings stages up to date, with what they read."""

    @app.command(name, help=about)
    def command(
        config: ConfigArgument,
        workspace: WorkspaceOption = None,
        sets: SetOption = None,
        retry: RetryOption = None,
        keep: KeepOption = False,
        debug: DebugOption = False,
    ) -> None:
        with errors(debug), opened(load_config(config, sets, workspace), debug, retry, keep) as run:
            run_stages(run, stages)
            print_summary(run)


@app.command("init")
def init_command(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="CSV, Parquet or JSON-lines")],
    out: Annotated[str | None, typer.Option("--out", metavar="FILE", help="default: the table's name .yaml")] = None,
    debug: DebugOption = False,
) -> None:
    """Write a starting config for your own table of posts; its columns are guessed, with the reasons as comments."""
    with errors(debug):
        written, lines = write_starting_config(table, out)
        for line in lines:
            say(line)
        say(f"wrote {written}; read it, then: smp-ray run {written}")


@app.command("demo")
def demo_command(
    workspace: Annotated[str, typer.Option("--workspace", help="folder for all results")] = "runs/demo",
    sets: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Run everything on the built-in sample world: synthetic posts, small built-in models, no network."""
    with errors(debug):
        config = build_config(tour.SETTINGS, sets, workspace, name="demo")
        say("The sample world is synthetic: made-up posts, rendered pictures, planted effects. As in SMPD, some posts")
        say("have no picture.")
        folder, mark, options = workspace.partition("?")
        out = os.path.join(folder, "features.parquet") + mark + options
        with opened(config, debug) as run:
            run_stages(run, ALL)
            print_summary(run)
            _export(run, out)
        tour.show_examples(out)
        say(f"look at it: {sys.executable} -c \"import pandas; print(pandas.read_parquet('{out}').iloc[0])\"")


_add_command("run", "Every stage that the config enables, in order.", ALL)
for _stage in STAGES:
    _add_command(_stage.name, _stage.help, (_stage.name,))


@app.command("status")
def status_command(
    config: ConfigArgument,
    as_json: Annotated[bool, typer.Option("--json", help="as one JSON object, for programs")] = False,
    workspace: WorkspaceOption = None,
    sets: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """What is committed, posts by status, what is stale and why. Exit status 1 if anything is not committed."""
    with errors(debug), opened(load_config(config, sets, workspace), debug) as run:
        if not (print_json if as_json else print_summary)(run):
            raise typer.Exit(1)


@app.command("plan")
def plan_command(
    config: ConfigArgument,
    cluster: Annotated[
        str | None, typer.Option("--cluster", metavar="FILE", help="YAML list of node groups, as ray.cluster")
    ] = None,
    profile: Annotated[
        int | None, typer.Option("--profile", metavar="N", min=10, help="compute so many posts at first, to measure")
    ] = None,
    figures: Annotated[
        str | None, typer.Option("--figures", metavar="FILE", help="JSON: figures to take; with --profile, to keep")
    ] = None,
    posts: Annotated[int | None, typer.Option("--posts", min=1, help="default: those that are ingested")] = None,
    workspace: WorkspaceOption = None,
    sets: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Where each actor of the feature pass goes, how fast it will be, what it takes, and what would make it faster."""
    with errors(debug):
        loaded = with_cluster(load_config(config, sets, workspace), cluster)
        with opened(loaded, debug) as run:
            for line in plan(run, posts, profile, figures).lines():
                typer.echo(line)


@app.command("export")
def export_command(
    config: ConfigArgument,
    out: Annotated[str, typer.Option("--out", metavar="FILE.parquet|FOLDER/", help="where to write it")],
    workspace: WorkspaceOption = None,
    sets: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Posts joined with all feature families, one row a post, into one Parquet file or a folder of them."""
    with errors(debug), opened(load_config(config, sets, workspace), debug) as run:
        _export(run, out)


@app.command("compact")
def compact_command(
    config: ConfigArgument, workspace: WorkspaceOption = None, sets: SetOption = None, debug: DebugOption = False
) -> None:
    """Rewrite feature families that lie in many small files as few; `gc` then removes the old ones."""
    with errors(debug), opened(load_config(config, sets, workspace), debug) as run:
        compact(run)


@app.command("gc")
def gc_command(
    configs: Annotated[list[str], typer.Argument(metavar="CONFIG...", help="all configs that share the workspace")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be removed")] = False,
    workspace: WorkspaceOption = None,
    sets: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Remove from the workspace what none of these configs needs."""
    with errors(debug):
        loaded = [load_config(config, sets, workspace) for config in configs]
        with ray_session(loaded[0].ray, debug) as session:
            runs = [open_run(config, session) for config in loaded]
            with nullcontext() if dry_run else holding(runs[0].workspace):
                found = collect(runs, dry_run)
        for folder, (files, size) in found.items():
            say(f"{folder}: {files:,} files, {size / 1e6:,.1f} MB")
        files, size = (sum(counts) for counts in zip((0, 0), *found.values(), strict=True))
        say(f"gc: {files:,} files, {size / 1e6:,.1f} MB {'would be ' if dry_run else ''}removed")


@app.command("validate")
def validate_command(
    config: ConfigArgument, workspace: WorkspaceOption = None, sets: SetOption = None, debug: DebugOption = False
) -> None:
    """Check the config alone, without starting Ray, and print it with every default filled in."""
    with errors(debug):
        import yaml

        loaded = load_config(config, sets, workspace)
        typer.echo(yaml.safe_dump(loaded.model_dump(mode="json"), sort_keys=False, allow_unicode=True), nl=False)


def _export(run: Run, out: str) -> None:
    say(f"export: {export(run, out):,} posts → {out}")


def job(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `jobs/run.py`: `[COMMAND] --config FILE …`, for `ray job submit`; without a command, `run`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0].startswith("-"):
        given.insert(0, "run")
    if given[0] != "score":  # whose --config says where models lie
        given = [word.removeprefix("--config=") for word in given if word != "--config"]
    app(given, prog_name="jobs/run.py")


#: Entry point of the command.
main = app

if __name__ == "__main__":
    app()
