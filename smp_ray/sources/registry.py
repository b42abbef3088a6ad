"""All sources: what the configuration's `source` may be."""

from __future__ import annotations

from functools import reduce
from operator import or_
from pkgutil import resolve_name
from typing import Annotated, Any

from pydantic import Field

#: The section of each, in the order in which messages name them.
SOURCES = (
    "smp_ray.sources.sample_world:DemoSource",
    "smp_ray.sources.smpd_image:SmpdImageSource",
    "smp_ray.sources.smpd_video:SmpdVideoSource",
    "smp_ray.sources.table:TableSource",
)


def source_type() -> Any:
    """The type of a section of any source, for pydantic: the one whose `kind` it names."""
    sections: Any = reduce(or_, map(resolve_name, SOURCES))
    return Annotated[sections, Field(discriminator="kind")]
