"""How libraries are imported, and what is decided before: the rest is in test_train.py, in processes of their own."""

import os
import signal
import subprocess
import sys
import time

import pytest

from llama_exp.model import imports
from tests.conftest import ROOT


class Driver:
    """A CUDA driver with GPUs that map memory, or do not."""

    def __init__(self, maps: list[int], broken: str = ""):
        self.maps, self.broken = maps, broken

    def __getattr__(self, name):
        return lambda *parts: 1 if name == self.broken else self.call(name, *parts)

    def call(self, name, *parts) -> int:
        if name == "cuDeviceGetCount":
            parts[0]._obj.value = len(self.maps)
        elif name == "cuDeviceGet":
            parts[0]._obj.value = 10 + parts[1]
        elif name == "cuDeviceGetAttribute":
            assert parts[1] == 102
            parts[0]._obj.value = self.maps[parts[2].value - 10]
        return 0


@pytest.mark.parametrize(
    ("driver", "expected"),
    [
        (Driver([1]), True),
        (Driver([1, 1]), True),
        (Driver([1, 0]), False),
        (Driver([]), False),
        (Driver([1], "cuInit"), False),
        (Driver([1], "cuDeviceGetCount"), False),
        (Driver([1], "cuDeviceGet"), False),
        (Driver([1], "cuDeviceGetAttribute"), False),
        (None, False),
    ],
)
def test_memory_is_mapped_where_every_gpu_can(driver, expected, monkeypatch):
    def load(name):
        if driver is None:
            raise OSError("libcuda.so.1: cannot open shared object file")
        return driver

    monkeypatch.setattr(imports.ctypes, "CDLL", load)
    assert imports.gpus_map_memory() is expected


CODE = """
import os, sys
from llama_exp.model import imports
imports.gpus_map_memory = lambda: True
imports._import_all = lambda: None
imports.import_all()
print(sorted((name, value) for name, value in os.environ.items() if name.endswith("ALLOC_CONF")))
"""


@pytest.mark.parametrize("name", [None, *imports.ALLOCATION])
def test_how_the_user_has_gpu_memory_allocated_stays(name):
    env = {key: value for key, value in os.environ.items() if key not in imports.ALLOCATION}
    env |= {name: "max_split_size_mb:512"} if name else {}
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, env=env, capture_output=True, text=True)
    expected = (name, "max_split_size_mb:512") if name else ("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    assert done.stdout.strip() == str([expected]), done.stderr


def test_ctrl_c_does_not_wait_for_the_imports():
    code = (
        "import time\nfrom llama_exp.model import imports\n"
        "imports._import_all = lambda: (print('importing', flush=True), time.sleep(60))\nimports.import_all()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == "importing\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=30)[1] and process.returncode
