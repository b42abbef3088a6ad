"""SMPD-Image at its full size with made-up texts, vectors and labels: time and memory of each stage, ingest to report.

    python -m jobs.bench.smpd --folder /large/disk

305,613 labelled posts and 180,581 without a label in the published layout, the users' two vectors of 400 numbers among
them; for the models stands a family that makes three vectors of 768 numbers of each title. No pictures. The sweep has
few trials and rounds (`--set` changes that), as its time is LightGBM's and grows in proportion. Memory is what all
processes hold, shared pages counted once (PSS), looked at each half second.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from jobs.bench.packages import FAMILIES, finding, install

LABELLED, UNLABELLED, USERS, WIDTH = 305_613, 180_581, 70_000, 400
#: Posts of which the texts are made at once.
CHUNK = 10_000
FAMILY = '''"""Vectors and numbers of a post, drawn at random from its title."""

import hashlib

import numpy as np
import pyarrow as pa

from smp_ray.families.base import IMAGE_EMBEDDING, TITLE, TITLE_EMBEDDING, Column, Family, FamilySettings, Measure

MEASURE = Measure("similarity", "image-title", topic="inconsistency", claim="Image and text disagree more")


class MadeUp(Family):
    """What models would say of a post."""

    name = "made_up"
    Settings = FamilySettings
    reads = (TITLE,)
    columns = (
        Column("made_up_image", None, group="vectors", role=IMAGE_EMBEDDING),
        Column("made_up_title", None, group="vectors", role=TITLE_EMBEDDING),
        Column("made_up_caption", None, group="vectors"),
        Column("made_up_similarity", pa.float32(), group="similarities", measure=MEASURE),
    )

    def __init__(self, settings, device, threads):
        pass

    @classmethod
    def width(cls, settings):
        return 768

    def compute(self, titles):
        seeds = [int.from_bytes(hashlib.blake2b(title.encode(), digest_size=8).digest(), "big") for title in titles]
        drawn = np.stack([np.random.default_rng(seed).standard_normal((3, 768), np.float32) for seed in seeds])
        drawn /= np.linalg.norm(drawn, axis=2, keepdims=True)
        found = {f"made_up_{name}": drawn[:, place] for place, name in enumerate(("image", "title", "caption"))}
        return found | {"made_up_similarity": (drawn[:, 0] * drawn[:, 1]).sum(axis=1)}
'''


def main() -> None:
    """Write the dataset once, then run all stages in a process that has the family."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for dataset and workspace, some 25 GB; kept")
    parser.add_argument("--share", type=float, default=1.0, help="of the posts, for a trial")
    parser.add_argument("--set", action="append", default=[], help="overrides of the configuration")
    parser.add_argument("--stages", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stages:
        measure(given.folder, given.set)
        return
    data = given.folder / "data"
    if not data.exists():
        began = time.monotonic()
        write_dataset(data, given.share)
        print(f"dataset written in {time.monotonic() - began:.0f} s", flush=True)
    site = install(given.folder / "site", FAMILY, FAMILIES, "made_up", "made_up_family:MadeUp")
    sets = [word for one in given.set for word in ("--set", one)]
    call = [sys.executable, "-m", "jobs.bench.smpd", "--folder", str(given.folder), *sets, "--stages"]
    subprocess.run(call, check=True, env=finding(site))


def measure(folder: Path, sets: list[str]) -> None:
    """Run stage after stage, and print what each took."""
    from smp_ray.config import build_config
    from smp_ray.pipeline import STAGES, open_run, run_stages
    from smp_ray.ray_session import ray_session

    tune = {"trials": 2, "max_rounds": 20, "early_stopping_rounds": 20, "models": 1, "asha": None}
    raw = {
        "workspace": str(folder / "run"),
        "source": {"kind": "smpd_image", "path": str(folder / "data")},
        "features": {"families": ["made_up"]},
        "training": {
            "tune": tune,
            "adapter": {"max_epochs": 3},
            "resamples": 200,
            "ablation": {"candidates": 1},
            "baselines": ["mean", "user_mean", "lightgbm_default"],
        },
    }
    config = build_config(raw, sets)
    print(f"{'stage':<10} {'seconds':>8} {'driver GB':>10} {'largest worker GB':>18} {'all GB':>8}", flush=True)
    with ray_session(config.ray) as session:
        session.start()
        for stage in STAGES:
            with Memory() as memory:
                began = time.monotonic()
                run_stages(open_run(config, session), [stage.name])
                seconds = time.monotonic() - began
            driver, worker, every = (value / 1e9 for value in memory.peaks)
            print(f"{stage.name:<10} {seconds:8.0f} {driver:10.2f} {worker:18.2f} {every:8.2f}", flush=True)


class Memory:
    """Peaks of memory while it is open: of this process, of the largest below it, of all together, in bytes."""

    def __enter__(self) -> "Memory":
        self.peaks: tuple[int, ...] = (0, 0, 0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        own = psutil.Process()
        while not self._over.wait(0.5):
            held = [_held(process) for process in own.children(recursive=True)]
            here = _held(own)
            self.peaks = tuple(map(max, self.peaks, (here, max(held, default=0), here + sum(held))))


def _held(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:  # it has just ended
        return 0


def write_dataset(folder: Path, share: float) -> None:
    """All files of both splits; they appear when they are complete."""
    partial, rng = folder.with_suffix(".partial"), np.random.default_rng(0)
    for split, posts, first in (("train", LABELLED, 0), ("test", UNLABELLED, LABELLED)):
        numbers = np.arange(first, first + int(posts * share))
        names = ["text", "category", "temporalspatial_information", "user_data", "additional_information"]
        place = partial / f"{split}_allmetadata_json"
        place.mkdir(parents=True)
        with ExitStack() as stack:
            files = {name: stack.enter_context((place / f"{split}_{name}.json").open("w")) for name in names}
            paths = stack.enter_context((place / f"{split}_img_filepath.txt").open("w"))
            labels = stack.enter_context((place / f"{split}_label.txt").open("w")) if split == "train" else None
            for chunk in np.array_split(numbers, max(1, len(numbers) // CHUNK)):
                for number, records, label in made_up(chunk, rng):
                    ids = {"Uid": records["uid"], "Pid": str(10**6 + number)}
                    for name, file in files.items():
                        file.write(("[" if number == first else ",\n") + json.dumps({**ids, **records[name]}))
                    paths.write(f"{split}/{ids['Uid']}/{ids['Pid']}.jpg\n")
                    if labels is not None:
                        labels.write(f"{label:.2f}\n")
            for file in files.values():
                file.write("]\n")
    partial.rename(folder)


def made_up(numbers: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[int, Any, float]]:
    """Number, records by file, and label of posts; the label follows a user's flag and a word of the title."""
    count = len(numbers)
    users = (rng.pareto(0.8, count) * 300).astype(int) % USERS
    words = rng.zipf(1.3, (count, 12)) % 30_000
    moments = 1_425_168_000 + np.sort(rng.integers(0, 31_536_000, count))
    popularity = 6.0 + 0.8 * (users % 2) + 0.8 * (words[:, 0] < 3) + rng.normal(0, 1.7, count)
    for row, number in enumerate(numbers.tolist()):
        user, title = int(users[row]), " ".join(f"word{word}" for word in words[row, :6])
        vector = np.random.default_rng(user).normal(0, 1, (2, WIDTH))
        described, located = (",".join(f"{value:.4f}" for value in line) for line in vector)
        concept = int(words[row, 6]) % 668
        yield number, {
            "uid": f"{user}@N00",
            "text": {"Title": f"{title} {number}", "Mediatype": "photo",
                     "Alltags": " ".join(f"tag{word}" for word in words[row, 6:])},
            "category": {"Category": f"c{concept % 11}", "Subcategory": f"s{concept % 77}", "Concept": f"k{concept}"},
            "temporalspatial_information": {"Postdate": str(moments[row]), "Latitude": f"{(user % 140) - 70}",
                                            "Longitude": f"{(user % 340) - 170}", "Geoaccuracy": "12"},
            "user_data": {"photo_firstdate": str(1_100_000_000 + user * 3000), "photo_count": str(user % 5000),
                          "ispro": str(user % 2), "canbuypro": "0", "timezone_offset": "-05:00",
                          "photo_firstdatetaken": str(1_000_000_000 + user * 3000), "timezone_id": str(user % 70),
                          "user_description": described, "location_description": located},
            "additional_information": {"Pathalias": "None", "Ispublic": "1", "Mediastatus": "ready"},
        }, float(max(1.0, popularity[row]))  # fmt: skip


if __name__ == "__main__":
    main()
