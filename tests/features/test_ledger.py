"""Posts that kill their worker cost themselves: what the ledger remembers, and whole passes in both placements."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from PIL import Image

from jobs.bench.packages import install
from smp_ray.errors import FeaturePassError
from smp_ray.families import registry
from smp_ray.features.ledger import SYSTEMIC, Ledger
from tests.features.conftest import run_command, write_table

ROOT = Path(__file__).parents[2]
#: A family that kills its process on one title, and in its transform on one size of picture; it notes each time.
PACKAGE = """
import os
import signal

import numpy as np
import pyarrow as pa

from smp_ray.families.base import IMAGE, TITLE, Column, Family, FamilySettings


def die(why):
    with open(os.environ["DEADLY_LOG"], "a") as log:
        log.write(f"{why}\\n")
    os.kill(os.getpid(), signal.SIGKILL)


class Transform:
    shape, dtype = (2,), np.dtype(np.uint8)

    def pixels(self, image):
        if image.size == (13, 17):
            die("picture")
        return np.array(image.size, dtype=np.uint8)


class Deadly(Family):
    name = "deadly"
    Settings = FamilySettings
    reads = (IMAGE, TITLE)
    columns = (Column("deadly_letters", pa.int32()),)

    def __init__(self, settings, device, threads):
        pass

    @classmethod
    def transform(cls, settings):
        return Transform()

    def compute(self, images, titles):
        if any("deadly" in title for title in titles):
            die("title")
        return {"deadly_letters": [len(title) for title in titles]}
"""


def test_a_post_in_work_twice_is_tried_alone_and_then_known() -> None:
    ledger = Ledger(time.time())
    assert ledger.begin("clip", [1, 2, 3]) == [None, None, None]
    assert ledger.begin("perplexity", [1, 2, 3]) == [None, None, None]
    ledger.end("clip", [3], {})
    assert ledger.begin("clip", [1, 2, 3]) == [(), (), None]  # a worker died with 1 and 2
    ledger.alone("clip", 1, "clip")
    ledger.alone("clip", 1, "")
    ledger.alone("clip", 2, "decoding")
    assert ledger.begin("clip", [1, 2, 3]) == [None, ("decoding",), ()]
    ledger.alone("clip", 2, "clip")
    (steps,) = ledger.begin("clip", [2])
    assert set(steps or ()) == {"clip", "decoding"}


def test_where_every_post_kills_it_is_not_the_posts() -> None:
    ledger = Ledger(time.time())
    ledger.begin("clip", range(SYSTEMIC))
    for row in range(SYSTEMIC):
        ledger.alone("clip", row, "clip")
    with pytest.raises(FeaturePassError, match="8 posts killed their worker, one after the other, in clip"):
        ledger.begin("clip", range(SYSTEMIC))


def test_a_worker_that_dies_while_loading_is_counted_until_it_has_loaded() -> None:
    ledger = Ledger(time.time())
    assert [ledger.loading("a"), ledger.loading("b"), ledger.loading("a")] == [1, 1, 2]
    ledger.loaded("a")
    assert ledger.loading("a") == 1


def test_a_note_is_kept_once() -> None:
    ledger = Ledger(time.time())
    for line in ("one", "two", "one"):
        ledger.note(line)
    assert ledger.snapshot()["notes"] == ["one", "two"]


@pytest.mark.parametrize(
    "placement",
    [pytest.param("colocated", marks=pytest.mark.slow), pytest.param("spread", marks=pytest.mark.thorough)],
)
def test_a_post_that_kills_costs_itself(placement: str, tmp_path: Path) -> None:
    posts = []
    for number in range(40):
        size = (13, 17) if number == 11 else (20, 30 + number)
        Image.new("RGB", size, (number, 0, 0)).save(tmp_path / f"{number}.png")
        title = "a deadly boat" if number == 29 else f"a boat {number}"
        posts.append({"id": f"p{number}", "title": title, "image": f"{number}.png"})
    config = {
        "workspace": str(tmp_path / "run"),
        "source": {
            "kind": "table", "path": str(write_table(tmp_path / "posts.csv", posts)),
            "columns": {"post_id": "id", "title": "title", "image": "image"},
        },
        "features": {
            "families": ["clip", "perplexity", "deadly"], "placement": placement, "rows_per_block": 20,
            "clip": {"max_actors": 1, "num_cpus": 0.25}, "perplexity": {"max_actors": 1, "num_cpus": 0.25},
            "deadly": {"max_actors": 1, "num_cpus": 0.25},
        },
    }  # fmt: skip
    path, log = tmp_path / "config.yaml", tmp_path / "deaths.log"
    path.write_text(yaml.safe_dump(config))
    site = install(tmp_path / "site", PACKAGE, registry.GROUP, "deadly", "deadly_family:Deadly")
    env = {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]), "DEADLY_LOG": str(log)}
    done = run_command("features", str(path), **env)
    assert done.returncode == 1, done.stderr
    assert "posts with status error: clip 1, deadly 2" in done.stderr
    assert sorted(set(log.read_text().split())) == ["picture", "title"]
    again = run_command("features", str(path), **env)
    assert again.returncode == 0, again.stderr
    assert "posts with an error in two runs, left as they are: clip 1, deadly 2" in again.stderr
    deaths = log.read_text()
    assert run_command("features", str(path), **env).returncode == 0
    assert log.read_text() == deaths
    out = tmp_path / "out.parquet"
    assert run_command("export", str(path), "--out", str(out), **env).returncode == 0
    frame = pd.read_parquet(out).set_index("post_id")
    wrong = frame[(frame[["clip_status", "perplexity_status", "deadly_status"]] != "ok").any(axis=1)]
    assert sorted(wrong.index) == ["p11", "p29"]
    assert wrong.loc["p11", ["clip_status", "perplexity_status", "deadly_status"]].tolist() == ["error", "ok", "error"]
    assert wrong.loc["p29", ["clip_status", "perplexity_status", "deadly_status"]].tolist() == ["ok", "ok", "error"]
    assert wrong.loc["p11", "clip_error"] == wrong.loc["p29", "deadly_error"] == "killed its worker, in two runs"
    assert frame.loc["p11", "clip_title"] is not None
    assert (frame["deadly_letters"].dropna() == frame["title"].str.len()[frame["deadly_letters"].notna()]).all()
