"""All sources, what the configuration's `source` may be: the built-in ones and those of installed packages.

A package of one's own adds a source by an entry point (docs/add-a-source.md):

    [project.entry-points."smp_ray.sources"]
    diary = "my_package.diary:DiarySource"
"""

from functools import reduce
from operator import or_
from typing import Annotated, Any, get_args

from pydantic import Field

from smp_ray.errors import ConfigError
from smp_ray.plugins import found, loaded
from smp_ray.sources.base import SourceSettings

GROUP = "smp_ray.sources"
#: The section of each, in the order in which messages name them.
BUILT_IN = (
    "smp_ray.sources.sample_world:DemoSource",
    "smp_ray.sources.smpd_image:SmpdImageSource",
    "smp_ray.sources.smpd_video:SmpdVideoSource",
    "smp_ray.sources.table:TableSource",
)


def source_type() -> Any:
    """The type of a section of any source, for pydantic: the one whose `kind` it names.

    Raises:
        ConfigError: a package's source cannot be imported, is none, or has the kind of another.
    """
    every: dict[str, type[SourceSettings]] = {}
    for entry in found(GROUP, BUILT_IN):
        who = f"the source {entry.name} ({entry.value})"
        section = loaded(entry, SourceSettings, who, ConfigError)  # type: ignore[type-abstract]
        for kind in get_args(section.model_fields["kind"].annotation):
            if every.setdefault(kind, section) is not section:
                raise ConfigError(f"{who}: its kind {kind} is that of {every[kind].__name__} already")
    sections: Any = reduce(or_, dict.fromkeys(every.values()))
    return Annotated[sections, Field(discriminator="kind")]
