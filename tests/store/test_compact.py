"""Compacting: few files, the same rows, nothing stale, and no trace of a rewriting that was cut off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smp_ray.config import build_config
from smp_ray.errors import SmpRayError
from smp_ray.families.perplexity import Perplexity
from smp_ray.operations import compact
from smp_ray.pipeline import export, open_run, run_stages
from smp_ray.ray_session import RaySession
from smp_ray.run import Run
from smp_ray.schema import KEYS
from smp_ray.stage import status
from smp_ray.store.compact import compact as rewrite
from smp_ray.store.compact import is_scattered
from smp_ray.store.manifest import Fragment, Manifest
from smp_ray.store.parquet import read_table, write_table
from smp_ray.store.reader import PASS_NOTE, PASSES
from smp_ray.store.workspace import Workspace
from smp_ray.upkeep import collect

FAMILIES = ("clip", "perplexity")


@pytest.fixture
def run_of(session: RaySession, tmp_path: Path) -> Callable[..., Run]:
    """Opens a run over so many posts of the sample world; those of another number are other posts."""

    def opened(posts: int = 60) -> Run:
        features = {"families": list(FAMILIES), "rows_per_block": 16, "workers": 1}
        source = {"kind": "demo", "posts": posts}
        raw = {"workspace": str(tmp_path / "run"), "source": source, "features": features}
        return open_run(build_config(raw), session)

    return opened


def frame(run: Run, out: Path) -> pd.DataFrame:
    export(run, str(out))
    return pd.read_parquet(out)


def manifests(run: Run) -> dict[str, Manifest]:
    found = {name: run.workspace.manifest(key.folder, key.fingerprint) for name, key in run.families.items()}
    return {name: manifest for name, manifest in found.items() if manifest is not None}


def pass_files(run: Run) -> set[str]:
    return {run.workspace.relative(info.path) for info in run.workspace.files(PASSES)}


@pytest.mark.slow
def test_few_files_hold_the_same_rows_and_nothing_is_stale(
    run_of: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run_of()
    run_stages(first, ["features", "splits", "matrix"])
    before, old = frame(first, tmp_path / "before.parquet"), manifests(first)
    assert all(len(manifest.fragments) > 2 for manifest in old.values())
    states = {line.name: line.state for line in status(run_of())}
    capsys.readouterr()

    compact(run_of())
    said = capsys.readouterr().err
    for name, manifest in old.items():
        assert f"{name}: {len(manifest.fragments)} fragments → 1\n" in said
    new = manifests(run_of())
    assert {name: manifest.content for name, manifest in new.items()} == {n: m.content for n, m in old.items()}
    assert {line.name: line.state for line in status(run_of())} == states
    assert states["matrix"] == "committed"
    pd.testing.assert_frame_equal(frame(run_of(), tmp_path / "after.parquet"), before)
    (fragment,) = new["clip"].fragments
    posts = first.artefact("ingest")
    assert isinstance(posts, Manifest)
    order = [pq.read_table(first.workspace.path(f.path), columns=["row_id"]) for f in posts.fragments]
    rows = pq.read_table(first.workspace.path(fragment.path))
    assert rows["row_id"].to_pylist() == [row for table in order for row in table["row_id"].to_pylist()]
    assert rows.column_names == ["row_id", "post_id", *new["clip"].details["columns"]]

    collect([run_of()])
    assert pass_files(first) == {fragment.path for manifest in new.values() for fragment in manifest.fragments}
    again = run_of()
    run_stages(again, ["features", "matrix"])
    assert not again.computed
    pd.testing.assert_frame_equal(frame(again, tmp_path / "collected.parquet"), before)
    capsys.readouterr()
    compact(run_of())
    assert capsys.readouterr().err == "compact: nothing to do, no family lies in many small files\n"


@pytest.mark.thorough
def test_rows_of_posts_that_are_gone_drop_out_and_others_stay(run_of: Callable[..., Run], tmp_path: Path) -> None:
    for posts in (40, 50, 60):
        run_stages(run_of(posts), ["features"])
    run_stages(run_of(50), ["features"])
    frames = {posts: frame(run_of(posts), tmp_path / f"{posts}.parquet") for posts in (50, 60)}
    collect([run_of(50), run_of(60)])  # nobody wants the 40 posts any more
    compact(run_of(60))
    wanted = pd.concat(frames.values())["row_id"].nunique()
    for manifest in manifests(run_of(60)).values():
        assert sum(fragment.rows for fragment in manifest.fragments) == wanted
        assert len(manifest.details["covers"]) == 2
    for posts, before in frames.items():
        pd.testing.assert_frame_equal(frame(run_of(posts), tmp_path / "after.parquet"), before)


@pytest.mark.slow
def test_a_rewriting_cut_off_leaves_nothing_that_counts(
    run_of: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stages(run_of(), ["features"])
    before, old = pass_files(run_of()), manifests(run_of())

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("smp_ray.store.workspace.Workspace.commit", cut_off)
    run = run_of()
    with pytest.raises(KeyboardInterrupt):
        compact(run)
    monkeypatch.undo()
    assert len(pass_files(run_of())) == len(before) + 1
    again = run_of()
    run_stages(again, ["features"])
    assert not again.computed
    assert manifests(again) == old
    collect([run_of()])
    assert pass_files(run_of()) == before


def test_an_interrupted_pass_comes_first(
    run_of: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of()
    with pytest.raises(SmpRayError, match="run `smp-ray ingest` first"):
        compact(run)
    run_stages(run, ["features"])
    families = {"perplexity": run.families["perplexity"].fingerprint}
    run.workspace.write_json({"families": families}, PASSES, "interrupted", PASS_NOTE)
    capsys.readouterr()
    old = manifests(run)
    compact(run_of())
    assert "perplexity: left as it is: a pass was interrupted" in capsys.readouterr().err
    assert manifests(run)["perplexity"] == old["perplexity"]
    assert len(manifests(run)["clip"].fragments) == 1


def test_the_last_row_of_a_post_stays(tmp_path: Path) -> None:
    workspace = Workspace.open(str(tmp_path))
    schema = pa.schema([*KEYS, *Perplexity.fields()])
    written = ([(5, "error", None), (3, "ok", 30.0)], [(9, "ok", 90.0), (3, None, None)], [(5, "ok", 50.0)])
    fragments = []
    for number, rows in enumerate(written):
        names = ("row_id", "perplexity_status", "title_perplexity")
        records = [{"post_id": str(row[0]), **dict(zip(names, row, strict=True))} for row in rows]
        table = pa.Table.from_pylist(records, schema=schema)
        fragments.append(write_table(workspace, f"{PASSES}/x/data/{number}.parquet", table))
    keys = pa.table({"row_id": [5, 7, 3], "post_id": ["5", "7", "3"]}, schema=KEYS)  # 7 is new, 9 is gone
    posts = Manifest("posts", "y", {}, fragments=[write_table(workspace, "posts/y/part.parquet", keys)])
    columns = [field.name for field in Perplexity.fields()]
    details = {"columns": columns, "covers": {"y": {"ok": 2}, "z": {"ok": 3}}}
    made = rewrite(workspace, posts, Manifest("features/perplexity", "x", {}, fragments=fragments, details=details))
    table = read_table(workspace, made.fragments[0].path)
    assert table["row_id"].to_pylist() == [5, 3]
    assert table["title_perplexity"].to_pylist() == [50.0, 30.0]
    assert workspace.manifest("features/perplexity", "x") == made
    assert made.details["covers"] == {"y": {"ok": 2}}
    assert made.content == [fragment.path for fragment in fragments]


@pytest.mark.parametrize(
    ("files", "rows", "compacted", "scattered"),
    [(2, 10, None, False), (3, 10, None, True), (5, 250_000, None, False), (6, 250_000, None, True), (6, 10, 4, False)],
)
def test_when_it_is_worth_it(files: int, rows: int, compacted: int | None, scattered: bool) -> None:
    details = {} if compacted is None else {"compacted": compacted}
    fragments = [Fragment(str(number), 1, 1) for number in range(files)]
    assert (
        is_scattered(Manifest("features/clip", "x", {}, rows=rows, fragments=fragments, details=details)) == scattered
    )
