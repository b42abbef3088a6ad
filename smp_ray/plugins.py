"""Classes of this project and of installed packages, found by their entry points."""

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

Base = TypeVar("Base")


def found(group: str, built_in: Iterable[str]) -> list[EntryPoint]:
    """The entry points of a group: those of `built_in` ("module:class"), then those of installed packages by name."""
    own = [EntryPoint(path.rpartition(":")[2], path, group) for path in built_in]
    return [*own, *sorted(entry_points(group=group), key=lambda entry: (entry.name, entry.value))]


def loaded(entry: EntryPoint, base: type[Base], who: str, error: type[Exception]) -> type[Base]:
    """The class of an entry point; `error` where `who` cannot be imported, or is no subclass of `base`."""
    try:
        loaded = entry.load()
    except Exception as raised:  # a package may raise anything while it is imported
        reason = " ".join(str(raised).split()) or type(raised).__name__
        raise error(f"{who} cannot be imported: {reason}") from raised
    if not (isinstance(loaded, type) and issubclass(loaded, base)):
        raise error(f"{who} is no subclass of {base.__module__}.{base.__qualname__}")
    return loaded
