"""Pictures a second, fetched, decoded and resized by two processes: smp_ray's fetcher beside img2dataset, in one run.

    python -m jobs.bench.fetch --photographs FOLDER --img2dataset PYTHON

Servers on this machine: (a) aiohttp's, (b) Python's http.server, with room for five connections that wait. Photographs
of the folder are served in turn (without one, rendered pictures). PYTHON is the interpreter of an environment where
img2dataset is installed. Both decode whole pictures, hash them, and crop them to 224 x 224: smp_ray by the transform of
CLIP, img2dataset by OpenCV, which it encodes again and writes, with the EXIF data, to files (not with `--spare`).
Starting processes is not counted on either side. Cores that others use at the same time favour who has more threads.
"""

import argparse
import http.server
import json
import multiprocessing
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from aiohttp import web

from jobs.bench.cases import rendered
from smp_ray.config import ImagesConfig
from smp_ray.families.clip import ClipSettings
from smp_ray.fetch import Fetcher
from smp_ray.models.clip_embedder import ClipTransform
from smp_ray.models.images import decode
from smp_ray.store.manifest import content_of

PICTURES, SIDE, PROCESSES, THREADS, ROUNDS = 2100, 224, 2, 32, 3
SPAWN = multiprocessing.get_context("spawn")
IMG2DATASET = f"""if __name__ == "__main__":
    import sys
    from img2dataset import download
    spare = dict(compute_hash=None, extract_exif=False, output_format="dummy") if sys.argv[3] == "spare" else dict()
    download(sys.argv[1], output_folder=sys.argv[2], image_size={SIDE}, resize_mode="center_crop", retries=3,
             timeout=60, processes_count={PROCESSES}, thread_count={THREADS},
             number_sample_per_shard={PICTURES // PROCESSES}, **spare)
"""


def healthy(bodies: list[bytes], listening: socket.socket) -> None:
    """Serve by aiohttp."""

    async def picture(request: web.Request) -> web.Response:
        return web.Response(body=bodies[int(request.match_info["number"]) % len(bodies)], content_type="image/jpeg")

    listening.listen(1000)
    app = web.Application()
    app.router.add_get("/{number}.jpg", picture)
    web.run_app(app, sock=listening, print=None)


def small(bodies: list[bytes], listening: socket.socket) -> None:
    """Serve by a thread a connection; of those that wait, five find room."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = bodies[int(self.path.strip("/").partition(".")[0]) % len(bodies)]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(listening.getsockname(), Handler, bind_and_activate=False)
    server.socket = listening
    listening.listen(5)
    server.serve_forever()


def warm(_: int) -> None:
    """Start what a worker of a pass has started long before."""
    one(["none"])
    time.sleep(1)


def one(uris: list[str]) -> Counter[str]:
    """Outcomes of one process's share; each picture is transformed while others are fetched."""
    transform = ClipTransform(ClipSettings(model="ViT-B-32", pretrained="openai"))
    fetcher = Fetcher(ImagesConfig(allow_private=True, timeout_s=60))
    counts: Counter[str] = Counter()
    for _, found in fetcher.fetch(uris):
        if found.data is not None:
            content_of(found.data)
            transform.pixels(decode(found.data, 10**8))
        counts[found.reason or found.status] += 1
    return counts


def ours(uris: list[str], pool: ProcessPoolExecutor) -> tuple[float, int]:
    """Seconds, and pictures that were had."""
    began = time.perf_counter()
    counts = sum(pool.map(one, [uris[start::PROCESSES] for start in range(PROCESSES)]), Counter[str]())
    seconds = time.perf_counter() - began
    if set(counts) != {"ok"}:
        print(dict(counts))
    return seconds, counts["ok"]


def theirs(uris: list[str], python: str, spare: bool) -> tuple[float, int]:
    """Seconds by what img2dataset's own shards say, and pictures that were had."""
    with tempfile.TemporaryDirectory() as folder:
        script, urls, out = (Path(folder, name) for name in ("run.py", "urls.txt", "out"))
        script.write_text(IMG2DATASET)
        urls.write_text("\n".join(uris))
        subprocess.run([python, script, urls, out, "spare" if spare else ""], check=True, capture_output=True)
        shards = [json.loads(path.read_text()) for path in out.glob("*_stats.json")]
    seconds = max(shard["end_time"] for shard in shards) - min(shard["start_time"] for shard in shards)
    return seconds, sum(shard["successes"] for shard in shards)


def compare(
    name: str, serve: Callable[..., None], bodies: list[bytes], given: argparse.Namespace, pool: ProcessPoolExecutor
) -> None:
    """Both in turn against one server, and the medians."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = SPAWN.Process(target=serve, args=(bodies, listening), daemon=True)
    server.start()
    uris = [f"http://127.0.0.1:{listening.getsockname()[1]}/{number}.jpg" for number in range(PICTURES)]
    contenders: dict[str, Any] = {
        "smp_ray": lambda: ours(uris, pool),
        "img2dataset": lambda: theirs(uris, given.img2dataset, given.spare),
    }
    rates: dict[str, list[float]] = {contender: [] for contender in contenders}
    listening.close()
    time.sleep(5)  # the server imports what it needs
    for number in range(ROUNDS):
        for contender, run in contenders.items():
            seconds, had = run()
            rates[contender].append(had / seconds)
            print(f"{name}, round {number + 1}: {contender:<12} {had} in {seconds:.1f} s, {had / seconds:.0f} a second")
    server.terminate()
    medians = {contender: statistics.median(found) for contender, found in rates.items()}
    told = ", ".join(f"{contender} {rate:.0f} a second" for contender, rate in medians.items())
    print(f"{name}: medians {told}: {medians['smp_ray'] / medians['img2dataset']:.2f} times")


def main() -> None:
    """Run both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, help="folder of .jpg files")
    parser.add_argument("--img2dataset", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--spare", action="store_true", help="spare img2dataset the hash, EXIF and files")
    given = parser.parse_args()
    bodies = [p.read_bytes() for p in sorted(given.photographs.glob("*.jpg"))] if given.photographs else rendered()
    if not bodies:
        parser.error(f"no .jpg in {given.photographs}")
    with ProcessPoolExecutor(PROCESSES, mp_context=SPAWN) as pool:
        list(pool.map(warm, range(PROCESSES)))
        compare("healthy server", healthy, bodies, given, pool)
        compare("small server", small, bodies, given, pool)


if __name__ == "__main__":
    main()
