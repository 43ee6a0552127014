"""`tuner train` as a user runs it: the champion, trained in full on all data, in a checkpoint."""

import time
from pathlib import Path

import pytest
import yaml
from faulty import Line
from rounds import interrupted, start, tune, write_study

from studies.digits import MLP, Digits
from tuner.cli import main

TESTS = str(Path(__file__).parent.parent)
SMALL = ["study=digits", "trainer.max_epochs=3", "search.budget=1", "launcher.workers=1"]


def document(capsys):
    """Standard output, which is nothing but the YAML."""
    told = capsys.readouterr()
    return yaml.safe_load(told.out), told.err


def test_the_champion_is_trained_on_all_but_the_test_set_and_tested_once(workdir, capsys):
    assert main(SMALL) == 0
    assert main(["champion", *SMALL]) == 0
    champion = yaml.safe_load("study:" + capsys.readouterr().out.rpartition("study:")[2])
    assert main(["train", *SMALL]) == 0
    found, err = document(capsys)
    assert found["values"] == f"the champion of digits-1, trial {champion['trial']}"
    assert found["params"] == champion["params"]
    assert (found["split"], found["epochs"]) == ("train+val", 3)
    assert "epoch 3 of 3" in err
    module = MLP.load_from_checkpoint(found["checkpoint"], weights_only=True).eval()
    assert module.hparams.hidden == champion["params"]["hidden"]
    images, labels = Digits().test
    accuracy = (module(images).argmax(dim=1) == labels).float().mean().item()
    assert found["test"]["test/acc"] == pytest.approx(accuracy)

    # The study's own values, on the training split alone, beside the first checkpoint.
    assert main(["train", *SMALL, "split=train", "at=defaults"]) == 0
    again, err = document(capsys)
    assert (again["values"], again["params"], again["split"]) == ("the study's own values", {}, "train")
    assert "val/acc=" in err
    assert Path(again["checkpoint"]).name == "digits-2.ckpt"
    assert Path(found["checkpoint"]).is_file()


def test_loaders_of_a_function_are_joined_and_a_missing_test_is_told(workdir, capsys):
    conf = str(write_study(workdir))
    assert main(["train", "study=line", "folder=final", "--config-dir", conf]) == 0
    found, err = document(capsys)
    assert found["test"] is None
    assert "There are no test metrics: Line has no test_step" in err
    assert found["checkpoint"] == str(workdir / "final" / "line.ckpt")
    line = Line.load_from_checkpoint(found["checkpoint"], weights_only=True)
    assert line.linear.weight.item() != 0
    assert not (workdir / "runs/tuner.db").exists()


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("diverge", "diverged: training loss is nan"),
        ("raise", "crashed: ValueError: what a pity"),
        ("raise in init", "no module today"),
        ("exit", "the worker died: left with exit code 3, and so did 2 before it"),
    ],
)
def test_a_training_that_does_not_complete_is_told_and_leaves_nothing(workdir, capsys, mode, said):
    conf = str(write_study(workdir))
    assert main(["train", "study=line", f"module.mode={mode}", "--config-dir", conf]) == 1
    told = capsys.readouterr()
    assert said in told.err
    assert not told.out
    assert not list(workdir.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["split=val"], "train.split: is one of train+val, train"),
        (["at=champion"], "has no champion"),
        (["at=best"], "train.at: is one of champion, defaults"),
        (["folder=study.yaml"], "train.folder: is a folder that can be written to"),
    ],
)
def test_mistakes_are_told_before_any_work(workdir, capsys, words, said):
    (workdir / "study.yaml").touch()
    assert main(["train", "study=digits", *words]) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert not told.out
    assert not (workdir / "runs").exists()


def test_data_that_cannot_be_joined_names_the_way_out(workdir, capsys):
    conf = write_study(workdir)
    file = conf / "study/line.yaml"
    study = yaml.safe_load(file.read_text())
    study["trainer"]["callbacks"] = [
        {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": study["objective"]["metric"]}
    ]
    file.write_text(f"# @package _global_\n{yaml.safe_dump(study)}")
    assert main(["train", "study=line", "--config-dir", str(conf)]) == 2
    assert "EarlyStopping follows val/loss" in capsys.readouterr().err
    assert main(["train", "study=line", "split=train", "--config-dir", str(conf)]) == 0


def test_a_champion_from_a_round_is_what_is_trained(workdir, capsys):
    assert tune(workdir, "search.trials=2") == 0
    capsys.readouterr()
    assert main(["train", "study=line", "--config-dir", str(workdir / "conf")]) == 0
    found, _ = document(capsys)
    assert found["values"].startswith("the champion of line-1, trial ")
    assert f"{found['params']['lr']:.6g}" in (workdir / "epochs.txt").read_text().splitlines()[-1]


def test_a_worker_that_is_killed_is_told_and_the_training_starts_again(workdir, capsys):
    conf = str(write_study(workdir))
    assert main(["train", "study=line", "module.mode=killed once", "--config-dir", conf]) == 0
    found, err = document(capsys)
    assert found["epochs"] == 4
    assert "training: the worker died: ended by SIGKILL" in err


def test_ctrl_c_leaves_cleanly_and_without_a_checkpoint(tmp_path):
    conf = str(write_study(tmp_path, module={"pause_s": 0.1}))
    words = ["train", "study=line", "trainer.max_epochs=50", "--config-dir", conf]
    process = start(tmp_path, *words)
    while not (tmp_path / "epochs.txt").is_file():
        time.sleep(0.05)
    out, err = interrupted(process)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert not out
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_value_that_the_champion_would_take_the_place_of_is_an_error(workdir, capsys):
    conf = ["--config-dir", str(write_study(workdir))]
    assert tune(workdir, "search.trials=2") == 0
    capsys.readouterr()
    assert main(["train", "study=line", "module.lr=0.02", *conf]) == 2
    told = capsys.readouterr().err
    assert "module.lr: is set by the champion of line-1" in told
    assert "at=defaults" in told
    assert main(["train", "study=line", "module.lr=0.02", "at=defaults", *conf]) == 0
