"""The parts of this package in programs of other people: any Trainer, any LightningModule, no command line."""

import csv
import math
import os
import subprocess
import sys

import lightning as L
import pytest
import torch
from safetensors import safe_open

import llama_exp
from llama_exp import SquadDataModule
from llama_exp.data import CLASSES
from llama_exp.errors import UserError

from .conftest import ROOT

HEAVY = ("torch", "lightning", "transformers", "peft", "datasets", "hydra", "omegaconf")


def test_importing_the_package_imports_nothing_heavy_and_names_everything():
    code = (
        f"import sys, llama_exp; print([m for m in {HEAVY} if m in sys.modules], *dir(llama_exp), *llama_exp.__all__)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded, _, names = done.stdout.partition("]")
    assert loaded == "["
    wanted = {"load_config", "pipeline", "evaluate", "FineTuningModule", "ExampleDataModule", "SquadDataModule"}
    assert wanted <= set(names.split())


@pytest.mark.parametrize("name", llama_exp.__all__)
def test_every_public_name_is_there(name):
    assert getattr(llama_exp, name)


def test_every_dataset_is_public():
    for path in CLASSES.values():
        assert path.rpartition(".")[2] in llama_exp.__all__
    with pytest.raises(AttributeError, match="no attribute 'SqadDataModule'"):
        llama_exp.SqadDataModule  # noqa: B018


def squad(tokenizer, **changes) -> SquadDataModule:
    arguments = {"source": "synthetic", "rows": 80, "sample": 16, "batch_size": 4, "max_length": 256, **changes}
    return SquadDataModule(tokenizer=tokenizer, **arguments)


class Theirs(L.LightningModule):
    """Somebody else's module: counts its steps and remembers what it was given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.epochs: dict[int, list[int]] = {}
        self.seen: dict[str, int] = {"validation": 0, "test": 0, "predict": 0}

    def training_step(self, batch, batch_idx):
        # an Example has a question of its own: its first 30 ids name it well enough
        starts = torch.tensor([0, *batch.lengths]).cumsum(0)[:-1].tolist()
        ids = batch.input_ids[0].tolist()
        names = [hash(tuple(ids[start : start + length])) for start, length in zip(starts, batch.lengths, strict=True)]
        self.epochs.setdefault(self.current_epoch, []).extend(names)
        return (self.weight * batch.predicting.numel()).sum()

    def validation_step(self, batch, batch_idx):
        self.seen["validation"] += len(batch.lengths)

    def test_step(self, batch, batch_idx):
        self.seen["test"] += len(batch.lengths)

    def predict_step(self, batch, batch_idx):
        self.seen["predict"] += len(batch.lengths)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(tmp_path, **changes) -> L.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return L.Trainer(
        **{"accelerator": "cpu", "devices": 1, "logger": False, "default_root_dir": tmp_path, **quiet, **changes}
    )


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_sixteen_examples_in_batches_of_four_are_four_steps_an_epoch(epochs, tokenizer, tmp_path):
    module, fit = Theirs(), trainer(tmp_path, max_epochs=epochs)
    fit.fit(module, datamodule=squad(tokenizer))
    assert fit.global_step == 4 * epochs
    orders = list(module.epochs.values())
    assert len(orders) == epochs and all(sorted(order) == sorted(orders[0]) for order in orders)
    assert len({tuple(order) for order in orders}) == epochs, "each epoch has an order of its own"


def test_gradient_accumulation_and_reloading_mean_what_lightning_means(tokenizer, tmp_path):
    accumulating = trainer(tmp_path, max_epochs=3, accumulate_grad_batches=2)
    accumulating.fit(Theirs(), datamodule=squad(tokenizer))
    assert accumulating.global_step == 6
    module, reloading = Theirs(), trainer(tmp_path, max_epochs=3, reload_dataloaders_every_n_epochs=1)
    reloading.fit(module, datamodule=squad(tokenizer))
    assert reloading.global_step == 12
    assert len({tuple(order) for order in module.epochs.values()}) == 3


def test_one_data_module_serves_several_fits_and_the_other_splits(tokenizer, tmp_path):
    data, module = squad(tokenizer, validation_sample=5), Theirs()
    for _ in range(2):
        fit = trainer(tmp_path, max_epochs=2, num_sanity_val_steps=0)
        fit.fit(module, datamodule=data)
        assert fit.global_step == 8
    assert module.seen["validation"] == 2 * 2 * 5
    trainer(tmp_path).test(module, datamodule=data, verbose=False)
    trainer(tmp_path).predict(module, datamodule=data)
    assert module.seen["test"] == module.seen["predict"] == len(data.test) > 16


def test_without_a_trainer_a_loader_is_a_loader(tokenizer):
    data = squad(tokenizer)
    loader = data.train_dataloader()
    assert len(loader) == 4
    first, second = ([batch.input_ids.tolist() for batch in loader] for _ in range(2))
    assert len(first) == len(second) == 4 and first != second
    assert [batch.input_ids.tolist() for batch in squad(tokenizer).train_dataloader()] == first
    assert [batch.input_ids.tolist() for batch in squad(tokenizer, seed=1).train_dataloader()] != first
    for split in ("val", "test", "predict"):
        batches = list(getattr(data, f"{split}_dataloader")())
        assert batches and all(isinstance(batch, llama_exp.Batch) for batch in batches)


def test_every_key_of_its_yaml_can_be_given_by_name_and_the_others_have_its_values(tokenizer):
    data = squad(tokenizer, template="{question}", cleaning={"urls": True}, max_new_tokens=200)
    assert data.dataset.template == "{question}" and data.dataset.cleaning == {"urls": True}
    assert data.dataset.hub == "rajpurkar/squad" and data.dataset.metrics == ["squad"]
    assert data.dataset.max_new_tokens == 128, "half of the length is left to the prompt, as in a run"
    with pytest.raises(TypeError, match="unexpected argument 'batchsize'. Did you mean 'batch_size'"):
        squad(tokenizer, batchsize=3)
    with pytest.raises(UserError, match="SquadDataModule: Invalid value 'web', expected one of .hub, synthetic."):
        squad(tokenizer, source="web")
    with pytest.raises(UserError, match="no batches without a tokenizer"):
        squad(None).train_dataloader()


def test_a_config_is_loaded_by_the_words_of_the_command_line():
    config = llama_exp.load_config("dataset=squad", "model=tiny", "sample=10", "lora.r=4")
    assert (config.dataset.name, config.sample, config.lora.r, config.max_length) == ("squad", 10, 4, 512)
    with pytest.raises(UserError, match="lora.dropout=2.0"):
        llama_exp.load_config("lora.dropout=2")


def test_inside_an_application_that_uses_hydra_itself_both_keep_their_own_files(tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "app.yaml").write_text("answer: 42\ndataset: theirs\n")
    (tmp_path / "app.py").write_text(
        "import hydra\nfrom llama_exp import SquadDataModule, load_config\n\n"
        "@hydra.main(version_base='1.1', config_path='conf', config_name='app')\ndef main(cfg):\n"
        "    from hydra import compose\n"
        "    from hydra.version import getbase\n"
        "    print(SquadDataModule(source='synthetic').dataset.hub, load_config('model=tiny').max_length)\n"
        "    print(compose('app').answer, getbase())\n\nmain()\n"
    )
    command = [sys.executable, str(tmp_path / "app.py"), f"hydra.run.dir={tmp_path}/run"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.stdout.splitlines() == ["rajpurkar/squad 512", "42 1.1"], done.stdout + done.stderr


@pytest.fixture
def adapted():
    return llama_exp.load_model(llama_exp.load_config("model=tiny", "lora.r=2", "trainer=cpu"))[0]


def logged(folder) -> dict[str, list[float]]:
    """{column: values} of what Lightning's CSVLogger wrote."""
    with open(folder / "logs" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return {column: [float(row[column]) for row in rows if row[column]] for column in rows[0]}


def test_our_module_in_a_plain_trainer_logs_stops_nowhere_and_nothing_piles_up(adapted, tokenizer, tmp_path):
    module, data = llama_exp.FineTuningModule(adapted), squad(tokenizer, validation_sample=4)
    logger = L.pytorch.loggers.CSVLogger(tmp_path, name="logs", version="")
    fit = trainer(tmp_path, max_epochs=2, logger=logger, log_every_n_steps=1, enable_checkpointing=True)
    fit.fit(module, datamodule=data)
    fit.save_checkpoint(tmp_path / "after.ckpt")
    fit.test(module, datamodule=squad(tokenizer, rows=10, sample=None), verbose=False)
    found = logged(tmp_path)
    assert len(found["train_loss_step"]) == 8 and len(found["train_loss_epoch"]) == len(found["validation_loss"]) == 2
    assert found["train_loss_epoch"][1] < found["train_loss_epoch"][0] and found["test_loss"][0] > 0
    assert not module.pending and module.total_steps == 8
    [checkpoint] = (tmp_path / "logs").glob("checkpoints/*.ckpt")
    assert all("lora_" in name for name in torch.load(checkpoint, weights_only=False)["state_dict"])
    [optimizer] = torch.load(tmp_path / "after.ckpt", weights_only=False)["optimizer_states"]
    assert len(optimizer["state"]) == len(module.trainable), "a user's own checkpoint holds the moments, too"


def test_the_program_in_the_docs_runs_as_it_is_printed(tmp_path):
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    program = page.split("## In a program of your own\n\n```python\n")[1].split("```")[0]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, check=True, capture_output=True)
    with safe_open(tmp_path / "adapter" / "adapter_model.safetensors", framework="np") as file:
        learnt = [name for name in file.keys() if "lora_B" in name and file.get_tensor(name).any()]  # noqa: SIM118
    assert learnt, "B begins at 0"


def test_a_model_of_rank_0_is_the_base_and_one_that_is_not_there_is_refused():
    model, tokenizer = llama_exp.load_model(llama_exp.load_config("model=tiny", "lora.r=0", "trainer=cpu"))
    assert not hasattr(model, "peft_config") and not any(p.requires_grad for p in model.parameters())
    assert len(tokenizer) <= model.config.vocab_size
    with pytest.raises(UserError, match=r"model.path=./nowhere: no such folder"):
        llama_exp.load_model(llama_exp.load_config("model=tiny", "model.path=./nowhere", "trainer=cpu"))


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_our_module_stops_by_itself_where_a_number_is_not_finite(what, adapted, tokenizer, tmp_path):
    module = llama_exp.FineTuningModule(adapted)
    if what == "loss":
        module.trainable[0].data.fill_(math.nan)
    else:
        module.trainable[0].register_hook(lambda gradient: gradient * math.inf)
    fit = trainer(tmp_path, max_epochs=3, enable_checkpointing=True, logger=False)
    with pytest.raises(UserError, match=rf"The {what} became (nan|inf) at step 1"):
        fit.fit(module, squad(tokenizer).train_dataloader())
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_plain_trainer_without_an_end_needs_a_constant_learning_rate(adapted, tokenizer, tmp_path):
    fit = trainer(tmp_path, max_epochs=-1, max_steps=-1, max_time="00:00:00:01")
    with pytest.raises(UserError, match="give the Trainer max_epochs or max_steps"):
        fit.fit(llama_exp.FineTuningModule(adapted), datamodule=squad(tokenizer))


def test_a_run_is_loaded_by_its_folder_or_refused_in_words(tmp_path):
    with pytest.raises(UserError, match=r"has no config.yaml"):
        llama_exp.load_run(tmp_path)
    with pytest.raises(UserError, match="No adapter at"):
        llama_exp.load_run("dataset=squad", "model=tiny", f"outputs={tmp_path}")
