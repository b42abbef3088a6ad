"""All sources, what the configuration's `source` may be: the built-in ones and those of installed packages.

A package of one's own adds a source by an entry point (docs/add-a-source.md):

    [project.entry-points."smp_ray.sources"]
    diary = "my_package.diary:DiarySource"
"""

from functools import reduce
from operator import or_
from typing import Annotated, Any

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
        ConfigError: a package's source cannot be imported, or is none.
    """
    every = [
        loaded(entry, SourceSettings, f"the source {entry.name} ({entry.value})", ConfigError)  # type: ignore[type-abstract]
        for entry in found(GROUP, BUILT_IN)
    ]
    sections: Any = reduce(or_, every)
    return Annotated[sections, Field(discriminator="kind")]
