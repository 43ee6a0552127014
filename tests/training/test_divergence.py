"""Which training losses have exploded, as a table."""

import math

import pytest
import torch

from tuner.training.divergence import LossWatch


def first_bad(losses, factor):
    watch = LossWatch(factor)
    for step, loss in enumerate(losses):
        if watch.add(step, torch.tensor(loss)):
            return step
    return None


@pytest.mark.parametrize(
    ("losses", "factor", "bad"),
    [
        ([2.3, 2.2, 2.1], 1000, None),
        ([2.3, math.nan], 1000, 1),
        ([math.nan], 1000, 0),  # from the start
        ([2.3, -math.inf], None, 1),
        ([2.3, 2301.0], 1000, 1),
        ([2.3, 2299.0], 1000, None),
        ([0.001, 999.0], 1000, None),  # a small start: its size counts as 1
        ([0.001, 1001.0], 1000, 1),
        ([-5.0, -5001.0], 1000, 1),
        ([1e6] * 20 + [1e8], 1000, None),  # large is not exploded
        ([1.0] * 3 + [900.0] * 20, 1000, None),
        ([1.0] * 8 + [900.0, 950.0, 1001.0], 1000, 10),  # the explosion does not raise its own limit
        ([1.0, 1e30], None, None),
        ([10.0] * 10 + [0.1] * 50 + [9999.0], 1000, None),  # compared with the start, not with the last ones
    ],
)
def test_losses(losses, factor, bad):
    assert first_bad(losses, factor) == bad


def test_the_reason_names_loss_step_and_factor():
    watch = LossWatch(1000)
    watch.add(1, torch.tensor(2.0))
    assert watch.add(2, torch.tensor(5000.0)) == "training loss 5000 at step 2, more than 1000 times its first values"
    assert watch.add(3, torch.tensor(math.inf)) == "training loss is inf at step 3"


def test_a_watch_that_goes_on_keeps_its_reference():
    watch, resumed = LossWatch(10), LossWatch(10)
    for step in range(12):
        watch.add(step, torch.tensor(4.0))
    resumed.resume(watch.first)
    assert not resumed.add(12, torch.tensor(39.0))
    assert resumed.add(13, torch.tensor(41.0))


class OnDevice(torch.Tensor):
    """Pretends to live on an accelerator, and counts how often it is read alone."""

    is_cuda = True

    def item(self):
        raise AssertionError("reading one loss waits for the accelerator")


@pytest.mark.parametrize("bad", [3, 19, 20, 33])
def test_on_an_accelerator_losses_are_read_together_and_the_first_bad_one_is_named(bad):
    watch, reasons = LossWatch(1000), []
    for step in range(40):
        loss = torch.tensor(math.nan if step >= bad else 1.0).as_subclass(OnDevice)
        reasons.append(watch.add(step, loss))
    seen = next(step for step, reason in enumerate(reasons) if reason)
    assert seen == (19 if bad < 20 else 39)
    assert reasons[seen] == f"training loss is nan at step {bad}"


def test_what_was_not_read_is_read_at_the_end_of_an_epoch():
    watch = LossWatch(1000)
    assert not watch.look()
    watch.add(0, torch.tensor(math.nan).as_subclass(OnDevice))
    assert watch.look()
    assert not watch.look()
