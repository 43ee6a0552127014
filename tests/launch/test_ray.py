"""Workers on a Ray cluster: nodes simulated on this machine, real worker processes, real trainings."""

import contextlib
import importlib.util
import ipaddress
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml
from faulty import Line
from launching import pids, task, wait_idle
from rounds import start

from tuner.cli import main
from tuner.commands.workers import launcher_of
from tuner.config.compose import shipped_folder
from tuner.config.load import load
from tuner.errors import ConfigError, RoundFailed
from tuner.launch import ray as launched
from tuner.launch import ray_cluster, ray_host
from tuner.launch.devices import Seat, cores
from tuner.launch.groups import Groups, NodeLost
from tuner.launch.local import local_groups
from tuner.launch.protocol import Checkpointed, Ended, Lost, Measured
from tuner.launch.ray import Demand, ray_groups
from tuner.training.task import Outcome

assert Line  # the workers import it by name

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray")


@pytest.fixture
def cluster():
    """Nodes of one CPU each, and a head that has none; a test adds and removes nodes."""
    ray = ray_cluster.load(own=True)
    from ray.cluster_utils import Cluster

    Path("/tmp/ray").mkdir(exist_ok=True)  # where a head notes its address, whatever folder it has
    folder = tempfile.mkdtemp(prefix="tuner-cluster-", dir="/tmp")  # a longer path is too long for Ray's sockets
    started = Cluster(
        head_node_args={"num_cpus": 0, "temp_dir": folder, "include_dashboard": False}, initialize_head=True
    )
    try:
        yield started
    finally:
        ray.shutdown()
        started.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def two_nodes(cluster):
    return [cluster.add_node(num_cpus=1) for _ in range(2)]


def until(launcher, kind, count=1, seconds=90.0):
    """Events until there are so many of a kind."""
    events, deadline = [], time.monotonic() + seconds
    while sum(isinstance(event, kind) for _, event in events) < count:
        assert time.monotonic() < deadline, f"only {events}"
        events += launcher.events(0.2)
    return events


def values(events):
    return [event.measurement.value for _, event in events if isinstance(event, Measured)]


def nodes(launcher):
    """Ids of the nodes that the ranks run on, by group."""
    return [[rank._node for rank in group.ranks] for _, group in sorted(launcher._groups.items())]


def heard(stream, text):
    """Read lines until one has the text."""
    for line in stream:
        if text in line:
            return
    raise AssertionError(f"never said {text}")


def environment(pid):
    """With which the program of a process was started."""
    return dict(entry.split("=", 1) for entry in Path(f"/proc/{pid}/environ").read_text().split("\0") if entry)


def words_of(pid):
    """The command line of a process; nothing of one that has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def listening(pid):
    """Addresses at which a process listens for TCP."""
    inodes = set()
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                inodes.add(str(entry.readlink()).removeprefix("socket:[").rstrip("]"))
    for table, size in (("tcp", 4), ("tcp6", 16)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                words = bytes.fromhex(fields[1].partition(":")[0])  # in words of 4 bytes, each in the machine's order
                raw = b"".join(words[at : at + 4][::-1] for at in range(0, size, 4))
                address = ipaddress.ip_address(raw)
                yield getattr(address, "ipv4_mapped", None) or address


def family(pid):
    """Process ids of a process and of all that descend from it."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for member in found:
        found += [child for child, parent in parents.items() if parent == member]
    return found


def leftovers(session):
    """Processes of a session, which the ones that Ray starts do not leave."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(entry.read_text().rpartition(")")[2].split()[3]) == session and not is_gone(int(entry.parent.name)):
                found.append(entry.parent.name)
    return found


def is_gone(pid, seconds=20.0):
    deadline = time.monotonic() + seconds
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_without_the_package_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'tuner\[ray\]'"), ray_groups(Demand(), tmp_path):
        pass


def test_an_address_at_which_nothing_listens_is_told_before_any_work(workdir, capsys):
    address = f"127.0.0.1:{free_port()}"
    assert main(["study=digits", "launcher=ray", f"launcher.address={address}"]) == 2
    error = capsys.readouterr().err
    assert "launcher.address" in error
    assert address in error
    assert "Traceback" not in error
    assert not list(workdir.iterdir())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["launcher.address=head"], "HOST:PORT"),
        (["launcher.max_groups=0"], "launcher.max_groups"),
        (["launcher.cpus_per_rank=a"], "launcher.cpus_per_rank"),
        (["launcher.runtime_env=3"], "is a mapping"),
        (["launcher.engine=slurm"], "local, ray"),
        (["launcher=local", "+launcher.address=auto"], "Write launcher=ray as well"),
    ],
)
def test_a_mistake_in_the_configuration_is_told(words, told):
    with pytest.raises(ConfigError, match=told):
        load(["study=digits", "launcher=ray", *words])


def test_what_holds_of_local_workers_can_be_said_of_those_on_ray():
    conf = shipped_folder() / "launcher"
    local, ray = (yaml.safe_load((conf / f"{name}.yaml").read_text()) for name in ("local", "ray"))
    assert local.items() <= ray.items()


def test_a_share_of_a_device_is_for_one_rank(workdir):
    settings = load(["study=digits", "launcher=ray", "launcher.trials_per_device=2", "launcher.devices_per_trial=2"])
    with pytest.raises(ConfigError, match="trials_per_device: is 1"):
        launcher_of(settings, settings.study, workdir)


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ([], {"groups": None, "most": None, "on_gpu": None}),
        (["trainer.accelerator=cpu", "launcher.workers=9"], {"groups": 9, "on_gpu": False}),
        (["trainer.accelerator=gpu", "launcher.max_groups=3"], {"most": 3, "on_gpu": True}),
        (["launcher.devices_per_trial=all", "launcher.cpus_per_rank=4"], {"devices": "all", "cpus": 4, "threads": 4}),
    ],
)
def test_what_the_configuration_asks_of_a_cluster(words, asked, workdir):
    settings = load(["study=digits", "launcher=ray", "launcher.address=auto", *words])
    demand = launcher_of(settings, settings.study, workdir)._transport._demand
    assert {key: getattr(demand, key) for key in asked} == asked


def test_an_instance_of_its_own_has_what_this_machine_has(workdir):
    words = ["launcher=ray", "trainer.accelerator=cpu", "launcher.workers=3"]
    settings = load(["study=digits", *words])
    demand = launcher_of(settings, settings.study, workdir)._transport._demand
    assert (demand.groups, demand.devices, demand.sharing) == (3, 1, 1)
    assert demand.here == {"num_cpus": max(len(cores()), 3), "num_gpus": 0}


def test_what_the_page_on_clusters_shows_is_well_formed(monkeypatch):
    page = (Path(__file__).parent.parent.parent / "docs/clusters.md").read_text()
    (script,) = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    (job,) = map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", page, re.DOTALL))
    monkeypatch.setenv("TUNER_DATABASE_URL", "postgresql://me:secret@db.example/tuner")
    words = job["spec"]["entrypoint"].split()
    assert words[:3] == ["python", "-m", "tuner"]
    assert load(words[3:]).launcher.ray.address == "auto"


def test_the_interface_of_an_address_is_found():
    assert ray_host.interface_of("127.0.0.1") == "lo"
    assert ray_host.interface_of("192.0.2.250") is None


class Unlucky:
    """A transport and its one rank, which ends before it is ready."""

    where = "nowhere"

    def __init__(self, how):
        self.how, self.started = how, 0

    def start(self, group):
        self.started += 1
        return [self]

    def wait(self, ranks, timeout_s):
        return ranks

    def take(self):
        return [], self.how

    def log(self, group):
        return "a log"

    def say(self, message):
        pass

    def kill(self):
        pass

    def end(self, patience_s):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_only_workers_that_end_by_themselves_count_as_unable_to_come_up():
    with Groups(Unlucky(NodeLost("went with its node")), 1) as launcher:
        for _ in range(20):
            assert launcher.events(0.0) == []
    with Groups(Unlucky("left"), 1) as launcher, pytest.raises(RoundFailed, match="last one left"):
        wait_idle(launcher)


@pytest.mark.slow
def test_groups_train_on_the_nodes_that_have_room_for_them(cluster, tmp_path):
    two_nodes(cluster)
    with ray_groups(Demand(cluster.address), tmp_path / "logs") as launcher:
        wait_idle(launcher, 2)
        assert len({node for (node,) in nodes(launcher)}) == 2
        workers = pids(launcher)
        for worker in (0, 1):
            launcher.train(worker, task(tmp_path, trial=worker))
        events = until(launcher, Ended, 2)
        assert [event.result.outcome for _, event in events if isinstance(event, Ended)] == [Outcome.COMPLETE] * 2
        assert "trial 0" in (tmp_path / "logs" / "worker-0.log").read_text()
        launcher.train(0, task(tmp_path, trial=2, module={"mode": "exit"}))
        (lost,) = [event for _, event in until(launcher, Lost) if isinstance(event, Lost)]
        assert "exit code 3" in lost.reason
        wait_idle(launcher, 2)
        launcher.train(0, task(tmp_path, trial=3))
        until(launcher, Ended)
        workers += pids(launcher)
    assert all(is_gone(pid) for pid in workers)


@pytest.mark.slow
def test_a_group_over_two_nodes_trains_as_one_device_does(cluster, tmp_path, monkeypatch):
    # Nodes of one machine meet in a file; those of a network, as here, at a port of the first.
    monkeypatch.setattr(launched.RayTransport, "_meeting", lambda _, first: first.meet.remote())
    with local_groups([[Seat(threads=1)]], tmp_path / "single") as single:
        wait_idle(single)
        single.train(0, task(tmp_path))
        alone = until(single, Ended)
    two_nodes(cluster)
    with ray_groups(Demand(cluster.address, devices=2), tmp_path / "logs") as launcher:
        wait_idle(launcher)
        ((first, second),) = nodes(launcher)
        assert first != second
        launcher.train(0, task(tmp_path))
        together = until(launcher, Ended)
        assert together[-1][1].result.outcome is Outcome.COMPLETE
        assert values(together) == pytest.approx(values(alone), rel=1e-5)
        launcher.train(0, task(tmp_path, trial=1, module={"mode": "raise on rank 1"}))
        assert "what a pity" in until(launcher, Ended)[-1][1].result.traceback
        wait_idle(launcher)


@pytest.mark.slow
def test_each_rank_sees_the_gpu_that_ray_gives_it(cluster, tmp_path):
    """GPUs that Ray counts and that are not there, which is enough to see what each worker may use."""
    cluster.add_node(num_cpus=0, num_gpus=2)
    with ray_groups(Demand(cluster.address), tmp_path / "logs") as launcher:
        wait_idle(launcher, 2)
        assert {environment(pid)["CUDA_VISIBLE_DEVICES"] for pid in pids(launcher)} == {"0", "1"}


@pytest.mark.slow
def test_a_trial_whose_node_is_lost_goes_on_elsewhere(cluster, tmp_path):
    first = cluster.add_node(num_cpus=1)
    with ray_groups(Demand(cluster.address), tmp_path / "logs") as launcher:
        wait_idle(launcher)
        (worker,) = pids(launcher)
        long = {"module": {"pause_s": 0.05}, "trainer": {"max_epochs": 1000, "checkpoint_every_s": 0.5}}
        launcher.train(0, task(tmp_path, **long))
        events = until(launcher, Checkpointed, 2)
        cluster.remove_node(first, allow_graceful=False)
        events += until(launcher, Lost)
        (lost,) = [event for _, event in events if isinstance(event, Lost)]
        assert "node" in lost.reason
        saved = [event.saved for _, event in events if isinstance(event, Checkpointed)][-1]
        assert is_gone(worker)
        for _ in range(20):  # it waits for a node, and nobody gives up
            launcher.events(0.2)
        assert launcher.idle() == []
        cluster.add_node(num_cpus=1)
        wait_idle(launcher)
        launcher.train(0, task(tmp_path, **long, checkpoint=saved.file))
        further, *_ = [event.measurement for _, event in until(launcher, Measured) if isinstance(event, Measured)]
        assert saved.step <= further.step <= saved.step + 4, "the epoch in which it was saved, or the next one"
        # Saved after the last batch of an epoch, it has still to be validated.
        assert further.step > saved.step or further.value != saved.value


@pytest.mark.slow
def test_a_node_that_does_not_see_the_controllers_folder_is_told_as_a_mistake(cluster, tmp_path):
    with ray_groups(Demand(cluster.address), tmp_path / "logs") as launcher:
        (marker,) = (tmp_path / "logs").iterdir()
        marker.unlink()
        cluster.add_node(num_cpus=1)
        with pytest.raises(ConfigError, match=r"store\.folder: is a folder that all nodes share"):
            wait_idle(launcher)


@pytest.mark.slow
def test_workers_that_never_come_up_end_the_round(cluster, tmp_path):
    cluster.add_node(num_cpus=1)
    (tmp_path / "logs" / "worker-0.log").mkdir(parents=True)  # no worker can write its log there
    with (
        ray_groups(Demand(cluster.address), tmp_path / "logs") as launcher,
        pytest.raises(RoundFailed, match="exit code 1"),
    ):
        wait_idle(launcher)


@pytest.mark.slow
def test_an_actor_that_is_killed_takes_its_worker_with_it(cluster, tmp_path):
    cluster.add_node(num_cpus=1)
    with ray_groups(Demand(cluster.address), tmp_path / "logs") as launcher:
        wait_idle(launcher)
        (worker,) = pids(launcher)
        launcher.train(0, task(tmp_path, module={"pause_s": 0.05}, trainer={"max_epochs": 1000}))
        until(launcher, Measured)
        (host,) = [pid for pid in family(os.getpid()) if "ray::Host" in words_of(pid)]
        os.kill(host, signal.SIGKILL)
        (lost,) = [event for _, event in until(launcher, Lost) if isinstance(event, Lost)]
        assert lost.reason
        assert is_gone(worker)
        wait_idle(launcher)


@pytest.mark.slow
def test_a_node_that_is_added_takes_another_group(cluster, tmp_path):
    cluster.add_node(num_cpus=1)
    with ray_groups(Demand(cluster.address, most=2), tmp_path / "logs") as launcher:
        wait_idle(launcher)
        assert len(nodes(launcher)) == 1
        launcher.train(0, task(tmp_path, module={"pause_s": 0.05}, trainer={"max_epochs": 1000}))
        cluster.add_node(num_cpus=2)
        wait_idle(launcher)
        assert len(nodes(launcher)) == 2, "no more than asked for"
        launcher.train(1, task(tmp_path, trial=1))
        assert (1, Outcome.COMPLETE) in [
            (event.trial, event.result.outcome) for _, event in until(launcher, Ended) if isinstance(event, Ended)
        ]


@pytest.mark.slow
def test_groups_that_wait_for_room_say_so_once_and_hold_up_nothing(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(launched, "WAITING_S", 1.0)
    cluster.add_node(num_cpus=1)
    notes = []
    with ray_groups(Demand(cluster.address, groups=3), tmp_path / "logs", note=notes.append) as launcher:
        wait_idle(launcher)
        launcher.train(0, task(tmp_path))
        until(launcher, Ended)
        for _ in range(40):
            launcher.events(0.1)
        assert launcher.idle() == [0]
    assert notes == [
        "2 worker groups wait for room: each asks for 1 CPU; the cluster has 1 CPU, 0 of them free, on 2 nodes."
    ]


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_the_command_line_tunes_on_an_instance_of_its_own(workdir, devices):
    words = ["launcher=ray", f"launcher.devices_per_trial={devices}", "search.trials=3", "trainer.max_epochs=2"]
    process = start(workdir, "study=digits", *words)
    said, told = process.communicate(timeout=300)
    assert process.returncode == 0, told
    assert "champion of digits-1" in said
    assert "ray" not in told.lower().replace("array", ""), "Ray says nothing of its own"
    assert leftovers(process.pid) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left_of_a_controller_that_ends(workdir, number):
    process = start(workdir, "study=digits", "launcher=ray", "search.trials=100", "launcher.workers=1")
    heard(process.stderr, "trial 0")
    of_it = family(process.pid)
    (raylet,) = [pid for pid in of_it if "raylet/raylet" in words_of(pid)]
    folder = re.search("/tmp/tuner-ray-[^/]+", words_of(raylet)).group()
    addresses = {address for pid in of_it for address in listening(pid)}
    assert addresses
    assert all(address.is_loopback for address in addresses)
    os.kill(process.pid, number)
    process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    # Two of Ray's own look for a minute for what they served, and end then.
    helpers = {pid for pid in of_it if "Agent" in words_of(pid)} if number == signal.SIGKILL else set()
    assert [pid for pid in of_it if pid not in helpers and not is_gone(pid)] == []
    if number == signal.SIGINT:
        assert not Path(folder).exists()
    shutil.rmtree(folder, ignore_errors=True)
