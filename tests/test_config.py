"""Every YAML choice composes, and a run's name says what it is: no two cells share a folder."""

import dataclasses
import itertools
import random
import re
import shlex

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from llama_exp.config.compose import CONF, default_config, register, resolve
from llama_exp.config.identity import RUN_KEYS, flat, identity, run_folder, sweep_id
from llama_exp.config.key_names import OTHER_NAMES, similar_keys
from llama_exp.config.schema import Config, Scaling
from llama_exp.config.seeds import fold_seed
from llama_exp.data import DATASETS
from llama_exp.data.packing import order
from llama_exp.errors import UserError
from llama_exp.metrics import METRICS
from llama_exp.runs.find import training_command
from llama_exp.runs.run import Run

GROUPS = ("dataset", "model", "lora", "trainer", "logger", "experiment", "sweep")
CHOICES = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]


def composed(*overrides: str) -> Config:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return resolve(compose("config", list(overrides)))


def test_there_are_choices_in_every_group():
    assert {group for group, _ in CHOICES} == set(GROUPS)


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_shipped_yaml_composes_to_the_types(group, choice):
    needed = ["model.path=ann/llama"] if choice == "custom" else []
    config = composed(f"{group}={choice}", *needed)
    assert isinstance(config, Config)
    if group in ("dataset", "model"):
        assert getattr(config, group).name == choice, "a run is named by its choice"
    if group == "dataset":
        assert choice in DATASETS
        assert set(config.dataset.metrics) <= {*METRICS, "auto"}


def test_help_tells_every_choice_and_only_keys_that_there_are(command):
    told = command("train.py", "model=tiny", "--help").stdout
    lines = dict(re.findall(r"^  (\S+) {2,}(.*)", told, re.MULTILINE))
    for group, choice in CHOICES:
        assert re.search(rf"\b{choice}\b", lines[group]), (group, choice)
    keys = lines.keys() - {group for group, _ in CHOICES} - {"-m", "--cfg"}
    assert len(keys) > 10 and keys <= flat(default_config({})).keys()
    assert "(llama_exp/tiny)" in lines["model.path"]
    assert {"trained_on", "predictions", "split", "eval_sample", "eval_seed"} <= keys, (
        "evaluate.py prints this help too"
    )


def test_a_config_comes_back_from_its_file_as_it_was(tmp_path):
    config = composed("model=tiny", "lora.scaling=constant", "sample=10", "logger=wandb")
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(config)))
    back = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(tmp_path / "config.yaml")))
    assert back == config
    assert back.lora.scaling is Scaling.constant


def test_an_answer_takes_at_most_half_of_the_length():
    assert composed("dataset=guanaco", "model=tiny").dataset.max_new_tokens == 256
    assert composed("dataset=guanaco").dataset.max_new_tokens == 512
    assert composed("dataset=squad", "model=tiny").dataset.max_new_tokens == 32


def test_several_problems_come_in_one_message():
    with pytest.raises(UserError) as caught:
        composed("batch=0", "lora.r=-1", "dataset.validation=0.7", "optimizer.lr=0", "batch=16", "micro_batch=5")
    assert len(str(caught.value).split("\n")) == 4


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer.max_epochs=-1", "No budget"),
        ("trainer.max_epochs=many", "trainer.max_epochs=many: wanted a whole number"),
        ("optimizer.betas=[0.9]", "optimizer.betas=[0.9]: wanted two numbers"),
        ("optimizer.betas=[0.9,1.0]", "optimizer.betas=[0.9, 1.0]: wanted two numbers"),
        ("lora.dropout=1.5", "lora.dropout=1.5: wanted a share from 0 to below 1"),
        ("lora.dropout=1", "lora.dropout=1.0: wanted a share from 0 to below 1"),
        ("lora.alpha=0", "lora.alpha=0.0: wanted a number above 0"),
        ("lora.ratio=-2", "lora.ratio=-2.0: wanted a number above 0"),
        ("optimizer.lr=nan", "optimizer.lr=nan: wanted a number above 0"),
        ("optimizer.warmup=3", "optimizer.warmup=3.0: wanted a share of all steps"),
        ("optimizer.weight_decay=-0.1", "optimizer.weight_decay=-0.1: wanted 0 or more"),
        ("optimizer.neftune=-5", "optimizer.neftune=-5.0: wanted 0 or more"),
        ("seed=-1", "seed=-1: wanted a whole number from 0 to 2^63 - 1"),
        (f"data_seed={2**63}", "data_seed=9223372036854775808: wanted a whole number from 0 to 2^63 - 1"),
        ("dataset.split_seed=-3", "dataset.split_seed=-3: wanted a whole number"),
        ("+lora.use_dora=true", "+lora.use_dora: nothing reads this key. Did you mean lora.r"),
        ("++optimizer.learning_rate=1", "+optimizer.learning_rate: nothing reads this key. Did you mean optimizer.lr?"),
        ("+nobody=1", "+nobody: nothing reads this key"),
        ("+model.dtype=bf16", "+model.dtype: nothing reads this key"),
        ("+dataset.options.x=1", "dataset.options.x: squad reads no options"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_before_anything_starts(override, said):
    with pytest.raises(UserError) as caught:
        composed("model=tiny", override)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lr", "optimizer.lr"),
        ("learning_rate", "optimizer.lr"),
        ("rank", "lora.r"),
        ("r", "lora.r"),
        ("epochs", "trainer.max_epochs"),
        ("batch_size", "batch"),
        ("alpha", "lora.alpha"),
        ("max_new_tokens", "dataset.max_new_tokens"),
        ("num_train_epochs", "trainer.max_epochs"),
        ("smaple", "sample"),
    ],
)
def test_a_key_by_another_name_is_answered_with_ours(typed, meant):
    assert similar_keys(typed, flat(composed("model=tiny")))[0] == meant


def test_every_other_name_stands_for_a_key_or_group_there_is():
    known = {*flat(composed("model=tiny", "logger=wandb")), "model", "trainer.max_steps"}
    assert set(OTHER_NAMES.values()) <= known
    assert not set(OTHER_NAMES) & set(flat(composed("model=tiny")))


def test_seeds_of_64_bits_differ_where_a_generator_reads_32():
    assert composed("model=tiny", f"seed={2**63 - 1}").seed == 2**63 - 1
    seeds = (0, 1, 2**32, 2**32 + 1, 2**62, 2**63 - 1)
    assert len({order(50, seed, epoch) for seed in seeds for epoch in (0, 1)}) == 2 * len(seeds)
    assert fold_seed(2**32 - 1) == 2**32 - 1 and 0 <= fold_seed(2**63 - 1) < 2**32


def test_early_stopping_without_a_validation_is_refused():
    with pytest.raises(UserError, match="validations=0 makes none"):
        composed("model=tiny", "early_stopping=2", "validations=0")


def test_a_budget_of_another_kind_is_enough():
    assert composed("model=tiny", "trainer.max_epochs=-1", "max_tokens=100").max_tokens == 100
    assert composed("model=tiny", "trainer.max_epochs=null", "trainer.max_steps=5").trainer["max_steps"] == 5


def test_how_validation_is_measured_is_identity_only_where_it_decides_when_to_stop():
    deciding = {"validations": 3, "validation_sample": 5, "eval_seed": 1}
    words = [f"{key}={value}" for key, value in deciding.items()]
    assert not deciding.keys() & identity(composed("model=tiny", *words)).keys()
    assert name(*words) == name()
    stopping = identity(composed("model=tiny", "early_stopping=2", *words))
    assert {key: stopping[key] for key in deciding} == deciding
    assert name("early_stopping=2") == name() + "-early_stopping2"
    assert name("early_stopping=2", "eval_seed=1") == name() + "-early_stopping2-eval_seed1"


def test_the_repository_that_was_read_is_identity():
    assert name("dataset.hub=someone/squad") != name()


def name(*overrides: str) -> str:
    return Run.of(composed("model=tiny", *overrides)).folder.name


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "tiny-all-r16-seed0"),
        (["sample=1000", "lora.r=8"], "tiny-1000-r8-seed0"),
        (["seed=3", "data_seed=2"], "tiny-all-r16-seed3-data_seed2"),
        (["lora=attention"], "tiny-all-r16-seed0-targetsattention"),
        (["optimizer.lr=0.001"], "tiny-all-r16-seed0-lr0.001"),
        (["dataset.source=synthetic"], "tiny-all-r16-seed0-synthetic"),
        (["lora.r=0", "sample=10", "optimizer.lr=0.1"], "tiny-r0"),
        (["trainer=cpu", "eval_sample=3", "logger=wandb", "micro_batch=4"], "tiny-all-r16-seed0"),
        (["trainer.max_epochs=7"], "tiny-all-r16-seed0-max_epochs7"),
    ],
)
def test_a_run_is_named_by_what_it_is(overrides, expected):
    assert name(*overrides) == expected


def test_no_two_cells_share_a_folder():
    grid = {
        "sample": ["null", "10", "100"],
        "lora.r": ["1", "16"],
        "lora": ["all", "attention"],
        "lora.alpha": ["16", "32"],
        "seed": ["0", "1"],
        "data_seed": ["0", "1"],
        "optimizer.lr": ["0.005", "0.00051", "0.00052"],
        "dataset.path": ["null", "a/data", "b/data"],
        "model.quantisation": ["nf4", "none"],
        "dataset.template": ["'{context} {question}'", "'{context}: {question}'"],
    }
    cells = [f"{key}={value}" for key, values in grid.items() for value in values]
    pairs = [pair for pair in itertools.combinations(cells, 2) if pair[0].split("=")[0] != pair[1].split("=")[0]]
    seen = {}
    for words in [[word] for word in cells] + random.Random(0).sample(pairs, 40):
        config = composed("model=tiny", *words)
        folder, key = Run.of(config).folder, str(sorted(identity(config).items(), key=str))
        assert seen.setdefault(folder, key) == key, (folder, words)
        assert "=" not in str(folder) and "," not in str(folder)
        assert len(folder.name) < 200
    assert len(seen) > 30


def test_every_key_is_either_identity_or_named_as_not():
    """A new key that nobody thought about becomes part of the identity: safe, and this test says so."""
    config = composed("model=tiny")
    left_out = flat(config).keys() - identity(config).keys()
    assert "optimizer.lr" in identity(config) and "max_length" in identity(config)
    assert {"outputs", "eval_sample", "micro_batch", "trainer.devices"} <= left_out


def test_defaults_are_composed_inside_a_hydra_run_too():
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        compose("config", ["sample=3"])
        assert default_config({"model": "tiny"}).sample is None
    assert run_folder(dataclasses.replace(composed(), out="x/y"), composed()).as_posix() == "x/y"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["model=tiny", "sample=100", "lora.r=4", "seed=2", "data_seed=3"],
        ["lora=attention", "lora.alpha=32", "lora.dropout=0.1"],
        ["lora.scaling=constant", "lora.ratio=0.5", "model.path=/weights/my llama"],
        ["dataset=tweetsumm", "dataset.task=turns", "dataset.path=a/b"],
    ],
)
def test_the_command_that_a_reader_is_told_trains_what_it_asked_for(words):
    asked = composed(*words)
    program, *told = shlex.split(training_command(asked))[1:]
    would, wanted = flat(composed(*told)), flat(asked)
    spoken = [key for key in wanted if key in RUN_KEYS or key.startswith("lora.")]
    assert program == "train.py" and len(spoken) > 10
    assert {key: would[key] for key in spoken} == {key: wanted[key] for key in spoken}


def test_a_sweep_keeps_its_id_however_it_is_launched_and_logged():
    grid = ["dataset=squad", "sample=30,100", "lora.r=1,16"]
    elsewhere = ["logger=[csv,wandb]", "+logger.wandb.entity=me", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    assert sweep_id(grid) == sweep_id([*reversed(grid), *elsewhere, "dashboard=true"])
    assert len({sweep_id(grid), sweep_id([*grid, "seed=1"]), sweep_id([*grid, "+loggers=1"])}) == 3
