"""The fitted encoder as a file: another process makes the same of posts that the fit has never seen.

It also tests `models/tensors.py`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from smp_ray.config import MatrixConfig
from smp_ray.errors import DataError
from smp_ray.training.matrix.columns import Columns
from smp_ray.training.matrix.encoder import Encoder, informative
from smp_ray.training.past import Past
from tests.training.worlds import GROUPS, World, gathered

NOBODY = Past.of(np.zeros(0, np.uint64), np.zeros(0), np.zeros(0))
FLOATS = pa.list_(pa.float32())
LOADED = """
import sys
from pathlib import Path
import numpy as np
from smp_ray.training.matrix.encoder import Encoder
from tests.training.matrix.test_encoder import unseen
encoder = Encoder.from_bytes(Path(sys.argv[1], "encoder.safetensors").read_bytes())
matrix = encoder.transform(unseen(Path(sys.argv[1], "there")))
np.savez(Path(sys.argv[1], "there.npz"), values=matrix.values, names=matrix.names)
"""


def rich(folder: Path, seed: int = 0, posts: int = 200) -> tuple[World, Columns]:
    """A world with all that is fitted: counts of a user with a ratio, a user's vector, gaps."""
    world, rng = World(folder, seed=seed, posts=posts), np.random.default_rng(seed)
    world.image[5], world.nll[3] = np.nan, np.nan
    world.columns["user_id"][7] = None
    world.columns["category"][9] = f"only in world {seed}"
    vectors = rng.normal(size=(posts, 5)).astype(np.float32).tolist()
    world.extra |= {
        "user_video_count": rng.integers(0, 50, posts).astype(float),
        "user_description": pa.array([None, *vectors[1:]], pa.list_(pa.float32())),
    }
    manifest, stored = world.commit()
    return world, gathered(world.workspace, manifest, stored, GROUPS)


def unseen(folder: Path) -> Columns:
    """Posts of another world, of whose users some are in the first one."""
    return rich(folder, seed=1, posts=60)[1]


def fitted(folder: Path, **settings: object) -> Encoder:
    world, columns = rich(folder)
    encoder = Encoder(MatrixConfig.model_validate(settings), 0)
    encoder.fit_transform(columns, np.ones(len(columns), bool), world.popularity, world.user_numbers)
    return encoder


@pytest.mark.parametrize("embeddings", ["pca", "raw"])
def test_saved_and_loaded_elsewhere_it_gives_the_same_of_new_posts(tmp_path: Path, embeddings: str) -> None:
    encoder = fitted(tmp_path / "world", embeddings=embeddings, pca_dimensions=3, text_dimensions=4)
    (tmp_path / "encoder.safetensors").write_bytes(encoder.to_bytes())
    subprocess.run([sys.executable, "-c", LOADED, str(tmp_path)], check=True)
    posts = unseen(tmp_path / "here")
    here = encoder.transform(posts)
    with np.load(tmp_path / "there.npz") as there:
        assert there["names"].tolist() == list(here.names)
        assert np.array_equal(there["values"], here.values, equal_nan=True)
    expected = {"log_user_photo_per_video", "text_svd03", "text_prediction", "text_and_metadata_prediction", "category"}
    assert expected <= set(here.names)
    # Post by post it is the same: nothing is taken from the posts that happen to be beside it.
    single = encoder.transform(posts.rows(np.array([29])))
    assert np.allclose(single.values[0], here.values[29], rtol=1e-5, atol=1e-6, equal_nan=True)


def test_counts_of_categories_are_those_of_the_fit(tmp_path: Path) -> None:
    encoder, posts = fitted(tmp_path / "world"), unseen(tmp_path / "new")
    matrix = encoder.transform(posts)
    column = {name: matrix.values[:, place] for place, name in enumerate(matrix.names)}
    assert np.isnan(column["user_posts_before"][7])  # it has no user
    assert np.isnan(column["category"][9])  # unknown, and so is its number of posts among those of the fit
    assert column["category_posts"][9] == 0


def test_posts_of_another_kind_are_refused(tmp_path: Path) -> None:
    encoder, posts = fitted(tmp_path / "world"), unseen(tmp_path / "new")
    posts.vectors["clip_image"] = posts.vectors["clip_image"][:, :4]
    with pytest.raises(DataError, match="clip_image has 4 numbers, the encoder was fitted on 8"):
        encoder.transform(posts)
    del posts.families["user_video_count"]
    with pytest.raises(DataError, match="lack columns that the encoder was fitted on: user_video_count"):
        encoder.transform(posts)


def test_lists_of_another_length_are_missing_whatever_lies_beside_them() -> None:
    """As in training, where those of the commonest length count."""
    for lengths in ([400, 399], [399], [399, 399, 400]):
        columns = Columns(np.arange(len(lengths)), np.arange(len(lengths)), NOBODY)
        columns.add("metadata", "user_description", pa.chunked_array([[[0.5] * n for n in lengths]], FLOATS), 400)
        present = np.isfinite(columns.vectors["user_description"])
        assert (present.shape, present.all(axis=1).tolist()) == ((len(lengths), 400), [n == 400 for n in lengths])


def test_posts_without_any_column_are_an_error() -> None:
    columns = Columns(np.arange(3), np.arange(3), NOBODY, families={"title_perplexity": "perplexity"})
    with pytest.raises(DataError, match="nothing to say in perplexity"):
        Encoder(MatrixConfig(), 0).fit_transform(columns, np.ones(3, bool), np.arange(3.0), np.arange(3))


def test_informative() -> None:
    likes, gap = np.array([1.0, 2, 2]), np.array([1.0, np.nan, 1])
    numbers = {"likes": likes, "hearts": likes.copy(), "same": np.ones(3), "none": np.full(3, np.nan), "gap": gap}
    assert informative(numbers) == ["likes", "gap"]
