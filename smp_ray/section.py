"""What a section of the configuration is, and one line a problem where a section does not fit.

Lies below families and sources, which own their sections; `smp_ray.config` puts the whole together.
"""

import re
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails


class Section(BaseModel):
    """A section of the configuration: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


def without_repeats(names: tuple[str, ...]) -> tuple[str, ...]:
    """For validators of lists that name each thing once.

    Raises:
        ValueError: a name is there twice.
    """
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"each name once, but the list has '{name}' twice")
    return names


def problem_lines(error: ValidationError, model: type[BaseModel], path: str, origin: Mapping[str, str]) -> list[str]:
    """A line for each problem: where it was set, the dotted key, what was found and what is allowed.

    Args:
        error: what validating raised.
        model: the whole configuration's class.
        path: the file, as messages name it.
        origin: dotted keys that were not set in the file -> what set them (`--set`).
    """
    problems = error.errors(include_url=False)
    # pydantic counts an item that does not fit as one that is not there, too.
    wrong = {found["loc"][:-size] for found in problems for size in range(1, len(found["loc"]))}
    said = [found for found in problems if found["type"] != "too_short" or found["loc"] not in wrong]
    return [_line(problem, model, path, origin) for problem in said]


def _line(problem: ErrorDetails, model: type[BaseModel], path: str, origin: Mapping[str, str]) -> str:
    parts, around, here = _place(problem["loc"], model)
    key = ".".join(parts) or "(the whole file)"
    unknown = problem["type"] == "extra_forbidden"  # then a key below it may be what was set
    of = [k for k in origin if f"{key}.".startswith(f"{k}.") or (unknown and k.startswith(f"{key}."))]
    where = origin[of[0]] if of else path
    context = problem.get("ctx", {})
    if unknown:
        return f"{where}: {key}: unknown key, allowed: {', '.join(around.model_fields)}"
    if problem["type"] in ("union_tag_invalid", "union_tag_not_found"):
        tag = str(context["discriminator"]).strip("'")
        found = f"found '{context['tag']}'" if "tag" in context else "missing"
        return f"{where}: {key}.{tag}: {found}, allowed: {', '.join(repr(_tag(section)) for section in here)}"
    if problem["type"] == "missing":
        return f"{where}: {key}: missing, it must be given"
    allowed = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    found = "a value that is not shown" if "env" in parts else shown(problem.get("input"))  # it may be a password
    return f"{where}: {key}: found {found}, allowed: {allowed}"


def _place(
    loc: tuple[int | str, ...], model: type[BaseModel]
) -> tuple[list[str], type[BaseModel], list[type[BaseModel]]]:
    """The keys that a user wrote, the section around the last of them, and the sections that may stand there.

    pydantic puts the tag of a tagged union into a location, which users never wrote as a key.
    """
    parts: list[str] = []
    around, here = model, [model]
    for step in map(str, loc):
        tagged = [section for section in here if _tag(section) == step]
        if len(here) > 1 and tagged:
            here = tagged
            continue
        parts.append(step)
        if len(here) == 1:  # of several, it is a key of a mapping to them
            around = here[0]
            here = _sections(around.model_fields[step].annotation) if step in around.model_fields else []
    return parts, around, here


def _sections(kind: Any) -> list[type[BaseModel]]:
    """The sections in a type annotation."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return [section for part in typing.get_args(kind) for section in _sections(part)]


def _tag(section: type[BaseModel]) -> str:
    """By what a union knows a section: its `kind` or `type`."""
    field = section.model_fields.get("kind") or section.model_fields.get("type")
    return str(typing.get_args(field.annotation)[0]) if field is not None else ""


def shown(value: Any) -> str:
    """A value as messages show it, cut where it is long, without credentials of an address."""
    text = re.sub(r"(://)[^/\s]*@|(_key=)[^&\s'\"]*", r"\1\2…", repr(value))
    return text if len(text) <= 80 else text[:77] + "..."
