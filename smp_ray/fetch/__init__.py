"""Fetching the encoded bytes of pictures: many at once, politely, with the reason where one cannot be had."""

from smp_ray.fetch.answers import Answers
from smp_ray.fetch.fetcher import Fetcher
from smp_ray.fetch.outcome import NO_ADDRESS, Fetched

__all__ = ["NO_ADDRESS", "Answers", "Fetched", "Fetcher"]
