"""Commands without their imports: a process that has imported the heavy libraries forks for each command.

    python tests/forkserver.py SOCKET              the server: imports, listens, forks
    python -S -E tests/forkserver.py SOCKET run WORDS…   the client: what `python WORDS…` would do, same streams, same
    exit code

A command of this project spends 5 to 8 seconds of CPU on importing torch, Lightning, transformers and peft. The child
runs the program as a fresh process would: its own argv, folder, environment and streams, `__main__`, and nothing of
llama_exp imported before. What reads the environment when it is imported (HF_HOME, OMP_NUM_THREADS) has the server's:
tests that set such a variable start a real process.
"""

import array
import json
import os
import runpy
import signal
import socket
import sys

LIBRARIES = (
    "torch torch.distributed lightning lightning.pytorch.callbacks.rich_model_summary transformers peft bitsandbytes "
    "datasets accelerate safetensors.torch transformers.models.llama.modeling_llama "
    "transformers.integrations.bitsandbytes hydra omegaconf jinja2 rich.progress rich.table scipy.stats "
    "matplotlib.figure matplotlib.backends.backend_agg torchmetrics"
).split()


def serve(path: str) -> None:
    import importlib

    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # as every command does before it imports
    sys.path.insert(1, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # this checkout, from any folder
    for name in LIBRARIES:
        importlib.import_module(name)
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, GenerationConfig  # noqa: F401

    server = socket.socket(socket.AF_UNIX)
    server.bind(path + ".new")
    server.listen(16)
    os.rename(path + ".new", path)  # there as soon as it answers
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children here
    parent = os.getppid()
    server.settimeout(1.0)
    while os.getppid() == parent:  # ends with the tests
        try:
            connection, _ = server.accept()
        except TimeoutError:
            continue
        if os.fork() == 0:
            server.close()
            attend(connection)
        connection.close()


def attend(connection: socket.socket) -> None:
    """Fork once more, for the command itself, and tell the client how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    connection.settimeout(None)
    header, descriptors, *_ = socket.recv_fds(connection, 8, 3)
    request = json.loads(receive(connection, int.from_bytes(header, "little")))
    child = os.fork()
    if child == 0:
        connection.close()
        os.setsid()
        for target, descriptor in enumerate(descriptors):
            os.dup2(descriptor, target)
        run(request)
    for descriptor in descriptors:
        os.close(descriptor)
    _, status = os.waitpid(child, 0)
    connection.sendall(array.array("i", [os.waitstatus_to_exitcode(status)]).tobytes())
    os._exit(0)


def receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += connection.recv(size - len(data))
    return data


def run(request: dict) -> None:
    """What `python WORDS…` does; never returns."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.stdin = os.fdopen(0, encoding="utf-8", errors="surrogateescape")
    sys.stdout = os.fdopen(1, "w", encoding="utf-8")
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1)
    program, *rest = request["words"]
    code = 0
    try:
        if program == "-m":
            sys.path[0] = request["folder"]
            sys.argv = ["-m", *rest[1:]]
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.path[0] = os.path.dirname(os.path.abspath(program))
            sys.argv = [program, *rest]
            runpy.run_path(program, run_name="__main__")
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        if isinstance(ending.code, str):
            print(ending.code, file=sys.stderr)
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    import atexit

    atexit._run_exitfuncs()  # as the interpreter would: a command may leave through one of them
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def client(path: str, words: list[str]) -> int:
    request = {"words": words, "folder": os.getcwd(), "environment": dict(os.environ)}
    data = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        socket.send_fds(connection, [len(data).to_bytes(8, "little")], [0, 1, 2])
        connection.sendall(data)
        code = receive(connection, array.array("i").itemsize)
    return array.array("i", code)[0]


if __name__ == "__main__":
    if sys.argv[2:3] == ["run"]:
        code = client(sys.argv[1], sys.argv[3:])
        if code < 0:  # killed: die the same way
            os.kill(os.getpid(), -code)
        sys.exit(code)
    serve(sys.argv[1])
