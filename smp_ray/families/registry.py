"""All families by name: the built-in ones and those of installed packages.

A package of one's own adds a family by an entry point:

    [project.entry-points."smp_ray.families"]
    colours = "my_package.colours:Colours"
"""

from collections.abc import Iterable
from functools import cache

from pydantic import ValidationError

from smp_ray.errors import FamilyError
from smp_ray.families.base import ADAPTED, HISTORY, IMAGE, METADATA, TEXT, TITLE, Column, Family
from smp_ray.plugins import found, loaded
from smp_ray.schema import POSTS

GROUP = "smp_ray.families"
#: In the order of the store's columns; a family may read columns of those before it.
BUILT_IN = (
    "smp_ray.families.caption:Caption",
    "smp_ray.families.clip:Clip",
    "smp_ray.families.perplexity:Perplexity",
    "smp_ray.families.visual:Visual",
)
#: Groups of the matrix and folders beside the families' own.
_RESERVED = {METADATA, TEXT, ADAPTED, HISTORY, "passes", "posts"}


@cache
def families() -> dict[str, type[Family]]:
    """Every family by name, built-in ones first.

    Raises:
        FamilyError: one cannot be imported, or clashes with another by its name, section or a column.
    """
    by_name: dict[str, type[Family]] = {}
    taken = {f"column {name}": "the posts table" for name in POSTS.names}
    for entry in found(GROUP, BUILT_IN):
        who = f"the family {entry.name} ({entry.value})"
        family = loaded(entry, Family, who, FamilyError)  # type: ignore[type-abstract]
        _check(family, entry.value, taken)
        by_name[family.name] = family
    return by_name


def find(name: str) -> type[Family]:
    """The family of this name.

    Raises:
        FamilyError: it is not installed here.
    """
    if name not in families():
        raise FamilyError(f"{name}: no such family is installed here; installed: {', '.join(families())}")
    return families()[name]


def columns_of(names: Iterable[str]) -> dict[str, Column]:
    """All columns of some families by name."""
    return {column.name: column for name in names for column in find(name).columns}


def looking(names: Iterable[str]) -> list[str]:
    """Those of some families that look at pictures."""
    return [name for name in names if IMAGE in find(name).reads]


def owner_of(column: str) -> str | None:
    """Name of the family that has a column; None for what is no family's."""
    return next((name for name, family in families().items() if column in columns_of([name])), None)


def with_roles(names: Iterable[str], *roles: str) -> tuple[str, tuple[str, ...]] | None:
    """The first of some families that has columns of all these roles, and the names of these columns."""
    for name in names:
        of_role = {column.role: column.name for column in find(name).columns}
        if all(role in of_role for role in roles):
            return name, tuple(of_role[role] for role in roles)
    return None


def _check(family: type[Family], source: str, taken: dict[str, str]) -> None:
    """Refuse what says too little of itself, or would clash with an earlier family or with the posts table."""
    lacking = [name for name in ("name", "Settings", "reads", "columns") if not hasattr(family, name)]
    if lacking:
        raise FamilyError(f"the family of {source}: says no {', '.join(lacking)}")
    who = f"the family {family.name} ({source})"
    if not family.name.isidentifier() or not family.name.islower():
        raise FamilyError(f"{who}: its name must be lower-case letters, digits and _")
    reserved = _RESERVED & {family.name, *(column.group for column in family.columns)}
    if reserved:
        raise FamilyError(f"{who}: the name {reserved.pop()} is taken by smp_ray itself")
    try:
        family.Settings()
    except ValidationError as error:
        raise FamilyError(f"{who}: its section needs a default for {error.errors()[0]['loc'][0]}") from None
    if IMAGE in family.reads and family.transform.__func__ is Family.transform.__func__:  # type: ignore[attr-defined]
        raise FamilyError(f"{who}: reads the image and has no transform")
    for name in family.reads or ("",):
        if name not in (IMAGE, TITLE) and not taken.get(f"column {name}", "").startswith("the family"):
            raise FamilyError(f"{who}: reads '{name}', neither image, title nor a column of a family before it")
    columns = [f"column {field.name}" for field in family.fields(1)]
    for own in (f"name {family.name}", f"section {family.key()}", *columns):
        if own in taken:
            raise FamilyError(f"{who}: its {own} is that of {taken[own]} already")
        taken[own] = f"the family {family.name}"
