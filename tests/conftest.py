"""What all tests share: no network, few threads, one Ray, and where real data would lie."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Before any library reads them: models come from folders, never from a hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("RAY_TRAIN_ENABLE_V2", "1")

import pytest

from smp_ray.config import RayConfig
from smp_ray.ray_session import RaySession, ray_session

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


@pytest.fixture(scope="session")
def session() -> Iterator[RaySession]:
    """One local Ray for all tests of this process."""
    with ray_session(RayConfig()) as shared:
        yield shared
