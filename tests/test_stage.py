"""The runner of all stages, on stages of a test's own: what is made again, what is not, and what is said."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from smp_ray.config import Config, build_config
from smp_ray.errors import SmpRayError
from smp_ray.ray_session import RaySession
from smp_ray.run import Run
from smp_ray.stage import Stage, bring_all, status
from smp_ray.store.manifest import Made, Manifest

MADE: Counter[str] = Counter()


def make_numbers(run: Run, folder: str) -> Made:
    MADE["numbers"] += 1
    return Made(rows=3, note="3 numbers", details={"warnings": ["one is odd"]})


def make_sum(run: Run, folder: str, numbers: Manifest, left_out: Manifest | None) -> Made:
    MADE["sum"] += 1
    assert numbers.rows == 3
    assert left_out is None
    run.workspace.write(b"6", folder, "sum.txt")
    return Made(rows=1)


def make_page(run: Run, folder: str, total: Manifest, used: dict[str, Manifest | None]) -> Made:
    MADE["page"] += 1
    names = [name for name, manifest in used.items() if manifest is not None]
    run.workspace.write(",".join(names).encode(), folder, "page.txt")
    return Made(details={"outputs": [f"{folder}/page.txt"]})


def make_extra(run: Run, folder: str) -> Made:
    MADE["extra"] += 1
    return Made()


def never(run: Run, folder: str) -> Made:
    raise AssertionError("is not wanted")


def show_page(run: Run) -> None:
    MADE["shown"] += 1


def folds(config: Config) -> dict[str, Any]:
    return {"folds": config.training.split.folds}


STAGES = (
    Stage("numbers", "", f"{__name__}:make_numbers", settings=folds),
    Stage("unwanted", "", f"{__name__}:never", wanted=lambda config: False),
    Stage("sum", "", f"{__name__}:make_sum", reads=("numbers", "unwanted"), beside=("page",)),
    Stage("extra", "", f"{__name__}:make_extra", labels=True),
    Stage(
        "page", "", f"{__name__}:make_page", reads=("sum",), uses=("extra",), alone=True, show=f"{__name__}:show_page"
    ),
)


@pytest.fixture(autouse=True)
def _nothing_made() -> None:
    MADE.clear()


def run_of(folder: Path, *overrides: str) -> Run:
    config = build_config({"workspace": str(folder), "source": {"kind": "demo"}}, list(overrides))
    return Run(config, RaySession(config.ray), STAGES)


def states(run: Run) -> dict[str, tuple[str, str]]:
    return {line.name: (line.state, line.why) for line in status(run)}


def test_a_stage_brings_what_it_reads_and_what_goes_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bring_all(run_of(tmp_path), ["sum"])
    assert MADE == {"numbers": 1, "sum": 1, "page": 1, "shown": 1}
    said = capsys.readouterr().err
    assert "numbers: 3 numbers in 0.0 s" in said
    assert said.count("numbers: one is odd") == 1
    bring_all(run_of(tmp_path), ["page"])
    assert MADE == {"numbers": 1, "sum": 1, "page": 1, "shown": 2}
    assert "numbers: up to date, 3 numbers" in capsys.readouterr().err
    manifest = run_of(tmp_path).artefact("sum")
    assert isinstance(manifest, Manifest)
    assert list(manifest.inputs) == ["numbers", "unwanted"]
    assert manifest.inputs["unwanted"] is None


def test_a_changed_setting_makes_anew_what_depends_on_it_and_is_said(tmp_path: Path) -> None:
    bring_all(run_of(tmp_path), ["page"])
    changed = run_of(tmp_path, "training.split.folds=7")
    found = states(changed)
    assert found["numbers"] == ("stale", "folds: 5 → 7")
    assert found["sum"] == found["page"] == ("stale", "its inputs are not there")
    bring_all(changed, ["page"])
    assert MADE == {"numbers": 2, "sum": 2, "page": 2, "shown": 2}
    # And back: what has a folder of its own is still there.
    bring_all(run_of(tmp_path), ["page"])
    assert MADE == {"numbers": 2, "sum": 2, "page": 3, "shown": 3}


def test_what_is_taken_where_it_is_there_counts(tmp_path: Path) -> None:
    bring_all(run_of(tmp_path), ["page"])
    assert (tmp_path / "page" / "page.txt").read_text() == ""
    bring_all(run_of(tmp_path), ["extra"])
    assert states(run_of(tmp_path))["page"] == ("stale", "its inputs changed")
    bring_all(run_of(tmp_path), ["page"])
    assert (tmp_path / "page" / "page.txt").read_text() == "extra"


def test_a_deleted_page_is_made_again(tmp_path: Path) -> None:
    bring_all(run_of(tmp_path), ["page"])
    (tmp_path / "page" / "page.txt").unlink()
    bring_all(run_of(tmp_path), ["page"])
    assert MADE["page"] == 2


def test_another_version_makes_anew(tmp_path: Path) -> None:
    first = run_of(tmp_path)
    key = STAGES[0].key(first)
    newer = Stage("numbers", "", f"{__name__}:make_numbers", settings=folds, version=2)
    assert newer.key(first) != key


def test_an_artefact_without_its_manifest_does_not_exist(tmp_path: Path) -> None:
    bring_all(run_of(tmp_path), ["sum"])
    (manifest,) = (tmp_path / "sum").glob("*/manifest.json")
    manifest.unlink()
    assert states(run_of(tmp_path))["sum"] == ("missing", "interrupted: smp-ray sum")
    bring_all(run_of(tmp_path), ["sum"])
    assert MADE["sum"] == 2


def test_a_stage_whose_inputs_are_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(SmpRayError, match="sum: what it reads is not there: numbers, unwanted"):
        STAGES[2].bring(run_of(tmp_path))
