"""What the tests of the pass share: small tables, a runner for the command."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from smp_ray.config import Config, build_config
from smp_ray.pipeline import export, open_run, run_stages
from smp_ray.ray_session import RaySession
from smp_ray.run import Run

EMBEDDED = {"families": ["caption", "clip", "perplexity"]}


def table_config(folder: Path, table: Path, features: dict[str, Any] | None = None, **columns: str) -> Config:
    names = {"post_id": "id", "title": "title", "image": "image", **columns}
    return build_config(
        {
            "workspace": str(folder),
            "source": {"kind": "table", "path": str(table), "columns": names},
            "features": features or EMBEDDED,
        }
    )


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def run_features(config: Config, session: RaySession, retry: tuple[str, ...] = ()) -> Run:
    run = open_run(config, session, retry)
    run_stages(run, ("features",))
    return run


def exported(run: Run, folder: Path) -> pd.DataFrame:
    out = folder / "export.parquet"
    export(run, str(out))
    return pd.read_parquet(out)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "smp_ray.cli", *arguments]


def run_command(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, env={**os.environ, **env}, check=False)
