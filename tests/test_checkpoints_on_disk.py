"""The files of a round: what the controller drops, and what may still be on its way to it."""

import pytest

from tuner.checkpoints import FINAL, Checkpoints, size_bytes

#: (what is kept, what is there, what is left)
DROPS = [
    ("step-20.ckpt", ["step-10.ckpt", "epoch-2.ckpt"], []),
    ("step-20.ckpt", ["step-30.ckpt"], ["step-30.ckpt"]),
    ("step-20.ckpt", ["step-9.ckpt", "step-100.ckpt"], ["step-100.ckpt"]),
    # Written before the controller has heard of the checkpoint before.
    ("step-20.ckpt", ["paused.ckpt"], ["paused.ckpt"]),
    ("step-20.ckpt", ["complete.ckpt"], ["complete.ckpt"]),
    ("epoch-4.ckpt", ["epoch-2.ckpt", "step-30.ckpt"], []),
    (None, ["step-10.ckpt", "epoch-2.ckpt", "paused.ckpt", "complete.ckpt"], []),
    (None, [FINAL, "epoch=3-step=30.ckpt", "metrics.csv"], [FINAL, "epoch=3-step=30.ckpt", "metrics.csv"]),
]


@pytest.mark.parametrize(("but", "there", "left"), DROPS)
def test_what_is_older_than_the_checkpoint_that_is_kept_goes(tmp_path, but, there, left):
    checkpoints = Checkpoints(tmp_path)
    folder = checkpoints.folder(7)
    folder.mkdir()
    for name in [*there, *([but] if but else [])]:
        (folder / name).write_text("x")
    checkpoints.drop(7, but=but)
    assert sorted(file.name for file in folder.glob("*")) == sorted([*left, *([but] if but else [])])
    assert folder.is_dir() == bool(left or but), "an empty folder goes, too"


def test_models_are_found_dropped_and_counted(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for number in (3, 12):
        checkpoints.folder(number).mkdir()
        (checkpoints.folder(number) / FINAL).write_text("model")
    (tmp_path / "trial-3" / "metrics.csv").write_text("the user's")
    assert sorted(checkpoints.finals()) == [3, 12]
    assert size_bytes(tmp_path) == 2 * len("model")
    checkpoints.drop_final(12)
    assert checkpoints.finals() == [3]
    assert not checkpoints.folder(12).exists()
