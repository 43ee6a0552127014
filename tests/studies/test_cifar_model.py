"""The network of the study cifar: its shapes, its layers, and that it learns."""

import functools

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from studies.cifar.model import ResNet, network
from tuner.training.process import without_noise

SGD = functools.partial(torch.optim.SGD, lr=0.2, momentum=0.9, weight_decay=5e-4)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_norms_stand_behind_convolutions_that_have_no_bias_then(batch_norm):
    layers = list(network(4, batch_norm=batch_norm).modules())
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 8
    assert all((convolution.bias is None) == batch_norm for convolution in convolutions)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in layers) == 8 * batch_norm
    assert network(4)(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_logits_are_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert ResNet(width=4)(torch.randn(2, 3, 32, 32)).dtype == torch.float32


def test_norms_and_biases_do_not_decay():
    module = ResNet(width=4, optimizer=SGD)
    optimizer = module.configure_optimizers()
    optimizer = optimizer["optimizer"] if isinstance(optimizer, dict) else optimizer
    weights, others = optimizer.param_groups
    assert (weights["weight_decay"], others["weight_decay"]) == (5e-4, 0.0)
    assert all(parameter.ndim > 1 for parameter in weights["params"])
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(module.parameters()))


def blobs(count=64):
    """Images of one colour each: the class is the colour."""
    labels = torch.arange(count) % 10
    images = (labels.float() / 5 - 1)[:, None, None, None] * torch.ones(count, 3, 32, 32)
    return images + 0.1 * torch.randn_like(images), labels


def test_it_learns_and_comes_back_from_a_checkpoint(tmp_path):
    torch.manual_seed(0)
    batches, val = (DataLoader([blobs() for _ in range(n)], batch_size=None) for n in (8, 1))
    module = ResNet(width=4, label_smoothing=0.05, optimizer=SGD)
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    with without_noise():
        trainer = pl.Trainer(max_epochs=6, default_root_dir=tmp_path, enable_checkpointing=False, **options)
        trainer.fit(module, batches, val)
        assert trainer.callback_metrics["val/acc"] > 0.5, "ten classes, so 0.1 is chance"
        trainer.save_checkpoint(tmp_path / "model.ckpt", weights_only=True)
        again = ResNet.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    images, _ = blobs()
    assert torch.equal(again.eval()(images), module.eval()(images))
