"""Whoever restores the random state draws what would have been drawn."""

import io
import random

import numpy as np
import torch
from torch.utils.data import DataLoader, RandomSampler

from tuner.training import random_state

CPU = torch.device("cpu")


class Noise:
    """A data set with generators of its own, of every kind."""

    def __init__(self):
        self.torch = torch.Generator().manual_seed(1)
        self.numpy = np.random.default_rng(2)
        self.legacy = np.random.RandomState(3)
        self.twister = np.random.Generator(np.random.MT19937(4))
        self.python = random.Random(5)

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return [
            torch.rand((), generator=self.torch).item(),
            self.numpy.normal(),
            self.legacy.normal(),
            self.twister.normal(),
            self.python.gauss(0, 1),
        ]


def loaders():
    data = Noise()
    generator = torch.Generator().manual_seed(6)
    sampler = RandomSampler(data, generator=torch.Generator().manual_seed(7))
    return [DataLoader(data, 2, shuffle=True, generator=generator), DataLoader(data, 2, sampler=sampler)]


def draws(used):
    """From every generator, with the halves of normal pairs that are kept for the next call."""
    everywhere = [
        random.random(),
        random.gauss(0, 1),
        np.random.normal(),  # noqa: NPY002
        torch.rand(()).item(),
        torch.randn(()).item(),
    ]
    return [*everywhere, *(torch.stack(batch).tolist() for loader in used for batch in loader)]


def test_every_generator_goes_on_where_it_was_even_in_objects_built_anew():
    used = loaders()
    draws(used)
    file = io.BytesIO()
    torch.save(random_state.capture(CPU, used), file)
    expected = draws(used)
    file.seek(0)
    built_anew = loaders()
    random_state.restore(torch.load(file, weights_only=True), CPU, built_anew)
    assert draws(built_anew) == expected


def test_capturing_draws_nothing():
    used = loaders()
    state = random_state.capture(CPU, used)
    random_state.capture(CPU, used)
    expected = draws(used)
    random_state.restore(state, CPU, used)
    assert draws(used) == expected


def test_a_generator_shared_by_loaders_is_kept_once():
    first, second = loaders()
    state = random_state.capture(CPU, [first, second, first])
    assert len(state["loaders"]) == 7  # five of the data set, one of each loader
