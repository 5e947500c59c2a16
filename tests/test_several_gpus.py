"""Several processes that train one run together: sweeps, two nodes, a base in shares. Real gloo processes."""

import csv
import json
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from torch import distributed as dist
from torch import multiprocessing as mp
from torch import nn

from llama_exp.config.compose import load_config
from llama_exp.data.packing import whole_loader
from llama_exp.errors import UserError
from llama_exp.model import memory, sharding
from llama_exp.model.base import load_base
from llama_exp.processes import Processes, process_number
from llama_exp.records import Tokens
from llama_exp.training import trainer
from llama_exp.training.strategy import StartedProcesses
from tests.conftest import ROOT, python, small
from tests.killer import killed_at

TWO = ["trainer=ddp", "trainer.max_epochs=1"]
FSDP = ["trainer=fsdp", "trainer.max_epochs=1", "model.quantisation=nf4"]
SHAPE_70B = SimpleNamespace(
    hidden_size=8192,
    intermediate_size=28672,
    num_hidden_layers=80,
    num_attention_heads=64,
    num_key_value_heads=8,
    vocab_size=32000,
)


def curves(outputs) -> dict[str, list[tuple[str, ...]]]:
    """{run: (step, loss, validation loss, gradient norm)} of every row of metrics.csv."""
    found = {}
    for path in sorted(outputs.glob("squad/*/metrics.csv")):
        with path.open() as file:
            rows = list(csv.DictReader(file))
        found[path.parent.name] = [
            tuple(row[key] for key in ("step", "loss", "validation_loss", "grad_norm")) for row in rows
        ]
    return found


def assert_close(mine, theirs, rel=1e-3) -> None:
    assert mine.keys() == theirs.keys() and mine
    for name, rows in mine.items():
        assert len(rows) == len(theirs[name])
        for a, b in zip(rows, theirs[name], strict=True):
            assert [bool(value) for value in a] == [bool(value) for value in b]
            assert [float(v) for v in a if v] == pytest.approx([float(v) for v in b if v], rel=rel)


def adapters(outputs) -> dict[str, bytes]:
    return {path.parent.parent.name: path.read_bytes() for path in outputs.glob("squad/*/adapter/*.safetensors")}


def test_a_sweep_on_two_processes_learns_what_one_does_beside_a_cell_that_fails(tmp_path, command):
    """3 Examples a step: the shares differ. The second process is started once, and outlives the cell that fails."""
    words = [word for word in small(batch="3") if not word.startswith("lora.r=")]
    words = ["train.py", "-m", *words, "lora.r=2,4", "optimizer.lr=1e30,0.004"]
    one = command(*words, f"outputs={tmp_path}/one", check=None)
    two = command(*words, *TWO, f"outputs={tmp_path}/two", check=None)
    for done in (one, two):
        assert done.returncode == 1 and "4 cells, 2 failed" in done.stdout, done.stdout + done.stderr
        assert done.stdout.count("The loss became nan at step 2") and "Traceback" not in done.stderr
    assert two.stdout.count("Examples:") == 4, "only one process speaks"
    good = [{name: rows for name, rows in curves(tmp_path / at).items() if len(rows) > 2} for at in ("one", "two")]
    assert len(good[0]) == 2
    assert_close(*good)
    again = command(*words, *TWO, f"outputs={tmp_path}/two", check=None)
    assert again.stdout.count("already finished") >= 2


def test_a_second_process_that_is_killed_ends_the_command_and_the_same_one_continues_exactly(tmp_path, command):
    words = ["train.py", *small(checkpoint_every="2"), "lora.dropout=0.1", *TWO, "trainer.max_epochs=2"]
    command(*words, f"outputs={tmp_path}/whole")
    killed = command(
        *words, f"outputs={tmp_path}/o", *killed_at(5), "+logger.killer.other=true", check=None, timeout=200
    )
    assert killed.returncode == 1, killed.stdout + killed.stderr
    assert "Process 2 of 2 has ended (killed by SIGKILL). The same command continues" in killed.stderr
    assert "Continuing from" in command(*words, f"outputs={tmp_path}/o").stdout
    assert curves(tmp_path / "o") == curves(tmp_path / "whole")
    assert adapters(tmp_path / "o") == adapters(tmp_path / "whole")


def test_a_sweep_starts_another_process_after_one_was_killed(tmp_path, command):
    words = [word for word in small() if not word.startswith("lora.r=")]
    words = ["train.py", "-m", *words, "lora.r=2,4", *TWO, f"outputs={tmp_path}/o"]
    done = command(*words, *killed_at(3), "+logger.killer.other=true", check=None, timeout=200)
    assert done.returncode == 1 and "2 cells, 2 failed" in done.stdout
    assert "FAILED: Process 2 of 2 has ended (killed by SIGKILL)" in done.stdout
    assert "2 cells, 0 failed" in command(*words).stdout


def test_the_second_process_ends_with_the_first(tmp_path):
    words = [*small(), *TWO, f"outputs={tmp_path}/o", *killed_at(2, pause=1.0)]
    killed = subprocess.run(python("train.py", *words), cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert killed.returncode == -signal.SIGKILL  # the pipes are closed: the second process, which holds them, is gone
    assert "Traceback" not in killed.stderr


def torchrun(node: int, port: int, *words: str) -> subprocess.Popen:
    start = ["--nnodes=2", "--nproc-per-node=1", f"--node-rank={node}", "--master-addr=127.0.0.1"]
    command = [sys.executable, "-m", "torch.distributed.run", *start, f"--master-port={port}", *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_two_nodes_of_torchrun_make_one_run_that_the_first_one_writes(tmp_path, command):
    words = [word for word in small() if not word.startswith("lora.r=")]
    words = ["train.py", "-m", *words, "lora.r=2,4"]
    command(*words, f"outputs={tmp_path}/one")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    nodes = [
        torchrun(node, port, *words, *TWO, "trainer.devices=1", "+trainer.num_nodes=2", f"outputs={tmp_path}/two")
        for node in (0, 1)
    ]
    first, second = (node.communicate(timeout=300)[0] for node in nodes)
    assert [node.returncode for node in nodes] == [0, 0], first + second
    assert "2 cells, 0 failed" in first and "Examples:" not in second and "cells" not in second
    assert_close(curves(tmp_path / "one"), curves(tmp_path / "two"))


@pytest.mark.parametrize(
    ("words", "environment", "says"),
    [
        (["trainer=ddp", "+trainer.num_nodes=2"], {}, "start the same command on every node, with torchrun --nnodes=2"),
        (["trainer=cpu"], {"RANK": "0", "WORLD_SIZE": "2"}, "has started 2 processes, and trainer.strategy=None"),
        (["trainer=ddp", "trainer.devices=4"], {"RANK": "0", "WORLD_SIZE": "2"}, "trainer.num_nodes=1 wants 4"),
        (["trainer=cpu", "trainer.devices=2"], {}, "trainer.devices=2: several devices share a step under trainer=ddp"),
        (["trainer=gpu", "trainer.devices=[0,1]"], {}, "Add one of them, or leave trainer.devices out."),
    ],
)
def test_processes_that_do_not_fit_the_trainer_are_refused(words, environment, says, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    processes = Processes()
    with pytest.raises(UserError, match=says.replace("(", r"\(")):
        processes.start(load_config("model=tiny", "dataset=squad", *words).trainer)
    processes.ended = "nothing to dismiss"


@pytest.mark.parametrize(
    ("environment", "number"),
    [
        ({}, 0),
        ({"RANK": "3", "LOCAL_RANK": "0", "WORLD_SIZE": "4"}, 3),  # the first process of the second node
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, 1),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, 0),  # no step of srun: a script of its own
    ],
)
def test_a_process_knows_its_number(environment, number, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert process_number() == number


SLURM_STEP = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NAME": "job"}


@pytest.mark.parametrize(
    ("count", "outside", "variables", "plugins", "expected"),
    [
        (1, False, {}, [], [StartedProcesses]),
        (2, False, {}, [], [StartedProcesses]),
        (1, False, {}, [LightningEnvironment()], []),
        (2, True, {"TORCHELASTIC_RUN_ID": "none"}, [], []),
        (2, True, {}, [], []),  # started by other means: Lightning may find out by which
        (2, True, SLURM_STEP, [], [SLURMEnvironment]),
    ],
)
def test_lightning_looks_for_an_environment_only_where_others_have_started_the_processes(
    count, outside, variables, plugins, expected, monkeypatch
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    session = SimpleNamespace(processes=SimpleNamespace(count=count, outside=outside))
    assert [type(one) for one in trainer.environment(session, plugins)] == expected


def test_a_base_in_shares_learns_what_a_whole_one_does_and_its_adapter_is_the_ordinary_file(tmp_path, command):
    """Also after a kill: checkpoints and the adapter are those of any other run."""
    words = ["train.py", *small(batch="3", checkpoint_every="2"), "lora.dropout=0", "model.quantisation=nf4"]
    command(*words, f"outputs={tmp_path}/one")
    killed = command(*words, *FSDP, f"outputs={tmp_path}/two", *killed_at(3), check=None)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "Continuing from" in command(*words, *FSDP, f"outputs={tmp_path}/two").stdout
    assert_close(curves(tmp_path / "one"), curves(tmp_path / "two"), rel=1e-4)
    (name, mine), (_, theirs) = *adapters(tmp_path / "two").items(), *adapters(tmp_path / "one").items()
    header = int.from_bytes(mine[:8], "little") + 8
    assert len(mine) == len(theirs) and mine[:header] == theirs[:header]
    one, two = (json.loads(next((tmp_path / at).glob("squad/*/summary.json")).read_text()) for at in ("one", "two"))
    assert all(one[key] == two[key] for key in ("parameters", "flops_per_token", "trainable_parameters"))
    answered = command("evaluate.py", *words[1:], f"outputs={tmp_path}/two")
    assert name in answered.stdout
    refused = command("evaluate.py", *words[1:], *FSDP, f"outputs={tmp_path}/two", "eval_seed=7", check=None)
    assert refused.returncode == 2 and "What answers needs the whole base" in refused.stderr


FULL_GPU = """
import os, sys

if os.environ.get("RANK") == "1":
    import torch
    from llama_exp.model import sharding

    quantise, left = sharding.quantise, [9]

    def quantise_until_full(linear, device):
        left[0] -= 1
        if not left[0]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 86.00 MiB.")
        quantise(linear, device)

    sharding.quantise = quantise_until_full
"""


def test_a_process_that_cannot_load_its_share_ends_the_cell_and_says_why(tmp_path, command, monkeypatch):
    """The others are in the middle of their own loading, and would wait for it."""
    (tmp_path / "sitecustomize.py").write_text(FULL_GPU)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    words = [word for word in small() if not word.startswith("lora.r=")]
    words = ["train.py", "-m", *words, "lora.r=2,4", *FSDP, f"outputs={tmp_path}/o"]
    done = command(*words, check=None, timeout=200)
    assert done.returncode == 1, done.stdout + done.stderr
    lost = (
        "FAILED: Process 2 of 2 has ended (exit code 1): CUDA out of memory. Tried to allocate 86.00 MiB. Type the same"
    )
    assert lost in done.stdout and "2 cells, 2 failed" in done.stdout, done.stdout + done.stderr
    monkeypatch.delenv("PYTHONPATH")
    assert "2 cells, 0 failed" in command(*words).stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["evaluate=true", "model.quantisation=nf4"], "evaluate=True: no process of trainer=fsdp holds the whole base"),
        (["model.quantisation=none"], "trainer=fsdp shards a base in NF4, and model.quantisation=none"),
        ([], "model.quantisation=nf4_dequantised. Type model.quantisation=nf4"),
    ],
)
def test_what_a_base_in_shares_cannot_do_is_refused(words, says):
    with pytest.raises(UserError) as error:
        load_config("model=tiny", "dataset=squad", "trainer=fsdp", *words)
    assert says in str(error.value)


def share_the_tiny_base(rank: int, folder: str, dtype: torch.dtype) -> None:
    """What each of two processes does: load its share, gather it, compare with the whole base; then spoil it."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    config = load_config("model=tiny", "model.quantisation=nf4").model
    cpu = torch.device("cpu")
    base, whole = sharding.load_sharded(config, cpu, dtype), load_base(config, cpu, dtype)
    assert not any(parameter.is_meta for parameter in base.parameters())
    assert torch.equal(base.model.rotary_emb.inv_freq, whole.model.rotary_emb.inv_freq)
    for mine, theirs in zip(base.model.layers, whole.model.layers, strict=True):
        cut = [parameter.to_local() for parameter in mine.parameters() if hasattr(parameter, "to_local")]
        share = sum(parameter.nbytes for parameter in cut)
        bytes_ = sum(parameter.numel() for parameter in theirs.parameters() if parameter.dtype is torch.uint8)
        assert share < 0.6 * bytes_
        mine.unshard()
        wanted = [sharding.dequantised(linear) for linear in sharding.linears(theirs)]
        sharding.check_gathered(mine, wanted)
        sharding.linears(mine)[2].weight.data.view(torch.uint8)[3] ^= 1
        with pytest.raises(UserError, match="do not make its weights again"):
            sharding.check_gathered(mine, wanted)
        mine.reshard()
    dist.destroy_process_group()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gathered_weights_are_bit_for_bit_those_of_the_whole_base_and_others_are_noticed(tmp_path, dtype):
    mp.spawn(share_the_tiny_base, (str(tmp_path), dtype), 2)


@pytest.mark.parametrize("weights", [(64, 64), (64, 65)])
def test_packed_weights_survive_the_way_through_float32_that_copies_on_a_gpu_take(weights):
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    assert not torch.equal(bits.float().bfloat16().view(torch.int16), bits.view(torch.int16))  # why it is not bfloat16
    linear = nn.Linear(*weights, bias=False, dtype=torch.bfloat16)
    sharding.quantise(linear, torch.device("cpu"))
    scales = linear.quant_state.absmax
    for packed in (linear.weight.data, sharding.as_storage(scales)):
        assert packed.is_floating_point()  # PyTorch 2.11 cuts no others
        assert torch.equal(packed.float().to(packed.dtype).view(torch.uint8), packed.view(torch.uint8))
    assert torch.equal(sharding.as_storage(scales).view(torch.uint8)[: len(scales)], scales)


def test_a_base_that_one_gpu_refuses_fits_two():
    def config(*words):
        return load_config("model=tiny", "dataset=squad", "model.quantisation=nf4", "memory=24", *words)

    limit = 24 * memory.GIB
    assert 33 < memory.base_bytes(SHAPE_70B, 2) / memory.GIB < 37
    assert memory.base_bytes(SHAPE_70B, 2, 2) < 0.53 * memory.base_bytes(SHAPE_70B, 2)
    for words in ([], ["trainer=ddp"]):
        with pytest.raises(UserError, match=r"Does not fit.* there are 24\.0\. Type trainer=fsdp trainer\.devices=2"):
            memory.check_fits(SHAPE_70B, config(*words), limit, 2)
    memory.check_fits(SHAPE_70B, config("trainer=fsdp", "lora.r=8"), limit, 2)
    with pytest.raises(UserError, match="Does not fit"):
        memory.check_fits(SHAPE_70B, config("trainer=fsdp", "lora.r=64"), limit, 2)


def test_every_process_validates_equally_many_batches():
    """One that had fewer would leave the others waiting for its share of a layer."""
    tokens = [Tokens(str(n), [5] * length, [5] * length) for n, length in enumerate([90, 9, 8, 7, 6, 5, 4])]
    loaders = [whole_loader(tokens, 40, rank, 3) for rank in range(3)]
    assert len({len(loader) for loader in loaders}) == 1
    learnt = sum(int((batch.labels != -100).sum()) for loader in loaders for batch in loader)
    assert learnt == sum(len(one.input_ids) for one in tokens)
