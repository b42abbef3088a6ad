"""The posts of the sample world, made one by one: each depends on (seed, number of posts, its index) alone."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from smp_ray.demo import words
from smp_ray.demo.popularity import (
    CATEGORIES,
    FIRST_POST,
    KINDS_BY_STYLE,
    NOISE,
    PERIOD,
    content_effect,
    mean_mismatch,
    popularity,
    signal,
    time_effect,
)
from smp_ray.demo.scenes import Scene, draw_scene, stream_rng
from smp_ray.demo.titles import TITLE_KINDS, Title, draw_title
from smp_ray.demo.users import User, draw_user_number, make_user

NO_PLACE = 0.89
"""Share of posts without a place, as measured of SMPD-Image."""

NO_IMAGE = 35_450 / 305_613
"""Share of posts whose image file is missing, as measured of SMPD-Image."""


@dataclass(frozen=True, slots=True)
class Post:
    """One generated post with its truth."""

    index: int
    split: str
    user: User
    scene: Scene
    title: Title
    has_image: bool
    posted_at: int
    place: tuple[float, float, int]
    category: tuple[str, str, str]
    tags: str
    effects: dict[str, float]
    score: float
    popularity: float

    @property
    def pid(self) -> str:
        """The post's identifier, unique in the world."""
        return str(self.index + 1)

    @property
    def image_path(self) -> str:
        """Where the image lies, relative to the dataset's root, whether or not the file exists."""
        return f"{self.split}/{self.user.uid}/{self.pid}.jpg"


def make_posts(posts: int, seed: int, test_share: float = 0.1) -> Iterator[Post]:
    """Yield the posts of a world one by one, without writing or rendering anything."""
    for index in range(posts):
        # Every 1 / test_share-th post is a test post: exact shares without looking ahead.
        is_test = int((index + 1) * test_share + 1e-9) > int(index * test_share + 1e-9)
        yield _make_post(index, posts, seed, "test" if is_test else "train", test_share)


def _make_post(index: int, posts: int, seed: int, split: str, test_share: float) -> Post:
    rng = stream_rng("sample", seed, posts, index)
    number = draw_user_number(rng, posts * (1 - test_share))
    if split == "test" and rng.random() < 0.5:
        # Half of the test posts are by users of a second population, which the training split has not seen.
        number += posts
    user = make_user(seed, number)
    scene = draw_scene(rng, "sample")
    kind = TITLE_KINDS[rng.choice(len(TITLE_KINDS), p=KINDS_BY_STYLE[user.style])]
    title = draw_title(rng, "sample", scene, kind)
    moment = rng.random() * test_share + 1 - test_share if split == "test" else rng.random() * (1 - test_share)
    posted_at = FIRST_POST + int(moment * PERIOD)
    category = _draw_category(rng, user, scene)
    effects = {
        "user": user.reach,
        "time": float(time_effect(np.array(posted_at, dtype=float))),
        "category": CATEGORIES[category[0]],
        "content": content_effect(scene.subject, scene.colour, scene.place),
        "quality": title.quality,
        "mismatch": mean_mismatch() if kind == "low_quality" else title.mismatch,
    }
    score = signal(effects)
    return Post(
        index=index,
        split=split,
        user=user,
        scene=scene,
        title=title,
        has_image=bool(rng.random() >= NO_IMAGE),
        posted_at=posted_at,
        place=_draw_place(rng, user),
        category=category,
        tags=_draw_tags(rng, scene),
        effects=effects,
        score=score,
        popularity=popularity(score + NOISE * float(rng.standard_normal())),
    )


def _draw_category(rng: np.random.Generator, user: User, scene: Scene) -> tuple[str, str, str]:
    """Category (of 11), subcategory (of 77) and concept (of 693): half of a user's posts stay in one category."""
    names = tuple(CATEGORIES)
    category = user.category if rng.random() < 0.5 else names[rng.integers(len(names))]
    subcategory = f"{category} {'abcdefg'[rng.integers(7)]}"
    return category, subcategory, f"{subcategory}{rng.integers(1, 10)}"


def _draw_place(rng: np.random.Generator, user: User) -> tuple[float, float, int]:
    """Latitude and longitude in degrees and accuracy (1 to 16) near the user's home, or SMPD's 0, 0, 0 for none."""
    near, accuracy, missing = rng.normal(0, 0.5, 2), int(rng.integers(9, 17)), rng.random() < NO_PLACE
    if missing:
        return 0.0, 0.0, 0
    return round(user.home[0] + near[0], 6), round(user.home[1] + near[1], 6), accuracy


def _draw_tags(rng: np.random.Generator, scene: Scene) -> str:
    """None to eight tags in one string, some of them of the picture."""
    own = [
        word
        for word, chance in ((scene.subject, 0.5), (scene.place, 0.4), (scene.colour, 0.2))
        if rng.random() < chance
    ]
    free = rng.choice(words.TAGS, int(rng.integers(0, 6)), replace=False).tolist()
    return " ".join([*own, *free])
