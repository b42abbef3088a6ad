"""The training itself: all adapters at once, in plain torch, as one worker sees it.

Each adapter's loss, labels, early stopping and best weights are its own, so no adapter can tell who else is trained.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

from smp_ray.config import AdapterConfig
from smp_ray.models.adapter import AdapterBank, BankShape
from smp_ray.training.adapter.plan import HELD_OUT, TRAINS, AdapterPlan

#: Rows of one forward pass without gradients.
JUDGED_ROWS = 4096

#: Posts as tensors: image, title (float16), has_image, has_title, popularity (float32), roles (uint8).
Rows = Mapping[str, Tensor]
#: Walks through a worker's rows once, in batches of at most so many; shuffled by a seed, or unshuffled.
Source = Callable[[int, int | None], Iterable[Rows]]


def in_memory(rows: Rows) -> Source:
    """A source of rows that are all there; batches are of equal size, so that none of an epoch weighs less."""

    def batches(size: int, seed: int | None) -> Iterable[Rows]:
        count, device = len(rows["popularity"]), rows["popularity"].device
        order = torch.arange(count) if seed is None else torch.randperm(count)
        for picked in order.to(device).tensor_split(-(-count // size)):
            yield {name: values[picked] for name, values in rows.items()}

    return batches


@dataclass
class BankTraining:
    """The bank while it is trained: all that an epoch changes and a checkpoint holds.

    Attributes:
        bank: the live weights; those of a stopped adapter no longer matter.
        model: what gradients go through: the bank, or what Ray Train made of it for several workers.
        best: each adapter's weights after its best epoch, by parameter name: what it will be in the end.
        best_loss, best_epoch, stale: float64, int64 and int64 (K,): held-out loss of the best epoch, its number, and
            the epochs since.
        history: adapter, epoch, train_loss, heldout_loss, heldout_mae of every epoch that an adapter took part in.
    """

    settings: AdapterConfig
    plan: AdapterPlan
    width: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    world: int = 1
    epoch: int = 0
    history: list[tuple[int, int, float, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        settings, title_ratio = self.settings, self.settings.title_residual_ratio
        adapters = self.plan.roles.shape[1]
        shape = BankShape(
            adapters=adapters, folds=self.plan.folds, width=self.width, head_width=settings.head_width,
            image_bottleneck=settings.bottleneck, title_bottleneck=settings.title_bottleneck or settings.bottleneck,
            image_ratio=settings.residual_ratio,
            title_ratio=settings.residual_ratio if title_ratio is None else title_ratio,
        )  # fmt: skip
        self.bank = AdapterBank(shape, settings.seed, settings.dropout)
        self.bank.label_mean.copy_(torch.from_numpy(self.plan.label_mean))
        self.bank.label_std.copy_(torch.from_numpy(self.plan.label_std))
        self.model: nn.Module = self.bank.to(self.device)
        self.optimizer = torch.optim.AdamW(
            self.bank.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        # A post weighs the same in every batch, however many of an adapter's posts are in it.
        share = (self.plan.roles == TRAINS).mean(axis=0)
        self.weight = torch.from_numpy(1 / share).float().to(self.device)[:, None]
        self.best = {name: value.detach().clone() for name, value in self.bank.named_parameters()}
        self.best_loss = torch.full((adapters,), torch.inf, dtype=torch.float64)
        self.best_epoch = torch.zeros(adapters, dtype=torch.int64)
        self.stale = torch.zeros(adapters, dtype=torch.int64)

    @property
    def active(self) -> Tensor:
        """Adapters that have not stopped, bool (K,)."""
        return self.stale < self.settings.patience

    @property
    def done(self) -> bool:
        """Whether all have stopped or had their epochs."""
        return self.epoch >= self.settings.max_epochs or not bool(self.active.any())

    def result(self) -> AdapterBank:
        """A bank of each adapter's best weights, on the CPU."""
        bank = AdapterBank(self.bank.shape)
        bank.load_state_dict({**self.bank.state_dict(), **self.best})
        return bank

    def run_epoch(self, source: Source) -> None:
        """Learn from every row once, in an order of this epoch's own, then judge the held-out rows."""
        # What an epoch draws depends on nothing that happened before, so a resumed training goes on exactly.
        seed = hash((self.settings.seed, self.epoch, self.rank)) % 2**32
        torch.manual_seed(seed)
        batch = -(-self.settings.batch_size // self.world)
        # Loss of the posts learnt from and their number; loss, error and number of those held out.
        sums = torch.zeros(5, len(self.stale), dtype=torch.float64, device=self.device)
        self.bank.train()
        for rows in source(batch, seed):
            loss, _ = self._losses(self.model, rows)
            learns = rows["roles"].T == TRAINS
            self.optimizer.zero_grad()
            (torch.where(learns, loss * self.weight, 0.0).sum() / loss.shape[1]).backward()
            self.optimizer.step()
            sums[:2] += _summed(learns, loss.detach())
        self.bank.eval()
        with torch.inference_mode():
            for every in source(JUDGED_ROWS, None):
                judged = (every["roles"] == HELD_OUT).any(dim=1)
                rows = {name: values[judged] for name, values in every.items()}
                held = rows["roles"].T == HELD_OUT
                loss, error = self._losses(self.bank, rows)
                sums[2:] += _summed(held, loss, error * self.bank.label_std[:, None])
        if self.world > 1:
            torch.distributed.all_reduce(sums)
        self._finish(sums.cpu())

    def _losses(self, model: nn.Module, rows: Rows) -> tuple[Tensor, Tensor]:
        """Loss and absolute error, both (K, B), in standard deviations of each adapter's own labels."""
        found = model(*(rows[name].float() for name in ("image", "title", "has_image", "has_title")))[2]
        target = (rows["popularity"] - self.bank.label_mean[:, None]) / self.bank.label_std[:, None]
        huber = partial(F.huber_loss, delta=self.settings.huber_delta)
        losses: dict[str, Callable[..., Tensor]] = {"huber": huber, "l1": F.l1_loss, "l2": F.mse_loss}
        return losses[self.settings.loss](found, target, reduction="none"), (found.detach() - target).abs()

    def _finish(self, sums: Tensor) -> None:
        """Take note of an epoch: better weights are kept, adapter by adapter."""
        train_loss, loss, error = sums[0] / sums[1], sums[2] / sums[4], sums[3] / sums[4]
        active = self.active
        self.epoch += 1
        better = active & (loss < self.best_loss)
        for name, value in self.bank.named_parameters():
            self.best[name][better] = value.detach()[better]
        self.best_loss[better], self.best_epoch[better] = loss[better], self.epoch
        self.stale = torch.where(better, 0, self.stale + active)
        for k in torch.nonzero(active)[:, 0].tolist():
            self.history.append((k, self.epoch, float(train_loss[k]), float(loss[k]), float(error[k])))

    def state(self) -> dict[str, Any]:
        """All that is needed to go on as if nothing had happened; tensors, numbers and text only."""
        own = {name: getattr(self, name) for name in _STATE}
        return {**own, "bank": self.bank.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.bank.load_state_dict(state.pop("bank"))
        self.optimizer.load_state_dict(state.pop("optimizer"))
        vars(self).update(state)
        self.best = {name: value.to(self.device) for name, value in self.best.items()}


_STATE = ("epoch", "history", "best", "best_loss", "best_epoch", "stale")


def _summed(chosen: Tensor, *values: Tensor) -> Tensor:
    """Sum over the chosen posts of each of the values (K, B), and their number: float64 (values + 1, K)."""
    stacked = torch.stack([*values, torch.ones_like(values[0])])
    return torch.where(chosen, stacked, 0.0).sum(dim=2, dtype=torch.float64)
