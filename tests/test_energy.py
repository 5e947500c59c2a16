"""Energy is read from the card's counter, a resume adds up, and what is not measured is unknown, never 0."""

import sys
from types import SimpleNamespace

import pytest

from llama_exp.training.energy import Energy, gpus_of, joules


class Card:
    """An NVML with one GPU whose counter stands at `millijoules`; `fault`: a GPU without a counter."""

    NVMLError = type("NVMLError", (Exception,), {})

    def __init__(self, millijoules: int = 0, fault: bool = False):
        self.millijoules, self.fault, self.open = millijoules, fault, 0

    def nvmlInit(self):  # noqa: N802
        self.open += 1

    def nvmlShutdown(self):  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):  # noqa: N802
        if self.fault:
            raise self.NVMLError("Not Supported")
        return self.millijoules


@pytest.fixture
def card(monkeypatch):
    card = Card(5_000)
    monkeypatch.setitem(sys.modules, "pynvml", card)
    return card


def measuring(energy: Energy, step: int = 0, kind: str = "cuda", nodes: int = 1) -> Energy:
    device = SimpleNamespace(type=kind, index=0)
    energy.on_train_start(
        SimpleNamespace(strategy=SimpleNamespace(root_device=device), num_nodes=nodes, world_size=1, global_step=step),
        None,
    )
    return energy


@pytest.fixture
def one_gpu(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda place: SimpleNamespace(uuid=f"0ca5e4ee-{place}"))


def test_joules_are_the_sum_of_the_cards_counters_and_the_library_is_closed_again(card):
    assert joules(["GPU-a", "GPU-b"]) == 10.0
    assert card.open == 0


def test_a_run_counts_from_its_first_step(card, one_gpu):
    energy = measuring(Energy())
    card.millijoules += 2_500
    assert energy.spent == 2.5


def test_a_resumed_run_adds_what_was_spent_before(card, one_gpu):
    first = measuring(Energy())
    card.millijoules += 1_000
    second = Energy()
    second.load_state_dict(first.state_dict())
    card.millijoules = 0  # the driver was loaded anew in between
    measuring(second, step=10)
    card.millijoules = 500
    assert second.spent == 1.5


def test_one_part_unknown_makes_the_whole_unknown(card, one_gpu):
    assert measuring(Energy(), step=10).spent is None, "the checkpoint came from a run that did not measure"
    part = Energy()
    part.load_state_dict({"joules": None})
    assert measuring(part, step=10).spent is None
    running = measuring(Energy())
    card.fault = True
    assert running.spent is None


@pytest.mark.parametrize(("kind", "nodes"), [("cpu", 1), ("cuda", 2)])
def test_without_a_gpu_and_across_machines_it_is_unknown(kind, nodes, card, one_gpu):
    assert measuring(Energy(), kind=kind, nodes=nodes).spent is None


def test_a_torch_that_does_not_name_its_gpus_is_no_error(card, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda place: SimpleNamespace())
    assert measuring(Energy()).spent is None


def test_without_the_library_or_a_driver_it_is_unknown(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # an import that fails
    assert joules(["GPU-a"]) is None


def test_the_real_library_answers_one_way_or_the_other():
    found = joules(["GPU-00000000-0000-0000-0000-000000000000"])
    assert found is None, "no such card"
    assert (
        gpus_of(SimpleNamespace(strategy=SimpleNamespace(root_device=SimpleNamespace(type="cpu")), num_nodes=1)) == []
    )
