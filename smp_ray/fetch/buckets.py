"""Pictures in object stores, of buckets that the config names; credentials come from the environment."""

import os
import re
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import obstore
import pyarrow.fs as pafs
from obstore.exceptions import BaseError, InvalidPathError, PermissionDeniedError, UnauthenticatedError
from obstore.store import GCSStore, S3Store

from smp_ray.config import ImagesConfig
from smp_ray.errors import ConfigError
from smp_ray.fetch.outcome import Refused, Unavailable, too_large
from smp_ray.store.address import endpoint


class Buckets:
    """A client for each bucket of `features.images.buckets`."""

    def __init__(self, settings: ImagesConfig) -> None:
        self._max_bytes = settings.max_bytes
        self._stores = dict(_opened(uri, settings.timeout_s) for uri in settings.buckets)

    def locate(self, uri: str) -> tuple[str, str]:
        """Bucket, as `s3://name`, and key of an address of the data; Refused where the config does not allow it."""
        try:
            parts = urlsplit(uri)
        except ValueError:
            raise Refused("bad address of an object") from None
        if "@" in parts.netloc:
            raise Refused("credentials in an address are refused")
        if parts.query or parts.fragment:
            raise Refused("options in an object's address are refused: features.images.buckets names them")
        bucket = f"{parts.scheme}://{parts.netloc}"
        if bucket not in self._stores:
            raise Refused(f"{bucket[:80]} is not one of features.images.buckets")
        key = unquote(parts.path.removeprefix("/"))
        if not key:
            raise Refused(f"{bucket}: an address without a key")
        return bucket, key

    async def get(self, bucket: str, key: str) -> bytes:
        """An object's bytes.

        Raises:
            Refused, Unavailable: there is none, or not now.
        """
        try:
            found = await obstore.get_async(self._stores[bucket], key)
            if found.meta["size"] > self._max_bytes:
                raise too_large(self._max_bytes)
            return bytes(await found.bytes_async())
        except FileNotFoundError:
            raise Refused(f"{bucket}: no such object") from None
        except (ValueError, InvalidPathError):
            raise Refused(f"{bucket}: a key that cannot be asked for") from None
        except (PermissionDeniedError, UnauthenticatedError):
            raise Unavailable(f"{bucket}: credentials refused or expired") from None
        except (BaseError, OSError) as error:  # its text holds the request and what the server said
            throttled = "throttled" if re.search(r"\b(429|503)\b", str(error)) else "failed for now"
            raise Unavailable(f"{bucket}: {throttled}") from None


def _opened(uri: str, timeout_s: float) -> tuple[str, Any]:
    """The bucket that a config's URI names, and its client, which tries once: trying again is the fetcher's."""
    parts = urlsplit(uri)
    options = dict(parse_qsl(parts.query))
    server = endpoint(options)
    given: dict[str, Any] = {
        "client_options": {
            "allow_http": bool(server and server.startswith("http://")),
            "timeout": f"{timeout_s}s",
            "connect_timeout": f"{timeout_s / 2}s",
        },
        "retry_config": {"max_retries": 0},
    }
    if options.get("anonymous") == "true":
        given["skip_signature"] = True
    if server:
        given["endpoint" if parts.scheme == "s3" else "base_url"] = server
    if "region" in options:
        given["region"] = options["region"]
    elif parts.scheme == "s3" and not server and not {"AWS_REGION", "AWS_DEFAULT_REGION"} & os.environ.keys():
        with suppress(OSError):  # it says itself what is wrong, when it is asked
            given["region"] = pafs.resolve_s3_region(parts.netloc)
    try:
        store: Any = (S3Store if parts.scheme == "s3" else GCSStore)(parts.netloc, **given)
    except (BaseError, ValueError, OSError) as error:
        raise ConfigError(f"features.images.buckets: {uri}: cannot be opened ({type(error).__name__})") from None
    return f"{parts.scheme}://{parts.netloc}", store
