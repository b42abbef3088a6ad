"""Who may ask now, and how long one picture may take."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from weakref import WeakValueDictionary

from smp_ray.fetch.outcome import Refused
from smp_ray.schema import UNREACHABLE

#: After so many pictures in a row that could not be had, a host is asked for one in so many only.
_LOST = 16


class Budget:
    """Seconds that are left for one picture; waiting for its host's turn takes none of them."""

    def __init__(self, seconds: float) -> None:
        self.left = seconds
        self.host = ""  # the last one asked

    @asynccontextmanager
    async def spending(self) -> AsyncIterator[None]:
        """Time within counts; TimeoutError where it is used up."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(max(0.0, self.left)):
                yield
        finally:
            self.left -= loop.time() - began


@dataclass
class Turn:
    """One request; who makes it says whether the host had too many: a packet lost, a connection reset, 429, 503."""

    crowded: bool = False


class _Host:
    """How many requests a host bears, found out as TCP does: more while all is well, half where there are too many.

    A server with little room for connections drops their packets, and each is sent again a second later.
    """

    def __init__(self, most: int) -> None:
        self._most, self._now = most, 0
        self._limit = (most + 1) / 2
        self._cut: float | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Wait for room."""
        while self._now >= int(self._limit):
            room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(room)
            try:
                await room
            except asyncio.CancelledError:
                self._wake()  # the room that it was perhaps given is the next one's
                raise
        self._now += 1

    def leave(self, began: float, well: bool, crowded: bool) -> None:
        """Make room, and learn; a crowd halves the limit once for all requests that it met."""
        self._now -= 1
        if crowded and (self._cut is None or began >= self._cut):
            self._limit, self._cut = max(1.0, self._limit / 2), asyncio.get_running_loop().time()
        elif well and not crowded:
            self._limit = min(self._most, self._limit + (1 if self._cut is None else 1 / self._limit))
        self._wake()

    def _wake(self) -> None:
        room = int(self._limit) - self._now
        while room > 0 and self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                room -= 1


class Turns:
    """So many requests at once, and so many of them to one host; who waits for a host keeps nobody else waiting."""

    def __init__(self, at_once: int, per_host: int) -> None:
        self._all = asyncio.Semaphore(at_once)
        self._per_host = per_host
        #: Only hosts that somebody asks or waits for.
        self._hosts: WeakValueDictionary[str, _Host] = WeakValueDictionary()
        self._lost: Counter[str] = Counter()

    def ended(self, name: str, lost: bool) -> None:
        """A picture of this host is there, refused, or could not be had in all its time."""
        if lost:
            self._lost[name] += 1
        else:
            self._lost.pop(name, None)

    @asynccontextmanager
    async def turn(self, name: str, budget: Budget) -> AsyncIterator[Turn]:
        """A turn at this host, the time within taken from the budget.

        Raises:
            Refused: so many pictures in a row could not be had there that only one now and then is tried.
        """
        budget.host = name
        host = self._hosts.setdefault(name, _Host(self._per_host))
        await host.enter()
        turn, well, began = Turn(), False, asyncio.get_running_loop().time()
        try:
            self._lost[name] += self._lost[name] >= _LOST
            if self._lost[name] > _LOST and self._lost[name] % _LOST:
                raise Refused(f"{name}: its last {_LOST} pictures could not be had", UNREACHABLE)
            async with self._all, budget.spending():
                yield turn
            well = True
        finally:
            host.leave(began, well, turn.crowded)
