"""The feature pass beside the models alone, one post at a time and others' tools, side by side in one run.

    make bench                                                 # or, with real posts:
    python -m jobs.bench --posts posts.csv --peers --rounds 3

Each contender computes a case in processes of its own, in turn, and the median of all rounds counts. `rate` is a steady
state, `first` seconds from the start to the first batch (of the limit: until both processes have their models), `whole`
seconds of the whole command. Other measurements are modules beside this one: forward (the models alone without Ray, for
a GPU above all), growth, fetch, ingest, tune, automl, smpd.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import plotly.graph_objects as go

from jobs.bench.cases import CASES, write_models, write_posts
from jobs.bench.contenders import CONTENDERS
from jobs.bench.peers import PEERS, REQUIRED, environment

Record = dict[str, float | str]
#: Takes the folders of the posts, of the models and of what it writes.
Contender = Callable[[Path, Path, Path], dict[str, float]]


def main() -> None:
    """Run the contenders of the cases and write what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--posts", type=Path, help="table of real posts: image, title; default: rendered ones")
    parser.add_argument("--count", type=int, help="posts of each case; default: as wanted of it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", action="store_true", help="others' tools as well; they are installed where needed")
    parser.add_argument("--only", nargs="+", help="of all contenders only these")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--run", nargs=5, metavar="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        case, contender, *folders = given.run
        print(json.dumps(contenders(case, True)[contender](*(Path(folder) for folder in folders))))
        return
    given.out.mkdir(parents=True, exist_ok=True)
    write_models(given.out / "models")
    records: list[Record] = []
    for case in given.cases:
        names = [name for name in contenders(case, given.peers) if not given.only or name in given.only]
        records += measured(case, names, given)
        (given.out / "results.json").write_text(json.dumps({"machine": machine(), "records": records}, indent=1))
    found = summary(records)
    print(f"\n{table(found)}")
    (given.out / "table.md").write_text(table(found))
    plot(found).write_html(given.out / "plot.html")
    print(f"\n{given.out}/: table.md, results.json, plot.html")


def contenders(case: str, peers: bool) -> dict[str, Contender]:
    """Who computes a case."""
    own: dict[str, Contender] = {name: partial(run, case) for name, run in CONTENDERS.items()}
    return own | (PEERS.get(case, {}) if peers else {})


def measured(case: str, names: list[str], given: argparse.Namespace) -> list[Record]:
    """What each contender took in each round."""
    records = []
    for name in REQUIRED.keys() & set(names):
        environment(name)  # not within anyone's time
    with tempfile.TemporaryDirectory(prefix="smp_ray_bench_") as folder:
        posts, count = Path(folder, "posts"), given.count or CASES[case].posts
        write_posts(posts, count, given.posts)
        for number in range(given.rounds):
            for name in names:
                out = Path(folder, f"{name}-{number}")
                out.mkdir()
                took = _apart(case, name, posts, given, out)
                records.append({"case": case, "contender": name, "posts": count, **took})
                shown = {key: round(value, 2) for key, value in records[-1].items() if isinstance(value, float)}
                print(f"{case}, round {number + 1}: {name:<15} {shown}", flush=True)
    return records


def _apart(case: str, name: str, posts: Path, given: argparse.Namespace, out: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "jobs.bench", "--run", case, name, posts, given.out / "models", out]
    began = time.perf_counter()
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, env=env())
    if done.returncode:
        sys.exit(f"{case}, {name} failed:\n{done.stderr[-3000:]}")
    return {**json.loads(done.stdout.splitlines()[-1]), "whole": time.perf_counter() - began}


def env() -> dict[str, str]:
    """For all contenders the allocator's settings of a pass; no hub is asked."""
    from smp_ray.ray_session import WORKER_ENV

    return {**os.environ, **WORKER_ENV, "HF_HUB_OFFLINE": "1"}


def machine() -> dict[str, str]:
    """Where and with what it was measured."""
    import ray
    import torch

    return {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(), "ray": ray.__version__, "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def summary(records: list[Record]) -> list[dict[str, object]]:
    """Medians of all rounds, and each as a share of the limit's rate."""
    found = []
    for case in dict.fromkeys(str(record["case"]) for record in records):
        medians: dict[str, dict[str, float]] = {}
        for name in dict.fromkeys(str(record["contender"]) for record in records if record["case"] == case):
            own = [record for record in records if (record["case"], record["contender"]) == (case, name)]
            medians[name] = {
                key: statistics.median(float(record[key]) for record in own)
                for key in ("posts", "rate", "first", "whole") if all(key in record for record in own)
            }  # fmt: skip
        for name, took in medians.items():
            whole = took["posts"] / took["whole"]
            share = (whole if CASES[case].whole else took["rate"]) / medians.get("limit", {}).get("rate", float("nan"))
            found.append({"case": case, "contender": name, **took, "whole rate": whole, "share": share})
    return found


def table(found: list[dict[str, object]]) -> str:
    """In Markdown."""
    lines = ["| case | contender | posts | posts/s, steady | first batch, s | whole, s | of the limit | wanted |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in found:
        case = CASES[str(row["case"])]
        wanted = f"{case.wanted}{', whole' if case.whole else ''}" if row["contender"] == "smp_ray" else ""
        cells = [_shown(row.get(name)) for name in ("posts", "rate", "first", "whole", "share")]
        lines.append(f"| {row['case']} | {row['contender']} | {' | '.join(cells)} | {wanted} |")
    return "\n".join(lines)


def _shown(value: object) -> str:
    return f"{value:,.4g}" if isinstance(value, float) and value == value else ""


def plot(found: list[dict[str, object]]) -> go.Figure:
    """Steady rates as shares of the limit's."""
    figure = go.Figure()
    for name in dict.fromkeys(str(row["contender"]) for row in found):
        own = [row for row in found if row["contender"] == name]
        figure.add_bar(name=name, x=[row["case"] for row in own], y=[row["share"] for row in own])
    return figure.update_layout(barmode="group", yaxis_title="share of the limit", template="plotly_white")


if __name__ == "__main__":
    main()
