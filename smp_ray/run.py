"""What the stages of one command share: the config, the workspace, one Ray, and identities that cost time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from smp_ray.config import Config
from smp_ray.errors import ConfigError
from smp_ray.families.base import FamilySettings
from smp_ray.families.keys import FamilyKey, family_keys
from smp_ray.nodes import check_shared
from smp_ray.progress import say
from smp_ray.ray_session import RaySession
from smp_ray.sources.base import Reader
from smp_ray.store.manifest import Manifest
from smp_ray.store.workspace import Workspace

if TYPE_CHECKING:
    from smp_ray.stage import Stage

#: A committed artefact: of one stage, or of the feature store, which has a manifest a family.
Artefact = Manifest | dict[str, Manifest]


@dataclass
class Run:
    """One command.

    Attributes:
        retry: statuses that the feature pass computes again.
        keep: whether what was learned stays, although other posts could be learned from by now.
        computed: posts that this command computed, by family.
    """

    config: Config
    session: RaySession
    stages: Sequence[Stage]
    retry: Sequence[str] = ()
    keep: bool = False
    workspace: Workspace = field(init=False)
    computed: dict[str, int] = field(default_factory=dict)
    _found: dict[str, Artefact] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)
    _shared: bool = False

    def __post_init__(self) -> None:
        self.workspace = Workspace.open(self.config.workspace)
        self.workspace.check_format()

    @cached_property
    def reader(self) -> Reader:
        """The raw dataset; it finds out its identity once, so that files are hashed once a run."""
        return self.config.source.open(self.workspace)

    @cached_property
    def families(self) -> dict[str, FamilyKey]:
        """Key of each configured family: models are identified, and hubs asked, once a run."""
        features = self.config.features
        return family_keys(features.sections, features.images.limits, self.on_gpu, self.config.models)

    def start(self) -> None:
        """Start Ray, if a stage has not yet; a folder as workspace that not every node sees is refused.

        Raises:
            SmpRayError: no Ray can be reached.
            WorkspaceError: some nodes do not share the workspace.
        """
        self.session.start()
        if not self._shared:
            check_shared(self.workspace)
            self._shared = True

    def on_gpu(self, section: FamilySettings) -> bool:
        """Whether a family of this section runs on a GPU."""
        return section.num_gpus != 0 and self.config.features.device != "cpu" and self.session.gpus > 0

    def stage(self, name: str) -> Stage:
        """The stage of this name; where there is none, a ConfigError says which there are."""
        found = {stage.name: stage for stage in self.stages}
        if name not in found:
            raise ConfigError(f"found stage {name!r}, allowed: {', '.join(found)}")
        return found[name]

    def artefact(self, name: str) -> Artefact | None:
        """What is committed of a stage for this configuration, or None."""
        if name not in self._found and (found := self.stage(name).find(self)) is not None:
            self._found[name] = found
        return self._found.get(name)

    def commit(self, name: str, artefact: Artefact) -> None:
        """Take note of what a stage has just committed."""
        self._found[name] = artefact

    def tell(self, line: str) -> None:
        """Say a line once a command."""
        if line not in self._said:
            self._said.add(line)
            say(line)
