"""The commands from posts to predictions on a small sample world: what they write, say, and do after a kill.

It also tests `predictor/predict.py`.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.stats import spearmanr
from sklearn.metrics import mean_absolute_error, mean_absolute_percentage_error

from smp_ray.store.workspace import Workspace
from tests.features.conftest import command, run_command

POSTS = 240
LIMIT = 300.0
SETTINGS: dict[str, Any] = {
    "split": {"folds": 3},
    "adapter": {"max_epochs": 12, "batch_size": 64},
    "matrix": {"pca_dimensions": 4, "text_dimensions": 4},
    "tune": {
        "trials": 6,
        "max_concurrent": 1,  # the same trials wherever and whenever
        "max_rounds": 60,
        "early_stopping_rounds": 20,
        "models": 2,
        "asha": {"grace_rounds": 10},
        "params": {"max_bin": 31},
    },
    "ablation": {"candidates": 1},
    "resamples": 200,
}


def write_config(folder: Path, **changes: Any) -> Path:
    raw = {
        "workspace": str(folder / "run"),
        "source": {"kind": "demo", "posts": POSTS, "seed": 3},
        "training": {**SETTINGS, **changes},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A workspace after `smp-ray run`, and what the command said."""
    folder = tmp_path_factory.mktemp("stages")
    done = run_command("run", str(write_config(folder)))
    assert done.returncode == 0, done.stderr
    return folder, done.stderr


def metrics_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run" / "metrics.json").read_text())


def only(folder: Path, pattern: str) -> Path:
    (found,) = (folder / "run").glob(pattern)
    return found


@pytest.mark.slow
def test_every_variant_is_there_fold_by_fold_and_as_scipy_and_sklearn_say(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    variants = metrics_of(folder)["variants"]
    expected = {"mean", "user_mean", "lightgbm_default", "ncku_dart", "tuned", "tuned_flattered", "metadata", "all",
                "metadata + adapted",
                "metadata + similarity", "metadata + perplexity", "all - adapted"}  # fmt: skip
    assert expected <= set(variants)
    files = {"baselines": "baselines/*/out_of_fold.parquet", "tune": "tune/*/out_of_fold.parquet",
             "ablate": "ablate/*/out_of_fold.parquet"}  # fmt: skip
    for name, values in variants.items():
        frame = pd.read_parquet(only(folder, files[values["from"]]))
        predicted = frame[{"tuned": "prediction", "tuned_flattered": "flattered"}.get(name, name)]
        pooled = values["pooled"]
        assert pooled["mae"]["value"] == pytest.approx(mean_absolute_error(frame["popularity"], predicted), abs=1e-12)
        mape = mean_absolute_percentage_error(frame["popularity"], predicted)
        assert pooled["mape"]["value"] == pytest.approx(mape, abs=1e-12)
        constant = name in ("mean", "user_mean")  # the same for all posts of a fold, which orders none
        ranks = None if constant else spearmanr(frame["popularity"], predicted).statistic
        assert pooled["src"]["value"] == (ranks if constant else pytest.approx(ranks, abs=1e-12))
        assert pooled["mae"]["low"] < pooled["mae"]["value"] < pooled["mae"]["high"]
        assert [fold["fold"] for fold in values["folds"]] == [0, 1, 2]
        for fold in values["folds"]:
            part = frame["fold"] == fold["fold"]
            assert fold["mae"] == pytest.approx(mean_absolute_error(frame["popularity"][part], predicted[part]))
    for name in ("mean", "user_mean"):  # folds are of whole users
        assert [fold["src"] for fold in variants[name]["folds"]] == [None] * 3


@pytest.mark.slow
def test_predictions_and_submission(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    predictions = pd.read_parquet(only(folder, "predict/*/predictions.parquet"))
    assert len(predictions) == POSTS
    assert predictions["post_id"].is_unique
    assert predictions["prediction"].notna().all()
    labelled = predictions["popularity"].notna()
    assert (predictions["source"] == np.where(labelled, "out_of_fold", "model")).all()
    out_of_fold = pd.read_parquet(only(folder, "tune/*/out_of_fold.parquet")).set_index("post_id")["prediction"]
    known = predictions[labelled].set_index("post_id")["prediction"]
    assert np.allclose(known, out_of_fold[known.index])
    submission = json.loads(only(folder, "predict/*/submission.json").read_text())
    assert submission["version"] == "VERSION 1.2"
    assert submission["external_data"]["used"] == "true"
    scores = {entry["post_id"]: entry["popularity_score"] for entry in submission["result"]}
    unlabelled = predictions[~labelled].set_index("post_id")["prediction"]
    assert scores == {post: round(score, 4) for post, score in unlabelled.items()}


@pytest.mark.slow
def test_ablation_table(finished: tuple[Path, str]) -> None:
    folder, said = finished
    table = pd.read_parquet(folder / "run" / "ablation.parquet").set_index("variant")
    variants = metrics_of(folder)["variants"]
    for name in table.index:
        assert table.loc[name, "mae"] == variants[name]["pooled"]["mae"]["value"]
        assert f"| {name} | {table.loc[name, 'src']:.3f} [" in (folder / "run" / "ablation.md").read_text()
        assert name in said
    assert list(table.loc["metadata", "families"]) == ["metadata"]
    assert "perplexity" not in table.loc["all - perplexity", "families"]


@pytest.mark.slow
def test_adapted_features_are_exported(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    out = folder / "export.parquet"
    assert run_command("export", str(folder / "config.yaml"), "--out", str(out)).returncode == 0
    exported = pd.read_parquet(out)
    assert {"adapted_title", "adapted_prediction"} <= set(exported)
    assert len(exported) == POSTS


@pytest.mark.slow
def test_again_is_up_to_date_and_a_setting_recomputes_what_depends_on_it(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    config = str(folder / "config.yaml")
    before = (folder / "run" / "metrics.json").read_text()
    again = run_command("run", config)
    assert again.returncode == 0
    for stage in ("features", "adapt", "tune", "predict", "ablate"):
        assert f"{stage}: up to date" in again.stderr
    assert (folder / "run" / "metrics.json").read_text() == before
    assert run_command("status", config).returncode == 0
    changed = run_command("status", config, "--set", "training.tune.trials=7")
    assert changed.returncode == 1
    states = {line.split()[0]: line.split()[1] for line in changed.stderr.splitlines() if len(line.split()) > 1}
    assert states["adapt"] == states["ablate"] == "committed"
    assert states["tune"] == states["predict"] == "stale"


@pytest.mark.slow
def test_the_model_loads_without_this_project(finished: tuple[Path, str]) -> None:
    import lightgbm

    folder, _ = finished
    models = sorted(only(folder, "tune/*/model").glob("model-*.txt"))
    assert len(models) == 2
    final = pd.read_parquet(only(folder, "matrix/*/final.parquet"))
    predictions = pd.read_parquet(only(folder, "predict/*/predictions.parquet")).set_index("post_id")
    columns = json.loads((models[0].parent / "columns.json").read_text())
    names = columns["names"] if "names" in columns else [column["name"] for column in columns["columns"]]
    found = np.mean([lightgbm.Booster(model_file=str(path)).predict(final[names]) for path in models], axis=0)
    # These are the posts that it learned from.
    popularity = predictions["popularity"][final["post_id"]]
    assert np.corrcoef(found, popularity)[0, 1] > 0.5


@pytest.mark.thorough
def test_the_same_on_an_object_store(finished: tuple[Path, str], bucket: str) -> None:
    folder, _ = finished
    uri = bucket.format("run")
    fewer = ("--set", "training.baselines=[mean, lightgbm_default]")  # the other takes long
    done = run_command("run", str(folder / "config.yaml"), "--workspace", uri, *fewer)
    assert done.returncode == 0, done.stderr
    workspace = Workspace.open(uri)
    there, here = workspace.read_json("metrics.json"), metrics_of(folder)
    assert there["protocol"] == here["protocol"]
    assert len(there["variants"]) == len(here["variants"]) - 2
    for name, values in there["variants"].items():
        assert values["pooled"]["mae"]["value"] == pytest.approx(
            here["variants"][name]["pooled"]["mae"]["value"], rel=1e-6
        )
    page, figures = (
        [info for info in workspace.files("report") if info.path.endswith(suffix)] for suffix in ("index.html", ".csv")
    )
    local = folder / "run" / "report"
    assert len(page) == 1
    assert page[0].size == pytest.approx((local / "index.html").stat().st_size, rel=0.01)
    assert {info.base_name for info in figures} == {path.name for path in local.glob("*.csv")}
    assert run_command("status", str(folder / "config.yaml"), "--workspace", uri, *fewer).returncode == 0


def wait_for(condition: Callable[[], bool], running: subprocess.Popen[bytes], log: Path) -> None:
    began = time.monotonic()
    while not condition():
        assert running.poll() is None, f"ended before the kill:\n{log.read_text()}"
        assert time.monotonic() - began < LIMIT, f"nothing happened:\n{log.read_text()}"
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_in_adapt_and_in_tune_it_ends_as_if_it_were_not(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = finished
    before, run = metrics_of(folder), folder / "run"
    kept = {"ingest", "world", "features", "workspace.json", "baselines"}  # the last take long, and are not in question
    for path in run.iterdir():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def killed_when(condition: Callable[[], bool], name: str) -> None:
        log = tmp_path / f"{name}.log"
        with log.open("wb") as file:
            running = subprocess.Popen(command("run", str(folder / "config.yaml")), stderr=file, stdout=file)
        wait_for(condition, running, log)
        running.send_signal(signal.SIGKILL)
        running.wait()

    killed_when(lambda: any(run.glob("adapt/*/train/*/checkpoint*")), "adapt")
    assert not any(run.glob("adapt/*/manifest.json"))
    killed_when(lambda: len(list(run.glob("tune/*/trials/*.json"))) >= 2, "tune")
    assert not any(run.glob("tune/*/manifest.json"))
    last = run_command("run", str(folder / "config.yaml"))
    assert last.returncode == 0, last.stderr
    after = metrics_of(folder)
    assert set(after["variants"]) == set(before["variants"])
    for name in set(after["variants"]) - {"tuned", "tuned_flattered"}:  # a resumed sweep draws anew
        same = before["variants"][name]["pooled"]["mae"]["value"]
        assert after["variants"][name]["pooled"]["mae"]["value"] == pytest.approx(same, rel=1e-6)
    tuned = before["variants"]["tuned"]["pooled"]["mae"]
    assert tuned["low"] < after["variants"]["tuned"]["pooled"]["mae"]["value"] < tuned["high"]
    assert len(pd.read_parquet(only(folder, "predict/*/predictions.parquet"))) == POSTS
