"""Write docs/configuration.md from the classes of the configuration: `python jobs/configuration_page.py`."""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from smp_ray.config import config_class
from smp_ray.families.base import Family
from smp_ray.families.registry import BUILT_IN, families

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
HEAD = """# Configuration

Made by `python jobs/configuration_page.py` from the classes in `smp_ray/config/`, `smp_ray/families/` and
`smp_ray/sources/`; change those, not this page.

One YAML file. An unknown key, a wrong type or a value out of bounds ends the command with status 2 and one line that
names the file, the key, what was found and what is allowed. `smp-ray validate FILE` checks a file without starting
anything and prints it with every default. `--set features.clip.batch_size=256` sets any key, `--workspace` the
workspace. Relative paths are taken from the current folder. Keys without a default must be given.
"""
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "length ≥"}


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)


def page() -> str:
    """The page as Markdown: a heading and a table for each section, families and sources included."""
    parts = [HEAD]
    for title, section in sections(config_class(), ""):
        rows = [f"| `{name}` | {kind(field)} | {default(field)} | {said(field)} |" for name, field in keys(section)]
        about = " ".join((inspect.getdoc(section) or "").split("\n\n")[0].split())
        head = ["| key | type | default | |", "| --- | --- | --- | --- |"] if rows else []
        parts.append("\n".join([f"## {title}", "", about, "", *head, *rows, ""]))
    return "\n".join(parts)


def sections(section: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Every section with its heading, in the order of the file."""
    yield f"`{path}`" if path else "The whole file", section
    outside = {family.key() for family in families().values() if not _built_in(family)}
    for name, field in section.model_fields.items():
        below = models(field.annotation)
        key = f"{path}.{name}".removeprefix(".")
        if len(below) > 1:
            for model in below:
                tag = next(name for name in ("kind", "type") if name in model.model_fields)
                (value,) = typing.get_args(model.model_fields[tag].annotation)
                yield f"`{key}` with `{tag}: {value}`", model
        elif below and not (path == "features" and name in outside):
            yield from sections(below[0], key)


def _built_in(family: type[Family]) -> bool:
    return f"{family.__module__}:{family.__qualname__}" in BUILT_IN


def models(annotation: Any) -> list[type[BaseModel]]:
    """The sections in a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in models(part)]


def keys(section: type[BaseModel]) -> list[tuple[str, FieldInfo]]:
    """The keys of a section that are no sections themselves."""
    below = {name for name, field in section.model_fields.items() if models(field.annotation)}
    mappings = {name for name in below if typing.get_origin(section.model_fields[name].annotation) is dict}
    return [(name, field) for name, field in section.model_fields.items() if name not in below - mappings]


def kind(field: FieldInfo) -> str:
    """Type and bounds, in words."""
    bounds = [f"{sign} {found}" for item in field.metadata for name, sign in BOUNDS.items()
              if (found := getattr(item, name, None)) is not None]  # fmt: skip
    return "; ".join([type_words(field.annotation), ", ".join(bounds)]).removesuffix("; ")


def type_words(annotation: Any) -> str:
    """A type as YAML's readers would say it."""
    arguments, origin = typing.get_args(annotation), typing.get_origin(annotation)
    if origin is Annotated:
        return type_words(arguments[0])
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_words(part) for part in arguments)
    if origin is tuple:
        return f"list of {type_words(arguments[0])}"
    if origin is dict:
        return f"mapping to {type_words(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"`{annotation.model_fields['type'].annotation.__args__[0]}`"  # type: ignore[union-attr]
    return {
        str: "text",
        SecretStr: "text",
        int: "whole number",
        float: "number",
        bool: "true or false",
        types.NoneType: "null",
    }[annotation]


def default(field: FieldInfo) -> str:
    """The default as YAML would write it; long ones line by line."""
    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True)
    if isinstance(value, dict) and value:
        lines = [f"`{name}: {_flow(inner)}`" for name, inner in value.items()]
        return "<br>".join(lines)
    return f"`{_flow(value)}`".replace("|", "\\|")


def _flow(value: Any) -> str:
    if isinstance(value, BaseModel):
        return "{" + ", ".join(f"{name}: {_flow(inner)}" for name, inner in value) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(_flow(inner) for inner in value) + "]"
    return value if isinstance(value, str) and value.isidentifier() else json.dumps(value, ensure_ascii=False)


def said(field: FieldInfo) -> str:
    """The description."""
    return (field.description or "").replace("|", "\\|")


if __name__ == "__main__":
    main()
