"""Servers that answer as the web does on its bad days: a raw one on loopback, and what each of its answers must become.

`serving()` starts it in a thread; `CASES` lists paths with the status and a word of the reason that a post gets.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote

from PIL import Image


def jpeg() -> bytes:
    stream = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(stream, "JPEG")
    return stream.getvalue()


PICTURE = jpeg()
#: Expands to 200 MB.
BOMB = gzip.compress(bytes(200 * 2**20), 9)
#: As an object store, it gives the same answers for the keys of this bucket.
BUCKET = "/b/"


@dataclass(frozen=True)
class Case:
    """A path of the server (or a whole URL), and what a post that names it must get, after decoding."""

    path: str
    status: str
    word: str = ""

    def url(self, server: str) -> str:
        return self.path if "://" in self.path else f"{server}{self.path}"


#: For a Fetcher that allows private addresses, with `max_bytes` below 80 MB and a few seconds a picture.
CASES = (
    Case("/ok.jpg", "ok"),
    Case("/a%20photo.jpg", "ok"),
    Case("/a photo.jpg", "ok"),
    Case("/100%.jpg", "ok"),
    Case("/münchen.jpg?größe=1", "ok"),
    Case("/redirect/ok.jpg", "ok"),
    Case("/flaky/1", "ok"),
    Case("/chunked.jpg", "ok"),
    Case("/status/404", "no_image", "HTTP 404"),
    Case("/status/410", "no_image", "HTTP 410"),
    Case("/status/403", "no_image", "HTTP 403"),
    Case("/status/401", "no_image", "HTTP 401"),
    Case("/status/204", "no_image", "HTTP 204"),
    Case("/status/304", "no_image", "HTTP 304"),
    Case("/status/503", "unreachable", "HTTP 503"),
    Case("/status/500", "unreachable", "HTTP 500"),
    Case("/status/408", "unreachable", "HTTP 408"),
    Case("/status/425", "unreachable", "HTTP 425"),
    Case("/status/429", "unreachable", "HTTP 429"),
    Case("/reset", "unreachable", "connection"),
    Case("/close", "unreachable", "connection"),
    Case("/short.jpg", "unreachable", "broke off"),
    Case("/broken-chunk.jpg", "unreachable", "not an HTTP answer"),
    Case("/garbage", "unreachable", "not an HTTP answer"),
    Case("/long-header", "unreachable", "not an HTTP answer"),
    Case("/drip.jpg", "unreachable", "timeout"),
    Case("/silent", "unreachable", "timeout"),
    Case("/loop", "no_image", "more than 10 redirects"),
    Case("/redirect-to-ftp", "no_image", "scheme"),
    Case("/redirect-to-file", "no_image", "no host"),
    Case("/redirect-to-secret", "no_image", "credentials"),
    Case("/redirect-nowhere", "no_image", "Location"),
    Case("/redirect-to-bad-port", "no_image", "bad URL"),
    Case("/page.jpg", "bad_image", "text"),
    Case("/empty.jpg", "bad_image", "empty"),
    Case("/huge.jpg", "bad_image", "max_bytes"),
    Case("/huge-unsaid.jpg", "bad_image", "max_bytes"),
    Case("/bomb.jpg", "bad_image", "max_bytes"),
    Case("/not-gzip.jpg", "unreachable", "damaged"),
    Case("/noai.jpg", "no_image", "noai"),
    Case("/noindex-for-others.jpg", "ok"),
    Case("http://host:abc/x.jpg", "no_image", "bad URL"),
    Case("http:///x.jpg", "no_image", "bad URL"),
    Case("http://", "no_image", "bad URL"),
    Case("http://[::1/x.jpg", "no_image", "bad URL"),
    Case("http://127.0.0.1/a\r\nHost: other/x.jpg", "no_image", "control"),
    Case("http://caf\udce9.example/x.jpg", "no_image", "bad URL"),
    Case("http://" + "a" * 300 + ".example/x.jpg", "no_image", ""),
    Case("http://user:SECRET@127.0.0.1/x.jpg", "no_image", "credentials"),
    Case("ftp://127.0.0.1/x.jpg", "no_image", "scheme"),
    Case("gopher://127.0.0.1/x.jpg?SECRET", "no_image", "scheme"),
    Case("s3://unknown/x.jpg", "no_image", "buckets"),
    Case("gs://unknown/x.jpg", "no_image", "buckets"),
    Case("http://127.0.0.1:1/x.jpg?token=SECRET", "unreachable", "connection failed"),
)


@dataclass
class Server:
    """A server that runs, and what it saw."""

    url: str = ""
    asked: Counter[str] = field(default_factory=Counter)
    times: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    agents: Counter[str] = field(default_factory=Counter)
    now: int = 0
    most: int = 0
    #: Seconds before each answer.
    delay: float = 0.0


#: What clients of object stores want to be told.
OF_OBJECTS = ('ETag: "1"', "Last-Modified: Sat, 21 Nov 2026 08:00:00 GMT")


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Content-Type: image/jpeg", *OF_OBJECTS, *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def redirect(target: str) -> bytes:
    return answer(b"", f"Location: {target}", status="302 Found")


def chunked(*parts: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


FIXED = {
    "/chunked.jpg": chunked(PICTURE[:100], PICTURE[100:], b""),
    "/short.jpg": answer(PICTURE)[:-50],
    "/broken-chunk.jpg": chunked(PICTURE[:100]) + b"zz\r\nnot a length",
    "/garbage": b"\x00\xff garbage ?token=SECRET\r\n\r\n",
    "/long-header": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    "/close": b"",
    "/loop": redirect("/loop"),
    "/redirect/ok.jpg": redirect("../ok.jpg"),
    "/redirect-to-metadata": redirect("http://169.254.169.254/latest/meta-data"),
    "/redirect-to-ftp": redirect("ftp://127.0.0.1/x"),
    "/redirect-to-file": redirect("file:///etc/passwd"),
    "/redirect-to-secret": redirect("http://user:SECRET@127.0.0.1/x"),
    "/redirect-nowhere": answer(b"", status="302 Found"),
    "/redirect-to-bad-port": redirect("http://127.0.0.1:99999999/"),
    "/page.jpg": answer(b"<!DOCTYPE html><html><body>Sign in to see this</body></html>"),
    "/empty.jpg": answer(b""),
    "/bomb.jpg": answer(BOMB, "Content-Encoding: gzip"),
    "/not-gzip.jpg": answer(PICTURE, "Content-Encoding: gzip"),
    "/noai.jpg": answer(PICTURE, "X-Robots-Tag: max-image-preview: large, NoAI", "X-Robots-Tag: noimageai"),
    "/noindex-for-others.jpg": answer(PICTURE, "X-Robots-Tag: otherbot: noindex, noai"),
    "/retry-later": answer(b"", "Retry-After: 3600", status="503 Unavailable"),
}


class _Answering:
    def __init__(self, server: Server) -> None:
        self._server = server

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split(b" ", 2)[1].decode("latin-1")
                if path.startswith(BUCKET):
                    path = "/" + unquote(path.removeprefix(BUCKET))
                self._note(path, head)
                try:
                    if self._server.delay:
                        await asyncio.sleep(self._server.delay)
                    if not await self._answer(path, writer):
                        break
                finally:
                    self._server.now -= 1
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # who asked has left
        finally:
            writer.close()

    def _note(self, path: str, head: bytes) -> None:
        server = self._server
        server.asked[path] += 1
        server.times[path].append(time.monotonic())
        agent = next(line for line in head.decode("latin-1").split("\r\n") if line.lower().startswith("user-agent:"))
        server.agents[agent.partition(": ")[2]] += 1
        server.now += 1
        server.most = max(server.most, server.now)

    async def _answer(self, path: str, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection goes on."""
        kind = path.split("/")[1]
        if kind == "status":
            writer.write(answer(b"", status=f"{path.rpartition('/')[2]} Said"))
        elif kind in ("flaky", "retry-after") and self._server.asked[path] > (2 if kind == "flaky" else 1):
            writer.write(answer(PICTURE))
        elif kind == "flaky":
            writer.write(answer(b"", status="503 Busy"))
        elif kind == "retry-after":
            writer.write(answer(b"", "Retry-After: 1", status="429 Too Many Requests"))
        elif kind == "reset":
            writer.transport.abort()
            return False
        elif kind == "silent":
            await asyncio.sleep(30)
        elif kind.startswith("drip"):
            await self._slowly(answer(PICTURE), writer)
        elif kind.startswith("huge"):
            length = "" if "unsaid" in path else f"Content-Length: {80 * 2**20}\r\n"
            writer.write(f"HTTP/1.1 200 OK\r\n{length}Connection: close\r\n\r\n".encode())
            for _ in range(80):
                writer.write(bytes(2**20))
                await writer.drain()
            return False
        elif path in FIXED:
            writer.write(FIXED[path])
            await writer.drain()
            return path in ("/chunked.jpg", "/loop", "/retry-later")
        else:
            writer.write(answer(PICTURE))
        await writer.drain()
        return True

    async def _slowly(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        head = data.index(b"\r\n\r\n") + 4
        writer.write(data[:head])
        for place in range(head, len(data)):
            writer.write(data[place : place + 1])
            await writer.drain()
            await asyncio.sleep(0.5)


@contextmanager
def serving(host: str = "127.0.0.1", delay: float = 0.0) -> Iterator[Server]:
    """A hostile server in a thread, until the block ends."""
    server = Server(delay=delay)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    starting = asyncio.start_server(_Answering(server), host, 0, backlog=1000)
    listening = asyncio.run_coroutine_threadsafe(starting, loop).result()
    server.url = "http://{}:{}".format(*listening.sockets[0].getsockname()[:2])

    async def stop() -> None:
        listening.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)
        loop.stop()

    yield server
    asyncio.run_coroutine_threadsafe(stop(), loop)
    thread.join(5)
