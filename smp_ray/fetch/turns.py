"""Who may ask now, and how long one picture may take."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary


class Budget:
    """Seconds that are left for one picture; waiting for its host's turn takes none of them."""

    def __init__(self, seconds: float) -> None:
        self.left = seconds

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


class Turns:
    """So many requests at once, and so many of them to one host; who waits for a host keeps nobody else waiting."""

    def __init__(self, at_once: int, per_host: int) -> None:
        self._all = asyncio.Semaphore(at_once)
        self._per_host = per_host
        #: Only hosts that somebody asks or waits for.
        self._hosts: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, host: str, budget: Budget) -> AsyncIterator[None]:
        """A turn at this host, the time within taken from the budget."""
        own = self._hosts.setdefault(host, asyncio.Semaphore(self._per_host))
        async with own, self._all, budget.spending():
            yield
