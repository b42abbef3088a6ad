"""The survey of the store, held against a dictionary; and its memory at ten million posts."""

from __future__ import annotations

import io
import os
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from smp_ray.features import survey as surveys
from smp_ray.features.survey import MISSING, survey
from smp_ray.ray_session import RaySession
from smp_ray.schema import ERROR, FAILED_TWICE, KILLED, TWICE
from smp_ray.store import reader
from smp_ray.store.manifest import Fragment, Manifest
from smp_ray.store.workspace import Workspace
from tests.features.conftest import exported, run_features, table_config

Row = tuple[int, str | None, str | None]
ROWS = st.lists(
    st.tuples(
        st.integers(0, 12),
        st.sampled_from(["ok", "no_text", ERROR, None]),
        st.sampled_from([None, KILLED, f"{KILLED}{TWICE}", "other", f"other{TWICE}"]),
    ),
    max_size=6,
)
AGAIN = (MISSING, ERROR)


def write(workspace: Workspace, name: str, **columns: Any) -> Fragment:
    table = pa.table(columns)
    pq.write_table(table, workspace.path(name))
    return Fragment(name, len(table), 1)


def family(workspace: Workspace, name: str, number: int, rows: list[Row]) -> Fragment:
    ids, statuses, errors = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
    verdicts = {f"{name}_status": pa.array(statuses, pa.string()), f"{name}_error": pa.array(errors, pa.string())}
    values = {"caption": [f"{row_id} in {number}" for row_id in ids]} if name == "caption" else {}
    ids_array = pa.array(ids, pa.int64())
    return write(workspace, f"{name}{number}", row_id=ids_array, **verdicts, **values)


def posts_files(workspace: Workspace, files: list[list[int]], uris: list[str | None], images: list[Any]) -> Manifest:
    fragments = []
    for number, ids in enumerate(files):
        uri = pa.array([uris[row_id] for row_id in ids], pa.string())
        data = pa.array([images[row_id] for row_id in ids], pa.large_binary())
        row_ids = pa.array(ids, pa.int64())
        fragments.append(write(workspace, f"posts{number}", row_id=row_ids, image_uri=uri, image_bytes=data))
    return Manifest("ingest", "x", {}, fragments=fragments, rows=sum(map(len, files)))


def expected(family_files: list[list[Row]], ids: list[int]) -> dict[int, str]:
    last = {row_id: (status, error) for rows in family_files for row_id, status, error in rows if status is not None}
    names = {
        row_id: FAILED_TWICE if status == ERROR and (error or "").endswith(TWICE) else str(status)
        for row_id, (status, error) in last.items()
    }
    return {row_id: names.get(row_id, MISSING) for row_id in ids}


@settings(max_examples=40, deadline=None)
@given(split=st.integers(0, 10), clip=st.lists(ROWS, max_size=3), caption=st.lists(ROWS, max_size=3))
def test_a_part_agrees_with_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, split: int, clip: list[list[Row]], caption: list[list[Row]]
) -> None:
    workspace = Workspace.open(str(tmp_path_factory.mktemp("store")))
    ids = np.random.default_rng(split).permutation(10).tolist()
    posts = posts_files(workspace, [ids[:split], ids[split:]], [None] * 10, [None] * 10)
    files = {"clip": [family(workspace, "clip", number, rows) for number, rows in enumerate(clip)]}
    stored = [family(workspace, "caption", number, rows) for number, rows in enumerate(caption)]
    question = surveys.Question(workspace, files, frozenset(AGAIN), {"caption": ("caption", stored)})
    found, known = surveys.survey_part(question, posts.fragments)
    statuses = expected(clip, ids)
    assert found.counts == {"clip": dict(Counter(statuses.values()))}
    need = {row_id for row_id, status in statuses.items() if status in AGAIN}
    assert found.needing == [len(need & set(ids[:split])), len(need & set(ids[split:]))]
    assert not found.remote
    if known is None:
        assert not need
        return
    assert known["row_id"].to_pylist() == sorted(ids)
    assert {row["row_id"] for row in known.to_pylist() if row["need_clip"]} == need
    failed = {row_id for row_id, status in statuses.items() if status in (ERROR, FAILED_TWICE)}
    assert {row["row_id"] for row in known.to_pylist() if row["failed"]} == failed
    place = {r: (n, at) for n, rows in enumerate(caption) for at, (r, s, _) in enumerate(rows) if s is not None}
    for row in known.to_pylist():
        assert (row["caption_fragment"], row["caption_position"]) == place.get(row["row_id"], (-1, -1))


def test_a_family_follows_one_that_it_reads_and_that_is_computed_again(tmp_path: Path) -> None:
    workspace = Workspace.open(str(tmp_path))
    posts = posts_files(workspace, [[0, 1, 2]], [None] * 3, [None] * 3)
    caption = [family(workspace, "caption", 0, [(0, "ok", None), (1, ERROR, "once"), (2, ERROR, f"again{TWICE}")])]
    clip = [family(workspace, "clip", 0, [(number, "ok", None) for number in range(3)])]
    question = surveys.Question(workspace, {"caption": caption, "clip": clip}, frozenset(AGAIN), {})
    found, known = surveys.survey_part(question, posts.fragments)
    assert found.todo == {"caption": 1, "clip": 1}
    assert known is not None
    assert known["need_caption"].to_pylist() == known["need_clip"].to_pylist() == [False, True, False]


def test_pictures_are_looked_for_where_a_family_sees_them(tmp_path: Path) -> None:
    workspace = Workspace.open(str(tmp_path))
    posts = posts_files(workspace, [[0, 1], [2]], [None, "a.jpg", "https://x/b.jpg"], [None, b"bytes", None])
    for families, again, asked, told in (
        (["clip"], AGAIN, posts.fragments, True),
        (["clip"], AGAIN, posts.fragments[:1], False),
        (["clip"], AGAIN, posts.fragments[1:], True),
        (["perplexity"], AGAIN, posts.fragments, False),
        (["clip"], (), posts.fragments, False),
    ):
        question = surveys.Question(workspace, {family: [] for family in families}, frozenset(again), {})
        found, known = surveys.survey_part(question, asked)
        assert found.remote is told
        assert known is None  # everything is needed, or nobody asks


def test_a_worker_in_another_folder_finds_a_workspace_of_a_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    workspace = Workspace.open("run")
    caption = family(workspace, "caption", 0, [(0, "ok", None)])
    monkeypatch.chdir("/")
    column = next(iter(surveys._stored_column(workspace, [caption.path], "caption_status", [0])))
    assert column["caption_status"].to_pylist() == ["ok"]


def test_captions_are_read_from_where_they_lie(
    tmp_path: Path, session: RaySession, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.start()
    monkeypatch.setattr(reader, "GROUP_POSTS", 2)  # a task a file
    workspace = Workspace.open(str(tmp_path))
    posts = posts_files(workspace, [[7, 3], [5, 9], [1]], [None] * 10, [None] * 10)
    clip = [family(workspace, "clip", 0, [(7, "ok", None), (5, "ok", None), (9, "ok", None)])]
    captions = [
        family(workspace, "caption", number, rows)
        for number, rows in enumerate([[(9, "ok", None), (3, "ok", None)], [(3, "ok", None), (1, "no_image", None)]])
    ]
    stored = {"caption": Manifest("features/caption", "x", {}, fragments=captions)}
    found = survey(workspace, posts, {"clip": clip}, AGAIN, stored)
    assert found.counts == {"clip": {"ok": 3, MISSING: 2}}
    assert [fragment.path for fragment in found.wanted(posts)] == ["posts0", "posts2"]
    known = ray.get(found.known)
    assert len(known.parts) == 3
    table = known.attached(pa.table({"row_id": [3, 7]}), workspace.path("posts0"), ["clip"])
    assert table["need_clip"].to_pylist() == [True, False]
    assert table["caption"].to_pylist() == ["3 in 1", None]  # that of 7 nobody needs
    assert survey(workspace, posts, {"clip": clip}).counts == found.counts


@pytest.mark.slow
def test_pictures_that_the_posts_hold_reach_the_family(tmp_path: Path, session: RaySession) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (32, 24), (200, 30, 30)).save(stream, "PNG")
    ids, images = [str(number) for number in range(6)], [stream.getvalue(), b"broken", None] * 2
    pq.write_table(pa.table({"id": ids, "title": ids, "image": images}), tmp_path / "posts.parquet")
    config = table_config(tmp_path / "run", tmp_path / "posts.parquet", {"families": ["visual"]})
    frame = exported(run_features(config, session), tmp_path)
    assert frame["visual_status"].tolist() == ["ok", "bad_image", "no_image"] * 2


@pytest.mark.thorough
def test_ten_million_posts_take_less_than_two_gigabytes(tmp_path: Path, session: RaySession) -> None:
    """A rerun of a family that reads stored captions: 95 of 100 files have it, and all have captions."""
    session.start()
    workspace, rows = Workspace.open(str(tmp_path)), 100_000
    ids = np.random.default_rng(0).integers(0, 2**63 - 1, (100, rows))
    texts, nulls = pa.array(["ok"] * rows).dictionary_encode(), pa.nulls(rows, pa.string())
    pictures = {"image_uri": nulls, "image_bytes": pa.nulls(rows, pa.large_binary())}
    posts, clip, captions = [], [], []
    for number, some in enumerate(ids):
        posts.append(write(workspace, f"posts{number}", row_id=some, **pictures))
        captions.append(write(workspace, f"caption{number}", row_id=some, caption_status=texts, caption_error=nulls))
        clip.append(write(workspace, f"clip{number}", row_id=some, clip_status=texts, clip_error=nulls))
    manifest = Manifest("ingest", "x", {}, fragments=posts, rows=ids.size)
    stored = {"caption": Manifest("features/caption", "x", {}, fragments=captions)}
    del ids
    peak, stop = 0, threading.Event()
    before_it = _memory(psutil.Process())  # other tests ran in this process

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.05):
            tasks = [p for p in psutil.Process().children(recursive=True) if "survey_part" in " ".join(_line(p))]
            peak = max(peak, sum(_memory(p) for p in (psutil.Process(os.getpid()), *tasks)) - before_it)

    watching = threading.Thread(target=watch)
    watching.start()
    before = survey(workspace, manifest, {"clip": clip[:95]}, AGAIN, stored)
    after = survey(workspace, manifest, {"clip": clip}).counts
    stop.set()
    watching.join()
    print(f"the survey tasks and what the driver grew by: at most {peak / 1e6:,.0f} MB")
    assert before.counts == {"clip": {"ok": 9_500_000, MISSING: 500_000}}
    assert before.needing == [0] * 95 + [rows] * 5
    assert after == {"clip": {"ok": 10_000_000}}
    assert 1e8 < peak < 1.6e9  # a driver alone has less than 0.4


def _line(process: Any) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def _memory(process: Any) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
