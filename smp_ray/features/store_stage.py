"""The features stage: find out what is missing, compute it in one pass, check it, publish it.

It makes an artefact a family, `features/<family>/<fingerprint>/manifest.json`, which names the Parquet files
(fragments) that hold the family, oldest first. The files lie where a pass wrote them, `features/passes/<pass>/data/`,
each with all the families of its pass.
"""

import time
from collections.abc import Iterable
from pkgutil import resolve_name

from smp_ray.errors import SmpRayError
from smp_ray.families.keys import FamilyKey, covers, warning_of
from smp_ray.run import Artefact, Run
from smp_ray.schema import ERROR, FAILED_TWICE, NO_IMAGE
from smp_ray.stage import Stage, StageStatus, changes
from smp_ray.store.manifest import Manifest, fingerprint
from smp_ray.store.reader import passes_of

#: Share of the posts that may be without a picture before that is said.
MOST_BLIND = 0.9


class FeatureStage(Stage):
    """The stage whose artefact is the feature store: a manifest a family."""

    def key(self, run: Run) -> str | None:
        """Fingerprint of all families together, for those that read the whole store."""
        return fingerprint(self.name, {name: key.fingerprint for name, key in run.families.items()})

    def find(self, run: Run) -> Artefact | None:
        """The families' manifests, if every family holds a finished row for every post."""
        posts, found = _posts(run, self), stored(run)
        if posts is None or not all(covers(found.get(name), posts.fingerprint) for name in run.families):
            return None
        return found

    def bring(self, run: Run) -> None:
        """Compute what is missing, and what `--retry` asks for.

        Raises:
            SmpRayError: posts ended with status `error`; the next run tries them again.
        """
        began = time.monotonic()  # starting Ray counts
        posts, manifests = _posts(run, self), stored(run)
        assert posts is not None
        missing: list[str] = []
        again = retried(run)
        for name, key in run.families.items():
            # What a family read of another may change with it.
            if not key.inputs.keys().isdisjoint(missing) or _wants(manifests.get(name), posts.fingerprint, again):
                missing.append(name)
        if missing:
            run.start()
            manifests = resolve_name(self.make)(run, posts, manifests, missing, began)
        else:
            run.tell(f"{self.name}: up to date, {', '.join(run.families)} of {posts.rows:,} posts")
        run.commit(self.name, manifests)
        found = {name: m.details["covers"][posts.fingerprint] for name, m in manifests.items()}
        models = {name: key.model for name, key in run.families.items()}
        if mind := warning_of(models, bool(posts.details.get("synthetic"))):
            run.tell(f"{self.name}: {mind}")
        blind = {name: counts[NO_IMAGE] for name, counts in found.items() if counts.get(NO_IMAGE)}
        if blind and max(blind.values()) > MOST_BLIND * posts.rows:
            why = "do they lie where the source looks for them?"
            run.tell(f"{self.name}: hardly a post has a picture (no_image: {counted(blind)}); {why}")
        if left := {name: counts[FAILED_TWICE] for name, counts in found.items() if counts.get(FAILED_TWICE)}:
            run.tell(f"{self.name}: posts with an error in two runs, left as they are: {counted(left)} (--retry error)")
        if failed := {name: counts[ERROR] for name, counts in found.items() if counts.get(ERROR)}:
            where = "(reasons in <family>_error); run again to retry them"
            raise SmpRayError(f"posts with status error: {counted(failed)} {where}")

    def status(self, run: Run) -> list[StageStatus]:
        """A line for each family."""
        posts = _posts(run, self)
        return [_family_status(run, key, posts) for key in run.families.values()]


def _posts(run: Run, stage: Stage) -> Manifest | None:
    posts = run.artefact(stage.reads[0])
    return posts if isinstance(posts, Manifest) else None


def stored(run: Run) -> dict[str, Manifest]:
    """The manifests of those configured families that have one, whichever posts they cover."""
    found = {name: run.workspace.manifest(key.folder, key.fingerprint) for name, key in run.families.items()}
    return {name: manifest for name, manifest in found.items() if manifest is not None}


def retried(run: Run) -> set[str]:
    """What `--retry` asks for, as manifests count it: posts with an error, however often."""
    return {*run.retry, *([FAILED_TWICE] if ERROR in run.retry else [])}


def _wants(manifest: Manifest | None, posts: str, retry: Iterable[str]) -> bool:
    if manifest is None or not covers(manifest, posts):
        return True
    return any(manifest.details["covers"][posts].get(status, 0) for status in retry)


def _family_status(run: Run, key: FamilyKey, posts: Manifest | None) -> StageStatus:
    manifest = run.workspace.manifest(key.folder, key.fingerprint)
    earlier = [manifest] if manifest else run.workspace.manifests(key.folder)
    if not earlier:
        began = passes_of(run.workspace, key.family, key.fingerprint)
        why = "interrupted; what was written is kept" if began else "never computed"
        return StageStatus(key.family, key.fingerprint, "missing", why=why)
    last, why = earlier[-1], ""
    counts = last.counts
    if manifest is None:
        why = changes(last.config, key.settings) or "its model, a family that it reads or smp_ray itself changed"
    elif posts is None:
        why = "the posts are stale"
    elif posts.fingerprint not in manifest.details["covers"]:
        why = "some posts are not computed yet"
    else:
        counts = manifest.details["covers"][posts.fingerprint]
        if counts.get(ERROR):
            why = f"{counts[ERROR]:,} posts with status error are tried again"
    state = "stale" if why else "committed"
    return StageStatus(key.family, key.fingerprint, state, sum(counts.values()), counts, why)


def counted(todo: dict[str, int]) -> str:
    """Posts by family, in words."""
    return ", ".join(f"{family} {count:,}" for family, count in todo.items())
