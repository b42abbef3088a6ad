"""What the three trainings share: AdamW with warm-up and cosine decay, and a line of progress."""

import copy
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from transformers import PreTrainedModel


def make_optimizer(groups: list[tuple[nn.Module, float]], steps: int) -> tuple[torch.optim.Optimizer, OneCycleLR]:
    """AdamW over (module, peak learning rate) groups, warmed up over 8 % of the steps, then cosine to almost 0."""
    parameters = [{"params": list(module.parameters()), "lr": rate} for module, rate in groups]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.05)
    rates = [rate for _, rate in groups]
    return optimizer, OneCycleLR(optimizer, rates, total_steps=steps, pct_start=0.08, cycle_momentum=False)


class Progress:
    """Prints the mean loss of the last tenth of a training and the seconds so far."""

    def __init__(self, name: str, steps: int) -> None:
        self.name, self.steps, self.done = name, steps, 0
        self.started, self.losses = time.perf_counter(), list[float]()

    def step(self, loss: torch.Tensor) -> None:
        """Count one step of the given loss."""
        self.done += 1
        self.losses.append(loss.item())
        if self.done % max(1, self.steps // 10) == 0:
            mean, seconds = sum(self.losses) / len(self.losses), time.perf_counter() - self.started
            print(f"{self.name}: step {self.done}/{self.steps}, loss {mean:.4f}, {seconds:.0f} s", flush=True)
            self.losses.clear()


def save_half(model: PreTrainedModel, folder: Path) -> None:
    """Save with weights in float16, half the size, and a config that has them loaded as float32."""
    copy.deepcopy(model).half().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    _set_dtype(config)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _set_dtype(config: dict[str, Any]) -> None:
    if "dtype" in config:
        config["dtype"] = "float32"
    for value in config.values():
        if isinstance(value, dict):
            _set_dtype(value)
