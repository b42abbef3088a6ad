"""The whole configuration: one YAML file, checked key by key before anything starts.

Every option has its default, unit and bounds in the section that it belongs to. Unknown keys, wrong types and values
out of bounds raise `ConfigError` with the file, the dotted key, what was found and what is allowed, one line a problem.
"""

import copy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from pydantic import Field, ValidationError, create_model, field_validator

from smp_ray.config.features_section import FeaturesConfig, ImagesConfig, features_class
from smp_ray.config.ray_section import RayConfig
from smp_ray.config.report_section import ReportConfig
from smp_ray.config.training_section import TrainingConfig
from smp_ray.errors import ConfigError, one_line
from smp_ray.families.base import ADAPTED, HISTORY, IMAGE_EMBEDDING, METADATA, TEXT, TITLE_EMBEDDING
from smp_ray.families.registry import columns_of, families, find, with_roles
from smp_ray.section import Section, problem_lines, shown
from smp_ray.sources.base import SourceSettings
from smp_ray.sources.registry import source_type
from smp_ray.store.address import ADVICE, has_credentials


class Config(Section):
    """The whole configuration; see `config_class` for what the installed families and sources make of it."""

    workspace: str = Field(min_length=1, description="a folder or s3://bucket/prefix")
    models: str | None = Field(
        None,
        min_length=1,
        description="mirror of models, <mirror>/<name>/: a folder or s3://bucket/prefix; null: the hub",
    )
    source: SourceSettings
    features: FeaturesConfig
    training: TrainingConfig = TrainingConfig()
    report: ReportConfig = ReportConfig()
    ray: RayConfig = RayConfig()

    @field_validator("workspace", "models")
    @classmethod
    def _known_place(cls, place: str | None) -> str | None:
        if place is not None and "://" in place and not place.startswith(("s3://", "file://")):
            raise ValueError("a folder or s3://bucket/prefix")
        return place

    @property
    def images(self) -> ImagesConfig:
        """`features.images`, with the buckets that the workspace and the source name among those allowed."""
        images = self.features.images
        known = {bucket.partition("?")[0] for bucket in images.buckets}
        found: dict[str, str] = {}
        for value in (self.workspace, *self.source.model_dump().values()):
            if isinstance(value, str) and value.startswith(("s3://", "gs://")):
                parts = urlsplit(value)
                address = parts._replace(path="", fragment="").geturl()
                if (bucket := f"{parts.scheme}://{parts.netloc}") not in known:
                    found.setdefault(bucket, address)
        return images.model_copy(update={"buckets": (*images.buckets, *found.values())})

    def __reduce__(self) -> tuple[Any, ...]:
        # The class is made of what is installed, so that a worker makes its own instead of unpickling one.
        env = {name: value.get_secret_value() for name, value in self.ray.env.items()}
        raw = self.model_dump(mode="json")
        return build_config, ({**raw, "ray": {**raw["ray"], "env": env}},)


@cache
def config_class() -> type[Config]:
    """`Config` with the sections of all installed families and sources."""
    features = features_class()
    return create_model("Config", __base__=Config, source=(source_type(), ...), features=(features, features()))


def embeddings(config: Config) -> tuple[str, tuple[str, ...]] | None:
    """The configured family that embeds image and title, and these two columns; None where there is none."""
    return with_roles(config.features.sections, IMAGE_EMBEDDING, TITLE_EMBEDDING)


def external_data(config: Config) -> str:
    """The pre-trained models behind the features, in words."""
    named = (find(name).submission(section) for name, section in config.features.sections.items())
    return "; ".join(filter(None, named))


def matrix_groups(config: Config) -> tuple[str, ...]:
    """The groups of the matrix's columns: those configured, else all that the configured features allow.

    Raises:
        ValueError: a group needs features that are not configured.
    """
    groups: list[str | None] = [METADATA, TEXT]
    # Where users are disjoint it would be a leak, and with no delay popularity that nobody knew.
    if config.training.split.kind == "time" and config.training.matrix.history_delay_days is not None:
        groups.append(HISTORY)
    embedder = embeddings(config)
    for column in columns_of(config.features.sections).values():
        groups.append(column.group)
        if embedder is not None and column.name == embedder[1][0]:
            groups.append(ADAPTED)  # beside the embeddings that they are made of
    available = [group for group in dict.fromkeys(groups) if group]
    asked = available if config.training.matrix.families is None else config.training.matrix.families
    for group in asked:
        if group not in available:
            owners = [name for name in families() if group in {column.group for column in find(name).columns}]
            needs = f"'{group}' needs {' or '.join(owners)} in features.families, " if owners else f"found '{group}', "
            if group == HISTORY:
                needs = f"'{group}' needs training.split.kind: time and training.matrix.history_delay_days, "
            raise ValueError(f"{needs}allowed: {', '.join(available)}")
    return tuple(group for group in available if group in asked)


def matrix_families(config: Config) -> tuple[str, ...]:
    """The configured families that the matrix's columns are made of, the embedder behind adapted ones included."""
    groups, embedder = set(matrix_groups(config)), embeddings(config)
    return tuple(
        name
        for name in config.features.sections
        if groups & {column.group for column in find(name).columns}
        or (ADAPTED in groups and embedder is not None and name == embedder[0])
    )


class _Loader(yaml.SafeLoader):
    """YAML without keys given twice, of which the last would win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for name in names:
            if names.count(name) > 1:
                raise yaml.MarkedYAMLError(problem=f"the key '{name}' is given twice", problem_mark=node.start_mark)
        return dict(super().construct_mapping(node, deep))


def load_config(path: str | Path, overrides: list[str] | None = None, workspace: str | None = None) -> Config:
    """Read and check a configuration file; a ConfigError has every problem found, one line each.

    Args:
        path: the YAML file. Relative paths in it are taken from the current folder.
        overrides: `KEY=VALUE` settings, KEY dotted (`features.clip.batch_size=64`), VALUE in YAML.
        workspace: replaces the file's `workspace`.
    """
    return build_config(_read_yaml(Path(path)), overrides, workspace, name=str(path))


def build_config(
    raw: dict[str, Any], overrides: list[str] | None = None, workspace: str | None = None, name: str = "config"
) -> Config:
    """As `load_config`, from the mapping that a file would hold; `name` stands for the file in messages."""
    raw, origin = copy.deepcopy(raw), dict[str, str]()
    for override in overrides or []:
        origin[_apply_override(raw, override)] = "--set"
    if workspace is not None:
        raw["workspace"] = workspace
        origin["workspace"] = "--workspace"
    for key, value in _values(raw):
        if isinstance(value, str) and has_credentials(value) and not key.startswith("ray.env."):
            raise ConfigError(f"{origin.get(key, name)}: {key}: found credentials in an address; {ADVICE}")
    whole = config_class()
    try:
        config = whole.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(problem_lines(error, whole, name, origin))) from None
    try:
        matrix_groups(config)
    except ValueError as error:
        raise ConfigError(f"{name}: training.matrix.families: {error}") from None
    return config


def _values(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """All single values of a mapping with their dotted keys; those of lists under the list's."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _values(value, f"{key}.{name}".strip("."))
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _values(value, key)
    else:
        yield key, node


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; see configs/ for examples") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not YAML: {one_line(error)}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: found {shown(raw)}, allowed: a mapping with 'source' and 'features'")
    return raw


def _apply_override(raw: dict[str, Any], override: str) -> str:
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise ConfigError(f"--set {override}: found no KEY=VALUE, allowed: for example features.images.timeout_s=5")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {key}: the value is not YAML") from None
    node = raw
    for depth, part in enumerate(parts[:-1], start=1):
        if node.get(part) is None:
            node[part] = {}
        node = node[part]
        if not isinstance(node, dict):
            raise ConfigError(f"--set {key}: {'.'.join(parts[:depth])} is {shown(node)}, not a section")
    node[parts[-1]] = value
    return ".".join(parts)
