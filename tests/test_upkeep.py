"""Cleaning up: after five changes of the configuration exactly what the last one needs is left."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from smp_ray.config import RayConfig, build_config
from smp_ray.errors import ConfigError, DataError
from smp_ray.pipeline import export, open_run, run_stages
from smp_ray.ray_session import RaySession
from smp_ray.run import Run
from smp_ray.sources.piece import NOTE
from smp_ray.store.reader import PASS_NOTE, PASSES
from smp_ray.upkeep import collect

CHANGES = (
    (),
    ("source.posts=61",),
    ("source.posts=62", "features.images.max_pixels=90000000"),
    ("source.posts=60", "features.families=[perplexity]"),
    ("source.posts=60", "features.perplexity.max_tokens=40"),
)


def run_of(folder: Path, session: RaySession, *overrides: str) -> Run:
    source = {"kind": "demo", "posts": 60}
    raw = {"workspace": str(folder), "source": source, "features": {"families": ["clip", "perplexity"]}}
    return open_run(build_config(raw, list(overrides)), session)


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def frame(run: Run, out: Path) -> pd.DataFrame:
    export(run, str(out))
    return pd.read_parquet(out)


@pytest.mark.thorough
def test_after_five_changes_only_what_the_last_needs_is_left(session: RaySession, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for overrides in CHANGES:
        run_stages(run_of(folder, session, *overrides), ["splits", "features"])
    run = run_of(folder, session, *CHANGES[-1])
    before = frame(run, tmp_path / "before.parquet")
    (folder / "mine.txt").write_text("no stage made this")
    (folder / "features" / "clip" / "x.json.77.tmp").write_text("torn")
    unpublished = folder / PASSES / "interrupted" / "data" / "part.parquet"
    unpublished.parent.mkdir(parents=True)
    unpublished.write_bytes(b"a finished file")
    note = {"families": {name: key.fingerprint for name, key in run.families.items()}}
    (folder / PASSES / "interrupted" / PASS_NOTE).write_text(json.dumps(note))
    posts, store = run.artefact("ingest"), run.artefact("features")
    assert isinstance(store, dict)
    kept = {"workspace.json", "lease.json", "mine.txt", f"{PASSES}/interrupted/data/part.parquet"}
    kept |= {f"{PASSES}/interrupted/{PASS_NOTE}"}
    kept |= {fragment.path for manifest in store.values() for fragment in manifest.fragments}
    kept |= {f"{PASSES}/{Path(path).parts[2]}/{PASS_NOTE}" for path in kept if path.startswith(PASSES)}
    kept |= {f"{manifest.stage}/{manifest.fingerprint}/manifest.json" for manifest in store.values()}
    kept |= {path for path in files_of(folder) if path.startswith("world/")}  # raw data is no artefact
    for manifest in (posts, run.artefact("gather"), run.artefact("splits")):
        inside = f"{manifest.stage}/{manifest.fingerprint}/"
        kept |= {path for path in files_of(folder) if path.startswith(inside)}
        kept |= {fragment.path for fragment in manifest.fragments}
    kept |= {f"{Path(posts.fragments[0].path).parents[1]}/{NOTE}"}
    everything = files_of(folder)
    said = collect([run], dry_run=True)
    assert files_of(folder) == everything
    assert collect([run]) == said
    assert sum(files for files, _ in said.values()) == len(everything) - len(files_of(folder)) > 10
    assert files_of(folder) == kept & everything
    assert not [path for path in folder.rglob("*") if path.is_dir() and not any(path.iterdir())]
    again = run_of(folder, session, *CHANGES[-1])
    pd.testing.assert_frame_equal(frame(again, tmp_path / "after.parquet"), before)
    assert collect([again], dry_run=True) == {}


def test_two_configurations_keep_what_each_needs(session: RaySession, tmp_path: Path) -> None:
    runs = [run_of(tmp_path / "run", session, f"source.posts={posts}") for posts in (20, 30, 40)]
    for run in runs:
        run_stages(run, ["ingest"])
    posts = [run.artefact("ingest") for run in runs]
    removed = collect(runs[1:])
    assert list(removed) == sorted({f"ingest/{posts[0].fingerprint}", "ingest/files"})
    assert not any(run.workspace.exists(fragment.path) for fragment in posts[0].fragments)
    assert open_run(runs[2].config, session).artefact("ingest") == posts[2]
    with pytest.raises(ConfigError, match="several workspaces"):
        collect([runs[0], run_of(tmp_path / "other", session)])


def test_what_another_machine_would_compute_otherwise_is_kept(session: RaySession, tmp_path: Path) -> None:
    run_stages(run_of(tmp_path / "run", session), ["features"])
    with_gpu = run_of(tmp_path / "run", RaySession(RayConfig(num_gpus=1)))
    assert with_gpu.families != run_of(tmp_path / "run", session).families
    assert not [folder for folder in collect([with_gpu], dry_run=True) if folder.startswith(("features/clip", PASSES))]


def test_what_a_kept_predictor_learned_from_is_kept(session: RaySession, tmp_path: Path) -> None:
    run_stages(run_of(tmp_path / "run", session), ["splits"])
    grown = run_of(tmp_path / "run", session, "source.posts=61")
    run_stages(grown, ["features"])
    assert grown.stage("gather").key(grown) is not None
    assert not [folder for folder in collect([grown], dry_run=True) if folder.startswith("gather")]


def test_finished_files_of_an_ingest_that_was_cut_short_are_kept(session: RaySession, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for name, text in (("a", "id\n1\n"), ("b", "id\n2\n")):
        (tmp_path / "raw" / f"{name}.csv").write_text(text)
    source = {"kind": "table", "path": str(tmp_path / "raw"), "columns": {"post_id": "id"}}
    raw = {"workspace": str(tmp_path / "run"), "source": source}
    run_stages(open_run(build_config(raw), session), ["ingest"])
    (tmp_path / "raw" / "b.csv").write_text("")
    with pytest.raises(DataError):
        run_stages(open_run(build_config(raw), session), ["ingest"])
    collect([open_run(build_config(raw), session)])
    assert len(list((tmp_path / "run" / "ingest" / "files").iterdir())) == 1
    assert not list((tmp_path / "run" / "ingest").glob("*/manifest.json"))


def test_a_stage_whose_inputs_are_not_there_keeps_its_artefacts(session: RaySession, tmp_path: Path) -> None:
    run_stages(run_of(tmp_path / "run", session), ["splits"])
    other = run_of(tmp_path / "run", session, "source.posts=61")
    removed = collect([other])
    assert {folder.partition("/")[0] for folder in removed} == {"ingest"}
    assert list((tmp_path / "run" / "splits").glob("*/manifest.json"))
