"""What a running pass has finished is in the store before the pass ends, and `status` says that it is not all.

It tests `features/one_pass.py`.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from smp_ray.config import load_config
from smp_ray.features import one_pass
from smp_ray.pipeline import open_run, run_stages
from smp_ray.ray_session import RaySession
from smp_ray.stage import status
from smp_ray.store.reader import post_row_ids, read_columns
from tests.features.test_faults import write_config


@pytest.mark.slow
def test_finished_files_are_published_while_the_pass_runs(
    tmp_path: Path, session: RaySession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_pass, "PUBLISH_EVERY", 0.2)
    config = load_config(write_config(tmp_path, 1280), ["features.workers=1"])
    working = threading.Thread(target=lambda: run_stages(open_run(config, session), ["features"]), daemon=True)
    working.start()
    watching = open_run(config, session)
    key, seen = watching.families["perplexity"], None
    while working.is_alive() and seen is None:
        manifest = watching.workspace.manifest(key.folder, key.fingerprint)
        seen = manifest if manifest is not None and manifest.fragments else None
        time.sleep(0.05)
    assert seen is not None, "nothing was published before the end"
    posts = watching.workspace.manifests("ingest")[0]
    assert posts.fingerprint not in seen.details["covers"]
    row_ids = post_row_ids(watching.workspace, posts)
    values = read_columns(watching.workspace, seen, ["perplexity_status"], row_ids)
    done = values["perplexity_status"].drop_null().to_pylist()
    assert 0 < len(done) < 1280
    assert set(done) == {"ok"}
    lines = {line.name: line for line in status(open_run(config, session))}
    assert (lines["perplexity"].state, lines["perplexity"].why) == ("stale", "some posts are not computed yet")
    working.join(300)
    whole = watching.workspace.manifest(key.folder, key.fingerprint)
    assert whole is not None
    assert whole.details["covers"][posts.fingerprint] == {"ok": 1280}
