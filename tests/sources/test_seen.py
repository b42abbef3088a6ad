from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from smp_ray.sources.seen import PostIds, RowIds, SeenKeys, post_content

BATCHES = st.lists(st.lists(st.integers(0, 60), max_size=20), max_size=20)


@given(BATCHES, st.sampled_from([1, 4, 2**24]))
@settings(max_examples=300, deadline=None)
def test_first_sights_are_those_of_a_set(batches: list[list[int]], run_limit: int) -> None:
    keys, known = SeenKeys(run_limit), set()
    for batch in batches:
        fresh = keys.add(np.array(batch, dtype=np.int64))
        expected = []
        for key in batch:
            expected.append(key not in known)
            known.add(key)
        assert fresh.tolist() == expected
        assert len(keys) == len(known)


@given(st.lists(st.lists(st.text(max_size=3), min_size=1, max_size=8), max_size=20))
@settings(deadline=None)
def test_post_ids_are_told_apart_exactly(batches: list[list[str]]) -> None:
    ids, known = PostIds(), set()
    for batch in batches:
        cleaned = [text.encode("utf-8", "replace").decode() for text in batch]
        expected = [text not in known and text not in cleaned[:place] for place, text in enumerate(cleaned)]
        assert ids.first_sight(cleaned).tolist() == expected
        known.update(cleaned)


def test_keys_that_end_in_zero_bytes_are_different_keys() -> None:
    keys = SeenKeys()
    assert keys.add(np.frombuffer(b"a" * 15 + b"\0" + b"a" * 14 + b"\0\0", dtype="S16")).all()
    assert not keys.add(np.frombuffer(b"a" * 15 + b"\0", dtype="S16")).any()


def test_runs_stay_few_and_within_their_limit() -> None:
    keys = SeenKeys(run_limit=1000)
    for start in range(0, 20_000, 10):
        keys.add(np.arange(start, start + 10))
    lengths = [len(run) for run in keys._runs]
    assert max(lengths) <= 1000
    assert len(lengths) < 60
    assert sum(lengths) == len(keys) == 20_000


def test_colliding_row_ids_are_hashed_again_always_the_same_way() -> None:
    contents = [str(number).encode() for number in range(200)]
    one, other = RowIds(bits=8), RowIds(bits=8)
    whole = one.assign(contents)
    parts = np.concatenate([other.assign(contents[:50]), other.assign(contents[50:])])
    assert len(set(whole.tolist())) == 200
    assert whole.min() >= 0
    assert whole.max() < 256
    assert len(set(parts.tolist())) == 200
    np.testing.assert_array_equal(RowIds(bits=8).assign(contents), whole)


def test_row_ids_are_63_bits_and_do_not_depend_on_the_order() -> None:
    contents = [str(number).encode() for number in range(1000)]
    forwards, backwards = RowIds().assign(contents), RowIds().assign(contents[::-1])
    np.testing.assert_array_equal(forwards, backwards[::-1])
    assert forwards.min() >= 0
    assert forwards.max() > 2**61


def test_what_a_row_id_is_made_of() -> None:
    base = post_content("", "1", "t", "a.jpg")
    assert base == post_content("", "1", "t", "a.jpg")
    others = [
        post_content("", "2", "t", "a.jpg"), post_content("", "1", "u", "a.jpg"), post_content("", "1", "t", "b.jpg"),
        post_content("", "1", "t", b"a.jpg"), post_content("", "1", None, "a.jpg"), post_content("", "1", "", "a.jpg"),
        post_content("", "1", "t", None), post_content("x", "1", "t", "a.jpg"), post_content("", "1t", "", "a.jpg"),
    ]  # fmt: skip
    assert len({base, *others}) == 10
