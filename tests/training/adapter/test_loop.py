"""The adapters' training in one process, without Ray: who learns from whom, early stopping, what it learns."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from smp_ray.config import AdapterConfig
from smp_ray.errors import DataError
from smp_ray.training.adapter.apply import Adapters
from smp_ray.training.adapter.loop import BankTraining, Rows, in_memory
from smp_ray.training.adapter.plan import HELD_OUT, TRAINS, assign, of_others, plan_adapters
from smp_ray.training.splits import Splits
from tests.training.adapter.adapt_world import World, applied, make_world, trained, training

#: So bold that held-out losses go up and down before they stop falling.
STOPPING = {"max_epochs": 40, "patience": 3, "learning_rate": 2e-2}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("timed"), kind="time")


def unchanged(world: World, one: pa.Table, other: pa.Table, posts: np.ndarray) -> np.ndarray:
    """For each of these labelled posts, bool (posts,): whether its adapted features are the same to the last bit."""
    first, second = (dict(zip(table["row_id"].to_pylist(), table.to_pylist(), strict=True)) for table in (one, other))
    return np.array([first[row] == second[row] for row in world.splits.row_ids[posts].tolist()])


def test_a_fold_never_learns_from_its_own_labels(world: World) -> None:
    before = trained(world, **STOPPING)
    for fold in range(3):
        own = world.splits.folds == fold
        after = trained(world, world.relabelled(own), **STOPPING)
        # That the others went on for longer, or stopped before, is nothing to the fold's own adapter.
        assert after.best_loss[fold] == before.best_loss[fold]
        assert [row for row in after.history if row[0] == fold] == [row for row in before.history if row[0] == fold]
        same = [applied(world, run.result()) for run in (before, after)]
        assert unchanged(world, *same, own).all()
        # All but posts without any embedding.
        assert unchanged(world, *same, ~own).mean() < 0.05


def test_users_are_whole_on_either_side(world: World) -> None:
    splits, settings = world.splits, world.config().training.adapter
    plan = plan_adapters(splits, settings, np.ones(len(splits.folds), dtype=bool))
    for adapter in range(3):
        assert set(splits.folds[plan.roles[:, adapter] > 0]) == {0, 1, 2} - {adapter}
        learns, held = (set(splits.users[plan.roles[:, adapter] == role]) for role in (TRAINS, HELD_OUT))
        assert not learns & held
        assert 0.05 < (plan.roles[:, adapter] == HELD_OUT).sum() / (plan.roles[:, adapter] > 0).sum() <= 0.1
        labels = splits.popularity[plan.roles[:, adapter] == TRAINS]
        assert (plan.label_mean[adapter], plan.label_std[adapter]) == (labels.mean(), labels.std())
    assert len({tuple(column) for column in plan.roles.T}) == 3


@pytest.mark.parametrize("holdout", [0.001, 0.1, 0.89])
@pytest.mark.parametrize("users", [1, 2, 40])
def test_some_posts_are_held_out_and_never_all(users: int, holdout: float) -> None:
    ids = np.arange(40)
    codes = ids * users // 40
    splits = Splits("user", 2, ids, ids.astype(str).astype(object), codes, ids / 7, (ids % 2).astype(np.int16))
    settings = AdapterConfig(holdout=holdout)
    plan = plan_adapters(splits, settings, ids % 3 > 0)
    assert (plan.roles == TRAINS).any(axis=0).all()
    assert (plan.roles == HELD_OUT).any(axis=0).all()
    assert not plan.roles[ids % 3 == 0].any()


def test_time_never_learns_from_the_future(timed: World) -> None:
    folds = timed.splits.folds
    before = applied(timed, trained(timed).result())
    for first in (0, 1, 2):
        later = trained(timed, timed.relabelled(folds >= first))
        after = applied(timed, later.result())
        assert unchanged(timed, before, after, folds <= first).all()
        if first < 2:
            assert unchanged(timed, before, after, folds > first).mean() < 0.05


def test_the_first_block_is_halved_and_each_half_learns_from_the_other(timed: World) -> None:
    splits = timed.splits
    first = splits.folds < 0
    adapter = assign(splits, 0)
    assert set(adapter[first]) == {3, 4}
    assert 0.3 < (adapter[first] == 3).mean() < 0.7
    halves = [set(splits.users[first & (adapter == half)]) for half in (3, 4)]
    assert not halves[0] & halves[1]
    before = applied(timed, trained(timed).result())
    for half in (3, 4):
        own = first & (adapter == half)
        after = applied(timed, trained(timed, timed.relabelled(own)).result())
        assert unchanged(timed, before, after, own).all()
        assert unchanged(timed, before, after, first & ~own).mean() < 0.1
        assert unchanged(timed, before, after, splits.folds == 0).mean() < 0.1


def test_adapters_trained_together_are_those_trained_alone(world: World) -> None:
    together, rows = training(world, **STOPPING)
    finish(together, rows)
    last = [max(row[1] for row in together.history if row[0] == k) for k in range(3)]
    assert len(set(last)) > 1  # else nobody was frozen while others went on
    for k in range(3):
        own = {name: getattr(together.plan, name)[k : k + 1] for name in ("label_mean", "label_std")}
        plan = replace(together.plan, folds=1, roles=together.plan.roles[:, k : k + 1], **own)
        alone = BankTraining(together.settings, plan, together.width)
        finish(alone, {**rows, "roles": rows["roles"][:, k : k + 1]})
        assert alone.epoch == last[k]
        assert alone.best_epoch[0] == together.best_epoch[k]
        for name, value in alone.best.items():
            torch.testing.assert_close(value[0], together.best[name][k], rtol=1e-5, atol=1e-5, msg=name)


def finish(begun: BankTraining, rows: Rows) -> None:
    """Train to the end; AdamW's usual eps would make whole steps of gradients that are nothing but rounding."""
    begun.optimizer.param_groups[0]["eps"] = 1e-5
    while not begun.done:
        begun.run_epoch(in_memory(rows))


def test_the_best_epoch_is_kept(world: World) -> None:
    begun, rows = training(world, **STOPPING)
    seen = []
    while not begun.done:
        begun.run_epoch(in_memory(rows))
        seen.append({name: value.detach().clone() for name, value in begun.bank.named_parameters()})
    result = dict(begun.result().named_parameters())
    setbacks = 0
    for k in range(3):
        losses = {epoch: loss for adapter, epoch, _, loss, _ in begun.history if adapter == k}
        best = min(losses, key=lambda epoch: losses[epoch])
        assert begun.best_epoch[k] == best
        assert max(losses) == best + 3 < 40  # stopped by patience
        setbacks += sum(losses[epoch] >= min(losses[e] for e in range(1, epoch)) for epoch in range(2, best))
        assert all(torch.equal(result[name][k], seen[best - 1][name][k]) for name in result)
        assert any(not torch.equal(result[name][k], seen[-1][name][k]) for name in result)
    assert setbacks > 3  # patience is counted anew after each better epoch


def test_an_adapter_that_diverges_keeps_to_itself(world: World) -> None:
    begun, rows = training(world)
    with torch.no_grad():
        begun.bank.last[1] = torch.nan
    while not begun.done:
        begun.run_epoch(in_memory(rows))
    usual = trained(world)
    assert begun.best_epoch[1] == 0
    for name, value in begun.best.items():
        assert torch.isfinite(value).all()
        assert torch.equal(value[[0, 2]], usual.best[name][[0, 2]])


def test_it_learns_what_neither_image_nor_title_tells(tmp_path_factory: pytest.TempPathFactory) -> None:
    world = make_world(tmp_path_factory.mktemp("large"), posts=3000, missing=0.0, width=8)
    # Image and title by themselves explain two thirds of what is not noise; the rest is a product of both.
    assert 0.6 < explained(world, residual_ratio=0.0, head_width=0) < 0.72
    assert explained(world) > 0.85


def explained(world: World, **adapter: float) -> float:
    """Share of the variance of popularity that out-of-fold predictions explain."""
    table = applied(world, trained(world, max_epochs=30, patience=5, **adapter).result())
    predicted = dict(zip(table["row_id"].to_pylist(), table["adapted_prediction"].to_pylist(), strict=True))
    guess = np.array([predicted[row] for row in world.splits.row_ids.tolist()])
    return float(1 - np.mean((world.splits.popularity - guess) ** 2) / np.var(world.splits.popularity))


def test_without_a_residual_share_embeddings_are_left_alone(world: World) -> None:
    table = applied(world, trained(world, residual_ratio=0.0).result())
    for side in ("image", "title"):
        for before, after in zip(table[f"clip_{side}"].to_pylist(), table[f"adapted_{side}"].to_pylist(), strict=True):
            assert (before is None) == (after is None)
            if before is not None and after is not None:
                np.testing.assert_allclose(np.array(after, np.float64), np.array(before, np.float64), atol=2e-3)


def test_title_and_image_have_their_own_settings(world: World) -> None:
    table = applied(world, trained(world, title_residual_ratio=0.0, title_bottleneck=3).result())
    moved = {}
    for side in ("image", "title"):
        pairs = zip(table[f"clip_{side}"].to_pylist(), table[f"adapted_{side}"].to_pylist(), strict=True)
        moved[side] = max(np.abs(np.subtract(b, a, dtype=np.float64)).max() for b, a in pairs if b is not None)
    assert moved["title"] < 2e-3 < 0.1 < moved["image"]


@pytest.mark.parametrize("stop", [1, 4])
def test_a_saved_state_goes_on_as_if_nothing_had_happened(world: World, stop: int) -> None:
    begun, rows = training(world, **STOPPING)
    for _ in range(stop):
        begun.run_epoch(in_memory(rows))
    file = io.BytesIO()
    torch.save(begun.state(), file)
    file.seek(0)
    again, rows = training(world, **STOPPING)
    again.load(torch.load(file, weights_only=True))
    while not again.done:
        again.run_epoch(in_memory(rows))
    usual = trained(world, **STOPPING)
    assert again.history == usual.history
    assert all(torch.equal(value, usual.best[name]) for name, value in again.best.items())


def test_too_few_posts_for_the_folds_are_refused(world: World) -> None:
    few = np.zeros(len(world.splits.folds), dtype=bool)
    few[:3] = True
    with pytest.raises(DataError, match="would learn from"):
        plan_adapters(world.splits, world.config().training.adapter, few)


def test_posts_that_belong_to_no_fold_are_adapted_as_the_last_to_be_judged_were(timed: World, world: World) -> None:
    for one, kind in ((timed, "time"), (world, "user")):
        bank = trained(one, max_epochs=1).bank
        nobody = Adapters(
            bank.to_bytes(), ("clip_image", "clip_title"), np.zeros(0, np.int64), np.zeros(0, np.int16),
            of_others(kind, one.splits.count),
        )  # fmt: skip
        found = nobody.beside(one.table)["adapted_prediction"].to_numpy()
        banks = [replace(nobody, others=number) for number in range(one.splits.count)]
        folds = np.stack([bank.beside(one.table)["adapted_prediction"].to_numpy() for bank in banks])
        np.testing.assert_allclose(found, folds[-1] if kind == "time" else folds.mean(axis=0), rtol=1e-5)
        assert not np.allclose(folds[0], folds[-1], equal_nan=True)
