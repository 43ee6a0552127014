"""Whole rounds on a real PostgreSQL server that restarts, and the password that is in no output, file or table."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import rounds as helpers
import sqlalchemy as sa
from postgres import PASSWORD, SECRETS
from rounds import start, write_study
from simulated import Simulated

import tuner.commands.tune as tune_module
from tuner.cli import main
from tuner.config import load
from tuner.store.database import Database
from tuner.store.rounds import Rounds
from tuner.store.writing import Writes

VARIABLE = "TUNER_DATABASE_URL"


def facts(url):
    with Database(url) as database:
        trials = database.storage.get_all_trials(database.storage.get_study_id_from_name("line-1"))
    return [
        (t.number, t.state.name, t.value, t.params, t.intermediate_values, t.user_attrs["readings"]) for t in trials
    ]


def everything(url):
    """All rows of all tables as one text."""
    with Database(url) as database, database.engine.connect() as connection:
        tables = sa.inspect(connection).get_table_names()
        return "\n".join(
            str(row) for table in tables for row in connection.execute(sa.text(f'SELECT * FROM "{table}"'))
        )


def assert_no_secret(text):
    assert [secret for secret in SECRETS if secret in text] == []


class Restarts:
    """Restarts the server just before some of the round's writes."""

    def __init__(self, monkeypatch, server, *, every):
        self.writes, self.count = 0, 0
        for owner, name in ((Writes, "_write"), (Rounds, "add_stage"), (Rounds, "crown"), (Rounds, "create")):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name), server, every))

    def _counted(self, method, server, every):
        def counted(*args, **kwargs):
            self.writes += 1
            if self.writes % every == 0:
                self.count += 1
                server.restart(("fast", "immediate")[self.count % 2])
            return method(*args, **kwargs)

        return counted


def test_a_round_whose_server_restarts_ends_as_on_sqlite(workdir, postgres, postgres_url, monkeypatch, capfd):
    settings = load(
        ["study=line", "trainer.max_epochs=8", "pruner.first_rung=0.25", "pruner.eta=2", "search.trials=9"],
        config_dir=str(write_study(workdir)),
    )
    monkeypatch.setattr(tune_module, "launcher_of", lambda *_, **__: Simulated(1, []))
    assert tune_module.tune(settings) == 0
    restarts = Restarts(monkeypatch, postgres, every=7)
    assert tune_module.tune(replace(settings, store=replace(settings.store, url=postgres_url, folder="other"))) == 0
    assert restarts.count >= 5
    assert facts(postgres_url) == helpers.facts(workdir)
    assert_no_secret("".join(capfd.readouterr()))


def epochs(folder, count):
    """Wait until the workers have trained some."""
    file = folder / "epochs.txt"
    while not file.is_file() or len(file.read_text().splitlines()) < count:
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_round_in_real_processes_outlives_its_server_and_no_output_has_the_password(
    workdir, postgres, postgres_url, monkeypatch, mode
):
    monkeypatch.setenv(VARIABLE, postgres_url)
    words = ["study=line", "store=postgresql", "search.trials=6", "module.pause_s=0.05", "launcher.workers=2"]
    conf = ["--config-dir", str(write_study(workdir))]
    process = start(workdir, *words, *conf)
    epochs(workdir, 3)
    postgres.stop(mode)
    time.sleep(3)
    postgres.start()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "champion of line-1" in out
    assert err.count("does not answer") == err.count("answers again") == 1
    assert "Traceback" not in err
    found = facts(postgres_url)
    assert [row[0] for row in found] == list(range(6))
    assert {row[1] for row in found} <= {"COMPLETE", "PRUNED"}
    others = [start(workdir, *more, *conf).communicate(timeout=120) for more in (words, ["status", "store=postgresql"], ["champion", *words])]  # fmt: skip
    assert "is finished" in others[0][1]
    assert "line-1: finished" in others[1][0]
    for text in (out, err, *(text for pair in others for text in pair)):
        assert_no_secret(text)
    for file in (file for file in workdir.rglob("*") if file.is_file()):
        assert_no_secret(file.read_bytes().decode(errors="replace"))
    assert_no_secret(everything(postgres_url))


@pytest.mark.slow
def test_a_second_ctrl_c_gives_up_a_server_that_does_not_answer_and_the_round_goes_on_later(
    workdir, postgres, postgres_url, monkeypatch
):
    monkeypatch.setenv(VARIABLE, postgres_url)
    words = ["study=line", "store=postgresql", "search.trials=6", "module.pause_s=0.05", "launcher.workers=2"]
    words += ["--config-dir", str(write_study(workdir))]
    process = start(workdir, *words)
    epochs(workdir, 3)
    postgres.stop("fast")
    try:
        while "does not answer" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        while "SIGINT" not in process.stderr.readline():
            assert process.poll() is None, "it waits for the server, or what the workers save is not recorded"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        postgres.start()
    assert process.returncode == 130
    assert "Traceback" not in err
    out, err = start(workdir, *words, "launcher.takeover=true").communicate(timeout=300)
    assert "champion of line-1" in out, err
    assert {row[1] for row in facts(postgres_url)} <= {"COMPLETE", "PRUNED"}


# -- what the command line says ---------------------------------------------------------------------------------------


@pytest.fixture
def call(workdir, capfd):
    conf = str(write_study(workdir))

    def call(*words):
        """(exit code, all that was said)."""
        code = main([*words, "--config-dir", conf])
        return code, "".join(capfd.readouterr())

    return call


def test_the_group_takes_the_url_from_the_environment_and_says_when_it_is_not_there(call, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    code, said = call("status", "store=postgresql")
    assert code == 2
    assert VARIABLE in said
    assert "Traceback" not in said
    code, said = call("status", "store=postgresql", "store.url=sqlite:///other.db")
    assert (code, "other.db" in said) == (0, True), "told on the command line, the variable is not needed"


COMMANDS = [["tune", "study=line", "search.trials=1"], ["status"], ["champion", "study=line"], ["dashboard"]]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_no_command_says_the_password_of_a_server_that_it_cannot_use(
    call, monkeypatch, postgres, postgres_url, command
):
    wrong = postgres.url("postgres", user="somebody")
    for url in (wrong, postgres.url("nothing"), f"{postgres_url}?sslmode=require", f"{postgres_url}?host=/nowhere"):
        monkeypatch.setenv(VARIABLE, url)
        code, said = call(*command, "store=postgresql")
        assert code == 2
        assert "***" in said
        assert "Traceback" not in said
        assert_no_secret(said)


def test_a_traceback_with_all_locals_has_no_password_but_in_what_was_given(postgres_url):
    """The objects that a crash report would show: database, storage, engines, waiting, and their parts."""
    with Database(postgres_url) as database:
        shown = [database, database.storage, database.engine, database.storage.engine, database.waiting]
        for thing in shown:
            assert_no_secret(f"{thing!r} {thing}")
            assert_no_secret(str({name: str(value) for name, value in vars(thing).items()}))
        assert database.storage.engine.url.password is None


def test_settings_do_not_show_the_password(workdir, monkeypatch, postgres_url):
    monkeypatch.setenv(VARIABLE, postgres_url)
    settings = load(["study=line", "store=postgresql"], config_dir=str(write_study(workdir)))
    assert settings.store.url == postgres_url
    assert_no_secret(repr(settings))
    assert_no_secret(str(settings.identity))


#: Not in Hydra's grammar without quotes; a list of values to it; a misspelt key.
MISTYPED = ["store.url=postgresql://me:PASSWORD@h/db?a=b", "store.url=postgresql://me:PASSWORD,@h/db"]
MISSPELT = "store.ulr=postgresql://me:PASSWORD@h/db"


@pytest.mark.parametrize("word", [*MISTYPED, MISSPELT])
def test_a_mistyped_url_is_not_repeated_with_its_password(call, word):
    code, said = call("status", word.replace("PASSWORD", SECRETS[1].replace("{}", "")))
    assert code == 2
    assert_no_secret(said)


def test_a_configuration_error_and_status_do_not_import_the_driver_for_sqlite(workdir):
    script = "import sys\nfrom tuner.cli import main\nmain(['status'])\nprint('psycopg' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=workdir)
    assert ran.stdout.splitlines()[-1] == "False"
    assert not Path("runs").exists()
    assert PASSWORD not in ran.stderr
