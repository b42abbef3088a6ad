"""Many pictures at once, from the web, object stores and files."""

import asyncio
import functools
import itertools
import logging
import queue
import random
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from smp_ray.config import ImagesConfig
from smp_ray.fetch.buckets import Buckets
from smp_ray.fetch.files import read_file
from smp_ray.fetch.outcome import NO_ADDRESS, Fetched, Refused, Unavailable
from smp_ray.fetch.turns import Budget, Turns
from smp_ray.fetch.web import Web
from smp_ray.schema import UNREACHABLE

logger = logging.getLogger(__name__)

#: Seconds before the first new try, about; each further one waits twice as long.
_FIRST_WAIT = 0.4
#: Threads that look up names, which cannot be cancelled: a name server that hangs keeps one of them a host.
_LOOKUPS = 64
#: Pictures of one call that are asked for, or are there and not taken.
_AHEAD = 128

_Found = queue.SimpleQueue[tuple[int, Fetched] | None]


class Fetcher:
    """Fetches pictures by path, `file://`, `http(s)://`, `s3://` or `gs://`; one a process, for all its threads.

    An event loop in a thread of its own does the waiting. The limits hold for all calls together.
    """

    def __init__(self, settings: ImagesConfig) -> None:
        self._settings = settings
        self._buckets = Buckets(settings)
        self._turns = Turns(settings.concurrency, settings.per_host)
        self._files = ThreadPoolExecutor(min(32, settings.per_host), thread_name_prefix="files")
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="names"))
        thread = threading.Thread(target=self._loop.run_forever, name="fetch", daemon=True)
        thread.start()
        self._web = asyncio.run_coroutine_threadsafe(_web(settings), self._loop).result()
        weakref.finalize(self, _close, self._web, self._loop, thread)

    def fetch(self, uris: Sequence[str | None]) -> Iterator[tuple[int, Fetched]]:
        """Position and outcome of each, in the order of completion; None stands for a post without an image.

        Never raises for what an address or an answer is. Leaving the iterator gives up what is not there yet. Of one
        call, so many as `_AHEAD` are asked for or wait to be taken, which bounds the memory.
        """
        found: _Found = queue.SimpleQueue()
        room = asyncio.Semaphore(_AHEAD)
        asked = asyncio.run_coroutine_threadsafe(self._ask(uris, room, found), self._loop)
        asked.add_done_callback(lambda _: found.put(None))
        try:
            while (outcome := found.get()) is not None:
                yield outcome
                self._loop.call_soon_threadsafe(room.release)
            asked.result()
        finally:
            asked.cancel()

    def fetch_all(self, uris: Sequence[str | None]) -> list[Fetched]:
        """The outcomes in the order given."""
        outcomes = dict(self.fetch(uris))
        return [outcomes[place] for place in range(len(uris))]

    async def _ask(self, uris: Sequence[str | None], room: asyncio.Semaphore, found: _Found) -> None:
        async def one(place: int, uri: str | None) -> None:
            found.put((place, await self._fetched(uri) if uri else NO_ADDRESS))

        async with asyncio.TaskGroup() as group:
            for place, uri in enumerate(uris):
                await room.acquire()
                group.create_task(one(place, uri))

    async def _fetched(self, uri: str) -> Fetched:
        """Ask until there is an answer or the time is up."""
        budget, reason = Budget(self._settings.timeout_s), ""
        for tries in itertools.count(1):
            try:
                data = await self._get(uri, budget)
            except Refused as refused:
                if refused.fetched.status != UNREACHABLE:
                    self._turns.ended(budget.host, lost=False)
                return refused.fetched
            except Unavailable as error:
                reason, asked = error.reason, error.retry_after
            except TimeoutError:
                late = f"timeout, features.images.timeout_s = {self._settings.timeout_s:g}"
                reason, asked = f"{reason}, then {late}" if reason else late, 0.0  # what was said before tells more
            except Exception as error:  # no answer, however strange, ends the pass
                logger.warning("a picture could not be fetched: %s", type(error).__name__, exc_info=True)
                return Fetched(None, UNREACHABLE, f"failed: {type(error).__name__}")
            else:
                self._turns.ended(budget.host, lost=False)
                return Fetched(data)
            wait = max(asked, _FIRST_WAIT * 2 ** (tries - 1) * random.uniform(0.5, 1.5))
            if wait >= budget.left:
                break
            budget.left -= wait
            await asyncio.sleep(wait)
        self._turns.ended(budget.host, lost=True)
        return Fetched(None, UNREACHABLE, f"{reason}; tried {tries} times" if tries > 1 else reason)

    async def _get(self, uri: str, budget: Budget) -> bytes:
        turn = functools.partial(self._turns.turn, budget=budget)
        scheme = uri.partition("://")[0].lower() if "://" in uri else "file"
        if scheme not in self._settings.schemes:
            raise Refused("its scheme is not one of features.images.schemes")
        if scheme in ("http", "https"):
            return await self._web.get(uri, turn)
        if scheme == "file":
            async with turn("file"):
                return await self._loop.run_in_executor(self._files, read_file, uri, self._settings.max_bytes)
        bucket, key = self._buckets.locate(uri)
        async with turn(bucket):
            return await self._buckets.get(bucket, key)


async def _web(settings: ImagesConfig) -> Web:
    return Web(settings)


def _close(web: Web, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    """End a fetcher's connections and its loop, when nobody holds it any longer or the process ends."""

    async def close() -> None:
        await web.close()
        loop.stop()

    asyncio.run_coroutine_threadsafe(close(), loop)
    if threading.current_thread() is not thread:
        thread.join(2)
