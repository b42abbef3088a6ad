"""Whether compiling a picture tower, or channels-last memory, pays on the device at hand.

    python -m jobs.bench.variants                    # a GPU: ViT-L-14 and BLIP-base; else a CPU: ViT-B-32 and BLIP-base

Random weights and pictures; all variants see the same batches in turn, on a CPU with one thread. Neither is used by
the families.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch

from smp_ray.models.clip_tower import shorten_last_block
from smp_ray.models.fused_attention import fuse_attention

#: Rounds that count.
ROUNDS = 5


def clip(name: str) -> tuple[Any, int]:
    """The picture tower of an open_clip model as the families run it, and the side of its pictures."""
    import open_clip

    tower = open_clip.create_model(name, pretrained=None).visual
    shorten_last_block(tower)
    return tower, tower.image_size[0]


def blip() -> tuple[Any, int]:
    """BLIP-base's picture tower as the families run it, and the side of its pictures."""
    from transformers import BlipVisionConfig, BlipVisionModel

    tower = BlipVisionModel(BlipVisionConfig(image_size=384, initializer_range=0.02))
    fuse_attention(tower)
    return tower, 384


def measure(tower: Any, pictures: torch.Tensor) -> dict[str, dict[str, float]]:
    """Of each variant: seconds of its first batch, pictures/s of the later ones, the largest difference to the first's.

    `pictures` are (n, 3, height, width), in the tower's dtype and on its device.
    """
    tower, last = tower.eval(), torch.channels_last
    ways = {
        "as it is": (tower, pictures),
        "channels last": (deepcopy(tower).to(memory_format=last), pictures.contiguous(memory_format=last)),
        "compiled": (torch.compile(deepcopy(tower), dynamic=False), pictures),
    }
    found = {name: {"first": timed(*way)[0]} for name, way in ways.items()}
    rounds = [{name: timed(*way) for name, way in ways.items()} for _ in range(ROUNDS)]
    for name, took in found.items():
        took["rate"] = len(pictures) / statistics.median(one[name][0] for one in rounds)
        took["differs"] = float((rounds[-1][name][1] - rounds[-1]["as it is"][1]).abs().max())
    return found


def timed(tower: Callable[[torch.Tensor], Any], pictures: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Seconds of a batch, and its embeddings."""
    began = time.perf_counter()
    with torch.inference_mode():
        output = tower(pictures)
        embeddings = (output if isinstance(output, torch.Tensor) else output.pooler_output).float().cpu()
    return time.perf_counter() - began, embeddings


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cuda = torch.cuda.is_available()
    parser.add_argument("--clip", default="ViT-L-14" if cuda else "ViT-B-32", help="a model of open_clip")
    parser.add_argument("--batch", type=int, default=64 if cuda else 8)
    given = parser.parse_args()
    device = "cuda" if cuda else "cpu"
    if not cuda:
        torch.set_num_threads(1)
    print("| tower | variant | pictures/s | first batch | largest difference |\n| --- | --- | --- | --- | --- |")
    towers = {given.clip: (*clip(given.clip), torch.float16), "BLIP-base": (*blip(), torch.bfloat16)}
    for name, (tower, side, half) in towers.items():
        dtype = half if cuda else torch.float32
        pictures = torch.randn(given.batch, 3, side, side, generator=torch.Generator().manual_seed(0))
        for variant, took in measure(tower.to(device, dtype), pictures.to(device, dtype)).items():
            said = f"{took['rate']:.2f} | {took['first']:.1f} s | {took['differs']:.1e}"
            print(f"| {name} | {variant} | {said} |", flush=True)


if __name__ == "__main__":
    main()
