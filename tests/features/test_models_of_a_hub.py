"""A pass whose model is on a hub that only `ray.env` names: the driver looks its commit up, one worker fetches it.

And one whose models are in a mirror on S3.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from smp_ray.demo import MODELS
from tests.features.conftest import command, write_table
from tests.hub import NEW, REPOSITORY, Hub, serving


def write_config(folder: Path, settings: str) -> Path:
    table = write_table(folder / "posts.csv", [{"id": f"p{i}", "title": f"a red boat {i}"} for i in range(60)])
    path = folder / "config.yaml"
    path.write_text(
        f"workspace: {folder / 'run'}\n"
        f"source: {{kind: table, path: {table}, columns: {{post_id: id, title: title}}}}\n"
        f"features: {{families: [perplexity], workers: 2, rows_per_block: 10, perplexity: {{model: {REPOSITORY}}}}}\n"
        f"{settings}\n"
    )
    return path


def asking(folder: Path, hub: Hub) -> Path:
    environment = f"{{HF_ENDPOINT: {hub.url}, HF_HOME: {folder / 'home'}, HF_HUB_DISABLE_XET: '1'}}"
    return write_config(folder, f"ray: {{env: {environment}}}")


def online() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("HF_")}


IDENTITIES = """
import sys
from smp_ray import load_config, open_run
print({name: key.model["revision"] for name, key in open_run(load_config(sys.argv[1])).families.items()})
"""


def test_the_driver_asks_the_hub_that_the_configuration_names(tmp_path: Path) -> None:
    with serving(tmp_path / "commits") as hub:
        hub.commits[NEW].mkdir(parents=True)
        arguments = [sys.executable, "-c", IDENTITIES, str(asking(tmp_path, hub))]
        found = subprocess.run(arguments, env=online(), capture_output=True, text=True, check=False)
        assert found.stdout == f"{{'perplexity': '{NEW}'}}\n", found.stderr
        assert [path for _, path in hub.asked] == [f"/api/models/{REPOSITORY}"]


@pytest.mark.slow
def test_several_workers_of_a_node_ask_once(tmp_path: Path) -> None:
    with serving(tmp_path / "commits") as hub:
        folder = shutil.copytree(MODELS / "language_model", hub.commits[NEW])
        config = asking(tmp_path, hub)
        done = subprocess.run(
            command("features", str(config)), env=online(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        names = sorted(path.name for path in folder.iterdir() if path.suffix != ".md")
        assert hub.files(NEW) == sorted((method, name) for name in names for method in ("GET", "HEAD"))
        assert len(hub.asked) == 2 * len(names) + 2  # a look-up by the driver and a listing


@pytest.mark.slow
def test_a_mirror_serves_every_worker(bucket: str, tmp_path: Path) -> None:
    filesystem, root = pafs.FileSystem.from_uri(bucket.format("models"))
    pafs.copy_files(str(MODELS / "language_model"), f"{root}/{REPOSITORY}", pafs.LocalFileSystem(), filesystem)
    cache = tmp_path / "cache"
    config = write_config(
        tmp_path, f"models: {bucket.format('models')}\nray: {{env: {{XDG_CACHE_HOME: {cache}, HF_HUB_OFFLINE: '1'}}}}"
    )
    done = subprocess.run(command("features", str(config)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len([path for path in (cache / "smp_ray/models").iterdir() if path.is_dir()]) == 1
