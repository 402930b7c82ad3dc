"""Ranks that torchrun or srun started: what they learn, how they end, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from test_config import settings
from typed import ABR, call, command, runs, surroundings

from edgenetllm.config import load_config
from edgenetllm.errors import RankZeroEnded, UserError
from edgenetllm.launched import Launch, launched, place_settings
from edgenetllm.stages import meeting as meeting_module
from edgenetllm.stages.identity import adaptation_key
from edgenetllm.stages.meeting import Meeting, leading, sees

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
    "GROUP_WORLD_SIZE": "2", "GROUP_RANK": "1", "MASTER_ADDR": "node1", "MASTER_PORT": "29500", "OMP_NUM_THREADS": "1",
}  # fmt: skip
SRUN = {
    "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "2", "SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_JOB_NAME": "adapt", "SLURM_CPUS_PER_TASK": "6",
}  # fmt: skip
DDP = ("trainer=ddp", "trainer.accelerator=cpu")
QUICK = (*ABR, *DDP, "evaluation.plots=false", "logger=csv")


def test_what_torchrun_sets_is_understood():
    assert launched(TORCHRUN) == Launch("torchrun", 3, 4, 1, 2, 2, "node1", 29500, 1)
    assert launched({"PATH": "/bin"}) is None
    assert launched({"WORLD_SIZE": "1", "RANK": "0"}) is None  # some containers say so of a single process


def test_what_srun_sets_is_understood():
    found = launched(SRUN)
    assert found == Launch("srun", 5, 8, 1, 4, 2, "gpu07", 15_000 + 4713, 6)
    assert found.variables["RANK"] == "5"
    assert found.variables["GROUP_RANK"] == "1"
    assert found.variables["WORLD_SIZE"] == "8"
    named = launched({**SRUN, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "6000"})
    assert (named.address, named.port) == ("10.0.0.1", 6000)
    assert launched({**SRUN, "SLURM_STEP_NUM_TASKS": "1"}) is None  # as submitit starts a job
    assert launched({**SRUN, "SLURM_JOB_NAME": "bash"}) is None  # a shell in a step
    assert launched({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}) is None  # a batch script, no step


def test_torchrun_inside_of_srun_is_torchrun():
    assert launched({**SRUN, "SLURM_STEP_NUM_TASKS": "2", **TORCHRUN}).launcher == "torchrun"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0"}, "but not LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT"),
        ({key: value for key, value in SRUN.items() if key != "SLURM_LOCALID"}, "but not SLURM_LOCALID"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "start it by torchrun or srun"),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "7"}, "srun started 7 ranks on 2 nodes: start the same number on each"),
    ],
)
def test_ranks_that_would_not_find_each_other_are_refused(environment, message):
    with pytest.raises(UserError, match=message):
        launched(environment)


ONE_NODE = Launch("torchrun", 0, 2, 0, 2, 1, "127.0.0.1", 29500, 1)


def test_devices_that_nobody_typed_are_those_that_were_started():
    placed = place_settings(ONE_NODE, "train", settings("experiment=debug", *DDP))
    assert placed["trainer"]["devices"] == 2
    typed = settings("experiment=debug", *DDP, "trainer.devices=2")
    assert placed == place_settings(ONE_NODE, "train", typed) == typed
    assert adaptation_key(load_config(placed), False).digest == adaptation_key(load_config(typed), False).digest


@pytest.mark.parametrize(
    ("stage", "words", "message"),
    [
        ("train", [], r"trainer=cpu fits as one process: type trainer=ddp or trainer=fsdp"),
        (
            "train",
            [*DDP, "trainer.devices=3"],
            r"trainer\.devices=3: torchrun started 2 ranks.*type trainer\.devices=2",
        ),
        ("train", [*DDP, "trainer.num_nodes=2"], r"trainer\.num_nodes=2.*type trainer\.num_nodes=1"),
        ("prune", DDP, r"prune\.py is one process: type python prune\.py"),
        ("evaluate", DDP, r"evaluate\.py is one process"),
    ],
)
def test_what_does_not_fit_to_the_ranks_that_were_started_is_refused(stage, words, message):
    with pytest.raises(UserError, match=message):
        place_settings(ONE_NODE, stage, settings("experiment=debug", *words))


def test_several_nodes_have_to_be_started():
    typed = settings("experiment=debug", *DDP, "trainer.num_nodes=2", "trainer.devices=4")
    with pytest.raises(UserError, match=r"torchrun --nnodes 2 --nproc-per-node 4 .*train\.py(.|\n)*srun .*--nodes 2"):
        place_settings(None, "train", typed)
    assert place_settings(None, "prune", typed) is typed  # of the run that it starts from


def test_all_ranks_share_a_batch_and_are_part_of_the_identity():
    with pytest.raises(UserError, match=r"trainer\.batch_size=16.*24 parts"):
        load_config(settings("experiment=debug", *DDP, "trainer.devices=12", "trainer.num_nodes=2"))
    with pytest.raises(UserError, match=r"trainer\.num_nodes=2: more than one device needs trainer=ddp"):
        load_config(settings("experiment=debug", "trainer.num_nodes=2"))
    hashes = {
        adaptation_key(load_config(settings("experiment=debug", *DDP, "trainer.devices=2", *more)), False).digest
        for more in ([], ["trainer.num_nodes=2"])
    }
    assert len(hashes) == 2


class Met:
    """Rank zero of two in this thread, rank one in another."""

    def __init__(self) -> None:
        port = find_free_network_port()
        self.launches = [Launch("srun", rank, 2, rank, 2, 1, "127.0.0.1", port, 1) for rank in (0, 1)]

    def __call__(self, follow) -> threading.Thread:
        """`follow(meeting)` is rank one."""
        other = threading.Thread(target=lambda: follow(Meeting(self.launches[1])))
        other.start()
        return other


@pytest.fixture
def config(tmp_path):
    return load_config(
        settings("experiment=debug", f"paths.log_dir={tmp_path}/logs", f"paths.cache_dir={tmp_path}/cache")
    )


@pytest.mark.parametrize("error", [None, ValueError("broken"), KeyboardInterrupt()])
def test_the_others_hear_how_rank_zero_ended(config, error):
    met, heard = Met(), []

    def follow(meeting: Meeting) -> None:
        check = meeting.wait_for("check")
        meeting.answer("seen", sees(config, check["file"]))
        try:
            heard.append(meeting.wait_for("fit"))
        except RankZeroEnded as ended:
            heard.append(str(ended))
        meeting.answer("left")

    other = met(follow)
    with suppress(ValueError, KeyboardInterrupt), leading(met.launches[0]) as agree:
        agree(config, "digest")
        if error is not None:
            raise error
    other.join(10)
    how = {ValueError: "rank 1: rank 0 failed, see its message", KeyboardInterrupt: "rank 1: rank 0 was interrupted"}
    assert heard == [how.get(type(error))]
    assert list(config.paths.log_dir.iterdir()) == list(config.paths.cache_dir.iterdir()) == []


def test_a_folder_that_another_node_does_not_see_is_refused(config, tmp_path, monkeypatch):
    monkeypatch.setattr(meeting_module, "SEEN_S", 0.3)
    elsewhere = load_config(
        settings("experiment=debug", f"paths.log_dir={tmp_path}/logs", f"paths.cache_dir={tmp_path}/b")
    )
    met = Met()

    def follow(meeting: Meeting) -> None:
        meeting.answer("seen", sees(elsewhere, meeting.wait_for("check")["file"]))
        meeting.answer("left")

    other = met(follow)
    with (
        pytest.raises(UserError, match=rf"{tmp_path}/b \(paths\.cache_dir\): the nodes of a fit need a file system"),
        leading(met.launches[0]) as agree,
    ):
        agree(config, "digest")
    other.join(10)


def test_a_rank_that_is_silent_does_not_hold_rank_zero_up(config, monkeypatch):
    monkeypatch.setattr(meeting_module, "START_S", 1)
    met = Met()
    with pytest.raises(UserError, match="found not all of the 2 ranks in 1 s"):
        Meeting(met.launches[0])
    met = Met()
    other = met(lambda meeting: None)
    with pytest.raises(UserError, match=r"rank 1 has not answered for 1 s"), leading(met.launches[0]) as agree:
        agree(config, "digest")
    other.join(10)


class Started:
    """`train.py` on two ranks in `folder`, by torchrun or with the variables that srun sets."""

    def __init__(self, folder: Path, *words: str, launcher: str = "torchrun", path: Path | None = None) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        python, *rest = command("train.py", folder, *words)
        environment = {
            **surroundings(),
            **({"PYTHONPATH": f"{path}:{os.environ.get('PYTHONPATH', '')}"} if path else {}),
        }
        if launcher == "torchrun":
            commands = [([python, "-m", "torch.distributed.run", "--nproc-per-node", "2", *rest], {})]
        else:
            port = str(find_free_network_port())
            step = {
                **SRUN, "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NODELIST": "127.0.0.1",
                "MASTER_PORT": port,
            }  # fmt: skip
            commands = [([python, *rest], {**step, "SLURM_PROCID": rank, "SLURM_LOCALID": rank}) for rank in ("0", "1")]
        self.files = [folder / f"{number}.txt" for number in range(len(commands))]
        self.processes = [
            subprocess.Popen(
                words, env={**environment, **more}, cwd=folder, stdout=file.open("w"), stderr=subprocess.STDOUT
            )
            for (words, more), file in zip(commands, self.files, strict=True)
        ]

    def end(self, seconds: float = 300) -> list[int]:
        """The exit codes."""
        until = time.monotonic() + seconds
        try:
            return [process.wait(max(1, until - time.monotonic())) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()

    @property
    def output(self) -> list[str]:
        return [file.read_text() for file in self.files]

    def until(self, pattern: str) -> None:
        for _ in range(1200):
            if any(self.folder.glob(pattern)):
                return
            assert all(process.poll() is None for process in self.processes), self.output
            time.sleep(0.1)
        raise AssertionError(f"no {pattern} within 120 s")


def learnt(folder: Path) -> dict:
    """The losses of a run, and its last checkpoint."""
    (run,) = runs(folder, "train")
    (metrics,) = run.glob("csv/*/metrics.csv")
    header, *rows = [line.split(",") for line in metrics.read_text().splitlines()]
    columns = [index for index, name in enumerate(header) if name.startswith(("train/", "val/"))]
    return {
        "metrics": [[row[index] for index in columns] for row in rows],
        "weights": torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"],
        "policies": json.loads((run / "abr" / "results.json").read_text())["policies"],
    }


@pytest.mark.slow
def test_torchrun_learns_what_the_runs_own_ranks_learn(tmp_path):
    """The same losses, weights and results; and the adaptation of one is found by the other."""
    started = Started(tmp_path / "torchrun", *QUICK)
    assert started.end() == [0], started.output
    call("train.py", tmp_path, *QUICK, "trainer.devices=2")
    one, two = learnt(tmp_path / "torchrun"), learnt(tmp_path)
    assert len(one["metrics"]) > 2
    assert one["metrics"] == two["metrics"]
    assert one["policies"] == two["policies"]
    assert one["weights"].keys() == two["weights"].keys()
    assert all(torch.equal(tensor, two["weights"][name]) for name, tensor in one["weights"].items())
    assert started.output[0].count("results:") == 1  # of rank zero alone
    stored = [
        sorted(path.name for path in (f / "cache" / "adaptations").iterdir()) for f in (tmp_path / "torchrun", tmp_path)
    ]
    assert stored[0] == stored[1]


@pytest.mark.slow
def test_ranks_of_srun_fit_and_end_at_once_where_the_adaptation_is_found(tmp_path):
    """With the variables that srun sets; without one that ends the others."""
    first = Started(tmp_path, *QUICK, launcher="srun")
    assert first.end() == [0, 0], first.output
    second = Started(tmp_path, *QUICK, "sparsity=0.2", launcher="srun")
    assert second.end() == [0, 0], second.output
    assert "adaptation: found" in second.output[0]
    assert len(runs(tmp_path, "train")) == 2
    assert "run:" not in first.output[1] + second.output[1]


BROKEN = """
from lightning.pytorch.callbacks import Callback
class Broken(Callback):
    def __init__(self, rank):
        self.rank = rank
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_rank == self.rank:
            raise RuntimeError(f"broken on rank {self.rank}")
"""


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_no_rank_waits_for_one_that_failed(tmp_path, rank):
    (tmp_path / "broken_lab.py").write_text(BROKEN)
    words = ["+callbacks.broken._target_=broken_lab.Broken", f"+callbacks.broken.rank={rank}"]
    started = Started(tmp_path, *QUICK, *words, launcher="srun", path=tmp_path)
    codes = started.end(120)
    assert all(codes), started.output
    (run,) = runs(tmp_path, "train")
    assert json.loads((run / "run.json").read_text())["status"] == "failed"
    if rank == 0:
        assert started.output[1].splitlines()[-1] == "rank 1: rank 0 failed, see its message"
    assert "broken on rank" in started.output[0]


@pytest.mark.slow
def test_a_signal_to_torchrun_interrupts_the_run(tmp_path):
    started = Started(tmp_path, *QUICK, "budget.epochs=500")
    started.until("logs/train/*/checkpoints/last.ckpt")
    ranks = psutil.Process(started.processes[0].pid).children(recursive=True)
    started.processes[0].send_signal(signal.SIGTERM)
    assert started.end(60) != [0]
    (run,) = runs(tmp_path, "train")
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"
    assert f"train.py resume={run}" in started.output[0].partition("go on by torchrun")[2]
    psutil.wait_procs(ranks, timeout=10)
    assert not [process for process in ranks if process.is_running()]


@pytest.mark.slow
def test_two_nodes_learn_what_one_learns(tmp_path):
    """Two invocations of torchrun with a rank each: batches are the same, and so is the sum of the gradients."""
    python, *words = command("train.py", tmp_path, *QUICK, "trainer.num_nodes=2")
    port = str(find_free_network_port())
    place = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", port]
    nodes = [
        subprocess.Popen(
            [python, "-m", "torch.distributed.run", *place, "--node-rank", str(node), *words],
            env=surroundings(), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for node in (0, 1)
    ]  # fmt: skip
    outputs = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    (tmp_path / "one").mkdir()
    call("train.py", tmp_path / "one", *QUICK, "trainer.devices=2")
    two, one = learnt(tmp_path), learnt(tmp_path / "one")
    assert one["metrics"] == two["metrics"]
    assert one["policies"] == two["policies"]


def test_a_sweep_is_started_once(tmp_path):
    with pytest.MonkeyPatch.context() as patched:
        for name, value in {**TORCHRUN, "RANK": "0"}.items():
            patched.setenv(name, value)
        said = call("train.py", tmp_path, "-m", *QUICK, "seed=1,2", ok=False)
    assert "-m was started once for each rank" in said
    said = call("train.py", tmp_path, "-m", *QUICK, "trainer.devices=1", "trainer.num_nodes=2", "seed=1,2", ok=False)
    assert "trainer.num_nodes=2: a job of a sweep fits on one node" in said
    assert not (tmp_path / "logs").exists()
