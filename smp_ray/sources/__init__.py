"""Raw datasets → the posts table: SMPD-Image, SMPD-Video, one's own table, and the sample world."""

from smp_ray.sources.base import Reader, SourceSettings
from smp_ray.sources.ingest import ingest
from smp_ray.sources.registry import source_type

__all__ = ["Reader", "SourceSettings", "ingest", "source_type"]
