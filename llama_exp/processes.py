"""The processes that train one run together, one a GPU: the first one decides, the others take part in what it trains.

    first                                        the others
    reads the options, walks a sweep's cells     follow(): wait for a cell
    cell(config): tells them the cell      ->    load the base and read the data, as the first one does meanwhile
    begin(): holds the folder, not finished ->   begin(): True, and they train; False where one of them cannot
    training(): steps                      <->   steps
    evaluates, reports                           wait for the next cell
    stop()                                 ->    end

On one machine the first process starts the others, once for all cells of a sweep. torchrun and srun have started them
already, on one machine or on several. Whoever dies costs the cell that is trained: the first process starts others for
the next one.
"""

import atexit
import contextlib
import datetime
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from llama_exp.errors import NotFinite, UserError
from llama_exp.programs import python_path

FOREVER = datetime.timedelta(days=30)  # others wait so long while the first one evaluates
START = datetime.timedelta(minutes=10)  # for all processes to import and to meet
GRACE = 20.0  # seconds in which a broken connection is noticed by itself; NCCL does not, and waits in silence
STARTED_HERE = "LLAMA_EXP_PROCESS"  # set in the environment of a process that the first one has started
AGAIN = "The same command continues from the last checkpoint."
TYPE_AGAIN = "Type the same command again."


class ProcessLost(UserError):
    """One of the processes that train together has ended. Its text says which and how."""


def process_number() -> int:
    """0 in the first process of a run, which alone prints and writes; as torchrun, srun or `Processes` numbered it."""
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "RANK" not in os.environ:
        return int(os.environ.get("SLURM_PROCID", "0"))
    return int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or "0")


def local_number() -> int:
    """The same among the processes of this machine: which of its GPUs is this one's."""
    several = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1
    return int(os.environ.get("LOCAL_RANK") or (several and os.environ.get("SLURM_LOCALID")) or "0")


def process_count() -> int:
    """How many processes torchrun, srun or `Processes` have started for this command."""
    return int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_STEP_NUM_TASKS") or "1")


def wanted_processes(trainer: dict[str, Any]) -> int:
    """Processes that share a step: devices x nodes under a strategy for several, else one."""
    if not is_distributed(trainer):
        return 1
    return devices(trainer) * int(trainer.get("num_nodes") or 1)


def is_distributed(trainer: dict[str, Any]) -> bool:
    return str(trainer.get("strategy") or "").startswith(("ddp", "fsdp"))


def is_sharded(trainer: dict[str, Any]) -> bool:
    """Whether each process holds a share of the base (model/sharding.py), not the whole."""
    return str(trainer.get("strategy") or "") == "fsdp"


def devices(trainer: dict[str, Any]) -> int:
    """Processes on one machine: `trainer.devices`, a number or a list; "auto" and -1 are all GPUs there are."""
    value = trainer.get("devices", 1)
    if isinstance(value, list):
        return len(value)
    if str(value).isdigit() and int(value) > 0:
        return int(value)
    import torch

    return max(1, torch.cuda.device_count())


class Processes:
    """The processes of one command, as this one of them sees them.

    number, count   this one's, from 0, and how many there are; count is 1 until the first one needs others
    outside         torchrun or srun has started them, not this package
    started         those that this process has started
    store           torch's key-value store, by which they find each other
    group           for messages, over gloo; training has another one, with a time limit
    ended           why those that were started outside are gone
    has_begun       all of them train this cell; has_trained: no more steps follow
    is_waiting      for what the others compute: in steps, and where each loads its share of a base
    """

    def __init__(self) -> None:
        self.number, self.count = process_number(), process_count()
        self.outside = self.count > 1 and STARTED_HERE not in os.environ
        self.started: list[subprocess.Popen] = []
        self.listener: socket.socket | None = None
        self.store: Any = None
        self.group: Any = None
        self.ended = ""
        self.has_voted = self.has_begun = self.is_waiting = self.has_trained = False
        if self.is_first:
            atexit.register(self.stop)

    @property
    def is_first(self) -> bool:
        return self.number == 0

    def start(self, trainer: dict[str, Any], words: Sequence[str] = ()) -> None:
        """Start as many as the trainer's keys want, where they do not run already; returns at once. `words`: what they
        are typed with (--config-dir FOLDER).

        Raises UserError where torchrun or srun have started another number.
        """
        wanted, nodes = wanted_processes(trainer), int(trainer.get("num_nodes") or 1)
        if self.outside:
            return self._check_outside(wanted, trainer)
        if nodes > 1:
            raise UserError(
                f"trainer.num_nodes={nodes}: start the same command on every node, with torchrun --nnodes={nodes} "
                f"--nproc-per-node={devices(trainer)} … or srun: docs/several_gpus.md."
            )
        if wanted == 1 and devices(trainer) > 1:
            raise UserError(
                f"trainer.devices={trainer['devices']}: several devices share a step under trainer=ddp or "
                "trainer=fsdp. Add one of them, or leave trainer.devices out."
            )
        if wanted == self.count and all(child.poll() is None for child in self.started):
            return
        self.stop()
        if wanted > 1:
            self._start(wanted, words)

    def _check_outside(self, wanted: int, trainer: dict[str, Any]) -> None:
        if self.ended:
            raise ProcessLost(f"{self.ended} {TYPE_AGAIN}")
        if wanted != self.count:
            keys = {key: trainer.get(key) or 1 for key in ("devices", "num_nodes")}
            raise UserError(
                f"torchrun or srun has started {self.count} processes, and trainer.strategy={trainer.get('strategy')} "
                f"trainer.devices={keys['devices']} trainer.num_nodes={keys['num_nodes']} wants {wanted}. Type "
                "trainer=ddp trainer.devices=PROCESSES_A_NODE +trainer.num_nodes=NODES."
            )

    def _start(self, count: int, words: Sequence[str]) -> None:
        self.count = count
        self.listener = socket.create_server(("127.0.0.1", 0))  # held, so that nobody else takes the port
        shared = {
            **os.environ,
            STARTED_HERE: str(os.getpid()),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self.listener.getsockname()[1]),
            "WORLD_SIZE": str(count),
            "PYTHONPATH": python_path(),
        }
        for number in range(1, count):
            child = subprocess.Popen(
                [sys.executable, "-m", "llama_exp", "train", *words],
                env={**shared, "RANK": str(number), "LOCAL_RANK": str(number)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C reaches the first process alone, and all stop after the same step
            )
            self.started.append(child)
            threading.Thread(target=self._watch, args=(child,), daemon=True).start()

    def _watch(self, child: subprocess.Popen) -> None:
        """End this process where another one has ended in the middle of a step, or of loading its share of a base, and
        it still waits for that one."""
        child.wait()
        time.sleep(GRACE)
        if self.is_waiting and child in self.started:
            print(f"{self._lost()} {AGAIN if self.has_begun else TYPE_AGAIN}", file=sys.stderr, flush=True)
            os._exit(1)

    @contextlib.contextmanager
    def cell(self, config: Any) -> Iterator[None]:
        """Around all that is done for one Config, which the others are told; where the block ends before `begin`,
        also that it is not trained."""
        self.has_voted = self.has_begun = self.has_trained = False
        if self.count > 1 and self.is_first:
            with self.noticing():
                self._open(_backend(config.trainer))
                self.agree(config)
        try:
            yield
        except Exception as error:
            self._decline(str(error) or repr(error))
            raise
        self._decline("it is not trained")

    def _decline(self, reason: str) -> None:
        if not self.has_voted and self.group is not None:
            with self.noticing():
                self._vote(reason)

    def _vote(self, reason: str) -> list[str]:
        self.has_voted = True
        return [found for found in self.gather(reason) if found]

    def begin(self) -> bool:
        """Whether all processes are ready to train this cell. Raises UserError in the first one where another is
        not."""
        if self.count > 1:
            with self.noticing():
                reasons = self._vote("")
            if reasons and self.is_first:
                raise UserError(reasons[0])
            self.has_begun = not reasons
            return self.has_begun
        return True

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, in their order."""
        if self.count == 1:
            return [value]
        import torch.distributed as dist

        values = [None] * self.count
        dist.all_gather_object(values, value, group=self.group)
        return values

    def agree(self, value: Any) -> Any:
        """The first process's value, in all of them."""
        return self.gather(value if self.is_first else None)[0]

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Around the steps."""
        self.is_waiting = True
        try:
            with self.noticing():
                yield
            self.has_trained = True
        finally:
            self.is_waiting = False

    @contextlib.contextmanager
    def loading_shares(self) -> Iterator[None]:
        """Around the loading of a base in shares. A process that cannot load its own leaves the others waiting in the
        middle of theirs, over NCCL in silence: so it ends, and the first one says why."""
        self.is_waiting = True
        try:
            yield
        except Exception as error:
            if self.count == 1:
                raise
            if not self.is_first:
                reason = str(error) or repr(error)
                self.store.set(f"reason {self.number}", reason)
                if self.outside:  # torchrun and srun end the first one before it could say so
                    print(f"Process {self.number + 1} of {self.count}: {reason}", file=sys.stderr, flush=True)
                os._exit(1)
            self._end_others(error, "" if isinstance(error, UserError) else self._lost(), TYPE_AGAIN)
        finally:
            self.is_waiting = False

    @contextlib.contextmanager
    def noticing(self) -> Iterator[None]:
        """An error in one process leaves the others waiting in the middle of a step, so they end with it; the next cell
        starts others. A loss that is not finite comes to all at the same step, and they stay; so they do once the steps
        are done, when the first process is alone with what follows."""
        try:
            yield
        except Exception as error:
            if self.count == 1 or not self.is_first or self.has_trained or isinstance(error, NotFinite):
                raise
            self._end_others(error, self._lost(), AGAIN)

    def _end_others(self, error: Exception, lost: str, hint: str) -> NoReturn:
        """After an error here, for which they would wait. lost: which of them has ended before, the cause of it."""
        self.ended = lost or "The processes that train together have ended with an error."
        self.stop()
        if lost:
            raise ProcessLost(f"{lost} {hint}") from error
        raise error

    def _lost(self) -> str:
        """Which process has ended, and how; "" for none. A connection breaks a moment before a process is gone."""
        deadline = time.monotonic() + 5
        while self.started and time.monotonic() < deadline:
            for number, child in enumerate(self.started, 2):
                if (code := child.poll()) is not None:
                    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
                    return f"Process {number} of {self.count} has ended ({how}){self._reason(number - 1)}."
            time.sleep(0.05)
        return ""

    def _reason(self, number: int) -> str:
        """Why a process ended, where it could leave word."""
        key = f"reason {number}"
        return f": {self.store.get(key).decode().rstrip('.')}" if self.store and self.store.check([key]) else ""

    def stop(self) -> None:
        """End the processes that this one has started; tell those that were started outside that no more cells come."""
        if self.outside:
            return self._dismiss()
        children, self.started = self.started, []
        for child in children:
            child.kill()  # they hold nothing: the first one writes
        for child in children:
            child.wait()
        self._leave()
        if self.listener is not None:
            self.listener.close()
            self.listener = None
        self.count = 1

    def _dismiss(self) -> None:
        if self.is_first and not self.ended:
            with contextlib.suppress(Exception):  # they may be gone
                self._open("none")
                if self.group is not None:
                    self.agree(None)
        self.ended = self.ended or "The processes that train together have ended."
        self._leave()

    def _leave(self) -> None:
        if self.group is not None:
            import torch.distributed as dist

            # Aside: NCCL's way out may wait for processes that are gone.
            leaving = threading.Thread(target=dist.destroy_process_group, daemon=True)
            leaving.start()
            leaving.join(GRACE)
        self.group = self.store = None

    def follow(self, train: Callable[[Any], Any]) -> None:
        """Take part in every cell that the first process trains, until it ends. Errors are the first one's to print,
        but for those that end this process in the middle of a step."""
        if not self.outside:
            _end_with_parent()
        self._open()
        while (config := self._next_cell()) is not None:
            try:
                with self.cell(config):
                    train(config)
            except Exception as error:
                if self.has_begun and not isinstance(error, NotFinite):
                    time.sleep(0 if self.outside else 2)  # the first process may be gone: then this one ends in silence
                    raise
        self._leave()

    def _next_cell(self) -> Any:
        try:
            return self.agree(None) if self.group is not None else None
        except RuntimeError:  # the connection is closed: the first process is gone
            return None

    def _open(self, backend: str = "") -> None:
        """Join the other processes over a backend, which the first one names: "none" where there is nothing to join."""
        if self.group is not None:
            return
        import torch.distributed as dist

        self.store = self._find_store()
        if self.is_first:
            self._wait_for_others()
            self.store.set("backend", backend)
        else:
            self.store.set(f"process {self.number}", "here")
            self.store.wait(["backend"], FOREVER)
            backend = self.store.get("backend").decode()
        if backend == "none":
            return
        device = {"device_id": _gpu()} if backend == "nccl" else {}
        store = dist.PrefixStore("training", self.store)
        dist.init_process_group(backend, store=store, rank=self.number, world_size=self.count, **device)
        self.group = dist.new_group(backend="gloo", timeout=FOREVER)

    def _find_store(self) -> Any:
        import torch.distributed as dist

        if self.outside:
            _find_slurm_address()
            return next(dist.rendezvous("env://", self.number, self.count))[0]
        if self.listener is not None:
            port, descriptor = self.listener.getsockname()[1], self.listener.detach()
            self.listener = None
            return dist.TCPStore(
                "127.0.0.1", port, self.count, True, START, wait_for_workers=False, master_listen_fd=descriptor
            )
        return dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), self.count, False, START)

    def _wait_for_others(self) -> None:
        """Until all of them are there. Raises ProcessLost where one of those started here ends before."""
        import torch.distributed as dist

        deadline = time.monotonic() + START.total_seconds()
        names = [f"process {number}" for number in range(1, self.count)]
        while True:
            try:
                return self.store.wait(names, datetime.timedelta(seconds=1))
            except dist.DistStoreError:
                if any(child.poll() is not None for child in self.started):
                    raise ProcessLost(self._lost()) from None
                if time.monotonic() > deadline:
                    raise


def _backend(trainer: dict[str, Any]) -> str:
    import torch

    return "nccl" if torch.cuda.is_available() and trainer.get("accelerator") != "cpu" else "gloo"


def _gpu() -> Any:
    import torch

    device = torch.device("cuda", local_number())
    torch.cuda.set_device(device)
    return device


def _find_slurm_address() -> None:
    """Put where srun's first process listens into the environment; torchrun has done so itself."""
    if "MASTER_ADDR" in os.environ and "MASTER_PORT" in os.environ:
        return
    from lightning.fabric.plugins.environments import SLURMEnvironment

    there = SLURMEnvironment()
    os.environ.update(MASTER_ADDR=there.main_address, MASTER_PORT=str(there.main_port))


def _end_with_parent() -> None:
    """End this process, which waits for messages or for a GPU, once the one that has started it is gone."""
    parent = int(os.environ[STARTED_HERE])

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
