"""What a section of the configuration is, and one line a problem where a section does not fit.

Lies below families and sources, which own their sections; `smp_ray.config` puts the whole together.
"""

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
        error: what validating against `model` raised.
        model: the whole configuration's class.
        path: the file, as messages name it.
        origin: dotted keys that were not set in the file -> what set them (`--set`).
    """
    return [_line(problem, model, path, origin) for problem in error.errors(include_url=False)]


def _line(problem: ErrorDetails, model: type[BaseModel], path: str, origin: Mapping[str, str]) -> str:
    parts, section, kind = _walk(problem["loc"], model)
    key = ".".join(parts) or "(the whole file)"
    where = next((origin[set_key] for set_key in origin if f"{key}.".startswith(f"{set_key}.")), path)
    context = problem.get("ctx", {})
    if problem["type"] == "extra_forbidden":
        known = f", allowed: {', '.join(section.model_fields)}" if section is not None else ""
        return f"{where}: {key}: unknown key{known}"
    if problem["type"] in ("union_tag_invalid", "union_tag_not_found"):
        tag = str(context["discriminator"]).strip("'")
        found = f"found '{context['tag']}'" if "tag" in context else "missing"
        return f"{where}: {key}.{tag}: {found}, allowed: {', '.join(map(repr, _tagged(kind)))}"
    if problem["type"] == "missing":
        return f"{where}: {key}: missing, it must be given"
    allowed = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"{where}: {key}: found {shown(problem.get('input'))}, allowed: {allowed}"


def _walk(loc: tuple[int | str, ...], model: type[BaseModel]) -> tuple[list[str], type[BaseModel] | None, Any]:
    """The keys that a user wrote, the section that the last of them is in (None: in none), and what it stands for.

    pydantic puts the tag of a tagged union into a location, which users never wrote as a key.
    """
    parts: list[str] = []
    section: type[BaseModel] | None = None
    kind: Any = model
    for step in loc:
        if str(step) in _tagged(kind):
            kind = _tagged(kind)[str(step)]
            continue
        models = _models(kind)
        section = models[0] if len(models) == 1 else None
        parts.append(str(step))
        if section is None:
            kind = (typing.get_args(kind) or (None,))[-1]  # what a mapping holds
        else:
            kind = section.model_fields[str(step)].annotation if str(step) in section.model_fields else None
    return parts, section, kind


def _models(kind: Any) -> list[type[BaseModel]]:
    """The sections that a type annotation allows."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    if typing.get_origin(kind) in (dict, tuple, list):
        return []
    return [model for part in typing.get_args(kind) for model in _models(part)]


def _tagged(kind: Any) -> dict[str, type[BaseModel]]:
    """The sections of a tagged union by their tag (`kind` or `type`); none for anything else."""
    models = _models(kind)
    if len(models) < 2:
        return {}
    fields = [model.model_fields.get("kind") or model.model_fields.get("type") for model in models]
    return {
        str(tag): model
        for model, field in zip(models, fields, strict=True)
        if field is not None
        for tag in typing.get_args(field.annotation)
    }


def shown(value: Any) -> str:
    """A value as messages show it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
