"""The program as a user runs it: in a process of its own, from a folder of the user's."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from rounds import facts, trials, write_study

from tuner.cli import COMMANDS, main
from tuner.config.compose import compose_config

TUNER = [sys.executable, "-m", "tuner"]
SMALL = ["study=digits", "search.budget=2", "trainer.max_epochs=4", "launcher.workers=2"]
TESTS = str(Path(__file__).parent.parent)
ENVIRONMENT = {**os.environ, "PYTHONPATH": TESTS}


def run(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TUNER, *words], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def start(*words: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*TUNER, *words], cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def wait_for_epochs(folder: Path, count: int) -> None:
    """Until the workers have trained some epochs; a test ends by pytest's own limits if they never do."""
    file = folder / "epochs.txt"
    while not file.is_file() or len(file.read_text().splitlines()) < count:
        time.sleep(0.05)


def test_the_readmes_main_command_from_the_search_to_the_champions_yaml(tmp_path):
    tuned = run(*SMALL, folder=tmp_path)
    assert tuned.returncode == 0, tuned.stderr
    assert "champion of digits-1: val/acc=" in tuned.stdout

    again = run(*SMALL, folder=tmp_path)
    assert again.returncode == 0
    assert "digits-1 is finished" in again.stderr
    assert again.stdout.splitlines()[-2:] == tuned.stdout.splitlines()[-2:]

    champion = run("champion", "study=digits", *SMALL[1:], folder=tmp_path)
    assert champion.returncode == 0
    document = yaml.safe_load(champion.stdout)
    assert {"study", "round", "data_version", "metric", "value", "params", "overrides"} <= set(document)
    assert (document["study"], document["round"], document["metric"]) == ("digits", 1, "val/acc")
    assert 0.3 < document["value"] <= 1
    assert document["provisional"] is True

    # The overrides can be pasted: a round of their values alone starts from them.
    pasted = run(
        "study=digits",
        *SMALL[1:],
        *shlex.split(document["overrides"]),
        "search.trials=1",
        "search.budget=null",
        "seed=1",  # a round of its own, whatever won
        folder=tmp_path,
    )
    assert pasted.returncode == 0, pasted.stderr
    own = trials(tmp_path, "digits-2")[0].user_attrs["hyperparameters"]
    assert own == document["params"]

    status = run("status", folder=tmp_path)
    assert "digits-1: finished" in status.stdout
    assert "digits-2: finished" in status.stdout
    assert "coarse" in status.stdout


def test_a_users_own_study_from_a_folder_of_the_users(tmp_path):
    (tmp_path / "mymodel.py").write_text(
        "import torch, lightning as L\n"
        "class Net(L.LightningModule):\n"
        "    def __init__(self, lr): super().__init__(); self.lr = lr; self.w = torch.nn.Parameter(torch.ones(1))\n"
        "    def training_step(self, b, i): return (self.w * b).pow(2).mean()\n"
        "    def validation_step(self, b, i): self.log('loss', self.w.abs().sum())\n"
        "    def configure_optimizers(self): return torch.optim.SGD(self.parameters(), lr=self.lr)\n"
        "def loaders():\n"
        "    x = torch.ones(8, 1)\n"
        "    return torch.utils.data.DataLoader(x), [torch.utils.data.DataLoader(x)]\n"
    )
    (tmp_path / "conf/study").mkdir(parents=True)
    (tmp_path / "conf/study/mine.yaml").write_text(
        "# @package _global_\nname: mine\nmodule: {_target_: mymodel.Net, lr: 0.1}\ndata: {_target_: mymodel.loaders}\n"
        "objective: {metric: loss, direction: minimize}\ntrainer: {max_epochs: 2}\nsearch: {trials: 2}\n"
        "space: {lr: {kind: log_uniform, low: 0.001, high: 1, path: module.lr}}\n"
    )
    ran = subprocess.run(
        [*TUNER, "study=mine", "--config-dir", "conf"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "champion of mine-1: loss=" in ran.stdout


SLOW_TRIALS = ["search.trials=6", "search.budget=null", "module.pause_s=0.05"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> list[tuple[object, ...]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    conf = write_study(folder)
    assert run("study=line", *SLOW_TRIALS, "--config-dir", str(conf), folder=folder).returncode == 0
    return facts(folder)


def test_ctrl_c_stops_the_round_and_the_same_command_goes_on_from_there(tmp_path, undisturbed):
    words = ["study=line", *SLOW_TRIALS, f"module.marks={tmp_path}", "--config-dir", str(write_study(tmp_path))]
    process = start(*words, folder=tmp_path)
    wait_for_epochs(tmp_path, 2)
    time.sleep(0.1)  # into the third epoch of trial 0, which ends at no rung
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to the workers as well
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "line-1: interrupted with" in out
    left = [trial.user_attrs for trial in trials(tmp_path) if trial.state.name == "RUNNING"]
    assert left
    # Saved in the middle of its epoch, unless that came to its end at a rung before the signal was heard.
    assert all(one.get("outcome") == "interrupted" or one["paused_at"] for one in left)
    assert "unfinished, nobody runs it" in run("status", folder=tmp_path).stdout
    ended = run(*words, folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert facts(tmp_path) == undisturbed


@pytest.mark.parametrize("after_s", [0.5, 2.5, *(pytest.param(one, marks=pytest.mark.slow) for one in (1.5, 3.5, 4.5))])
def test_ctrl_c_leaves_in_order_whenever_it_comes(tmp_path, after_s):
    """While the configuration is read, the database made, torch imported, workers started, a trial trained."""
    words = ["study=line", *SLOW_TRIALS, f"module.marks={tmp_path}", "--config-dir", str(write_study(tmp_path))]
    process = start(*words, folder=tmp_path)
    time.sleep(after_s)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    assert process.returncode == 130


def test_ctrl_c_that_ends_the_reader_of_the_messages_too_saves_what_trains(tmp_path):
    """As in `tuner … 2>&1 | tee log`."""
    words = ["study=line", *SLOW_TRIALS, f"module.marks={tmp_path}", "--config-dir", str(write_study(tmp_path))]
    process = start(*words, folder=tmp_path)
    wait_for_epochs(tmp_path, 2)
    time.sleep(0.1)
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    process.stderr.close()
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130
    left = [trial.user_attrs for trial in trials(tmp_path) if trial.state.name == "RUNNING"]
    assert left
    assert all(one.get("outcome") == "interrupted" or one["paused_at"] for one in left)


@pytest.mark.slow
def test_ctrl_c_during_the_range_test_before_a_search_leaves_a_round_that_goes_on(tmp_path):
    conf = str(write_study(tmp_path))
    words = ["study=line", "search.lr_range=true", "search.trials=2", "module.pause_s=0.05", "--config-dir", conf]
    process = start(*words, folder=tmp_path)
    log = tmp_path / "runs/line-1/lr-range/worker-0.log"
    while not log.is_file():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "left by" not in run("status", folder=tmp_path).stdout
    ended = run(*words, folder=tmp_path)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("place", ["command", "import"])
def test_ctrl_c_in_an_exec_of_text_is_no_death_by_the_signal(tmp_path, place):
    """Dataclasses and named tuples are made by `exec`: Python would remember that an interrupt went through it."""
    killed = "exec('import os, signal; os.kill(os.getpid(), signal.SIGINT)')"
    if place == "command":
        patch = f"import tuner.commands.status as module\nmodule.status = lambda settings: {killed}"
    else:
        (tmp_path / "hydra.py").write_text(killed)
        patch = "sys.path.insert(0, '.')"
    program = f"import sys\nfrom tuner.cli import main\n{patch}\nsys.argv = ['tuner', 'status']\nsys.exit(main())"
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (130, "")


@pytest.mark.slow
def test_kill_9_of_the_controller_loses_nothing_that_was_complete(tmp_path, undisturbed):
    words = ["study=line", *SLOW_TRIALS, f"module.marks={tmp_path}", "--config-dir", str(write_study(tmp_path))]
    process = start(*words, folder=tmp_path)
    wait_for_epochs(tmp_path, 6)
    process.kill()
    process.communicate()
    before = [trial for trial in facts(tmp_path) if trial[1] == "COMPLETE"]
    assert "left by process" in run("status", folder=tmp_path).stdout
    ended = run(*words, folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert facts(tmp_path) == undisturbed
    assert all(trial in facts(tmp_path) for trial in before)
    assert {trial.state.name for trial in trials(tmp_path)} == {"COMPLETE", "PRUNED"}


def test_workers_end_when_their_controller_is_killed(tmp_path):
    words = ["study=line", "module.mode=sleep", f"module.marks={tmp_path}", "--config-dir", str(write_study(tmp_path))]
    process = start(*words, folder=tmp_path)
    log = tmp_path / "runs/line-1/worker-0.log"
    while not log.is_file() or "trial 0" not in log.read_text():
        time.sleep(0.05)
    workers = [trial.user_attrs["worker"].rpartition(":")[2] for trial in trials(tmp_path)]
    process.kill()
    process.communicate()
    for pid in workers:
        while Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
            time.sleep(0.05)


def test_a_second_controller_is_told_who_runs_the_round(tmp_path):
    words = ["study=line", *SLOW_TRIALS, f"module.marks={tmp_path}", "--config-dir", str(write_study(tmp_path))]
    process = start(*words, folder=tmp_path)
    wait_for_epochs(tmp_path, 1)
    second = run(*words, folder=tmp_path)
    assert second.returncode == 2
    assert f"line-1 is being run by process {process.pid} on" in second.stderr
    assert "Traceback" not in second.stderr
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)


@pytest.mark.slow
def test_the_dashboard_serves_the_store_with_learning_curves(tmp_path):
    run("study=line", "search.trials=2", "--config-dir", str(write_study(tmp_path)), folder=tmp_path)
    process = start("dashboard", "dashboard.port=0", folder=tmp_path)
    try:
        line = process.stderr.readline()
        address = next(word for word in line.split() if word.startswith("http://127.0.0.1:"))
        studies = json.load(urllib.request.urlopen(f"{address}api/studies"))
        (study,) = studies["study_summaries"]
        assert study["study_name"] == "line-1"
        detail = json.load(urllib.request.urlopen(f"{address}api/studies/{study['study_id']}?after=0"))
        assert len(detail["trials"]) == 2
        assert detail["trials"][0]["intermediate_values"], "learning curves are there"
        busy = run("dashboard", f"dashboard.port={address.rstrip('/').rpartition(':')[2]}", folder=tmp_path)
        assert busy.returncode == 1
        assert "Address already in use" in busy.stderr
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 0


def test_a_study_without_rounds_has_no_champion(tmp_path):
    told = run("champion", "study=digits", folder=tmp_path)
    assert told.returncode == 1
    assert not told.stdout
    assert "no champion" in told.stderr
    assert "study=digits" in told.stderr


QUICK = [["--help"], ["--version"], *([command, "--help"] for command in COMMANDS)]


@pytest.mark.parametrize("words", [*QUICK, ["tnue"], ["tnue", "--help"], ["--nonsense"], []], ids=str)
def test_words_that_need_no_study_do_not_import_torch(words, tmp_path):
    script = (
        "import sys\nfrom tuner.cli import main\ntry:\n    code = main(sys.argv[1:])\nexcept SystemExit as error:\n    code = error.code\n"
        "heavy = {'torch', 'optuna', 'lightning'} | ({'hydra', 'omegaconf'} if '--help' in sys.argv else set())\n"
        "print(heavy & set(sys.modules), code)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in ran.stderr
    assert ran.stdout.splitlines()[-1] == f"set() {0 if words in QUICK else 2}"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_has_its_keys_with_what_they_mean_and_an_example(capsys, name):
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    told = capsys.readouterr().out
    command = COMMANDS[name]
    for key, (what, default) in {**command.keys, **command.usual}.items():
        assert re.search(
            rf"^  {re.escape(key)}= +{re.escape(what)} \(default: {re.escape(default)}\)$", told, re.MULTILINE
        )
    assert all(f"\n  tuner {example}\n" in told for example in command.examples)
    assert command.examples


#: Where the name of a group's choice stands in the configuration.
NAMED = {"search": "search.draws", "pruner": "pruner.rule"}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_defaults_that_help_shows_are_those_of_the_configuration(name):
    config = compose_config(["study=digits"], None)
    command, section = COMMANDS[name], name.replace("-", "_")
    for key, shown in {**{f"{section}.{key}": own for key, own in command.keys.items()}, **command.usual}.items():
        if key in ("study", "trainer.max_epochs"):
            continue  # of these every study has its own
        value = OmegaConf.select(config, NAMED.get(key, key), throw_on_missing=True)
        if value is None:
            assert " " in shown.default, f"{key} says in words what null means"
        else:
            assert type(value)(shown.default) == value, key


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compare", "study=digits", "ovr=lr"], "ovr: is a key of the configuration; got 'ovr'. Did you mean over"),
        (["lr-range", "study=digits", "hihg=1"], "Did you mean high"),
        (["train", "study=digits", "over=lr"], "It is a key of tuner compare."),
        (["study=digits", "folder=here"], "It is a key of tuner train and tuner compare and tuner lr-range."),
        (["compare", "study=digits", "+over=lr"], "Write over=VALUE."),
        (["compare", "study=digits", "trianer.max_epochs=2"], "Did you mean trainer"),
        (["study=digits", "qqq=lr"], "qqq: is a key of the configuration; got 'qqq'. There is: compare"),
        (["cmopare", "study=digits"], "there is no command cmopare. Did you mean compare?"),
    ],
)
def test_a_misspelt_key_names_those_that_the_command_takes(workdir, capsys, words, said):
    try:
        code = main(words)
    except SystemExit as left:
        code = left.code
    assert code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("nonsense", "store.url is a database URL"),
        ("sqlite://", "names a file"),
        ("sqlite:////proc/nowhere/tuner.db", "/proc/nowhere"),
        ("postgresql+psycopg://me:secret@127.0.0.1:1/none", "me:***@127.0.0.1:1"),
        ("oracle+nothing://u:secret@host/db", "no driver"),
    ],
)
def test_a_database_that_cannot_be_used_is_told_without_password_and_traceback(tmp_path, url, named):
    told = run("study=digits", f"store.url='{url}'", folder=tmp_path)
    assert told.returncode == 2
    assert named in told.stderr
    assert "Traceback" not in told.stderr
    assert "secret" not in told.stderr
