"""The scene grammar, its renderer and the titles: what they promise, and that training never meets the sample."""

import numpy as np
import pytest

from smp_ray.demo.popularity import CATEGORIES, KINDS_BY_STYLE, STYLES
from smp_ray.demo.posts import make_posts
from smp_ray.demo.scenes import COLOURS, PLACES, STREAM_SHARES, SUBJECTS, draw_scene, render, stream_of, stream_rng
from smp_ray.demo.titles import TITLE_KINDS, draw_title
from smp_ray.demo.training import pool as training


def test_grammar_is_as_large_as_promised() -> None:
    assert len(SUBJECTS) >= 16
    assert len(COLOURS) >= 8
    assert len(PLACES) >= 6


def test_caption_names_subject_colour_and_place() -> None:
    scene = draw_scene(stream_rng("t", 1), "train", subject="bicycle", colour="red", place="beach")
    assert scene.caption() == "a red bicycle on a beach"


def test_same_seed_gives_the_same_picture_and_another_seed_another() -> None:
    scene = draw_scene(stream_rng("t", 1), "train")
    first, again, other = (np.asarray(render(scene, stream_rng("t", seed))) for seed in (2, 2, 3))
    assert first.shape == (128, 128, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("colour", COLOURS)
def test_subject_shows_its_colour(colour: str) -> None:
    rng = stream_rng("t", 4)
    pixels = np.asarray(render(draw_scene(rng, "train", subject="balloon", colour=colour), rng), dtype=float)
    share = (np.abs(pixels - COLOURS[colour]).max(axis=-1) < 60).mean()
    assert share > 0.08, f"only {share:.1%} of the picture is {colour}"


def test_streams_split_scenes_in_the_stated_shares() -> None:
    owners = [stream_of(f"text {i}") for i in range(20_000)]
    for stream, share in STREAM_SHARES.items():
        assert owners.count(stream) / len(owners) == pytest.approx(share, abs=0.015)


def test_sample_and_training_share_no_scene_and_no_title() -> None:
    posts = list(make_posts(1_000, seed=0))
    rng = stream_rng("pool train", 0, 0)
    scenes = [draw_scene(rng, "train") for _ in range(2_000)]
    titles = training.matching_titles(scenes, 0) + training.unmatched_titles(1_000, 0) + training.clean_texts(1_500, 0)
    assert not {repr(post.scene) for post in posts} & {repr(scene) for scene in scenes}
    assert not {post.title.text.lower() for post in posts} & {title.lower() for title in titles}
    # Not by luck: ownership is a function of the text itself.
    assert {stream_of(title.lower()) for title in titles} == {"train"}
    assert {stream_of(post.title.text.lower()) for post in posts} == {"sample"}
    assert {stream_of(repr(post.scene)) for post in posts} == {"sample"}


def test_training_meets_every_subject_colour_and_place() -> None:
    pool = training.make_pool(400, seed=0, processes=1)
    assert pool.pictures.shape == (400, 3, training.PIXELS, training.PIXELS)
    for column, names in enumerate((SUBJECTS, COLOURS, PLACES)):
        assert set(pool.attributes[:, column].tolist()) == set(range(len(names)))


@pytest.mark.parametrize("kind", TITLE_KINDS)
def test_titles_of_a_kind(kind: str) -> None:
    rng = stream_rng("t", 5)
    scenes = [draw_scene(rng, "sample") for _ in range(300)]
    titles = [draw_title(rng, "sample", scene, kind) for scene in scenes]
    assert all(title.kind == kind and title.text.strip() for title in titles)
    assert all(title.text != scene.caption() for title, scene in zip(titles, scenes, strict=True))
    assert all(0 <= title.quality <= 1 and 0 <= title.mismatch <= 1 for title in titles)
    mismatch = np.mean([title.mismatch for title in titles])
    assert {"describing": mismatch == 0, "off_topic": mismatch > 0.6, "careful": 0.3 < mismatch < 0.7}.get(kind, True)


def test_describing_title_without_slips_names_the_colour() -> None:
    rng = stream_rng("t", 6)
    for _ in range(100):
        scene = draw_scene(rng, "sample")
        assert scene.colour in draw_title(rng, "sample", scene, "describing", slips=False).text.lower()


def test_shares_of_the_world_sum_to_one() -> None:
    assert sum(STYLES.values()) == pytest.approx(1)
    assert all(sum(chances) == pytest.approx(1) for chances in KINDS_BY_STYLE.values())
    assert len(CATEGORIES) == 11
