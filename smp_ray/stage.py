"""What a stage is, and the one runner of all stages.

A stage makes one artefact out of others: `<workspace>/<folder>/<fingerprint>/`. It says what it reads and which
settings count, and has one function that makes it. Fingerprints, "up to date", starting Ray, times, manifests, the
commit and what is said about it are the runner's.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import Any

from smp_ray.config import Config
from smp_ray.errors import ConfigError, SmpRayError
from smp_ray.run import Artefact, Run
from smp_ray.store.manifest import Made, Manifest, fingerprint


@dataclass(frozen=True)
class StageStatus:
    """One line of `smp-ray status`."""

    name: str
    fingerprint: str
    state: str
    rows: int | None = None
    counts: dict[str, int] = field(default_factory=dict)
    why: str = ""


@dataclass(frozen=True)
class Stage:
    """A step that makes one artefact out of others.

    Attributes:
        name: of its command.
        help: one line.
        make: "module:function", so that `status` need not wait for what its module loads; called as
            `function(run, folder, *reads)` (and a dict of `uses` last, where there are any) with a folder of the
            workspace that is its own; returns a `Made`.
        reads: stages whose artefacts it needs.
        settings: what its result depends on, besides what it reads.
        folder: in the workspace; "" for `name`.
        version: raised when the same settings and inputs would give another result.
        raw: whether it reads the raw dataset, whose identity then counts.
        families: what it takes of an artefact that has parts (the feature store, the examples); None: all.
        uses: stages whose artefacts it takes where they are there.
        beside: stages that the command of this one brings up to date as well.
        wanted: whether the configuration has any use for it.
        labels: whether it needs posts with a popularity.
        ray: whether Ray is started for it.
        alone: whether only the newest artefact is kept, in the folder itself.
        kept: whether a run that keeps its predictor goes on with the newest artefact of these settings, whatever it
            was made of.
        show: "module:function" that prints what was made at the end of a command, called as `function(run)`.
    """

    name: str
    help: str
    make: str
    reads: tuple[str, ...] = ()
    settings: Callable[[Config], dict[str, Any]] = lambda config: {}
    folder: str = ""
    version: int = 1
    raw: bool = False
    families: Callable[[Config], Iterable[str]] | None = None
    uses: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    wanted: Callable[[Config], bool] = lambda config: True
    labels: bool = False
    ray: bool = False
    alone: bool = False
    kept: bool = False
    show: str = ""

    @property
    def place(self) -> str:
        """Its folder in the workspace."""
        return self.folder or self.name

    def key(self, run: Run) -> str | None:
        """Fingerprint of the artefact; None while something that it reads is not committed."""
        inputs = self._inputs(run)
        if inputs is None:
            return None
        used = {name: self._identity(run, run.artefact(name)) for name in self.uses}
        read = {name: self._identity(run, artefact) for name, artefact in inputs.items()}
        raw = run.reader.identity if self.raw else None
        return fingerprint(self.name, self.version, self.settings(run.config), raw, read, used)

    def find(self, run: Run) -> Artefact | None:
        """The committed artefact of this configuration, or None."""
        if self.kept and run.keep:
            if (made := self.last(run)) is not None:
                self._check_kept(run, made)
            return made
        key = self.key(run) if self.wanted(run.config) else None
        if key is None:
            return None
        found = run.workspace.manifest(self.place, "" if self.alone else key)
        if found is None or found.fingerprint != key:
            return None
        # What lies outside its own folder, or is opened by people, may have been deleted.
        return found if all(run.workspace.exists(path) for path in found.details.get("outputs", ())) else None

    def last(self, run: Run) -> Manifest | None:
        """The newest committed artefact of a stage that is `kept` with these settings, whatever it was made from."""
        settings, parts = self.settings(run.config), set(self.families(run.config) if self.families else ())
        earlier = [made for made in run.workspace.manifests(self.place) if made.config == settings]
        return next((made for made in reversed(earlier) if parts <= set(made.details["contents"])), None)

    def _check_kept(self, run: Run, made: Manifest) -> None:
        """A ConfigError where what was made from some families is kept, and they are computed otherwise now."""
        parts = self.families(run.config) if self.families else ()
        learned = {
            name: found[0] for read in made.inputs.values() if isinstance(read, dict) for name, found in read.items()
        }
        if other := [name for name in parts if name in learned and run.families[name].fingerprint != learned[name]]:
            raise ConfigError(
                f"--keep-predictor: it learned from other features than these of {', '.join(other)}; run without it"
            )

    def bring(self, run: Run) -> None:
        """Bring the artefact up to date; the stages that it reads were brought before."""
        if not self.wanted(run.config):
            return
        there = run.artefact(self.name)
        done = there if isinstance(there, Manifest) else self._made(run)
        note = done.details.get("note")
        if done is there:
            run.tell(f"{self.name}: up to date{f', {note}' if note else ''}")
        else:
            run.tell(f"{self.name}{f': {note}' if note else ''} in {done.wall_seconds:.1f} s")
        for warning in done.details.get("warnings", ()):
            run.tell(f"{self.name}: {warning}")

    def _made(self, run: Run) -> Manifest:
        key, inputs = self.key(run), self._inputs(run)
        if key is None or inputs is None:
            raise SmpRayError(f"{self.name}: what it reads is not there: {', '.join(self.reads)}")
        began = time.monotonic()
        if self.ray:
            run.start()
        used = [{name: run.artefact(name) for name in self.uses}] if self.uses else []
        folder = self.place if self.alone else f"{self.place}/{key}"
        made: Made = resolve_name(self.make)(run, folder, *inputs.values(), *used)
        wall = time.monotonic() - began
        read = {name: self._identity(run, artefact) for name, artefact in inputs.items()}
        manifest = Manifest(
            stage=self.place, fingerprint=key, config=self.settings(run.config), inputs=read,
            rows=made.rows, counts=made.counts, wall_seconds=round(wall, 3),
            rows_per_second=round(made.rows / max(wall, 1e-9), 3), fragments=made.fragments,
            details={"note": made.note, **made.details},
        )  # fmt: skip
        run.commit(self.name, run.workspace.commit(manifest, self.alone))
        return manifest

    def _inputs(self, run: Run) -> dict[str, Artefact | None] | None:
        """What it reads, in order; None for a stage that is not wanted. None altogether while one is missing."""
        found: dict[str, Artefact | None] = {}
        for name in self.reads:
            artefact = run.artefact(name)
            if artefact is None and run.stage(name).wanted(run.config):
                return None
            if isinstance(artefact, dict) and self.families is not None:
                artefact = {family: artefact[family] for family in self.families(run.config)}
            found[name] = artefact
        return found

    def _identity(self, run: Run, artefact: Artefact | None) -> Any:
        """What an artefact is to this stage, which may take parts of it alone."""
        if artefact is None:
            return None
        if isinstance(artefact, dict):
            # Posts computed again under the same fingerprint (`--retry`) come in new files.
            return {name: [m.fingerprint, m.content] for name, m in artefact.items()}
        contents = artefact.details.get("contents")
        if contents is None:
            return artefact.fingerprint
        # However it came to be, equal content is the same.
        taken = set(contents) if self.families is None else set(self.families(run.config))
        return {name: content for name, content in contents.items() if name in taken} or contents

    def status(self, run: Run) -> list[StageStatus]:
        """Its lines of `smp-ray status`."""
        if not self.wanted(run.config):
            return []
        key, found = self.key(run) or "", run.artefact(self.name)
        if isinstance(found, Manifest):
            return [StageStatus(self.name, key, "committed", found.rows, found.counts)]
        earlier = [run.workspace.manifest(self.place, "")] if self.alone else run.workspace.manifests(self.place)
        last = earlier[-1] if earlier else None
        if last is None:
            began = bool(key) and not self.alone and run.workspace.files(f"{self.place}/{key}")
            why = (
                f"{'interrupted' if began else 'never run'}: smp-ray {self.name}" if key else "its inputs are not there"
            )
            return [StageStatus(self.name, key, "missing", why=why)]
        other = "the raw data changed" if self.raw else "its inputs changed"
        why = changes(last.config, self.settings(run.config)) or other if key else "its inputs are not there"
        return [StageStatus(self.name, key, "stale", last.rows, last.counts, why)]


def changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The settings that differ, in words; "" where none does."""
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    return ", ".join(f"{name}: {before.get(name)} → {now.get(name)}" for name in names)


def bring_all(run: Run, names: Iterable[str]) -> None:
    """Bring stages up to date, in order, with all that they read and what their commands run beside them.

    Where every stage is asked for and no post has a label, those that need labels are left out.
    """
    asked = set(names)
    every = asked >= {stage.name for stage in run.stages}
    wanted = asked.union(*(run.stage(name).beside for name in asked))
    for stage in reversed(run.stages):
        if stage.name in wanted:
            wanted |= set(stage.reads)
    if run.session.address and any(stage.ray or stage.raw for stage in run.stages if stage.name in wanted):
        run.start()  # so that a workspace that the nodes do not share is refused before anything is computed
    shown = []
    for stage in run.stages:
        if stage.name not in wanted:
            continue
        if every and stage.labels and not labelled(run):
            left = ", ".join(other.name for other in run.stages if other.labels)
            run.tell(f"no post of split train has a popularity, so there is nothing to learn: {left} left out")
            continue
        stage.bring(run)
        if stage.show:
            shown.append(stage.show)
    for function in shown:
        resolve_name(function)(run)


def labelled(run: Run) -> bool:
    """Whether any post has a popularity; unknown until the posts are there."""
    found = [run.artefact(stage.name) for stage in run.stages if stage.raw]
    return any(isinstance(posts, Manifest) and posts.counts.get("labelled", 0) > 0 for posts in found)


def status(run: Run) -> list[StageStatus]:
    """A line for each artefact of this configuration: what is committed, what is stale and why. Loads no model."""
    posts = [run.artefact(stage.name) for stage in run.stages if stage.raw]
    learns = labelled(run) or None in posts
    return [line for stage in run.stages if learns or not stage.labels for line in stage.status(run)]
