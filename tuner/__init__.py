"""Automated tuning of PyTorch Lightning models."""

__version__ = "0.1.0"
