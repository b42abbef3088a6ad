"""Single stages of the real pipeline, run on artefacts that a test has made."""

from __future__ import annotations

from smp_ray.config import Config
from smp_ray.pipeline import open_run
from smp_ray.ray_session import RaySession
from smp_ray.run import Artefact, Run
from smp_ray.store.manifest import Manifest


def run_with(config: Config, session: RaySession | None = None, **artefacts: Artefact) -> Run:
    """A run in which the artefacts of some stages are there."""
    run = open_run(config, session or RaySession(config.ray))
    for name, artefact in artefacts.items():
        run.commit(name, artefact)
    return run


def brought(run: Run, name: str) -> Manifest:
    """The artefact of one stage, brought up to date."""
    run.stage(name).bring(run)
    found = run.artefact(name)
    assert isinstance(found, Manifest)
    return found
