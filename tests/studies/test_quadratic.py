"""The study of the parabola: the formula of its descent, its noise, its schedules, and its space."""

import pytest

from studies.quadratic import MINIMUM, Quadratic
from tuner.config import load
from tuner.training.run import train
from tuner.training.task import Answer, Outcome, Task


def study(*overrides):
    return load(["study=quadratic", *overrides]).study


def curve(folder, *overrides, seed=0, **values):
    """Distances after each epoch."""
    chosen = study(*overrides)
    seen = []
    task = Task(0, chosen.nodes.plain(values, chosen.space), "val/distance", seed, str(folder))
    result = train(task, lambda measured: seen.append(measured.value) or Answer.GO_ON)
    assert result.outcome is Outcome.COMPLETE, result.traceback
    assert len(seen) == result.step, "an epoch is one step"
    return seen


def test_without_noise_a_fixed_rate_shrinks_the_distance_by_its_formula(tmp_path):
    found = curve(tmp_path, "module.noise=0", "module.rate.lr=0.1", "trainer.max_epochs=8")
    assert found == pytest.approx([0.5 * 0.8**step for step in range(1, 9)], rel=1e-5)


def test_without_noise_a_time_based_rate_follows_its_formula(tmp_path):
    overrides = ["module.noise=0", "trainer.max_epochs=8"]
    expected, distance = [], 0.5
    for step in range(8):
        distance *= abs(1 - 2 * 0.4 / (1 + 0.3 * step))
        expected.append(distance)
    assert curve(tmp_path, *overrides, schedule="time_based") == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_the_noise_is_the_seeds_and_the_same_for_every_schedule(tmp_path):
    short = "trainer.max_epochs=3"
    assert curve(tmp_path, short, seed=1) == curve(tmp_path, short, seed=1)
    assert curve(tmp_path, short, seed=1) != curve(tmp_path, short, seed=2)
    # The first step's noise moves x by 2 · lr · noise, whatever schedule follows.
    moved = []
    for label, lr in (("fixed", 0.03), ("time_based", 0.4), ("gradient_based", 0.3)):
        exact = 0.5 * abs(1 - 2 * lr)
        moved.append((curve(tmp_path, short, seed=1, schedule=label)[0] - exact) / (2 * lr))
    assert moved == pytest.approx([moved[0]] * 3, abs=1e-5)
    assert abs(moved[0]) > 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_epochs_to_the_target_of_the_study(tmp_path, seed):
    def epochs(label):
        return next(
            epoch for epoch, distance in enumerate(curve(tmp_path, seed=seed, schedule=label), 1) if distance < 0.01
        )

    assert epochs("time_based") <= 10 < epochs("gradient_based") < 50 <= epochs("fixed")


def test_a_checkpoint_has_what_the_module_was_made_of(tmp_path):
    module = Quadratic(start=0.2, noise=0.0)
    assert dict(module.hparams) == {"start": 0.2, "noise": 0.0}
    assert module.x.item() == pytest.approx(0.2)
    assert MINIMUM == 0.5


def test_every_choice_and_every_end_of_the_space_can_be_trained(tmp_path):
    chosen = study("trainer.max_epochs=2")
    own = {parameter.name for parameter in chosen.space if parameter.when}
    assert own == {"time_based_lr", "decay", "gradient_based_lr", "low"}
    for label in range(3):
        for unit in (0.0, 1.0):
            point = dict.fromkeys(chosen.space.names, unit) | {"schedule": (label + 0.5) / 3}
            values = chosen.space.from_unit(point)
            task = Task(0, chosen.nodes.plain(values, chosen.space), "val/distance", 0, str(tmp_path))
            assert train(task, lambda _: Answer.GO_ON).outcome is Outcome.COMPLETE


def test_trial_0_is_the_studys_own_fixed_rate():
    chosen = study()
    assert chosen.nodes.own_value(chosen.space["schedule"], chosen.space) == "fixed"
