"""What workers count is among the metrics that Ray exports for Prometheus; what a step takes of a GPU is its own."""

from __future__ import annotations

import re
import time
from urllib.request import urlopen

import pyarrow as pa
import pytest
import ray
import torch

from smp_ray.features.ledger import Step, guarded, start_ledger
from smp_ray.features.telemetry import count_step, show_rate
from smp_ray.ray_session import RaySession


@ray.remote(num_cpus=0.25)
class Worker:
    def work(self) -> None:
        count_step("clip", pa.table({"clip_status": ["ok", "ok", "no_image", None]}), 1.5)
        count_step("decoding", pa.table({"row_id": [1, 2]}), 0.5)
        show_rate(12.0)


class Card:
    """Stands in for `torch.cuda` where there is no GPU: what is taken of one, and the most of it."""

    def __init__(self) -> None:
        self.taken = self.most = 0

    def take(self, size: int) -> None:
        self.taken += size
        self.most = max(self.most, self.taken)

    def is_initialized(self) -> bool:
        return True

    def memory_reserved(self) -> int:
        return self.taken

    def max_memory_reserved(self) -> int:
        return self.most

    def reset_peak_memory_stats(self) -> None:
        self.most = self.taken


def test_a_step_takes_its_own_model_and_tensors(session: RaySession, monkeypatch: pytest.MonkeyPatch) -> None:
    session.start()
    card = Card()
    for name in ("is_initialized", "memory_reserved", "max_memory_reserved", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, getattr(card, name))

    def loaded(name: str, model: int, tensors: int) -> Step:
        def run(table: pa.Table) -> pa.Table:
            card.take(tensors)
            card.take(-tensors)
            return table

        card.take(model)
        return Step(name, run, run)

    steps = [loaded("caption", 400, 100), loaded("clip", 200, 300), loaded("visual", 0, 0)]
    ledger = start_ledger(time.time())
    for rows in ([1, 2], [3]):
        guarded(ledger, "caption+clip+visual", steps, pa.table({"row_id": rows}))
    found = ray.get(ledger.snapshot.remote())["steps"]
    assert {name: step["gpu_memory"] for name, step in found.items()} == {"caption": 500, "clip": 500, "visual": 0}


@pytest.mark.slow
def test_prometheus_sees_statuses_seconds_and_rate(session: RaySession) -> None:
    session.start()
    (node,) = [node for node in ray.nodes() if node["Alive"]]
    worker = Worker.remote()
    ray.get(worker.work.remote())
    wanted = (
        r'ray_smp_ray_posts\w*{.*family="clip".*status="ok".*} 2\.0',
        r'ray_smp_ray_posts\w*{.*family="clip".*status="no_image".*} 1\.0',
        r'ray_smp_ray_step_seconds\w*{.*step="clip".*} 1\.5',
        r'ray_smp_ray_step_seconds\w*{.*step="decoding".*} 0\.5',
        r"ray_smp_ray_rows_per_second\w*{.*} 12\.0",
    )
    missing: list[str] = list(wanted)
    for _ in range(60):  # Ray's agent takes up what workers count every 10 s
        with urlopen(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        if not (missing := [pattern for pattern in wanted if not re.search(pattern, text)]):
            break
        time.sleep(1)
    assert missing == [], [line for line in text.splitlines() if "smp_ray" in line]
