"""The nodes of a pass: asked for before it begins where the cluster grows, and watched while it runs."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from smp_ray.errors import LostNodesError
from smp_ray.features.pools import Placement
from smp_ray.progress import repeating
from smp_ray.ray_session import RaySession
from smp_ray.resources import described, grown, live_nodes

#: Seconds between two looks at the nodes, and for how long they may be too few: one may come in place of a lost one.
WATCH, PATIENCE = 5.0, 60.0


@contextmanager
def enough_nodes(session: RaySession, placement: Placement) -> Iterator[Placement]:
    """Wait until the cluster has room for the least of a plan, and stay by it while the pass runs in the main thread.

    Yields:
        The plan as it begins on the nodes that are there.

    Raises:
        SmpRayError: the cluster did not grow.
        LostNodesError: nodes are gone, and for `PATIENCE` seconds there has been no room for the least of the plan.
    """
    if session.address is None:  # a local Ray has one node, which goes with us
        yield placement
    elif session.grows:
        needs = [f"{pool.least} × ({pool.need.describe()}) for {'+'.join(pool.families)}" for pool in placement.pools]
        with grown(
            placement.bundles, lambda nodes: placement.beginning(nodes) is not None, session.settings.wait_s,
            "; ".join(needs),
        ), _watched(placement):  # fmt: skip
            yield placement.beginning(live_nodes()) or placement
    else:
        with _watched(placement):
            yield placement


@contextmanager
def _watched(placement: Placement) -> Iterator[None]:
    """Interrupt the main thread where nodes that the pass needs are lost; Ray would wait for them without a word."""
    lost, since = False, time.monotonic()

    def watch() -> bool:
        nonlocal lost, since
        if placement.beginning(live_nodes()) is not None:
            since = time.monotonic()
        elif time.monotonic() - since > PATIENCE:
            lost = True
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        return not lost

    try:
        with repeating(WATCH, watch):
            yield
    except KeyboardInterrupt:
        if not lost:
            raise
        there = described(live_nodes())
        raise LostNodesError(
            f"nodes are lost, the cluster has {there}; planned anew, what is finished is kept"
        ) from None
