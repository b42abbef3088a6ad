"""The nodes of a pass: asked for before it begins where the cluster grows, and watched while it runs."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from smp_ray.errors import LostNodesError
from smp_ray.features.pools import Placement
from smp_ray.interrupt import interrupt, interruptible
from smp_ray.progress import repeating
from smp_ray.ray_session import RaySession
from smp_ray.resources import described, grown, live_nodes

#: Seconds between two looks at the nodes, and for how long they may be too few: one may come in place of a lost one.
WATCH, PATIENCE = 5.0, 60.0
#: Seconds without a finished post after which a pass that has lost some of its actors' room counts as stuck.
STUCK = 300.0


@contextmanager
def enough_nodes(session: RaySession, placement: Placement, done: Callable[[], int]) -> Iterator[Placement]:
    """Wait until the cluster has room for the least of a plan, and stay by it while the pass runs in the main thread.

    `done` says how many posts are finished.

    Yields:
        The plan as it begins on the nodes that are there.

    Raises:
        SmpRayError: the cluster did not grow.
        LostNodesError: nodes are gone, and for `PATIENCE` seconds there has been no room for the least of the plan, or
            there is room for less than began, and nothing was finished for `STUCK` seconds.
    """
    if session.address is None:  # a local Ray has one node, which goes with us
        yield placement
    elif session.grows:
        needs = [f"{pool.least} × ({pool.need.describe()}) for {'+'.join(pool.families)}" for pool in placement.pools]
        with grown(
            placement.bundles, lambda nodes: placement.beginning(nodes) is not None, session.settings.wait_s,
            "; ".join(needs),
        ):  # fmt: skip
            begun = placement.beginning(live_nodes()) or placement
            with _watched(begun, done):
                yield begun
    else:
        with _watched(placement, done):
            yield placement


@contextmanager
def _watched(begun: Placement, done: Callable[[], int]) -> Iterator[None]:
    """Interrupt the main thread where nodes that the pass needs are lost; Ray would wait for them without a word."""
    lost, finished = False, -1
    enough = moved = time.monotonic()

    def watch() -> bool:
        nonlocal lost, finished, enough, moved
        now, there = time.monotonic(), begun.beginning(live_nodes())
        if there is not None:
            enough = now
        if done() != finished or (there is not None and there.actors >= begun.actors):
            finished, moved = done(), now
        if now - enough > PATIENCE or now - moved > STUCK:
            lost = True
            interrupt()
        return not lost

    try:
        with interruptible(), repeating(WATCH, watch):
            yield
    except KeyboardInterrupt:
        if not lost:
            raise
        nodes = described(live_nodes())
        raise LostNodesError(
            f"nodes are lost, the cluster has {nodes}; planned anew, what is finished is kept"
        ) from None
