"""Others' tools at the same work, each in an environment of its own below `.cache/peers`, made when it is first asked.

- clip-retrieval reads pictures and texts from tar files (its reader of plain files breaks where it is given both) and
  wants the torch of its time.
- transformers' pipeline is that of the project's own environment; each call is a batch.
- lmppl pads every text of a batch to the tokenizer's `model_max_length`, so that it is told a short one.

evaluate's metric `perplexity` is a script that it fetches from a hub; it computes what lmppl does, text by text padded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

from jobs.bench.cases import read_posts

ENVIRONMENTS = Path(__file__).parents[2] / ".cache" / "peers"
LONGEST = 64
#: By peer, what its environment has, and what is installed without what it wants.
REQUIRED: dict[str, tuple[list[str], list[str]]] = {
    "clip-retrieval": ([
        "torch==2.2.2", "torchvision==0.17.2", "numpy<2", "setuptools<70", "wheel", "clip-retrieval==2.45.0",
        "open_clip_torch==2.32.0", "transformers==4.40.2", "sentence-transformers==2.7.0",
    ], []),
    "lmppl": ([
        "torch==2.14.1", "transformers==4.57.3", "huggingface-hub<1", "datasets<4.5", "sentencepiece", "openai", "tqdm",
        "requests", "psutil", "pyyaml", "numpy<2.4", "accelerate<2", "setuptools", "wheel",
    ], ["lmppl==0.3.2"]),
}  # fmt: skip
PIPELINE = """
import sys, time
from transformers import pipeline
model, batch, paths = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
captioner = pipeline("image-text-to-text", model=model, device="cpu", dtype="float32")
took = dict(max_new_tokens=20, do_sample=False, num_beams=1)
call = lambda some: captioner(images=some, text=[""] * len(some), generate_kwargs=took)
call(paths[:batch])
began = time.perf_counter()
found = [caption for start in range(0, len(paths), batch) for caption in call(paths[start : start + batch])]
assert len(found) == len(paths)
print(len(paths) / (time.perf_counter() - began))
"""
SCORE = """
import json, sys, time
import lmppl
texts = json.load(open(sys.argv[1]))
scorer = lmppl.LM(sys.argv[2])
scorer.tokenizer.model_max_length = int(sys.argv[3])
began = time.perf_counter()
found = scorer.get_perplexity(texts, batch_size=int(sys.argv[4]))
assert len(found) == len(texts)
print(len(texts) / (time.perf_counter() - began))
"""


def environment(name: str) -> Path:
    """The folder of programs of a peer's environment, which is made where it is not there."""
    folder = ENVIRONMENTS / name
    whole = folder / "whole"  # written last
    if not whole.exists():
        requirements, alone = REQUIRED[name]
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip: list[str | Path] = [folder / "bin" / "python", "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, *requirements], check=True)
        if alone:
            subprocess.run([*pip, "--no-deps", "--no-build-isolation", *alone], check=True)
        whole.touch()
    return folder / "bin"


def clip_retrieval(posts: Path, models: Path, out: Path) -> dict[str, float]:
    """`clip-retrieval inference` with two loader processes and batches of 64, its defaults else."""
    pictures, titles = read_posts(posts)
    for shard in range(2):
        with tarfile.open(out / f"{shard:05d}.tar", "w") as tar:
            for picture, title in list(zip(pictures, titles, strict=True))[shard::2]:
                text = out / "title.txt"
                text.write_text(title, encoding="utf-8")
                tar.add(picture, f"{picture.stem}.jpg")
                tar.add(text, f"{picture.stem}.txt")
    command = [
        environment("clip-retrieval") / "clip-retrieval", "inference",
        "--input_dataset", f"{out}/{{00000..00001}}.tar", "--output_folder", f"{out}/found",
        "--input_format", "webdataset", "--enable_text", "True", "--enable_image", "True",
        "--enable_metadata", "False", "--enable_wandb", "False",
        "--clip_model", f"open_clip:ViT-B-32/{models.resolve()}/ViT-B-32.safetensors",
        "--num_prepro_workers", "2", "--batch_size", "64",
    ]  # fmt: skip
    _run(command)
    stats = json.loads((out / "found" / "stats" / "0.json").read_text())
    assert stats["sample_count"] == len(pictures)
    return {"rate": stats["sample_count"] / stats["total_duration"]}


def pipeline(posts: Path, models: Path, out: Path) -> dict[str, float]:
    """Transformers' pipeline for captions, in batches of 8 with two threads."""
    del out
    pictures, _ = read_posts(posts)
    return {"rate": _run([sys.executable, "-c", PIPELINE, models / "captioner", "8", *pictures])}


def lmppl(posts: Path, models: Path, out: Path) -> dict[str, float]:
    """lmppl.LM with two threads, text by text, which on a CPU is faster than padded batches."""
    _, titles = read_posts(posts)
    (out / "titles.json").write_text(json.dumps(titles))
    python = environment("lmppl") / "python"
    return {"rate": _run([python, "-c", SCORE, out / "titles.json", models / "language_model", LONGEST, 1])}


def _run(command: list[object]) -> float:
    """Run a tool, and return the number that it prints last, if it is one."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=env, timeout=3600)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{done.stderr[-3000:]}")
    last = done.stdout.split()[-1:]
    return float(last[0]) if last and last[0].replace(".", "").isdigit() else 0.0


PEERS = {"clip": {"clip-retrieval": clip_retrieval}, "caption": {"pipeline": pipeline}, "perplexity": {"lmppl": lmppl}}
