"""The posts to learn from, gathered; it also tests `store/wide.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from smp_ray.store.wide import wide
from smp_ray.training import examples as module
from smp_ray.training.examples import POSTS, example_pieces, spread
from smp_ray.training.matrix.columns import USER_POSTS, columns_from
from smp_ray.training.past import Past, user_hashes
from tests.training.runs import brought, run_with
from tests.training.worlds import World, world_config


@pytest.mark.parametrize("piece", [7, 1000])
def test_labelled_posts_with_their_features_in_the_order_of_ingest(
    tmp_path: Path, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE", piece)
    world = World(tmp_path, unlabelled=30)
    posts, stored = world.commit()
    run = run_with(world_config(tmp_path), ingest=posts, features=stored)
    made = brought(run, "gather")
    found = pa.concat_tables(example_pieces(world.workspace, made, (POSTS, *stored)))
    every = pa.concat_tables(wide(world.workspace, posts, list(stored.values())))
    assert found.equals(every.slice(0, 170).select(found.column_names))
    assert set(every.column_names) == {*found.column_names, "image_uri"}
    files = -(-170 // piece)
    assert len(made.fragments) == 3 * files
    assert made.details["contents"].keys() == {POSTS, "clip", "perplexity"}


def test_what_was_gathered_is_known_by_its_content(tmp_path: Path) -> None:
    """One title, one embedding: what reads them is another, and what does not is the same."""
    found = {}
    for name in ("as it is", "again", "pictures moved", "title", "embedding"):
        world = World(tmp_path / name)
        if name == "pictures moved":
            world.columns["image_uri"] = [f"s3://other/{number}.jpg" for number in range(len(world.ids))]
        if name == "title":
            world.columns["title"][3] = "another"
        if name == "embedding":
            world.image[3] = -world.image[3]
        posts, stored = world.commit()
        found[name] = brought(run_with(world_config(tmp_path / name), ingest=posts, features=stored), "gather")
    contents = {name: made.details["contents"] for name, made in found.items()}
    assert contents["again"] == contents["as it is"] == contents.pop("pictures moved")
    changed = {name: {part for part in own if own[part] != contents["again"][part]} for name, own in contents.items()}
    assert changed == {"as it is": set(), "again": set(), "title": {POSTS}, "embedding": {"clip"}}


def test_a_sample_has_all_users_and_times(tmp_path: Path) -> None:
    world = World(tmp_path, posts=1000, users=20)
    posts, stored = world.commit()
    run = run_with(world_config(tmp_path, max_labelled=200), ingest=posts, features=stored)
    made = brought(run, "gather")
    assert made.rows == 200
    assert "a sample" in made.details["note"]
    (table,) = example_pieces(world.workspace, made, [POSTS])
    share = np.array([table["user_id"].to_pylist().count(f"user {number}") for number in range(20)])
    expected = np.bincount(world.user_numbers, minlength=20) / 5
    assert np.abs(share - expected).max() <= 1
    assert table["row_id"].to_pylist() == [row for row in world.ids.tolist() if row in set(table["row_id"].to_pylist())]


def test_all_labelled_posts_are_the_past_of_those_of_a_sample(tmp_path: Path) -> None:
    """So that a count means while learning what it means of later posts."""
    world = World(tmp_path, posts=1000, users=20)
    posts, stored = world.commit()
    counts = {}
    for most in (None, 200):
        run = run_with(world_config(tmp_path, max_labelled=most), ingest=posts, features=stored)
        labelled = brought(run, "gather")
        seen = labelled.details["past"]
        past = Past.from_bytes(world.workspace.read(seen)) if seen else None
        found = columns_from(example_pieces(world.workspace, labelled, [POSTS]), [], ["metadata"], past)
        counts[most] = dict(zip(found.row_ids, found.numbers[USER_POSTS], strict=True))
    assert len(counts[200]) == 200
    assert counts[200] == {row: counts[None][row] for row in counts[200]}
    assert max(counts[200].values()) > 20


def test_spread_takes_equal_steps() -> None:
    users, moments = np.array([2, 1, 2, 1, 2, 2]), np.array([4, 1, 3, 2, 1, 2])
    assert spread(users, moments, 3).tolist() == [1, 2, 4]
    assert spread(users, moments, 6).tolist() == [0, 1, 2, 3, 4, 5]


def test_users_are_numbers_that_stay() -> None:
    found = user_hashes(pa.chunked_array([["a", None, "b"], ["a", ""]]))
    assert found[1] == 0
    assert found[0] == found[3] != found[2]
    assert (found[[0, 2, 4]] != 0).all()
    assert found[0] == user_hashes(pa.chunked_array([["a"]]))[0] == 13_950_350_942_979_735_504
