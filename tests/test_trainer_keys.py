"""trainer.* is Lightning's: each of its arguments is passed on, or refused with what to type instead."""

import inspect

import lightning as L
import pytest

from llama_exp.config.compose import load_config
from llama_exp.config.trainer_keys import PASSED, PLANNED, REFUSED
from llama_exp.errors import UserError


def test_the_table_names_every_argument_of_lightnings_trainer_once():
    theirs = [name for name in inspect.signature(L.Trainer.__init__).parameters if name != "self"]
    assert sorted([*PLANNED, *PASSED, *REFUSED]) == sorted(theirs)


@pytest.mark.parametrize("key", REFUSED)
def test_what_a_run_does_not_take_is_refused_with_what_to_type_instead(key):
    with pytest.raises(UserError, match=rf"trainer.{key}=2 is not taken: .{{20}}"):
        load_config("model=tiny", f"+trainer.{key}=2")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["+trainer.max_epoch=3"], "lightning.Trainer has no such argument. Did you mean trainer.max_epochs"),
        (["+trainer.precision=64-true"], "trainer.precision=64-true: wanted one of 32-true"),
        (["+trainer.strategy=deepspeed"], "Type trainer=ddp"),
        (["+trainer.accumulate_grad_batches=4"], "micro_batch=N"),
        (["+trainer.callbacks=[EarlyStopping]"], "item 0 is 'EarlyStopping'; wanted {_target_: my_package.MyClass"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_loaded(words, said):
    with pytest.raises(UserError) as caught:
        load_config("model=tiny", *words)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_all_that_is_passed_is_taken_by_the_check():
    values = {"precision": "32-true", "profiler": "simple", "limit_val_batches": 2, "num_sanity_val_steps": 2}
    config = load_config("model=tiny", *(f"+trainer.{key}={value}" for key, value in values.items()))
    assert {key: config.trainer[key] for key in values} == values
