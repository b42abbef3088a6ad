"""Raw datasets → the posts table: SMPD-Image, SMPD-Video, one's own table, and the sample world."""

from smp_ray.sources.ingest import ingest, posts_fingerprint

__all__ = ["ingest", "posts_fingerprint"]
