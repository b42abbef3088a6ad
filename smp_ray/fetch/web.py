"""Pictures over HTTP, one hop at a time: every redirect is checked, and waits for its own host's turn."""

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from email.utils import parsedate_to_datetime
from types import SimpleNamespace

import aiohttp
from yarl import URL

from smp_ray import __version__
from smp_ray.config import ImagesConfig
from smp_ray.fetch.addresses import PrivateAddressError, check, parse, public_socket
from smp_ray.fetch.outcome import Refused, Unavailable, too_large
from smp_ray.fetch.turns import Turn

_REDIRECTS, _MOST_REDIRECTS = (301, 302, 303, 307, 308), 10
#: Client errors that pass: request timeout, too early, too many requests. Those of servers all do.
_PASSING = (408, 425, 429)
#: Seconds of connecting, names looked up, from which on a packet was lost.
_LOST_PACKET, _TICK = 0.75, 0.1
#: Directives of `X-Robots-Tag` by which a site says that its pictures are not for models, as img2dataset reads them.
_NOT_FOR_MODELS = {"noai", "noimageai", "noindex", "noimageindex"}
#: Directives that are followed by a colon, as the name of a robot would be.
_WITH_VALUES = {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}


class Web:
    """One aiohttp session; to be made and used on one event loop."""

    def __init__(self, settings: ImagesConfig) -> None:
        self._settings = settings
        self._ticks = 0
        self._tick()
        connector = aiohttp.TCPConnector(
            limit=0,  # who may connect is decided by the turns
            resolver=aiohttp.ThreadedResolver(),
            socket_factory=None if settings.allow_private else public_socket,
            ttl_dns_cache=300,
            keepalive_timeout=5,
        )
        contact = f" (+{settings.contact})" if settings.contact else ""
        half = settings.timeout_s / 2  # a lost packet or a stalled server gets a second try
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"smp_ray/{__version__}{contact}", "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=half, sock_read=half),
            trace_configs=[self._watched()],
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    def _tick(self) -> None:
        """Count time in which this loop was awake: what one that is busy sees late is not late on the network."""
        self._ticks += 1
        asyncio.get_running_loop().call_later(_TICK, self._tick)

    def _watched(self) -> aiohttp.TraceConfig:
        """Has a turn know where connecting took so long that a packet must have been lost (sent again after 1 s)."""

        async def begin(_: object, context: SimpleNamespace, __: object) -> None:
            context.began = self._ticks

        async def end(_: object, context: SimpleNamespace, __: object) -> None:
            context.trace_request_ctx.crowded |= (self._ticks - context.began) * _TICK > _LOST_PACKET

        trace = aiohttp.TraceConfig()
        trace.on_connection_create_start.append(begin)
        trace.on_dns_resolvehost_end.append(begin)
        trace.on_connection_create_end.append(end)
        return trace

    async def get(self, uri: str, turn: Callable[[str], AbstractAsyncContextManager[Turn]]) -> bytes:
        """The body of what a URL leads to; each request is made within a `turn(host)`.

        Raises:
            Refused, Unavailable, TimeoutError: and nothing else, whatever the URL and the server say.
        """
        url = parse(uri)
        for _ in range(_MOST_REDIRECTS + 1):
            check(url, self._settings.schemes, self._settings.hosts)
            async with turn(url.authority) as mine:
                found = await self._hop(url, mine)
            if isinstance(found, bytes):
                return found
            url = found
        raise Refused(f"more than {_MOST_REDIRECTS} redirects")

    async def _hop(self, url: URL, turn: Turn) -> bytes | URL:
        """The body, or where the server redirects to."""
        host = url.host
        try:
            async with self._session.get(url, allow_redirects=False, trace_request_ctx=turn) as response:
                turn.crowded |= response.status in (429, 503)
                return await self._body(response)
        except aiohttp.ClientConnectorDNSError as error:
            cause = error.os_error
            if isinstance(cause, socket.gaierror) and cause.errno not in (socket.EAI_AGAIN, socket.EAI_FAIL):
                raise Refused(f"{host}: no such host") from None
            raise Unavailable(f"{host}: DNS failed for now") from None
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, PrivateAddressError):
                raise Refused(f"{host}: {error.os_error}, see features.images.allow_private") from None
            turn.crowded = True
            raise Unavailable(f"{host}: {_word(error)}") from None
        except ValueError:
            raise Refused("bad URL: it cannot be asked for") from None
        except (aiohttp.ClientError, OSError) as error:  # timeouts of the socket are OSErrors
            turn.crowded |= isinstance(error, aiohttp.ClientOSError | aiohttp.ServerDisconnectedError)
            raise Unavailable(f"{host}: {_word(error)}") from None

    async def _body(self, response: aiohttp.ClientResponse) -> bytes | URL:
        settings, host, status = self._settings, response.url.host, response.status
        if status in _REDIRECTS:
            if "Location" not in response.headers:
                raise Refused(f"{host}: HTTP {status} without a Location")
            return parse(response.headers["Location"], response.url)
        if status >= 500 or status in _PASSING:
            raise Unavailable(f"{host}: HTTP {status}", retry_after(response.headers.get("Retry-After")))
        if status != 200:
            raise Refused(f"{host}: HTTP {status}")
        if settings.respect_robots_tag and (said := not_for_models(response.headers.getall("X-Robots-Tag", []))):
            raise Refused(f"{host}: X-Robots-Tag says {said}")
        if (response.content_length or 0) > settings.max_bytes:
            raise too_large(settings.max_bytes)
        parts, size = [], 0
        async for part in response.content.iter_any():  # decompressed, a buffer at a time
            parts.append(part)
            size += len(part)
            if size > settings.max_bytes:
                raise too_large(settings.max_bytes)
        return b"".join(parts)


def retry_after(header: str | None) -> float:
    """Seconds to wait that a server asks for, as a number or a date; 0 where it says nothing that can be read."""
    try:
        return max(0.0, float(header or 0))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(str(header)).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def not_for_models(headers: Sequence[str]) -> str:
    """The directives that keep a picture from models, of those meant for every robot or for smp_ray; "" if none."""
    found = set()
    for header in headers:
        robot, colon, rest = (part.strip().lower() for part in header.partition(":"))
        named = bool(colon) and "," not in robot and robot not in _WITH_VALUES
        if named and robot not in ("smp_ray", "*"):
            continue
        found |= {directive.strip() for directive in (rest if named else header.lower()).split(",")} & _NOT_FOR_MODELS
    return ", ".join(sorted(found))


def _word(error: BaseException) -> str:
    """What went wrong, in our words: a library's may repeat the URL or what the server sent."""
    if isinstance(error, asyncio.TimeoutError):
        return "timeout"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the body broke off or is damaged"
    if isinstance(error, aiohttp.ClientSSLError):
        return "TLS failed or its certificate is not valid"
    if isinstance(error, aiohttp.ClientResponseError):
        return "not an HTTP answer"
    if isinstance(error, OSError) and error.strerror:
        return f"connection failed ({error.strerror})" if len(error.strerror) < 80 else "connection failed"
    return "connection lost"
