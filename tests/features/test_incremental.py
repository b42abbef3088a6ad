"""Only what is missing is computed: reruns, a changed model, appended posts, edited posts, statuses tried again.

It also tests `features/one_pass.py`, `features/store_stage.py`.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smp_ray.demo import MODELS
from smp_ray.features.store_stage import stored
from smp_ray.pipeline import open_run
from smp_ray.ray_session import RaySession
from smp_ray.schema import FAILED_TWICE, TWICE
from smp_ray.stage import status
from tests.features.conftest import exported, run_command, run_features, table_config, write_table

PERPLEXITY = MODELS / "language_model"


def rows(count: int) -> list[dict[str, str]]:
    return [{"id": f"p{i}", "title": f"a red boat number {i}", "image": ""} for i in range(count)]


def test_changed_model_appended_and_edited_posts(
    session: RaySession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_table(tmp_path / "posts.csv", rows(60))
    config = table_config(tmp_path / "run", table)
    first = run_features(config, session)
    assert first.computed == {"caption": 60, "clip": 60, "perplexity": 60}
    said = capsys.readouterr().err
    assert "the built-in models of caption, clip, perplexity know the sample world alone" in said
    assert "hardly a post has a picture (no_image: caption 60, clip 60)" in said
    before = exported(first, tmp_path)
    assert (before["clip_status"] == "no_image").all()
    assert before["clip_title"].notna().all()

    # Nothing changed: nothing to do, and a new Ray would not even be started.
    again = run_features(config, RaySession(config.ray))
    assert not again.computed
    assert not again.session.started

    # Another perplexity model (the same weights in another folder are the same model).
    shutil.copytree(PERPLEXITY, tmp_path / "copy")
    same = table_config(tmp_path / "run", table, {"perplexity": {"model": str(tmp_path / "copy")}})
    assert not run_features(same, session).computed
    changed = table_config(tmp_path / "run", table, {"perplexity": {"max_tokens": 3}})
    states = {line.name: (line.state, line.why) for line in status(open_run(changed, session))}
    assert states["clip"] == ("committed", "")
    assert states["perplexity"] == ("stale", "max_tokens: 256 → 3")
    other = run_features(changed, session)
    assert other.computed == {"perplexity": 60}
    frame = exported(other, tmp_path)
    assert (frame["title_token_count"] == 3).all()
    assert (frame["caption_status"] == before["caption_status"]).all()

    # Ten appended posts are computed alone, whichever pass wrote the others; so is one edited title.
    longer = rows(70)
    longer[5]["title"] = "a green train"
    write_table(table, longer)
    assert {line.name: line.state for line in status(open_run(changed, session))}["clip"] == "stale"
    appended = run_features(changed, session)
    assert appended.computed == {"caption": 11, "clip": 11, "perplexity": 11}
    frame = exported(appended, tmp_path).set_index("post_id")
    assert len(frame) == 70
    assert frame.index.is_unique
    assert frame.loc["p5", "title"] == "a green train"
    kept = before.set_index("post_id")["clip_title"]
    assert not np.array_equal(frame.loc["p5", "clip_title"], kept["p5"])
    assert np.array_equal(frame.loc["p6", "clip_title"], kept["p6"])
    # And back to the first settings: those families know 60 of the 70 posts already.
    assert run_features(table_config(tmp_path / "run", table), session).computed == {"perplexity": 11}


def test_captions_from_the_store_feed_a_changed_clip(flickr_photos: Path, session: RaySession, tmp_path: Path) -> None:
    lines = (flickr_photos / "posts.csv").read_text().splitlines()[:21]
    (tmp_path / "posts.csv").write_text("\n".join(lines) + "\n")
    source = {"post_id": "photo_id"}
    base = table_config(tmp_path / "run", tmp_path / "posts.csv", **source)
    base = base.model_copy(update={"source": base.source.model_copy(update={"image_root": str(flickr_photos)})})
    before = exported(run_features(base, session), tmp_path)
    # The same weights with another file beside them are another model to a fingerprint.
    shutil.copytree(MODELS / "embedder", tmp_path / "embedder")
    (tmp_path / "embedder" / "more.json").write_text("{}")
    other = base.features.section("clip").model_copy(update={"model": str(tmp_path / "embedder")})
    features = base.features.model_copy(update={"clip": other})
    changed = run_features(base.model_copy(update={"features": features}), session)
    assert changed.computed == {"clip": 20}
    after = exported(changed, tmp_path)
    assert before["caption"].notna().all()
    assert (after["caption"] == before["caption"]).all()
    np.testing.assert_allclose(after["similarity_title_caption"], before["similarity_title_caption"], atol=1e-5)


def test_a_status_can_be_tried_again(flickr_photos: Path, session: RaySession, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    table = write_table(tmp_path / "posts.csv", [{"id": i, "title": "t", "image": f"images/{i}.jpg"} for i in range(3)])
    config = table_config(tmp_path / "run", table)
    assert exported(run_features(config, session), tmp_path)["clip_status"].tolist() == ["no_image"] * 3
    photograph = next((flickr_photos / "images").glob("*.jpg"))
    shutil.copy(photograph, tmp_path / "images" / "1.jpg")
    assert not run_features(config, session).computed
    retried = run_features(config, session, retry=("no_image",))
    assert retried.computed == {"caption": 3, "clip": 3}
    frame = exported(retried, tmp_path)
    assert frame["clip_status"].tolist() == ["no_image", "ok", "no_image"]
    assert frame["perplexity_status"].tolist() == ["ok"] * 3


def test_a_caption_that_failed_once_reaches_clip_when_it_is_there(
    flickr_photos: Path, session: RaySession, tmp_path: Path
) -> None:
    photographs = sorted((flickr_photos / "images").glob("*.jpg"))[:3]
    rows = [{"id": path.stem, "title": "t", "image": shutil.copy(path, tmp_path)} for path in photographs]
    config = table_config(tmp_path / "run", write_table(tmp_path / "posts.csv", rows))
    run = run_features(config, session)
    before = exported(run, tmp_path)
    for error, counts, retry in (("once", {"ok": 2, "error": 1}, ()), (TWICE, {"ok": 2, FAILED_TWICE: 1}, ("error",))):
        # As a pass leaves it in which the second caption failed.
        manifest = stored(run)["caption"]
        for fragment in manifest.fragments:
            path = run.workspace.path(fragment.path)
            table = pq.read_table(path).to_pandas()
            failed = table["post_id"] == photographs[1].stem
            lost = ["caption", "clip_caption", "similarity_title_caption", "similarity_image_caption"]
            table.loc[failed, lost] = None
            table.loc[failed, ["caption_status", "caption_error"]] = ["error", f"RuntimeError: {error}"]
            pq.write_table(pa.Table.from_pandas(table, pq.read_schema(path), preserve_index=False), path)
        manifest.details["covers"] = dict.fromkeys(manifest.details["covers"], counts)
        run.workspace.commit(manifest)
        if retry:
            assert not run_features(config, session).computed, "a post that failed twice is left as it is"
        again = run_features(config, session, retry=retry)
        assert again.computed == {"caption": 1, "clip": 1}
        pd.testing.assert_frame_equal(exported(again, tmp_path), before)


def test_a_rerun_says_up_to_date_quickly_and_loads_no_model(session: RaySession, tmp_path: Path) -> None:
    table = write_table(tmp_path / "posts.csv", rows(10))
    run_features(table_config(tmp_path / "run", table), session)
    config = tmp_path / "config.yaml"
    config.write_text(
        f"workspace: {tmp_path / 'run'}\n"
        f"source: {{kind: table, path: {table}, columns: {{post_id: id, title: title, image: image}}}}\n"
    )
    began = time.monotonic()
    done = run_command("features", str(config), PYTHONVERBOSE="1")
    assert time.monotonic() - began < 10
    assert done.returncode == 0
    assert "features: up to date" in done.stderr
    for library in ("torch", "transformers", "open_clip", "ray"):
        assert f"import '{library}' #" not in done.stderr


@pytest.mark.parametrize("status_name", ["fine", "OK"])
def test_unknown_retry_status_is_bad_usage(status_name: str) -> None:
    done = run_command("run", "configs/demo.yaml", "--retry", status_name)
    assert done.returncode == 2
    assert "allowed: ok, no_image, bad_image, no_text, error, unreachable" in done.stderr
