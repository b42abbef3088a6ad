from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import torch

from smp_ray.models.adapter import AdapterBank, BankShape, unit

SHAPE = BankShape(
    adapters=3, folds=2, width=6, image_bottleneck=4, title_bottleneck=5, image_ratio=0.6, title_ratio=0.3, head_width=7
)


def shape(**changes: float) -> BankShape:
    return BankShape(**{**SHAPE.__dict__, **changes})


def batch(rows: int = 8, width: int = 6) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    image, title = (unit(torch.randn(rows, width, generator=generator)) for _ in range(2))
    return [image, title, torch.ones(rows), torch.ones(rows)]


def different(bank: AdapterBank) -> AdapterBank:
    """The bank with other weights in each adapter, so that mixing adapters up would show."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for value in bank.state_dict().values():
            value.add_(torch.rand(value.shape, generator=generator))
    return bank.eval()


def test_each_adapter_computes_the_published_formula() -> None:
    bank = different(AdapterBank(SHAPE))
    image, title, *flags = batch()
    out = bank(image, title, *flags)
    for k in range(3):
        for side, x, ratio, found in ((bank.image, image, 0.6, out.image), (bank.title, title, 0.3, out.title)):
            down, up = side.down[k].detach().numpy(), side.up[k].detach().numpy()
            a = np.maximum(np.maximum(x.numpy() @ down, 0) @ up, 0)
            mixed = ratio * a + (1 - ratio) * x.numpy()
            expected = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
            np.testing.assert_allclose(found[k].detach().numpy(), expected, atol=1e-6)
    assert bank.image.down.shape == (3, 6, 4)
    assert bank.title.down.shape == (3, 6, 5)


def test_a_linear_head_sees_both_embeddings_their_product_and_the_flags() -> None:
    bank = different(AdapterBank(shape(head_width=0)))
    inputs = batch()
    out = bank(*inputs)
    x, y = out.image * 6**0.5, out.title * 6**0.5
    flags = torch.ones(3, 8, 2)
    expected = (torch.cat([x, y, x * y, flags], dim=2) @ bank.last)[:, :, 0] + bank.last_bias[:, None]
    torch.testing.assert_close(out.prediction, expected)
    assert bank.last.shape == (3, 3 * 6 + 2, 1)


def test_all_adapters_start_alike_and_the_seed_decides_how() -> None:
    bank = AdapterBank(SHAPE, seed=3)
    for value in bank.parameters():
        assert all(torch.equal(value[0], value[k]) for k in range(3))
    again, other = AdapterBank(SHAPE, seed=3), AdapterBank(SHAPE, seed=4)
    assert torch.equal(bank.image.down, again.image.down)
    assert not torch.equal(bank.image.down, other.image.down)
    assert not torch.equal(bank.image.down[0, :4, :4], bank.title.down[0, :4, :4])


def test_without_a_residual_share_embeddings_stay_what_they_were() -> None:
    bank = different(AdapterBank(shape(image_ratio=0.0, title_ratio=0.0)))
    image, title, *flags = batch()
    out = bank(image * 3, title, *flags)
    torch.testing.assert_close(out.image, image.expand(3, -1, -1))
    torch.testing.assert_close(out.title, title.expand(3, -1, -1))


def test_what_is_missing_stays_zero_and_gradients_stay_finite() -> None:
    bank = different(AdapterBank(SHAPE))
    image, title, has_image, has_title = batch()
    image[2], has_image[2] = 0, 0
    out = bank(image, title, has_image, has_title)
    assert (out.image[:, 2] == 0).all()
    torch.testing.assert_close(out.image[:, 3].norm(dim=1), torch.ones(3))
    out.prediction.square().sum().backward()
    assert all(torch.isfinite(value.grad).all() for value in bank.parameters() if value.grad is not None)
    has_image[2] = 1
    assert not torch.equal(bank(image, title, has_image, has_title).prediction[:, 2], out.prediction[:, 2])


def test_dropout_is_the_same_for_all_adapters_and_only_while_training() -> None:
    bank = AdapterBank(SHAPE, dropout=0.5)  # all adapters are alike
    inputs = batch()
    whole = bank.eval()(*inputs).prediction
    dropped = bank.train()(*inputs).prediction
    torch.testing.assert_close(dropped[0], dropped[1])
    assert not torch.allclose(dropped, whole)
    torch.testing.assert_close(bank.eval()(*inputs).prediction, whole)


def test_a_bank_survives_its_file() -> None:
    bank = different(AdapterBank(SHAPE))
    again = AdapterBank.from_bytes(bank.to_bytes())
    assert again.shape == SHAPE
    assert {name: value.tolist() for name, value in again.state_dict().items()} == {
        name: value.tolist() for name, value in bank.state_dict().items()
    }


def test_each_post_takes_its_own_adapter_and_others_the_mean_of_the_folds() -> None:
    bank = different(AdapterBank(SHAPE))
    inputs = batch()
    adapter = torch.tensor([0, 1, 2, -1, 1, 0, -1, 2])
    found, full = bank.apply_to(adapter, *inputs), bank(*inputs)
    labels = full.prediction * bank.label_std[:, None] + bank.label_mean[:, None]
    for row, k in enumerate(adapter.tolist()):
        # The third adapter belongs to no fold, so it takes no part in the mean.
        used = [0, 1] if k < 0 else [k]
        image, title = (unit(side[used, row].mean(dim=0)) for side in (full.image, full.title))
        torch.testing.assert_close(found.image[row], image)
        torch.testing.assert_close(found.title[row], title)
        torch.testing.assert_close(found.prediction[row], labels[used, row].mean())
    torch.testing.assert_close(found.image.norm(dim=1), torch.ones(8))


def test_it_needs_no_ray() -> None:
    script = """
import sys
sys.modules["ray"] = None
import torch
from smp_ray.models.adapter import AdapterBank, BankShape
bank = AdapterBank(BankShape(2, 2, 4, 3, 3, 0.5, 0.5, 0))
out = bank.apply_to(torch.tensor([0, -1]), torch.eye(4)[:2], torch.eye(4)[:2], torch.ones(2), torch.ones(2))
import json
print(json.dumps(list(out.prediction.shape)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [2]
