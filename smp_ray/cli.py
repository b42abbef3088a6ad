"""The `smp-ray` command: a thin skin over the stage functions.

Exit status: 0 only if everything asked for is there, 1 for a failed run, 2 for a bad config or bad usage, 130 after
Ctrl-C.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.table import Table

from smp_ray import __version__
from smp_ray.config import Config, build_config, load_config
from smp_ray.errors import ConfigError, SmpRayError
from smp_ray.progress import console, say
from smp_ray.schema import STATUSES

#: What `smp-ray demo` runs, as configs/demo.yaml says it to those who start from there.
DEMO = {
    "source": {"kind": "demo"},
    "training": {
        "matrix": {"pca_dimensions": 16, "text_dimensions": 16, "max_bin": 63},
        "tune": {
            "trials": 10, "max_rounds": 400, "early_stopping_rounds": 40, "models": 3, "asha": {"grace_rounds": 200},
        },
        "ablation": {"candidates": 1},
    },
}  # fmt: skip
#: What `run` and `demo` go through.
STAGES = ("ingest", "features", "adapt", "tune", "predict", "ablate", "report")

app = typer.Typer(
    name="smp-ray",
    help="Distributed feature computation for social-media popularity prediction.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"smp-ray {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    pass


ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file, see configs/")]
WorkspaceOption = Annotated[
    str | None, typer.Option("--workspace", help="folder or s3://bucket/prefix for all results")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override any key of the config")
]
DebugOption = Annotated[bool, typer.Option("--debug", help="show tracebacks")]
RetryOption = Annotated[
    list[str] | None, typer.Option("--retry", help="also compute posts of this status again (no_image, …)")
]


@contextmanager
def _errors(debug: bool) -> Iterator[None]:
    """Turn expected errors into one line and an exit status; anything else too, unless `debug`."""
    try:
        yield
    except KeyboardInterrupt:
        say("Stopped. What was finished is kept; run the same command again to go on.")
        raise typer.Exit(130) from None
    except SmpRayError as error:
        if debug:
            raise
        for line in str(error).splitlines():
            say(f"Error: {line}")
        raise typer.Exit(error.exit_status) from None
    except typer.Exit:
        raise
    except Exception as error:
        if debug:
            raise
        say(f"Error: unexpected {type(error).__name__}: {' '.join(str(error).split())[:500]} (--debug shows where)")
        raise typer.Exit(1) from None


def _stages(config: Config, names: tuple[str, ...], debug: bool, retry: list[str] | None = None) -> None:
    from smp_ray.pipeline import Run, run_stages
    from smp_ray.ray_session import ray_session

    unknown = sorted(set(retry or ()) - set(STATUSES))
    if unknown:
        raise ConfigError(f"--retry: found {', '.join(unknown)}, allowed: {', '.join(STATUSES)}")
    with ray_session(config.ray, debug) as session:
        run = Run(config, session, tuple(retry or ()))
        run_stages(run, names)
    if run.training is not None:
        run.training.show()
    print_summary(config)


def print_summary(config: Config) -> bool:
    """The table at the end of a command: what is committed, how many posts by status, and where it lies.

    Returns:
        Whether everything is committed.
    """
    from smp_ray.status import status
    from smp_ray.workspace import Workspace

    workspace = Workspace.open(config.workspace)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("artefact", "state", "posts", "by status", ""):
        table.add_column(column, justify="right" if column == "posts" else "left", overflow="fold")
    lines = status(config, workspace)
    for line in lines:
        counts = {name: count for name, count in line.counts.items() if name in STATUSES or name == "rejected"}
        shown = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        table.add_row(line.name, line.state, "" if line.rows is None else f"{line.rows:,}", shown, line.why)
    console.print()
    console.print(table)
    console.print(f"\nworkspace: {workspace.root if '://' not in workspace.uri else workspace.uri}", markup=False)
    return all(line.state == "committed" for line in lines)


@app.command()
def demo(
    workspace: Annotated[str, typer.Option("--workspace", help="folder for all results")] = "runs/demo",
    sets: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Run everything on the built-in sample world: synthetic posts, small built-in models, no network."""
    with _errors(debug):
        config = build_config(copy.deepcopy(DEMO), sets, workspace, name="demo")
        say("The sample world is synthetic: made-up posts, rendered pictures, planted effects. As in SMPD, about one")
        say("post in nine has no picture.")
        _stages(config, STAGES, debug)
        out = os.path.join(workspace, "features.parquet")
        _export(config, out)
        _examples(out)
        say(f"look at it: {sys.executable} -c \"import pandas; print(pandas.read_parquet('{out}').iloc[0])\"")


@app.command()
def run(
    config: ConfigArgument,
    workspace: WorkspaceOption = None,
    sets: SetOption = None,
    retry: RetryOption = None,
    debug: DebugOption = False,
) -> None:
    """Every stage that the config enables, in order."""
    with _errors(debug):
        _stages(load_config(config, sets, workspace), STAGES, debug, retry)


@app.command()
def ingest(
    config: ConfigArgument, workspace: WorkspaceOption = None, sets: SetOption = None, debug: DebugOption = False
) -> None:
    """Raw dataset → posts."""
    with _errors(debug):
        _stages(load_config(config, sets, workspace), ("ingest",), debug)


@app.command()
def features(
    config: ConfigArgument,
    workspace: WorkspaceOption = None,
    sets: SetOption = None,
    retry: RetryOption = None,
    debug: DebugOption = False,
) -> None:
    """Posts → feature store (ingests first where that was not done)."""
    with _errors(debug):
        _stages(load_config(config, sets, workspace), ("features",), debug, retry)


@app.command()
def adapt(
    config: ConfigArgument, workspace: WorkspaceOption = None, sets: SetOption = None, debug: DebugOption = False
) -> None:
    """Cross-fitted CLIP-adapters on Ray Train; adapted features into the store."""
    with _errors(debug):
        _stages(load_config(config, sets, workspace), ("adapt",), debug)


@app.command()
def tune(
    config: ConfigArgument, workspace: WorkspaceOption = None, sets: SetOption = None, debug: DebugOption = False
) -> None:
    """LightGBM hyperparameter sweep on Ray Tune over the stored features, beside the baselines."""
    with _errors(debug):
        _stages(load_config(config, sets, workspace), ("tune",), debug)


@app.command()
def predict(
    config: ConfigArgument, workspace: WorkspaceOption = None, sets: SetOption = None, debug: DebugOption = False
) -> None:
    """predictions.parquet, and the challenge's submission.json for the unlabelled posts."""
    with _errors(debug):
        _stages(load_config(config, sets, workspace), ("predict",), debug)


@app.command()
def ablate(
    config: ConfigArgument, workspace: WorkspaceOption = None, sets: SetOption = None, debug: DebugOption = False
) -> None:
    """What each family of features is worth: the ablation table."""
    with _errors(debug):
        _stages(load_config(config, sets, workspace), ("ablate",), debug)


@app.command()
def report(
    config: ConfigArgument, workspace: WorkspaceOption = None, sets: SetOption = None, debug: DebugOption = False
) -> None:
    """The HTML report of what is committed: report/index.html opens offline, report/*.csv has its numbers."""
    with _errors(debug):
        _stages(load_config(config, sets, workspace), ("report",), debug)


@app.command()
def status(
    config: ConfigArgument, workspace: WorkspaceOption = None, sets: SetOption = None, debug: DebugOption = False
) -> None:
    """What is committed, posts by status, what is stale and why. Exit status 1 if anything is not committed."""
    with _errors(debug):
        if not print_summary(load_config(config, sets, workspace)):
            raise typer.Exit(1)


@app.command()
def export(
    config: ConfigArgument,
    out: Annotated[str, typer.Option("--out", metavar="FILE.parquet", help="where to write it")],
    workspace: WorkspaceOption = None,
    sets: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Posts joined with all feature families into one Parquet file, one row a post."""
    with _errors(debug):
        _export(load_config(config, sets, workspace), out)


@app.command()
def validate(
    config: ConfigArgument, workspace: WorkspaceOption = None, sets: SetOption = None, debug: DebugOption = False
) -> None:
    """Check the config alone, without starting Ray, and print it with every default filled in."""
    with _errors(debug):
        import yaml

        loaded = load_config(config, sets, workspace)
        typer.echo(yaml.safe_dump(loaded.model_dump(mode="json"), sort_keys=False, allow_unicode=True), nl=False)


def _export(config: Config, out: str) -> None:
    from smp_ray.pipeline import export as write_export
    from smp_ray.workspace import Workspace

    rows = write_export(config, Workspace.open(config.workspace), out)
    say(f"export: {rows:,} posts → {out}")


def _examples(path: str) -> None:
    """A few posts of the export, so that the newcomer sees what the numbers are about."""
    import pyarrow.parquet as pq

    columns = ["title", "caption", "similarity_title_caption", "title_perplexity"]
    with_all = pq.read_table(path, columns=columns).to_pandas().dropna().sort_values("similarity_title_caption")
    picked = with_all.iloc[[round(part * (len(with_all) - 1)) for part in (0, 0.25, 0.5, 0.75, 1)]]
    line = "{:<40.40}  {:<34.34} {:>10} {:>10}".format
    console.print("\n" + line("title", "caption of the picture", "similarity", "perplexity"), style="bold")
    for row in picked.itertuples():
        numbers = f"{row.similarity_title_caption:.2f}", f"{row.title_perplexity:,.1f}"
        console.print(line(row.title, row.caption, *numbers), markup=False)


def main() -> None:
    """Entry point of the command."""
    app()


def job(command: str, arguments: list[str] | None = None) -> None:
    """Entry point of `jobs/<stage>.py`: the same command with the config as `--config FILE`, for `ray job submit`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "--config" in given and given.index("--config") + 1 < len(given):
        place = given.index("--config")
        path = given.pop(place + 1)
        given[place] = path
    app([command, *given], prog_name=f"jobs/{command}.py")


if __name__ == "__main__":
    main()
