"""Odd requests over raw sockets: no answer is a 500, and the server neither complains nor stops.

    python benchmarks/soak/odd_requests.py outputs/tweetsumm/RUN count=400           the chat page of a run
    python benchmarks/soak/odd_requests.py outputs/human/STUDY count=400             the rating page of a study

Prints a row: name, tried, ok, failed, seconds. `seed=1` draws other requests;
with `password=1` the chat page asks for one, so that nobody gets beyond the login.
"""

import contextlib
import os
import random
import re
import signal
import socket
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.soak.servers import Server, arguments, print_row

PATIENCE = 30.0  # seconds for the answer after all
STATUS = re.compile(rb"HTTP/1.1 (\d+)")
BYTES = [
    b"",
    b"\xff\xfe",
    b"\xc3\xa9",
    b"[",
    b"[::1",
    b"\xe2\x80\xae",
    b"%00",
    b"a" * 9000,
    b"a]b",
    b"//",
    b"\t",
    b"null",
]
METHODS = [b"GET", b"HEAD", b"POST", b"PUT", b"OPTIONS", b"TRACE", b"PATCH", b"BREW", b"G" * 200, b"get", b"PRI"]
TYPES = [
    b"application/json",
    b"application/x-www-form-urlencoded",
    b"multipart/form-data; boundary=x",
    b"text/plain",
    b"",
]
AUTHORIZATIONS = [
    b"Basic \xff\xff",
    b"Basic ",
    b"Basic =",
    b"basic YTpi",
    b"Bearer x",
    b"Basic " + b"A" * 9001,
    b"\xe9",
]
BODIES = [
    b"",
    b"{",
    b"[" * 100_000,
    b'{"message":' + b'{"a":' * 50_000,
    b'{"message": "x", "history": ' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"message": "\\ud800", "system": "\\udc00\\ud800"}',
    b'{"message": "hi", "history": {"tuned": [3, null], "untuned": 7}}',
    b'{"message": "hi", "history": {"tuned": "ab", "untuned": {"role": 1}}}',
    b'{"message": 1e999, "system": NaN}',
    b"9" * 6000,
    b"\xff\xfe{\x00}\x00",
    b"\xef\xbb\xbf{}",
    b"a=1&" * 500,
    b"verdict=left&seconds=nan&comment=%ff%00%ed%a0%80",
    b"verdict=left&seconds=1e999&draft=1",
    b"scale0=\xd9\xa3&verdict=%00",
    b"name=%E2%80%AE&agree=yes",
    b"x" * 300_000,
]
PATHS = [
    b"/%2e%2e/%2e%2e/etc/passwd",
    b"/%ff%fe",
    b"/%00",
    b"//evil.example/",
    b"*",
    b"http://evil.example/",
    b"/\\",
    b"/?" + b"a=&" * 900,
]


def odd_request(draw: random.Random, host: bytes, paths: list[bytes]) -> bytes:
    """One request, most parts of it as a browser would send them and some as nobody should."""

    def odd(chance: float, usual: bytes, *others: bytes) -> bytes:
        return draw.choice(others) if draw.random() < chance else usual

    path = draw.choice(paths) + odd(0.2, b"", b"/", b"/" + b"9" * 5000, b"/-1", b"/1e3", b"/\xd9\xa1", b"//", b"%0d%0a")
    path = odd(0.15, path, *PATHS)
    body = draw.choice(BODIES)
    headers = [(b"Host", odd(0.1, host, *BYTES)), (b"Content-Type", draw.choice(TYPES))]
    headers += [(b"Origin", odd(0.15, b"http://" + host, *BYTES, b"http://[", b"http://\xff"))] * draw.choice(
        [0, 1, 1, 3]
    )
    headers += [(b"Authorization", draw.choice(AUTHORIZATIONS))] * draw.choice([0, 0, 0, 1, 2])
    headers += [(b"Sec-Fetch-Site", odd(0.15, b"same-origin", *BYTES))] * draw.choice([0, 1])
    headers += [(draw.choice([b"Cookie", b"Range", b"Expect", b"Upgrade"]), draw.choice(BYTES))]
    headers += [(draw.choice([b"\xff", b"X Y", b""]), b"x")] if draw.random() < 0.05 else []
    headers += [(b"Upgrade", b"websocket"), (b"Connection", b"upgrade")] if draw.random() < 0.05 else []
    headers += [(b"Expect", b"100-continue")] if draw.random() < 0.1 else []
    length = odd(0.06, str(len(body)).encode(), b"-1", b"9" * 30, b"1", b"x", b"+3", b"\xb2")
    chunked = draw.random() < 0.2
    headers += [(b"Transfer-Encoding", b"chunked")] if chunked else [(b"Content-Length", length)]
    if chunked:
        body = odd(
            0.5, b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n", b"zz\r\n", b"-1\r\nx", body
        )
    head = b"%s %s %s\r\n" % (
        odd(0.3, b"POST", *METHODS),
        path,
        odd(0.03, b"HTTP/1.1", b"HTTP/1.0", b"HTTP/9.9", b"HTTP"),
    )
    headers += [(b"Connection", b"close")] * (draw.random() < 0.8)
    return head + b"".join(name + b": " + value + b"\r\n" for name, value in headers) + b"\r\n" + body


def answer(port: int, request: bytes, patience: float) -> bytes:
    """What the server sends until it closes, or says nothing for `patience` seconds."""
    with socket.create_connection(("127.0.0.1", port), timeout=patience) as connection:
        received = b""
        with contextlib.suppress(OSError):  # refused before all of it was sent, or it waits for more
            connection.sendall(request)
            while part := connection.recv(65536):
                received += part
        return received


def fuzz(port: int, paths: list[bytes], count: int, seed: int = 0) -> list[str]:
    """Send `count` odd requests, some behind each other on one connection; what went wrong."""
    draw, host = random.Random(seed), b"127.0.0.1:%d" % port
    requests = [
        b"".join(odd_request(draw, host, paths) for _ in range(draw.choice([1, 1, 1, 2, 3]))) for _ in range(count)
    ]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda request: answer(port, request, 1.0), requests))
    problems = [
        f"{request[:300]!r} -> {received[:200]!r}"
        for request, received in zip(requests, answers, strict=True)
        if b"HTTP/1.1 5" in received.replace(b"HTTP/1.1 503", b"")
    ]
    last = answer(port, b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", PATIENCE)
    statuses = Counter(status.decode() for received in answers for status in STATUS.findall(received))
    print(dict(statuses), "no answer:", answers.count(b""), file=sys.stderr)
    return problems if last.startswith(b"HTTP/1.1 ") else [*problems, "GET / afterwards: no answer"]


def slow_clients(port: int, path: bytes, count: int = 8) -> list[socket.socket]:
    """Connections that have begun a request and leave it at that: nothing, half a head, half a body."""
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n" % path
    beginnings = [b"", head, head + b"\r\n{"]
    connections = [socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) for _ in range(count)]
    for number, connection in enumerate(connections):
        connection.sendall(beginnings[number % len(beginnings)])
    return connections


def is_cut_off(connection: socket.socket, patience: float = 120.0) -> bool:
    """Whether the server closes a connection, though a byte of a header drips in every second."""
    deadline = time.monotonic() + patience
    connection.settimeout(1.0)
    while time.monotonic() < deadline:
        try:
            connection.send(b"x")
            if not connection.recv(65536):
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


def main(folder: str, count: int = 400, seed: int = 0, password: int = 0) -> int:
    study = (Path(folder) / "study.json").is_file()
    words = ["study", "serve", f"study={folder}"] if study else ["chat", f"out={folder}", "ui=true"]
    started = time.monotonic()
    if password:
        os.environ["LLAMA_EXP_PASSWORD"] = "nobody has it"
    with Server(*words, "port=0") as server:
        problems = fuzz(server.port, page_paths(server), count, seed)
        errors = server.end(signal.SIGINT)
    print(*problems, errors, sep="\n", file=sys.stderr)
    name = f"odd requests, {'rating' if study else 'chat'} page"
    print_row(name, count, count - len(problems), len(problems) + bool(errors), time.monotonic() - started)
    return 1 if problems or errors else 0


def page_paths(server: Server) -> list[bytes]:
    """Where the page has something to find: a rater's link and below, or the chat's routes."""
    links = [address.partition("/r/")[2].encode() for address in server.addresses if "/r/" in address]
    of_rater = [b"/r/" + link + rest for link in links for rest in (b"", b"/consent", b"/1", b"/2", b"/done")]
    return [*(of_rater or [b"/", b"/ask", b"/ask"]), b"/static/x", b"/nothing"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], **arguments(sys.argv[2:])))
