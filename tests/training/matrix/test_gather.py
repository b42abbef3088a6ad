"""Columns of a family that this project knows nothing of come into the matrix by their group and type."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from smp_ray.config import MatrixConfig
from smp_ray.families.base import TITLE, Column, Family, FamilySettings
from smp_ray.schema import KEYS
from smp_ray.store.manifest import Manifest
from smp_ray.store.parquet import write_table
from smp_ray.training.ablate import comparisons, variants
from smp_ray.training.matrix.columns import Columns
from smp_ray.training.matrix.encoder import Encoder
from smp_ray.training.matrix.matrix import Matrix
from tests.training.runs import run_with
from tests.training.worlds import World, gathered, world_config


class Toy(Family):
    """Two groups of its own, a share in an existing one, and a column that no predictor sees."""

    name = "toy"
    Settings = FamilySettings
    reads = (TITLE,)
    columns = (
        Column("toy_count", pa.int16(), group="toy"),
        Column("toy_flag", pa.bool_(), group="toy"),
        Column("toy_kind", pa.string(), group="toy"),
        Column("toy_vector", None, group="toys"),
        Column("toy_surprise", pa.float64(), group="perplexity"),
        Column("toy_note", pa.string()),
    )

    def __init__(self, settings: Any, device: str, threads: int | None) -> None:
        """Nothing to load."""

    def compute(self, *inputs: list[Any]) -> dict[str, Any]:
        """Never called: the tests write the columns themselves."""
        raise NotImplementedError


def fitted(world: World, columns: Columns) -> Matrix:
    every = np.ones(len(columns), bool)
    return Encoder(MatrixConfig(), 0).fit_transform(columns, every, world.popularity, world.user_numbers)


@pytest.fixture
def installed(install_family: Callable[[type[Family]], None]) -> None:
    install_family(Toy)


def write_toy(world: World) -> tuple[Manifest, dict[str, Any]]:
    rng, posts = np.random.default_rng(4), len(world.ids)
    count = rng.integers(0, 9, posts)
    values: dict[str, Any] = {
        "row_id": world.ids, "post_id": world.columns["post_id"],
        "toy_count": [None if place == 3 else int(number) for place, number in enumerate(count)],
        "toy_flag": [None if place == 4 else bool(number > 4) for place, number in enumerate(count)],
        "toy_kind": [None if place == 5 else f"kind {number % 3}" for place, number in enumerate(count)],
        "toy_vector": [None if place == 6 else row for place, row in enumerate(rng.normal(size=(posts, 3)))],
        "toy_surprise": rng.normal(size=posts), "toy_note": ["said"] * posts, "toy_status": ["ok"] * posts,
        "toy_error": [None] * posts,
    }  # fmt: skip
    fields = Toy.fields(3)
    values["toy_vector"] = [None if row is None else row.astype(np.float16) for row in values["toy_vector"]]
    table = pa.table(values, pa.schema([*KEYS, *fields])).take(pa.array(rng.permutation(posts)))
    fragment = write_table(world.workspace, "features/toy/toy/part-0.parquet", table)
    details = {"columns": [column.name for column in fields], "covers": {}}
    return world.workspace.commit(Manifest("features/toy", "toy", {}, fragments=[fragment], details=details)), values


def with_toy(world: World, groups: tuple[str, ...]) -> tuple[Columns, dict[str, Any]]:
    posts, stored = world.commit()
    toy, values = write_toy(world)
    return gathered(world.workspace, posts, {**stored, "toy": toy}, groups), values


@pytest.mark.usefixtures("installed")
def test_a_family_from_outside(tmp_path: Path) -> None:
    world = World(tmp_path)
    columns, values = with_toy(world, ("metadata", "perplexity", "toy", "toys"))
    numbers = [name for name in columns.numbers if columns.families[name] != "metadata"]
    stored = ["title_perplexity", "title_mean_nll"]  # not the number of tokens, which is the title's length
    assert numbers == [*stored, "toy_surprise", "toy_count", "toy_flag"]
    for name in ("toy_count", "toy_flag"):
        expected = [np.nan if value is None else float(value) for value in values[name]]
        assert np.array_equal(columns.numbers[name], expected, equal_nan=True)
    assert columns.categories["toy_kind"].tolist() == values["toy_kind"]
    assert np.isnan(columns.vectors["toy_vector"][6]).all()
    assert np.isfinite(np.delete(columns.vectors["toy_vector"], 6, axis=0)).all()
    assert "toy_note" not in columns.families
    assert {columns.families[name] for name in ("toy_count", "toy_flag", "toy_kind")} == {"toy"}
    assert (columns.families["toy_vector"], columns.families["toy_surprise"]) == ("toys", "perplexity")
    matrix = fitted(world, columns)
    assert matrix.levels["toy_kind"] == ("kind 0", "kind 1", "kind 2")
    assert {"toy_kind", "toy_kind_posts", "toy_count", "toy_flag"} == set(matrix.only(("toy",)).names)


@pytest.mark.usefixtures("installed")
def test_its_categories_stay_out_of_the_text_group(tmp_path: Path) -> None:
    """What a group of the posts table's own is worth must not depend on a family beside it."""
    world = World(tmp_path)
    own, other = (
        fitted(world, with_toy(world, groups)[0]) for groups in (("metadata", "text"), ("metadata", "text", "toy"))
    )
    assert np.array_equal(own.only(("text",)).values, other.only(("text",)).values, equal_nan=True)


@pytest.mark.usefixtures("installed")
def test_the_stage_takes_the_families_that_have_a_group_in_the_matrix(tmp_path: Path) -> None:
    config = world_config(tmp_path, ("clip", "perplexity", "toy"), matrix={"families": ["metadata", "toys"]})
    run = run_with(config)
    families = run.stage("matrix").families
    assert families is not None
    assert list(families(config)) == ["posts", "toy"]


def test_variants_and_comparisons_follow_from_the_groups() -> None:
    named = variants(("metadata", "text", "pictures", "adapted"))
    assert list(named) == [
        "metadata", "metadata + text", "metadata + pictures", "metadata + adapted", "all", "all - text",
        "all - pictures", "all - adapted",
    ]  # fmt: skip
    assert named["all - text"] == ("metadata", "pictures", "adapted")
    pairs = comparisons(list(named), "pictures")
    assert pairs[:3] == [(f"metadata + {group}", "metadata") for group in ("text", "pictures", "adapted")]
    assert pairs[3:5] == [("metadata + adapted", "metadata + pictures"), ("all", "metadata")]
    assert pairs[5:] == [("all", f"all - {group}") for group in ("text", "pictures", "adapted")]
    assert ("metadata + adapted", "metadata + pictures") not in comparisons(list(named), None)
    assert variants(("toy",)) == {"toy": ("toy",), "all": ("toy",)}
