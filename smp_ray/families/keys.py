"""What fingerprint a family has: who computes it, from what. Loads no model."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from smp_ray.errors import ModelError
from smp_ray.families.base import IMAGE, FamilySettings
from smp_ray.families.registry import find, owner_of
from smp_ray.schema import ERROR
from smp_ray.store.manifest import Manifest, fingerprint
from smp_ray.store.reader import FAMILIES

#: Raised when the meaning of every family's stored columns changes.
STORE_VERSION = 2
#: What a model is called. Where it has an identity, that counts in the fingerprint instead of these.
_NAMES = {"model", "revision", "pretrained"}


def warning_of(models: Mapping[str, Mapping[str, Any]], synthetic: bool) -> str:
    """What to say where families' `models`, identities by family, know the sample world alone and posts are others."""
    names = [family for family, model in models.items() if model.get("name") == "embedded"]
    if synthetic or not names:
        return ""
    of = ", ".join(names)
    return f"the built-in models of {of} know the sample world alone; what they say of other posts means nothing"


@dataclass(frozen=True)
class FamilyKey:
    """What computes a family; workers get it as it is, and find the class themselves.

    Attributes:
        settings: what the values depend on.
        model: its identity.
        inputs: fingerprints of the families that it reads.
        pinned: the family's section, with revision and dtype as they are fingerprinted, and the address in a mirror.
    """

    family: str
    fingerprint: str
    settings: dict[str, Any] = field(hash=False)
    model: dict[str, Any] = field(hash=False)
    inputs: dict[str, str] = field(hash=False)
    pinned: FamilySettings = field(hash=False)

    @property
    def folder(self) -> str:
        """Folder of the family in the workspace."""
        return f"{FAMILIES}/{self.family}"


def family_keys(
    sections: Mapping[str, FamilySettings],
    images: Mapping[str, Any],
    on_gpu: Callable[[FamilySettings], bool],
    mirror: str | None = None,
) -> dict[str, FamilyKey]:
    """The key of each configured family, in the order of their `sections`.

    `images` are settings that change what is decoded; `on_gpu` says whether a family of such a section runs on a GPU;
    `mirror` is where models are that are named as on the hub.

    Raises:
        ModelError: a model is missing, or its commit cannot be found out.
    """
    keys: dict[str, FamilyKey] = {}
    for name, section in sections.items():
        family = find(name)
        with naming(name):
            located = section if mirror is None else family.mirrored(section, mirror)
            model = family.identity(located)
        update = {"revision": model["revision"]} if "revision" in model else {}
        if getattr(section, "dtype", None) == "auto":
            update["dtype"] = family.gpu_dtype if on_gpu(section) else "float32"
        pinned = located.model_copy(update=update)
        settings = section.model_copy(update=update).model_dump(mode="json", exclude={*FamilySettings.model_fields})
        if IMAGE in family.reads:
            settings["images"] = dict(images)
        owners = [owner for column in family.reads if (owner := owner_of(column)) in keys]
        inputs = {owner: keys[owner].fingerprint for owner in owners if owner is not None}
        what = {key: value for key, value in settings.items() if not (model and key in _NAMES)}
        identity = model.get("files") or model
        key = fingerprint(FAMILIES, name, STORE_VERSION, family.version, what, identity, inputs)
        keys[name] = FamilyKey(name, key, settings, model, inputs, pinned)
    return keys


@contextmanager
def naming(family: str) -> Iterator[None]:
    """What cannot be done with a model is said with the family's name."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{family}: {error}") from error


def covers(manifest: Manifest | None, posts: str) -> bool:
    """Whether a family holds a finished row for every post of a posts artefact (an `error` row is not finished)."""
    counts = None if manifest is None else manifest.details["covers"].get(posts)
    return counts is not None and counts.get(ERROR, 0) == 0
