"""What all tests share: no network, few threads, one Ray, and where real data would lie."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

# Before any library reads them: models come from folders, never from a hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("RAY_TRAIN_ENABLE_V2", "1")

import pytest

from smp_ray.config import RayConfig, build_config, config_class
from smp_ray.families import registry
from smp_ray.families.base import Family
from smp_ray.pipeline import export, open_run, run_stages
from smp_ray.ray_session import RaySession, ray_session

#: What a client of the object store is told.
OBJECT_STORE = {
    "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}  # fmt: skip
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def flickr_photos() -> Path:
    """Folder of 300 real Flickr photographs with posts.csv."""
    folder = SHARED_DATA / "flickr-photos"
    if not folder.is_dir():
        pytest.skip("the 300 real photographs (../shared/data/flickr-photos) are not here")
    return folder


@pytest.fixture(scope="session")
def smp_video() -> Path:
    """Folder of 2,972 real posts of the SMP Challenge's video track."""
    folder = SHARED_DATA / "smp-video"
    if not folder.is_dir():
        pytest.skip("the real video posts (../shared/data/smp-video) are not here")
    return folder


@pytest.fixture
def install_family(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[type[Family]], None]]:
    """Has a family of a test's module registered behind the built-in ones until the test ends."""
    caches = (registry.families, config_class)

    def clear() -> None:
        for cache in caches:
            cache.cache_clear()

    def install(family: type[Family]) -> None:
        monkeypatch.setattr(registry, "BUILT_IN", (*registry.BUILT_IN, f"{family.__module__}:{family.__qualname__}"))
        clear()

    yield install
    clear()


@pytest.fixture(scope="session")
def session() -> Iterator[RaySession]:
    """One local Ray for all tests of this process."""
    with ray_session(RayConfig()) as shared:
        yield shared


@pytest.fixture(scope="session")
def sample(session: RaySession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 500 posts of the sample world: the finished workspace `run`, and `features.parquet`, its export."""
    folder = tmp_path_factory.mktemp("sample")
    raw = {"workspace": str(folder / "run"), "source": {"kind": "demo", "posts": 500, "seed": 7}}
    run = open_run(build_config(raw), session)
    run_stages(run, ["features"])
    export(run, str(folder / "features.parquet"))
    return folder


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of an empty bucket of a server of its own, as a `workspace:` would give it, with {} for the prefix."""
    import pyarrow.fs as pafs
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    for name, value in OBJECT_STORE.items():
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    filesystem = pafs.S3FileSystem(endpoint_override=f"127.0.0.1:{port}", scheme="http", allow_bucket_creation=True)
    filesystem.create_dir("bucket")
    yield f"s3://bucket/{{}}?endpoint_override=127.0.0.1:{port}&scheme=http"
    server.stop()
