"""CIFAR-10: 60,000 photographs of 32x32 pixels in ten classes, and a residual network that tells them apart."""

from studies.cifar.data import CIFAR10
from studies.cifar.model import ResNet

__all__ = ["CIFAR10", "ResNet"]
