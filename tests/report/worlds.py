"""Small workspaces for the tests of the report: all artefacts in their real formats, none of them computed by Ray."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pyarrow as pa
from PIL import Image

from smp_ray.config import Config, build_config
from smp_ray.models.adapter import AdapterBank, BankShape
from smp_ray.ray_session import RaySession
from smp_ray.report.write import write_report
from smp_ray.run import Run
from smp_ray.store.manifest import Manifest
from smp_ray.store.parquet import write_table
from smp_ray.store.workspace import Workspace
from smp_ray.training.adapter.rows import ADAPTERS
from tests.training.worlds import WIDTH, World

SCRIPT = "<script>alert(1)</script>"
LINK = '<b>bold</b> <a href="javascript:alert(2)">click</a> <img src=x onerror=alert(3)>'

#: What the sweep searched; choices come from the config, and plotly takes them for markup.
SPACE = {
    "learning_rate": {"type": "float", "low": 1e-3, "high": 0.4, "log": True},
    "boosting": {"type": "choice", "values": ["<i>gbdt</i>", "dart"]},
}


@dataclass
class Written:
    """A workspace with everything that a report can show; tests take parts away."""

    config: Config
    workspace: Workspace
    posts: Manifest
    store: dict[str, Manifest]
    used: dict[str, Manifest | None]
    world: World
    out_of_fold: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def report(self) -> str:
        """Write the report; returns the page."""
        run = Run(self.config, RaySession(self.config.ray), ())
        made = write_report(run, "report", self.posts, self.store, self.used)
        assert made.note == f"→ {self.folder / 'index.html'}"
        return (self.folder / "index.html").read_text(encoding="utf-8")

    @property
    def folder(self) -> Path:
        return Path(self.workspace.path("report"))

    def add_family(self, name: str, columns: dict[str, Any], statuses: list[str], **facts: Any) -> Manifest:
        """Store a family of these columns for all posts."""
        keys = {"row_id": self.world.ids, "post_id": self.world.columns["post_id"]}
        own = {**columns, f"{name}_status": statuses, f"{name}_error": pa.nulls(len(statuses), pa.string())}
        details = {"columns": list(own), "covers": {self.posts.fingerprint: {}}}
        table = pa.table({**keys, **own})
        return _commit(self.workspace, f"features/{name}", {"part-00000": table}, details=details, **facts)


def write_world(folder: Path, posts: int = 120, training: bool = True, labels: bool = True) -> Written:
    """A world of posts with images inside the table, captions, embeddings and, if asked for, training artefacts."""
    world = World(folder, posts, users=max(posts // 5, 3), unlabelled=posts // 10 if labels else posts)
    titles = world.columns["title"]
    titles[0], titles[1], titles[2] = SCRIPT, LINK, None
    titles[3], titles[4] = "DSC_0042", "😀😀"
    world.columns["category"][5] = "<b>cat</b>"
    world.columns["image_bytes"] = [_picture(number) if number % 4 else None for number in range(posts)]
    world.columns["image_bytes"][1] = b"not an image"
    world.title[:2] = world.image[:2]  # the most consistent, so that the gallery shows them
    committed, families = world.commit()
    committed.details["synthetic"] = True
    raw = {
        "workspace": str(folder), "source": {"kind": "demo"}, "training": {"resamples": 100, "tune": {"space": SPACE}},
        "report": {
            "edges": [2, 4, 6, 8, 10, 12], "projection_posts": 60, "neighbours": 5, "shap_posts": 50,
            "gallery_posts": 4,
        },
    }  # fmt: skip
    written = Written(build_config(raw), world.workspace, committed, families, {}, world)
    captions = [f"a picture of {LINK}" if n < 2 else f"caption {n}" for n in range(posts)]
    statuses = ["ok" if number % 4 else "no_image" for number in range(posts)]
    model = {"name": "embedded", "files": {"model.safetensors": "0123456789abcdef"}}
    captioned = written.add_family("caption", {"caption": captions}, statuses, models={"caption": model})
    written.store = {"caption": captioned, **families}
    if training and labels:
        _train(written)
    return written


def _picture(number: int) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (300, 200), (number % 256, 90, 160)).save(encoded, "PNG")
    return encoded.getvalue()


def _train(written: Written) -> None:
    world, workspace = written.world, written.workspace
    ids, labels = world.ids, np.array(world.columns["popularity"], dtype=np.float64)
    labelled = np.isfinite(labels)
    folds = np.where(labelled, world.user_numbers % 3, -1)
    rng = np.random.default_rng(1)
    prediction = np.where(labelled, labels, 6.0) + rng.normal(size=len(ids))
    written.out_of_fold = prediction
    keys = {"row_id": ids, "post_id": world.columns["post_id"]}
    known = {"user_id": world.columns["user_id"], "popularity": pa.array(world.columns["popularity"], pa.float64())}
    split = pa.table({**keys, **known, "fold": pa.array(folds, pa.int16())}).filter(pa.array(labelled))
    frame = pa.table(
        {
            **keys, **known, "split": world.columns["split"],
            "fold": pa.array([int(f) if known else None for f, known in zip(folds, labelled, strict=True)], pa.int16()),
            "prediction": prediction, "source": np.where(labelled, "out_of_fold", "model").tolist(),
        }
    )  # fmt: skip
    values = {"user_photo_count": world.extra["user_photo_count"], "title_perplexity": np.exp(world.nll)}
    matrix = pa.table({**keys, "training": labelled, **values})
    groups = {"user_photo_count": "metadata", "title_perplexity": "perplexity"}
    details: dict[str, Any] = {"columns": groups, "families": ["metadata", "perplexity"], "levels": {"final": {}}}
    written.used = {
        "splits": _commit(workspace, "splits", {"splits": split}, config={"kind": "user", "folds": 3}),
        "adapt": _adapt(workspace),
        "matrix": _commit(workspace, "matrix", {"final": matrix}, details=details),
        "predict": _commit(
            workspace, "predict", {"predictions": frame},
            details={"predictions": "predict/key/predictions.parquet", "submission": ""},
        ),
        "baselines": _commit(workspace, "baselines", {}),
        "ablate": _commit(workspace, "ablate", {}, details={"table": "ablation"}),
        "tune": _tune(workspace, values, labels, labelled),
    }  # fmt: skip
    workspace.write_json(_metrics(labelled, world), "metrics.json")


def _adapt(workspace: Workspace) -> Manifest:
    """Adapters that have learned nothing yet."""
    bank = AdapterBank(BankShape(3, 3, WIDTH, 4, 4, 0.6, 0.6, 4))
    workspace.write(bank.to_bytes(), "adapt", "key", ADAPTERS)
    details = {"embeddings": ["clip_image", "clip_title"]}
    return _commit(workspace, "adapt", {}, details=details, config={"seed": 0})


def _tune(workspace: Workspace, values: dict[str, np.ndarray], labels: np.ndarray, labelled: np.ndarray) -> Manifest:
    columns = np.stack(list(values.values()), axis=1)[labelled]
    data = lgb.Dataset(columns, labels[labelled], free_raw_data=False)
    booster = lgb.train({"verbosity": -1, "num_threads": 1, "min_data_in_leaf": 2, "num_leaves": 4}, data, 5)
    workspace.make_dir("tune/key/model")
    Path(workspace.path("tune/key/model/model-0.txt")).write_text(booster.model_to_string())
    rng = np.random.default_rng(2)
    count = 9
    trials = pa.table(
        {
            "trial": pa.array(range(count), pa.int32()),
            "status": ["completed"] * 7 + ["stopped", "failed"],
            "param_learning_rate": 10 ** rng.uniform(-3, -0.5, count),
            "param_boosting": (["<i>gbdt</i>", "dart"] * count)[:count],
            "objective": [*rng.uniform(1, 2, count - 1).round(3), None],
            "seconds": np.full(count, 2.0),
            "started_after_seconds": np.arange(count) * 1.5,
        }
    )
    details = {
        "objective": "mae", "best": {"trial": 1, "value": 1.2, "rounds": 80, "params": {}}, "concurrency": 2,
        "sweep_seconds": 14.0,
        "predictor": "lightgbm", "models": ["tune/key/model/model-0.txt"],
        "nested": [{"trial": 1 + fold % 2, "fold": fold, "rounds": 80 - fold} for fold in range(3)],
    }  # fmt: skip
    return _commit(workspace, "tune", {"trials": trials}, details=details)


def _metrics(labelled: np.ndarray, world: World) -> dict[str, Any]:
    def estimate(value: float | None) -> dict[str, float | None]:
        return {"value": value, "low": None if value is None else value - 0.1, "high": value and value + 0.1}

    def variant(source: str, src: float | None, mae: float) -> dict[str, Any]:
        return {"from": source, "pooled": {"src": estimate(src), "mae": estimate(mae), "mape": estimate(0.2)}}

    difference = {metric: estimate(value) for metric, value in (("src", 0.05), ("mae", -0.3), ("mape", -0.01))}
    return {
        "protocol": {
            "split": "user", "folds": 3, "labelled_posts": int(labelled.sum()), "judged_posts": int(labelled.sum()),
            "users": len(np.unique(world.user_numbers)), "intervals": "95 %", "warnings": ["few users <i>"],
        },
        "variants": {
            "mean": variant("baselines", None, 1.9), "lightgbm_default": variant("baselines", 0.6, 1.5),
            "tuned": variant("tune", 0.7, 1.2),
            "tuned_flattered": {**variant("tune", 0.71, 1.1), "caution": "chosen on the <i>same</i> folds"},
            "metadata": variant("ablate", 0.5, 1.6),
            "metadata + clip": variant("ablate", 0.55, 1.5),
        },
        "differences": [{"variant": "tuned", "reference": "lightgbm_default", **difference}],
        "artefacts": {"baselines": "key", "tune": "key", "ablate": "key"},
    }  # fmt: skip


def _commit(workspace: Workspace, stage: str, tables: dict[str, pa.Table], **facts: Any) -> Manifest:
    fragments = [write_table(workspace, f"{stage}/key/{name}.parquet", table) for name, table in tables.items()]
    facts = {"config": {}, **facts}
    manifest = Manifest(stage=stage, fingerprint="key", rows=120, fragments=fragments, **facts)
    manifest.wall_seconds = 2.0
    return workspace.commit(manifest)
