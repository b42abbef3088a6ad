"""The training itself: all adapters at once, in plain torch, the same on any number of workers.

Every worker walks the same rows in the same order and computes its own part of each batch; gradients are summed. Each
adapter's loss, labels, early stopping and best weights are its own, so no adapter can tell who else is trained.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor

from smp_ray.config import AdapterConfig
from smp_ray.models.adapter import AdapterBank, BankShape
from smp_ray.training.adapter.plan import HELD_OUT, TRAINS
from smp_ray.training.adapter.rows import AdapterInput

#: Rows of one forward pass without gradients.
JUDGED_ROWS = 4096

#: A part of the input as tensors: image, title (float16), has_image, has_title, popularity (float32), roles (uint8).
Rows = Mapping[str, Tensor]
#: Walks through the input once, in its fixed order; of a small input one part is all.
Source = Callable[[], Iterable[Rows]]


@dataclass(frozen=True)
class WorkerShare:
    """Which part of each batch a worker computes."""

    rank: int = 0
    world: int = 1

    def of(self, rows: int) -> slice:
        """The worker's part of so many rows: contiguous, parts of all workers together are all."""
        return slice(self.rank * rows // self.world, (self.rank + 1) * rows // self.world)

    def sum(self, *tensors: Tensor) -> None:
        """Add up tensors over all workers, in place."""
        if self.world > 1:
            flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
            torch.distributed.all_reduce(flat)
            for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(total.view_as(tensor))


def bank_shape(settings: AdapterConfig, adapters: int, folds: int, width: int) -> BankShape:
    """The shape of the bank that a configuration asks for."""
    title_ratio = settings.title_residual_ratio
    return BankShape(
        adapters=adapters, folds=folds, width=width,
        image_bottleneck=settings.bottleneck, title_bottleneck=settings.title_bottleneck or settings.bottleneck,
        image_ratio=settings.residual_ratio,
        title_ratio=settings.residual_ratio if title_ratio is None else title_ratio, head_width=settings.head_width,
    )  # fmt: skip


def batch_rows(rows: int, configured: int) -> int:
    """Posts a step: as configured, or a little fewer so that the last batch of an epoch is about as large."""
    steps = -(-rows // configured)
    return -(-rows // steps)


@dataclass
class BankTraining:
    """The bank while it is trained: all that an epoch changes and a checkpoint holds.

    Attributes:
        bank: the live weights; those of a stopped adapter no longer matter.
        best: each adapter's weights after its best epoch, by parameter name: what it will be in the end.
        best_loss, best_epoch, stale: float64, int64 and int64 (K,): held-out loss of the best epoch, its number, and
            the epochs since.
        history: adapter, epoch, train_loss, heldout_loss, heldout_mae of every epoch that an adapter took part in.
        starts: the epochs that were done when a worker started or started again.
    """

    settings: AdapterConfig
    data: AdapterInput
    folds: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    epoch: int = 0
    history: list[tuple[int, int, float, float, float]] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        adapters = len(self.data.trains)
        shape = bank_shape(self.settings, adapters, self.folds, self.data.width)
        bank = AdapterBank(shape, self.settings.seed)
        bank.label_mean.copy_(torch.tensor(self.data.label_mean))
        bank.label_std.copy_(torch.tensor(self.data.label_std))
        self.bank = bank.to(self.device)
        self.optimizer = torch.optim.AdamW(
            self.bank.parameters(), lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay
        )
        self.best = {name: value.detach().clone() for name, value in self.bank.named_parameters()}
        self.best_loss = torch.full((adapters,), torch.inf, dtype=torch.float64)
        self.best_epoch = torch.zeros(adapters, dtype=torch.int64)
        self.stale = torch.zeros(adapters, dtype=torch.int64)
        self.batch = batch_rows(self.data.rows, self.settings.batch_size)
        # A post weighs the same in every batch: divided by how many of an adapter's posts a batch has on average.
        trains = torch.tensor(self.data.trains, dtype=torch.float32, device=self.device)
        self._weight = (self.data.rows / (trains * self.batch))[:, None]

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

    def run_epoch(self, source: Source, share: WorkerShare) -> None:
        """Learn from every row once, in an order of this epoch's own, then judge the held-out rows."""
        sums = torch.zeros(3, len(self.data.trains), dtype=torch.float64, device=self.device)
        self.bank.train()
        step = 0
        for part, rows in enumerate(source()):
            count = len(rows["popularity"])
            order = torch.randperm(count, generator=keyed(self.settings.seed, "order", self.epoch, part))
            for picked in order.to(self.device).split(self.batch):
                sums[0] += self._step(rows, picked, step, share)
                step += 1
        self.bank.eval()
        for rows in source():
            held = torch.nonzero((rows["roles"] == HELD_OUT).any(dim=1))[:, 0]
            for picked in held[share.of(len(held))].split(JUDGED_ROWS):
                sums[1:] += self._judge(rows, picked)
        share.sum(sums)
        self._finish(sums.cpu())

    def _step(self, rows: Rows, picked: Tensor, step: int, share: WorkerShare) -> Tensor:
        mine = share.of(len(picked))
        kept = self._kept(len(picked), step)
        loss, _ = self._loss(rows, picked[mine], None if kept is None else kept[mine].to(self.device))
        learns = rows["roles"][picked[mine]].T == TRAINS
        self.optimizer.zero_grad(set_to_none=False)
        torch.where(learns, loss * self._weight, 0.0).sum().backward()
        share.sum(*(parameter.grad for parameter in self.bank.parameters() if parameter.grad is not None))
        self.optimizer.step()
        return torch.where(learns, loss.detach(), 0.0).sum(dim=1, dtype=torch.float64)

    @torch.inference_mode()
    def _judge(self, rows: Rows, picked: Tensor) -> Tensor:
        loss, error = self._loss(rows, picked, None)
        held = rows["roles"][picked].T == HELD_OUT
        both = torch.stack([loss, error.abs() * self.bank.label_std[:, None]])
        return torch.where(held, both, 0.0).sum(dim=2, dtype=torch.float64)

    def _loss(self, rows: Rows, picked: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor]:
        """Loss and error, both (K, B), in standard deviations of each adapter's own labels."""
        inputs = [rows[name][picked].float() for name in ("image", "title", "has_image", "has_title")]
        standardised = self.bank(*inputs, kept=kept).standardised
        target = (rows["popularity"][picked] - self.bank.label_mean[:, None]) / self.bank.label_std[:, None]
        if self.settings.loss == "huber":
            loss = F.huber_loss(standardised, target, reduction="none", delta=self.settings.huber_delta)
        elif self.settings.loss == "l1":
            loss = F.l1_loss(standardised, target, reduction="none")
        else:
            loss = F.mse_loss(standardised, target, reduction="none")
        return loss, standardised.detach() - target

    def _kept(self, count: int, step: int) -> Tensor | None:
        """Dropout's factors of a whole batch, whoever computes it: (batch, units)."""
        if not self.settings.dropout:
            return None
        generator = keyed(self.settings.seed, "dropout", self.epoch, step)
        drawn = torch.rand(count, self.bank.shape.dropped, generator=generator)
        return (drawn >= self.settings.dropout).float() / (1 - self.settings.dropout)

    def _finish(self, sums: Tensor) -> None:
        """Take note of an epoch: better weights are kept, adapter by adapter."""
        train_loss = sums[0] / torch.tensor(self.data.trains)
        loss, error = sums[1:] / torch.tensor(self.data.held_out)
        active = self.active
        self.epoch += 1
        better = active & (loss < self.best_loss)
        for name, value in self.bank.named_parameters():
            chosen = better.to(self.device).view(-1, *[1] * (value.dim() - 1))
            self.best[name] = torch.where(chosen, value.detach(), self.best[name])
        self.best_loss = torch.where(better, loss, self.best_loss)
        self.best_epoch = torch.where(better, self.epoch, self.best_epoch)
        self.stale = torch.where(active & ~better, self.stale + 1, torch.where(better, 0, self.stale))
        for k in torch.nonzero(active)[:, 0].tolist():
            self.history.append((k, self.epoch, float(train_loss[k]), float(loss[k]), float(error[k])))

    def state(self) -> dict[str, Any]:
        """All that is needed to go on as if nothing had happened; tensors, numbers and text only."""
        own = {name: getattr(self, name) for name in _STATE}
        return {**own, "bank": self.bank.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        for name in _STATE:
            setattr(self, name, state[name])
        self.best = {name: value.to(self.device) for name, value in self.best.items()}
        self.bank.load_state_dict(state["bank"])
        self.optimizer.load_state_dict(state["optimizer"])


_STATE = ("epoch", "history", "starts", "best", "best_loss", "best_epoch", "stale")


def keyed(seed: int, *key: str | int) -> torch.Generator:
    """A generator on the CPU of its own for each key: what it draws depends on nothing that happened before."""
    digest = hashlib.blake2b(repr((seed, *key)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
