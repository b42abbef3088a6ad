"""When so many pictures are unreachable that going on would only fill the store with failures."""

from collections import Counter, deque

from smp_ray.fetch.outcome import NO_ADDRESS, Fetched
from smp_ray.schema import UNREACHABLE

#: Answers that are looked at, and how many there must be.
_LAST, _LEAST = 1000, 100


class Answers:
    """What came of the last 1,000 pictures asked for."""

    def __init__(self, share: float | None) -> None:
        """`share` is `images.stop_after_unreachable`; None never stops."""
        self._share = share
        self._last: deque[Fetched] = deque(maxlen=_LAST)

    def note(self, fetched: Fetched) -> None:
        """Count an answer; a post without an address asked nobody."""
        if fetched != NO_ADDRESS:
            self._last.append(Fetched(None, fetched.status, fetched.reason))

    def stop(self) -> str | None:
        """One line why to stop, or None where it is well to go on."""
        statuses = Counter(fetched.status for fetched in self._last)
        lost, asked = statuses[UNREACHABLE], len(self._last)
        if self._share is None or asked < _LEAST or lost <= self._share * asked:
            return None
        reasons = Counter(fetched.reason for fetched in self._last if fetched.status == UNREACHABLE)
        often = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
        counted = ", ".join(f"{count} {status}" for status, count in statuses.most_common())
        return (
            f"of the last {asked} pictures asked for, {counted} ({often}), and features.images.stop_after_unreachable "
            f"is {self._share:g}: mend the network or the servers and run again, or raise it"
        )
