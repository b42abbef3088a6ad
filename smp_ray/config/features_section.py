"""The `features` section: what is the same for all families; each family's own section is in its file."""

import ipaddress
import re
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, Field, create_model

from smp_ray.errors import FamilyError
from smp_ray.families.base import FamilySettings
from smp_ray.families.registry import families
from smp_ray.section import Section, without_repeats


def _known(name: str) -> str:
    if name not in families():
        raise ValueError(", ".join(families()))
    return name


def _some(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError(f"at least one of {', '.join(families())}")
    return without_repeats(names)


def _by_default() -> tuple[str, ...]:
    return tuple(name for name, family in families().items() if family.by_default)


#: Options that the address of a bucket may carry.
_BUCKET_OPTIONS = ("endpoint_override", "scheme", "region", "anonymous")


def _bucket(uri: str) -> str:
    parts = urlsplit(uri)
    if "@" in parts.netloc:
        raise ValueError("no credentials: they come from the environment (AWS_ACCESS_KEY_ID, GOOGLE_…)")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if parts.scheme not in ("s3", "gs") or not parts.netloc or parts.path.strip("/") or parts.fragment:
        raise ValueError("s3://BUCKET or gs://BUCKET, with options as in s3://BUCKET?region=eu-west-1")
    if not options.keys() <= set(_BUCKET_OPTIONS):
        raise ValueError(f"the options {', '.join(_BUCKET_OPTIONS)}; credentials come from the environment")
    return uri


def _host(name: str) -> str:
    name = name.lower().strip(".")
    try:
        known = bool(re.fullmatch(r"[a-z0-9.-]+", name) or ipaddress.ip_address(name))
    except ValueError:
        known = False
    if not known:
        raise ValueError("a host name or an IP address, without scheme, port and path")
    return name


class ImagesConfig(Section):
    """How images are fetched and decoded."""

    timeout_s: float = Field(
        20.0, gt=0, le=600, description="for one image with all tries, without waiting for its host's turn"
    )
    max_bytes: int = Field(64 * 2**20, ge=1024, description="largest encoded image taken")
    max_pixels: int = Field(
        100_000_000, ge=1, description="largest image decoded, checked before decoding, which takes up to 20 bytes each"
    )
    jpeg_side: int | None = Field(
        None,
        ge=32,
        description="decode a JPEG at a half, quarter or eighth, while its short side keeps so many pixels: faster "
        "for large photographs, with slightly other pixels (twice what the models take is enough); null: whole",
    )
    concurrency: int = Field(256, ge=1, le=4096, description="images that one worker fetches at once")
    per_host: int = Field(16, ge=1, le=1024, description="of them from one host (name and port) or bucket")
    contact: str | None = Field(
        None, pattern=r"^[!-~]+$", max_length=200, description="mail address or URL for the user agent"
    )
    respect_robots_tag: bool = Field(
        True, description="leave out what X-Robots-Tag says is not for models: noai, noimageai, noindex, noimageindex"
    )
    allow_private: bool = Field(False, description="also http(s) at private, loopback and link-local addresses")
    schemes: tuple[Literal["file", "http", "https", "s3", "gs"], ...] = Field(
        ("file", "http", "https", "s3", "gs"), description="how images may be addressed; file: paths too"
    )
    hosts: tuple[Annotated[str, AfterValidator(_host)], ...] | None = Field(
        None, description="hosts of http(s), each with its subdomains; null: all"
    )
    buckets: tuple[Annotated[str, AfterValidator(_bucket)], ...] = Field(
        (),
        description="buckets that images may lie in: s3://BUCKET or gs://BUCKET, with ?region=, endpoint_override=, "
        "scheme= or anonymous=true; credentials come from the environment",
    )
    stop_after_unreachable: float | None = Field(
        0.5, ge=0, le=1, description="stop where more than this share of the last 1,000 were unreachable; null: never"
    )

    @property
    def limits(self) -> dict[str, int]:
        """What decides which images are decoded, and to which pixels."""
        side = {} if self.jpeg_side is None else {"jpeg_side": self.jpeg_side}
        return {"max_bytes": self.max_bytes, "max_pixels": self.max_pixels, **side}


class FeaturesConfig(Section):
    """The feature pass. Each family adds its own section under its key, see `features_class`."""

    families: Annotated[tuple[Annotated[str, AfterValidator(_known)], ...], AfterValidator(_some)] = Field(
        default_factory=_by_default, description="families that are computed"
    )
    images: ImagesConfig = ImagesConfig()
    placement: Literal["auto", "spread", "colocated"] = "auto"
    device: Literal["auto", "cpu"] = Field(
        "auto", description="auto: a model that was given a GPU computes on it; cpu: never (rehearsals)"
    )
    workers: int | None = Field(None, ge=1, le=10_000, description="colocated actors; null: by resources")
    rows_per_block: int | None = Field(
        None, ge=1, le=1_000_000, description="posts a block and at least a file: the unit that is kept on a crash"
    )

    def section(self, family: str) -> FamilySettings:
        """The section of a family, configured or not."""
        return getattr(self, families()[family].key())

    @property
    def sections(self) -> dict[str, FamilySettings]:
        """The sections of the configured families, in the store's order."""
        return {name: self.section(name) for name in families() if name in self.families}


def features_class() -> type[FeaturesConfig]:
    """The section with a key for each family that is installed; FamilyError where one is the section's own."""
    fields: dict[str, Any] = {}
    for name, family in families().items():
        if family.key() in FeaturesConfig.model_fields:
            raise FamilyError(f"the family {name}: features.{family.key()} is a key of smp_ray itself")
        fields[family.key()] = (family.Settings, family.Settings())
    return create_model("FeaturesConfig", __base__=FeaturesConfig, **fields)
