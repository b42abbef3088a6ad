"""What workers count is among the metrics that Ray exports for Prometheus."""

from __future__ import annotations

import re
import time
from urllib.request import urlopen

import pyarrow as pa
import pytest
import ray

from smp_ray.features.telemetry import count_step, show_rate
from smp_ray.ray_session import RaySession


@ray.remote(num_cpus=0.25)
class Worker:
    def work(self) -> None:
        count_step("clip", pa.table({"clip_status": ["ok", "ok", "no_image", None]}), 1.5)
        count_step("decoding", pa.table({"row_id": [1, 2]}), 0.5)
        show_rate(12.0)


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
