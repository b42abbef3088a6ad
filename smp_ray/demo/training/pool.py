"""The training material: pictures rendered once into one array, captions and titles, all of the "train" stream."""

import io
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from smp_ray.demo.scenes import COLOURS, PLACES, SUBJECTS, Scene, draw_scene, render, stream_rng
from smp_ray.demo.titles import draw_title

PIXELS = 64
"""Side of the square picture the captioner and CLIP see, in pixels."""

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Channel mean and standard deviation of CLIP's published preprocessing (Radford et al. 2021), also BLIP's."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Pictures (n, 3, 64, 64) uint8, their scenes, and (subject, colour, place) indices (n, 3)."""

    pictures: torch.Tensor
    scenes: list[Scene]
    attributes: torch.Tensor


def make_pool(count: int, seed: int, stream: str = "train", processes: int = 2) -> Pool:
    """Render `count` scenes of `stream`; the same seed gives the same pool whatever the number of processes."""
    chunks = [(seed, stream, start, min(start + 500, count)) for start in range(0, count, 500)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as workers:
        parts = list(workers.map(_render_chunk, chunks))
    scenes = [scene for part, _ in parts for scene in part]
    pictures = torch.from_numpy(np.concatenate([pixels for _, pixels in parts])).permute(0, 3, 1, 2).contiguous()
    return Pool(pictures, scenes, torch.tensor([attribute_indices(scene) for scene in scenes]))


def attribute_indices(scene: Scene) -> tuple[int, int, int]:
    """The scene's subject, colour and place as indices into the grammar's lists."""
    return SUBJECTS.index(scene.subject), tuple(COLOURS).index(scene.colour), tuple(PLACES).index(scene.place)


def _render_chunk(task: tuple[int, str, int, int]) -> tuple[list[Scene], NDArray[np.uint8]]:
    seed, stream, start, stop = task
    rng = stream_rng(f"pool {stream}", seed, start)
    scenes = [draw_scene(rng, stream) for _ in range(stop - start)]
    return scenes, np.stack([_seen(render(scene, rng), rng) for scene in scenes])


def _seen(picture: Image.Image, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The picture after JPEG and the models' resize, as the feature pass will see it."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=int(rng.integers(80, 93)))
    return np.asarray(Image.open(buffer).resize((PIXELS, PIXELS), Image.Resampling.BICUBIC))


def matching_titles(scenes: list[Scene], seed: int) -> list[str]:
    """One title a scene that names all of it: describing (three in four) or carefully written."""
    rng = stream_rng("matching titles", seed)
    texts = []
    for scene in scenes:
        kind = "describing" if rng.random() < 0.75 else "careful"
        title = draw_title(rng, "train", scene, kind)
        while title.mismatch:
            title = draw_title(rng, "train", scene, kind)
        texts.append(title.text)
    return texts


def unmatched_titles(count: int, seed: int) -> list[str]:
    """Titles that name no picture: unrelated matters, reflections, and low-quality text."""
    rng = stream_rng("unmatched titles", seed)
    texts: list[str] = []
    while len(texts) < count:
        kind = ("off_topic", "careful", "low_quality")[int(rng.choice(3, p=(0.4, 0.4, 0.2)))]
        title = draw_title(rng, "train", draw_scene(rng, "train"), kind)
        if title.mismatch == 1.0:
            texts.append(title.text)
    return texts


def clean_texts(count: int, seed: int) -> list[str]:
    """Well-spelt titles of every kind but the low-quality one: what the language model learns as good English."""
    rng = stream_rng("clean texts", seed)
    kinds = ("describing", "off_topic", "careful")
    return [
        draw_title(rng, "train", draw_scene(rng, "train"), kinds[rng.integers(3)], slips=False).text
        for _ in range(count)
    ]


def batches(pool: Pool, size: int, steps: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield `steps` of (indices (size,), normalised pictures (size, 3, 64, 64)), mirrored, shifted and re-lit."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < size:
            order = torch.cat([order, torch.randperm(len(pool.scenes), generator=generator)])
        chosen, order = order[:size], order[size:]
        yield chosen, normalise(_augment(pool.pictures[chosen].float(), generator))


def normalise(pictures: torch.Tensor) -> torch.Tensor:
    """Pixels from 0 to 255, shape (n, 3, 64, 64), to the models' input."""
    mean, std = torch.tensor(MEAN).view(1, 3, 1, 1) * 255, torch.tensor(STD).view(1, 3, 1, 1) * 255
    return (pictures - mean) / std


def _augment(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    flip = torch.rand(len(pictures), 1, 1, 1, generator=generator) < 0.5
    pictures = torch.where(flip, pictures.flip(-1), pictures)
    gain = 0.92 + 0.16 * torch.rand(len(pictures), 1, 1, 1, generator=generator)
    left, top = torch.randint(0, 9, (2,), generator=generator).tolist()
    padded = torch.nn.functional.pad(pictures, (4, 4, 4, 4), mode="replicate")
    return (padded[:, :, top : top + PIXELS, left : left + PIXELS] * gain).clamp(0, 255)
