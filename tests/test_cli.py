"""The command: exit statuses, one clear line for an expected error, and what starts neither Ray nor a model.

It also tests `progress.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
import yaml
from ray.exceptions import RayTaskError
from typer.testing import CliRunner

from smp_ray.cli import app, job
from smp_ray.config import RayConfig, load_config
from smp_ray.errors import ConfigError
from smp_ray.pipeline import open_run
from smp_ray.progress import say
from smp_ray.ray_session import RaySession
from smp_ray.shell import errors, print_summary
from smp_ray.stage import StageStatus

runner = CliRunner()
ROOT = Path(__file__).parents[1]


def write_config(folder: Path, **extra: object) -> Path:
    (folder / "posts.csv").write_text("id,title\n1,a boat\n2,\n2,again\n,nobody\n", encoding="utf-8")
    source = {"kind": "table", "path": str(folder / "posts.csv"), "columns": {"post_id": "id", "title": "title"}}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"workspace": str(folder / "run"), "source": source, **extra}))
    return path


def test_help_names_every_command() -> None:
    shown = runner.invoke(app, ["--help"]).output
    for command in (
        "demo",
        "run",
        "ingest",
        "features",
        "adapt",
        "tune",
        "predict",
        "ablate",
        "status",
        "export",
        "gc",
        "compact",
        "validate",
    ):
        assert command in shown


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["validate", "nowhere.yaml"], 2, "Error: nowhere.yaml: no such file"),
        (["run", "configs/demo.yaml", "--set", "features.clip.colour=red"], 2, "features.clip.colour: unknown key"),
        (["run"], 2, "Missing argument"),
        (["fly", "configs/demo.yaml"], 2, "No such command"),
        (["demo", "--set", "source.posts=3"], 2, "source.posts: found 3, allowed: greater than or equal to 10"),
    ],
)
def test_bad_usage(arguments: list[str], status: int, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    done = runner.invoke(app, arguments)
    assert done.exit_code == status
    assert message in done.output
    assert "Traceback" not in done.output


def test_validate_prints_every_default() -> None:
    done = runner.invoke(app, ["validate", str(ROOT / "configs" / "demo.yaml"), "--set", "features.clip.batch_size=7"])
    assert done.exit_code == 0
    shown = yaml.safe_load(done.stdout)
    assert shown["features"]["clip"]["batch_size"] == 7
    assert shown["features"]["captioner"]["max_new_tokens"] == 20


def test_ingest_status_and_export(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    before = runner.invoke(app, ["status", str(config)])
    assert before.exit_code == 1
    assert "never run: smp-ray" in before.output
    early = runner.invoke(app, ["export", str(config), "--out", str(tmp_path / "x.parquet")])
    assert early.exit_code == 1
    assert "ingest: never run: smp-ray ingest" in early.output

    done = runner.invoke(app, ["ingest", str(config)])
    assert done.exit_code == 0
    assert "2 posts" in done.output
    assert "2 rejected" in done.output
    (manifest,) = (tmp_path / "run" / "ingest").glob("*/manifest.json")
    assert json.loads(manifest.read_text())["counts"]["rejected_duplicate_post_id"] == 1
    assert "ingest: up to date" in runner.invoke(app, ["ingest", str(config)]).output

    half = runner.invoke(app, ["export", str(config), "--out", str(tmp_path / "x.parquet")])
    assert half.exit_code == 1
    assert "caption: never computed" in half.output
    assert not (tmp_path / "x.parquet").exists()
    (tmp_path / "posts.csv").write_text("id,title\n1,a boat\n", encoding="utf-8")
    stale = runner.invoke(app, ["status", str(config)])
    assert "stale" in stale.output
    assert "the raw data changed" in stale.output
    assert "the raw data changed" in runner.invoke(app, ["export", str(config), "--out", "x.parquet"]).output


def test_version() -> None:
    assert runner.invoke(app, ["--version"]).output.startswith("smp-ray 0.")


def test_missing_data_is_one_line(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    (tmp_path / "posts.csv").unlink()
    done = runner.invoke(app, ["ingest", str(config)])
    assert done.exit_code == 1
    assert done.output.count("Error:") == 1
    assert "posts.csv" in done.output


def test_debug_shows_where(tmp_path: Path) -> None:
    done = runner.invoke(app, ["validate", "nowhere.yaml", "--debug"])
    assert done.exception is not None
    assert type(done.exception).__name__ == "ConfigError"


def test_a_job_takes_its_config_as_an_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        job(["ingest", "--config", str(write_config(tmp_path))])
    assert caught.value.code == 0
    for words in (["--config", "nowhere.yaml"], ["--config=nowhere.yaml"]):
        with pytest.raises(SystemExit) as caught:
            job(words)
        assert caught.value.code == 2
        assert "Error: nowhere.yaml: no such file" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        job(["score", "nowhere.predictor", "--config", "models=/models", "--title", "a"])
    assert caught.value.code == 1
    assert "Error: nowhere.predictor: " in capsys.readouterr().err


def test_what_is_said_is_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = StageStatus("ingest", "x", "stale", why="path: posts [v1] → posts [/v2]")
    run = open_run(load_config(str(write_config(tmp_path))), RaySession(RayConfig()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("smp_ray.shell.status", lambda run: [line])
        print_summary(run)
    assert line.why in capsys.readouterr().err


def test_what_a_task_of_ray_raised_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    raised = RayTaskError("adapt", "its traceback,\nline by line", ConfigError("workers: found 9, allowed: 2"))
    with pytest.raises(typer.Exit) as end, errors(debug=False):
        raise raised.as_instanceof_cause()
    assert end.value.exit_code == 2
    assert capsys.readouterr().err == "Error: workers: found 9, allowed: 2\n"


def test_what_is_said_is_said_as_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    say("an id :x: [bold]and a path[/bold] /tmp/:id:/a")
    assert capfd.readouterr().err == "an id :x: [bold]and a path[/bold] /tmp/:id:/a\n"
