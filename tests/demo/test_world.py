"""The generator of the sample world: SMPD-Image's layout and statistics, determinism, streaming, planted effects.

It also tests `demo/places.py`, `demo/subjects.py`, `demo/users.py`, `demo/words.py`.
"""

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import kstest, skewnorm, spearmanr

from smp_ray.demo.popularity import NOISE, SKEW_NORMAL, WEIGHTS, reference, skew_normal_quantiles
from smp_ray.demo.posts import NO_IMAGE, Post, make_posts
from smp_ray.demo.world import TABLES, write_world

FIELDS = {
    "text": "Title Mediatype Alltags",
    "category": "Category Subcategory Concept",
    "temporalspatial_information": "Postdate Latitude Longitude Geoaccuracy",
    "user_data": "photo_firstdate photo_count ispro canbuypro timezone_offset photo_firstdatetaken timezone_id"
    " user_description location_description",
    "additional_information": "Pathalias Ispublic Mediastatus",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world") / "sample"
    write_world(root, 300, seed=5)
    return root


@pytest.fixture(scope="module")
def posts() -> list[Post]:
    return list(make_posts(6_000, seed=1))


@pytest.fixture(scope="module")
def labels(posts: list[Post]) -> np.ndarray:
    return np.array([post.popularity for post in posts])


def records(root: Path, split: str, table: str) -> list[dict[str, Any]]:
    return json.loads((root / f"{split}_allmetadata_json" / f"{split}_{table}.json").read_text(encoding="utf-8"))


def truth(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "truth.jsonl").read_text(encoding="utf-8").splitlines()]


def test_layout_is_that_of_smpd_image(world: Path) -> None:
    for split, count in (("train", 270), ("test", 30)):
        paths = (world / f"{split}_img_filepath.txt").read_text().splitlines()
        assert len(paths) == count
        for table in TABLES:
            rows = records(world, split, table)
            assert [f"{split}/{row['Uid']}/{row['Pid']}.jpg" for row in rows] == paths
            assert all(list(row) == ["Uid", "Pid", *FIELDS[table].split()] for row in rows)
            assert all(isinstance(value, str) for row in rows for value in row.values())
    assert len((world / "train_label.txt").read_text().splitlines()) == 270
    assert not (world / "test_label.txt").exists()
    assert "ynthetic" in (world / "SYNTHETIC.txt").read_text()


def test_labels_and_images_belong_to_their_posts(world: Path) -> None:
    rows = truth(world)
    train = [row for row in rows if row["split"] == "train"]
    assert [float(line) for line in (world / "train_label.txt").read_text().split()] == [r["popularity"] for r in train]
    for row in rows:
        path = world / row["split"] / row["Uid"] / f"{row['Pid']}.jpg"
        assert path.exists() == row["has_image"]
    with Image.open(path if path.exists() else next(world.glob("train/*/*.jpg"))) as image:
        assert (image.size, image.format) == ((128, 128), "JPEG")


def test_same_seed_and_size_give_the_same_bytes(world: Path, tmp_path: Path) -> None:
    write_world(tmp_path / "again", 300, seed=5)
    write_world(tmp_path / "other", 300, seed=6)
    files = sorted(path.relative_to(world) for path in world.rglob("*") if path.is_file())
    assert files == sorted(p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*") if p.is_file())
    assert all((world / file).read_bytes() == (tmp_path / "again" / file).read_bytes() for file in files)
    assert (tmp_path / "other" / "truth.jsonl").read_bytes() != (world / "truth.jsonl").read_bytes()


def test_folder_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="not empty"):
        write_world(tmp_path, 5, seed=0)
    assert (tmp_path / "mine.txt").read_text() == "keep"
    with pytest.raises(ValueError, match="posts=0"):
        write_world(tmp_path / "none", 0, seed=0)


def test_memory_does_not_grow_with_the_number_of_posts() -> None:
    def peak(count: int) -> int:
        for _ in make_posts(20, seed=2):  # fill the fixed tables before measuring
            pass
        tracemalloc.start()
        for _ in make_posts(count, seed=2):
            pass
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    assert peak(1_200) < peak(200) + 1_500_000


def test_labels_follow_the_skew_normal_of_smpd(labels: np.ndarray) -> None:
    fit = skewnorm(**SKEW_NORMAL)
    assert kstest(labels, fit.cdf).statistic < 0.05
    assert labels.min() == 1.0
    assert 0.005 < (labels == 1.0).mean() < 0.025
    assert labels.max() <= 16.56


def test_skew_normal_quantiles_agree_with_scipy() -> None:
    levels = np.array([0.001, 0.01, 0.25, 0.5, 0.9, 0.999])
    assert skew_normal_quantiles(levels) == pytest.approx(skewnorm(**SKEW_NORMAL).ppf(levels), abs=2e-3)


def test_reference_population_maps_onto_the_skew_normal() -> None:
    known = reference()
    latent = np.sort(np.random.default_rng(3).choice(known.latent, 2_000))
    assert np.all(np.diff(np.interp(latent, known.latent, known.popularity)) >= 0)
    middle = np.interp(0.5, np.linspace(0, 1, len(known.latent)), known.popularity)
    assert middle == pytest.approx(skewnorm(**SKEW_NORMAL).median(), abs=0.01)


def test_every_label_below_five_is_log2_of_whole_views(labels: np.ndarray) -> None:
    whole = {round(float(np.log2(views)), 2) for views in range(2, 33)}
    assert {float(label) for label in labels if label < 5} <= whole
    assert len({float(label) for label in labels if label < 5}) > 25


def test_shares_measured_of_smpd(posts: list[Post]) -> None:
    count = len(posts)
    assert np.mean([post.place == (0.0, 0.0, 0) for post in posts]) == pytest.approx(0.89, abs=0.015)
    assert np.mean([not post.has_image for post in posts]) == pytest.approx(NO_IMAGE, abs=0.015)
    assert np.mean([len(post.title.text) for post in posts]) == pytest.approx(29, abs=6)
    train = [post for post in posts if post.split == "train"]
    per_user = np.unique([post.user.uid for post in train], return_counts=True)[1]
    assert len(train) / len(per_user) == pytest.approx(8, rel=0.1)
    assert len(train) == count - count // 10
    # Heavy-tailed: the busiest tenth of the users writes several times its share.
    assert np.sort(per_user)[-len(per_user) // 10 :].sum() > 0.25 * len(train)


def test_test_posts_come_later_and_partly_from_new_users(posts: list[Post]) -> None:
    last = max(post.posted_at for post in posts if post.split == "train")
    assert min(post.posted_at for post in posts if post.split == "test") >= last
    known = {post.user.uid for post in posts if post.split == "train"}
    new = np.mean([post.user.uid not in known for post in posts if post.split == "test"])
    assert 0.3 < new < 0.7


def test_every_effect_is_planted_and_noise_remains(posts: list[Post], labels: np.ndarray) -> None:
    assert sum(weight**2 for weight in WEIGHTS.values()) + NOISE**2 == pytest.approx(1)
    for part, weight in WEIGHTS.items():
        rank = spearmanr([post.effects[part] for post in posts], labels).statistic
        assert rank > 0.6 * weight, f"{part}: {rank:.3f}"
    assert 0.85 < spearmanr([post.score for post in posts], labels).statistic < 0.95


def test_claims_of_the_paper_are_planted(posts: list[Post], labels: np.ndarray) -> None:
    low, high = np.quantile(labels, (0.1, 0.9))
    poor = np.array([post.title.kind == "low_quality" for post in posts])
    careful = np.array([post.title.kind == "careful" for post in posts])
    mismatch = np.array([post.title.mismatch for post in posts])
    assert poor[labels <= low].mean() > 3 * poor[labels >= high].mean()
    assert careful[labels >= high].mean() > 3 * careful[labels <= low].mean()
    assert mismatch[(labels >= high) & ~poor].mean() > mismatch[(labels <= low) & ~poor].mean() + 0.2


def test_world_is_written_without_ray_or_torch(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from smp_ray.demo.world import write_world;"
        f"write_world(pathlib.Path({str(tmp_path / 'w')!r}), 3, 0);"
        "print([name for name in ('ray', 'torch') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
    assert (tmp_path / "w" / "train_label.txt").exists()
