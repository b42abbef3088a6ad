"""What the commands of `smp-ray` have in common: the application, their options, errors on one line, what is there."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
import yaml
from pydantic import ValidationError
from rich.markup import escape
from rich.table import Table

from smp_ray import __version__
from smp_ray.config import Config, RayConfig
from smp_ray.errors import ConfigError, SmpRayError, one_line
from smp_ray.pipeline import open_run
from smp_ray.progress import console, say
from smp_ray.ray_session import ray_session
from smp_ray.run import Run
from smp_ray.schema import FAILED_TWICE, STATUSES
from smp_ray.section import problem_lines
from smp_ray.stage import status

app = typer.Typer(
    name="smp-ray",
    help="Social-media popularity prediction with Ray: features, adapters, sweep, predictions, report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="show the version")] = False) -> None:
    if version:
        typer.echo(f"smp-ray {__version__}")
        raise typer.Exit


ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file, see configs/")]
WorkspaceOption = Annotated[
    str | None, typer.Option("--workspace", help="folder or s3://bucket/prefix for all results")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override any key of the config")
]
DebugOption = Annotated[bool, typer.Option("--debug", help="show tracebacks")]
RetryOption = Annotated[
    list[str] | None, typer.Option("--retry", help="also compute posts of this status again (unreachable, no_image, …)")
]
KeepOption = Annotated[
    bool, typer.Option("--keep-predictor", help="learn nothing new from new labels: go on with what was learned")
]


@contextmanager
def errors(debug: bool) -> Iterator[None]:
    """Turn expected errors into one line and an exit status; anything else too, unless `debug`."""
    try:
        yield
    except KeyboardInterrupt:
        say("Stopped. What was finished is kept; run the same command again to go on.")
        raise typer.Exit(130) from None
    except SmpRayError as error:
        if debug:
            raise
        for line in str(getattr(error, "cause", error)).splitlines():  # a task's error has its traceback before
            say(f"Error: {line}")
        raise typer.Exit(error.exit_status) from None
    except Exception as error:
        if debug or isinstance(error, typer.Exit):
            raise
        say(f"Error: unexpected {type(error).__name__}: {one_line(error)} (--debug shows where)")
        raise typer.Exit(1) from None


@contextmanager
def opened(config: Config, debug: bool, retry: Sequence[str] | None = None, keep: bool = False) -> Iterator[Run]:
    """A run with a Ray that is started when a stage asks for it, and closed at the end."""
    unknown = sorted(set(retry or ()) - set(STATUSES))
    if unknown:
        raise ConfigError(f"--retry: found {', '.join(unknown)}, allowed: {', '.join(STATUSES)}")
    with ray_session(config.ray, debug) as session:
        yield open_run(config, session, tuple(retry or ()), keep)


def with_cluster(config: Config, path: str | None) -> Config:
    """The configuration with a file's node groups, if there is one, as `ray.cluster`."""
    if path is None:
        return config
    try:
        groups = RayConfig(cluster=yaml.safe_load(Path(path).read_text(encoding="utf-8"))).cluster
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"--cluster {path}: {one_line(error, 200)}") from None
    except ValidationError as error:
        raise ConfigError("\n".join(problem_lines(error, RayConfig, f"--cluster {path}", {}))) from None
    return config.model_copy(update={"ray": config.ray.model_copy(update={"cluster": groups})})


def print_json(run: Run) -> bool:
    """As `print_summary`, one JSON object on standard output for programs."""
    lines = status(run)
    typer.echo(json.dumps({"workspace": run.workspace.uri, "artefacts": [asdict(line) for line in lines]}))
    return all(line.state == "committed" for line in lines)


def print_summary(run: Run) -> bool:
    """Print what is committed, how many posts by status, and where it lies; whether all is committed."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("artefact", "state", "posts", "by status", ""):
        table.add_column(column, justify="right" if column == "posts" else "left", overflow="fold")
    lines = status(run)
    for line in lines:
        counts = {name: count for name, count in line.counts.items() if name in (*STATUSES, FAILED_TWICE, "rejected")}
        shown = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        table.add_row(line.name, line.state, f"{line.rows:,}" if line.rows else "", shown, escape(line.why))
    console.print()
    console.print(table, width=None if console.is_terminal else 160)
    where = run.workspace.root if run.workspace.is_local else run.workspace.uri
    console.print(f"\nworkspace: {where}", markup=False)
    return all(line.state == "committed" for line in lines)
