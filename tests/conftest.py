"""Shared by all tests: no network, no cache of the user's, one thread, and a small random Llama on disk."""

import atexit
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests run side by side; spinning threads would fight
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["WANDB_MODE"] = "offline"

import pytest

ROOT = Path(__file__).parent.parent
CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)


READ_AT_IMPORT = ("HF_", "WANDB_", "CUDA_", "OMP_", "TOKENIZERS_", "TRANSFORMERS_", "PYTHON")
_server: dict[str, str] = {}  # the fork server's socket, and the environment that its libraries were imported in


def python(*words: str, env: dict[str, str] | None = None) -> list[str]:
    """What starts `python WORDS…`: a fork of a process that has imported the libraries already (tests/forkserver.py).

    A real process where `env`, or what a test has set, holds a variable that the libraries read when they are imported.
    """

    def read_at_import(environment: dict[str, str]) -> dict[str, str]:
        return {key: value for key, value in environment.items() if key.startswith(READ_AT_IMPORT)}

    if not _server:
        folder = tempfile.mkdtemp(prefix="forks-")
        _server.update(read_at_import({**os.environ}), socket=f"{folder}/socket")
        process = subprocess.Popen([sys.executable, "tests/forkserver.py", _server["socket"]], cwd=ROOT)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        atexit.register(process.kill)
        while not Path(_server["socket"]).exists():
            assert process.poll() is None, "the fork server could not start"
            time.sleep(0.1)
    if {**read_at_import({**os.environ, **(env or {})}), "socket": _server["socket"]} != _server:
        return [sys.executable, *words]
    return [sys.executable, "-S", "-E", str(ROOT / "tests/forkserver.py"), _server["socket"], "run", *words]


@pytest.fixture(scope="session", autouse=True)
def _own_hub_cache(tmp_path_factory):
    """A user's hub cache must neither help nor be touched."""
    os.environ["HF_HOME"] = str(tmp_path_factory.mktemp("hf"))


@pytest.fixture(scope="session")
def llama(tmp_path_factory) -> Path:
    """A folder with a random Llama of 3 layers and the package's tokenizer: for mathematics, not for behaviour."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from llama_exp import tiny

    folder = tmp_path_factory.mktemp("llama")
    tokenizer = AutoTokenizer.from_pretrained(tiny.PATH)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer():
    from transformers import AutoTokenizer

    from llama_exp import tiny

    return AutoTokenizer.from_pretrained(tiny.PATH)


@pytest.fixture
def command(tmp_path):
    """Run a command of this project as a user would, in the repository's root; outputs go to tmp_path/outputs."""

    def run(*words: str, env: dict[str, str] | None = None, timeout: float = 240, check: bool | None = True):
        program, *rest = words
        start = ["-m", "llama_exp"] if program == "llama-exp" else [program]
        done = subprocess.run(
            python(*start, *rest, env=env),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **(env or {})},
        )
        if check:
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done

    run.outputs = tmp_path / "outputs"
    return run


def small(**keys: str) -> list[str]:
    """Words of a cell that trains in a few seconds: synthetic rows, few, short."""
    words = {
        "model": "tiny",
        "dataset": "squad",
        "dataset.source": "synthetic",
        "dataset.rows": "80",
        "sample": "16",
        "batch": "4",
        "lora.r": "2",
        "trainer.max_epochs": "1",
        "validations": "2",
        "validation_sample": "4",
        "eval_sample": "6",
        **keys,
    }
    return [f"{key}={value}" for key, value in words.items()]


def make_it_matter(model) -> None:
    """Give a fresh adapter's B values, as if it had learnt something: at 0 it changes nothing."""
    import torch

    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=generator)


@pytest.fixture(scope="session")
def speaker(tmp_path_factory):
    """(words, outputs) of one small run that learnt to speak."""
    outputs = tmp_path_factory.mktemp("speaker") / "outputs"
    words = [
        *small(dataset="tweetsumm", **{"dataset.task": "turns", "dataset.max_new_tokens": "24"}),
        f"outputs={outputs}",
    ]
    done = subprocess.run(python("train.py", *words), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return words, outputs


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[test]'")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def browse(chromium):
    """Open an address in a browser of its own. Whatever a page complains about fails the test."""
    contexts, complaints = [], []

    def open_page(address: str, quiet: bool = True, **how):
        contexts.append(chromium.new_context(**{"viewport": {"width": 1200, "height": 800}, **how}))
        page = contexts[-1].new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
        if quiet:
            page.on("console", lambda message: complaints.append(message.text))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        for page in context.pages:  # closing while a page is on its way to the next one can hang for good
            with contextlib.suppress(Exception):  # a server that a test has stopped
                page.wait_for_load_state("networkidle")
        context.close()
    assert complaints == []
