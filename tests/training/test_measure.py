"""What is judged and compared follows from what artefacts say of themselves, whatever they are called.

It also tests `training/tables.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smp_ray.config import build_config
from smp_ray.evaluation.bootstrap import Bootstrap, estimates
from smp_ray.run import Run
from smp_ray.store.manifest import Manifest
from smp_ray.store.parquet import read_table
from smp_ray.training.measure import measure, show
from smp_ray.training.out_of_fold import write_out_of_fold
from smp_ray.training.splits import Splits
from tests.training.fold_data import commit_small, small_splits
from tests.training.runs import run_with


def run_in(folder: Path) -> Run:
    raw = {"workspace": str(folder), "source": {"kind": "demo"}, "training": {"resamples": 100}}
    return run_with(build_config(raw))


def predicted(splits: Splits, seed: int) -> np.ndarray:
    values = splits.popularity + np.random.default_rng(seed).normal(size=len(splits.popularity)) * (1 + seed)
    return np.where(splits.judged, values, np.nan)


def made(run: Run, name: str, columns: dict[str, int], **details: Any) -> Manifest:
    """An artefact with a column of predictions for each name, of a seed."""
    splits = small_splits()
    predictions = {column: predicted(splits, seed) for column, seed in columns.items()}
    fragment = write_out_of_fold(run.workspace, f"{name}/key", splits, predictions)
    details = {"variants": {column: {"column": column} for column in columns}, **details}
    return run.workspace.commit(Manifest(name, "key", {}, fragments=[fragment], details=details))


def used_in(run: Run) -> dict[str, Manifest | None]:
    facts = {"families": ["metadata"], "rounds": 3, "seconds": 0.5}
    return {
        "plain": made(run, "plain", {"zero": 0, "one": 1}),
        "better": made(
            run, "better", {"p": 2, "q": 2}, against_earlier=["two"],
            variants={"two": {"column": "p"}, "flattered": {"column": "q", "caution": "chosen on its own folds"}},
        ),
        "absent": None,
        "parts": made(
            run, "parts", {"three": 3, "four": 4}, pairs=[["four", "three"]], table="parts_table",
            variants={name: {"column": name, **facts} for name in ("three", "four")},
        ),
    }  # fmt: skip


def test_every_variant_is_judged_and_compared_as_its_artefact_asks(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    splits = commit_small(run.workspace)["splits"]
    done = measure(run, "anywhere", splits, used_in(run))
    assert done.note == "6 variants"
    metrics = run.workspace.read_json("metrics.json")
    assert {name: values["from"] for name, values in metrics["variants"].items()} == {
        "zero": "plain", "one": "plain", "two": "better", "flattered": "better", "three": "parts", "four": "parts",
    }  # fmt: skip
    cautions = {name: values["caution"] for name, values in metrics["variants"].items() if "caution" in values}
    assert cautions == {"flattered": "chosen on its own folds"}
    protocol, users = metrics["protocol"], small_splits().users[small_splits().judged]
    assert (protocol["judged_posts"], protocol["users"]) == (len(users), len(set(users)))
    assert metrics["artefacts"] == {"plain": "key", "better": "key", "parts": "key"}
    pairs = [(pair["variant"], pair["reference"]) for pair in metrics["differences"]]
    assert pairs == [("two", "zero"), ("two", "one"), ("four", "three")]
    folds = small_splits()
    judged = folds.judged
    bootstrap = Bootstrap(folds.users[judged], 100)
    labels, first, second = (values[judged] for values in (folds.popularity, predicted(folds, 2), predicted(folds, 1)))
    assert metrics["variants"]["two"]["pooled"]["mae"] == vars(bootstrap.estimate(labels, first)["mae"])
    difference = estimates(bootstrap.metrics(labels, first) - bootstrap.metrics(labels, second))
    assert metrics["differences"][1]["src"] == vars(difference["src"])
    table = read_table(run.workspace, "parts_table.parquet").to_pydict()
    assert (table["variant"], table["rounds"]) == (["three", "four"], [3, 3])
    assert "| four against three |" in run.workspace.read("parts_table.md").decode()


def test_tables_of_another_configuration_go(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    splits = commit_small(run.workspace)["splits"]
    made = measure(run, "evaluate", splits, used_in(run))
    assert {"metrics.json", "parts_table.md", "parts_table.parquet"} == set(made.details["outputs"])
    run.workspace.commit(Manifest("evaluate", "key", {}, details=made.details), alone=True)
    without = {name: artefact for name, artefact in used_in(run).items() if name != "parts"}
    assert measure(run, "evaluate", splits, without).details["outputs"] == ["metrics.json"]
    assert run.workspace.exists("metrics.json")
    assert not run.workspace.exists("parts_table.md")
    assert not run.workspace.exists("parts_table.parquet")


def test_the_tables_are_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = run_in(tmp_path)
    show(run)
    assert not capfd.readouterr().err
    measure(run, "anywhere", commit_small(run.workspace)["splits"], used_in(run))
    show(run)
    said = capfd.readouterr().err
    assert "two, against one" in said
    assert "flattered, against" not in said
    assert "flattered: chosen on its own folds" in said
    assert str(tmp_path / "metrics.json") in said.replace("\n", "")


def test_what_orders_no_posts_of_a_fold_has_no_rank_correlation(tmp_path: Path) -> None:
    """Pooled, a mean for each fold would order the folds, and that against their own labels."""
    run, folds = run_in(tmp_path), small_splits()
    splits = commit_small(run.workspace)["splits"]
    constant = np.where(folds.judged, np.maximum(folds.folds, 0).astype(float), np.nan)
    fragment = write_out_of_fold(run.workspace, "plain/key", folds, {"mean": constant, "good": predicted(folds, 0)})
    details = {"variants": {name: {"column": name} for name in ("mean", "good")}, "pairs": [["good", "mean"]]}
    plain = run.workspace.commit(Manifest("plain", "key", {}, fragments=[fragment], details=details))
    measure(run, "evaluate", splits, {"plain": plain})
    metrics = run.workspace.read_json("metrics.json")
    nothing = {"value": None, "low": None, "high": None}
    assert metrics["variants"]["mean"]["pooled"]["src"] == nothing == metrics["differences"][0]["src"]
    assert metrics["variants"]["mean"]["pooled"]["mae"]["value"] > 0
    assert metrics["variants"]["good"]["pooled"]["src"]["value"] > 0
