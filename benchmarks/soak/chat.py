"""Many people ask the chat page at once: each gets the whole answer, at once, in the queue, or after "busy, come back".

    python benchmarks/soak/chat.py outputs/tweetsumm/RUN clients=200

Starts `llama-exp chat out=RUN ui=true` and asks it as the page does. An answer counts where every side has finished;
a refusal where it is a 503 with Retry-After, within a second. Afterwards GET / must answer within a second, and Ctrl-C
end the server. Prints a row: name, tried, ok, failed, seconds; what failed goes to standard error.
"""

import asyncio
import json
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.soak.servers import Server, print_row

PATIENCE = 600.0  # seconds for the whole storm
PROMPT = 1.0  # seconds in which a refusal, and the page after the storm, must come


@dataclass
class Storm:
    """What happened to the clients of one storm."""

    answered: int = 0
    refused: int = 0
    slowest_refusal: float = 0.0
    farthest: int = 0  # the longest queue that anybody saw
    seconds: float = 0.0
    page_after: float = 0.0  # seconds that GET / took afterwards
    problems: list[str] = field(default_factory=list)


async def storm(port: int, clients: int, prompt: float = PROMPT) -> Storm:
    """`clients` ask at once; whoever is refused comes back when told to."""
    result, started = Storm(), time.monotonic()
    await asyncio.gather(*(ask_until_answered(port, number, result, prompt) for number in range(clients)))
    result.seconds = time.monotonic() - started
    status, _, result.page_after, _ = await request(port, "GET", "/")
    if status != 200 or result.page_after > prompt:
        result.problems.append(f"GET / afterwards: {status} after {result.page_after:.1f} s")
    return result


async def request(port: int, method: str, path: str, body: bytes = b"") -> tuple[int, dict[str, str], float, bytes]:
    """(status, headers, seconds to these, body). By hand: a comfortable client takes seconds for 200 connections."""
    asked = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    writer.write(head.encode() + b"\r\n\r\n" + body)
    first, *fields = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
    waited = time.monotonic() - asked
    received = await reader.read()
    writer.close()
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    return int(first.split()[1]), headers, waited, received


async def ask_until_answered(port: int, number: int, result: Storm, prompt: float) -> None:
    message, deadline = json.dumps({"message": f"Where is parcel {number}?"}).encode(), time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            status, headers, waited, body = await asyncio.wait_for(request(port, "POST", "/ask", message), PATIENCE)
        except (OSError, EOFError, TimeoutError) as error:
            return result.problems.append(f"client {number}: {type(error).__name__} {error}")
        if status != 503:
            return count_answer(result, number, status, [json.loads(line) for line in body.splitlines()])
        result.refused += 1
        result.slowest_refusal = max(result.slowest_refusal, waited)
        again = headers.get("retry-after", "")
        if waited > prompt or not again.isdigit():
            return result.problems.append(f"client {number}: 503 after {waited:.1f} s, Retry-After {again!r}")
        await asyncio.sleep(int(again) * random.uniform(1, 1.5))
    result.problems.append(f"client {number}: no answer in {PATIENCE:.0f} s")


def count_answer(result: Storm, number: int, status: int, lines: list[dict]) -> None:
    result.farthest = max([result.farthest, *(line["ahead"] for line in lines if "ahead" in line)])
    said = Counter(line["side"] for line in lines if "finished" in line)
    errors = [line for line in lines if "error" in line]
    for side in said:
        pieces = "".join(line.get("piece", "") for line in lines if line.get("side") == side)
        whole = next(line["text"] for line in lines if "finished" in line and line["side"] == side)
        errors += [f"{side}: {pieces!r} is not {whole!r}"] if pieces != whole else []
    if status == 200 and not errors and said and set(said.values()) == {1}:
        result.answered += 1
    else:
        result.problems.append(f"client {number}: {status}, {errors or 'cut off'}")


def main(run: str, clients: int = 200) -> int:
    with Server("chat", f"out={run}", "ui=true", "port=0") as server:
        result = asyncio.run(storm(server.port, clients))
        stopped = time.monotonic()
        errors = server.end(signal.SIGINT)
        if server.process.returncode != 0 or errors:
            result.problems.append(f"Ctrl-C: exit code {server.process.returncode}, {errors[-300:]}")
    print(
        f"{result.refused} refused (slowest {result.slowest_refusal:.2f} s), up to {result.farthest} ahead, "
        f"GET / after {result.page_after:.2f} s, Ctrl-C {time.monotonic() - stopped:.1f} s",
        *result.problems,
        sep="\n",
        file=sys.stderr,
    )
    print_row("concurrent chat clients", clients, result.answered, len(result.problems), result.seconds)
    return 1 if result.problems or result.answered != clients else 0


if __name__ == "__main__":
    from benchmarks.soak.servers import arguments

    sys.exit(main(sys.argv[1], **arguments(sys.argv[2:])))
