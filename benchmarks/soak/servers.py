"""A server of this project in a process of its own, and how a soak test prints its row."""

import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Server:
    """`llama-exp WORDS` as a process that serves; ends with the block."""

    def __init__(self, *words: str):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llama_exp", *words],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.output, self.errors = "", ""
        for line in self.process.stdout:
            self.output += line
            if line.startswith("Stop with"):
                break
        else:
            raise RuntimeError(self.process.stderr.read())
        self.addresses = re.findall(r"http://\S+", self.output)
        self.address = self.addresses[0]
        self.port = int(re.search(r":(\d+)", self.address.removeprefix("http:")).group(1))
        threading.Thread(target=self._read_errors, daemon=True).start()  # a full pipe would hold it up

    def _read_errors(self) -> None:
        for line in self.process.stderr:
            self.errors += line

    def end(self, how: signal.Signals = signal.SIGTERM, patience: float = 60) -> str:
        """Send a signal, wait for the end; what the server has complained of."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        self.process.wait(patience)
        return self.errors

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_) -> None:
        self.end(signal.SIGKILL)


def arguments(words: list[str]) -> dict[str, int]:
    """`clients=200 kills=5` as numbers."""
    return {key: int(value) for key, _, value in (word.partition("=") for word in words)}


def print_row(name: str, tried: int, ok: int, failed: int, seconds: float) -> None:
    print(f"| {name} | {tried} | {ok} | {failed} | {seconds:.0f} |", flush=True)
