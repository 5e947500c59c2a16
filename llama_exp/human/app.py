"""The rating page: python -m llama_exp.human.app study=outputs/human/first

Prints a link per rater. Loopback only, unless told otherwise: `host=0.0.0.0 open=true` lets others on the network in,
without encryption, so put a reverse proxy with TLS in front of anything that leaves the building.
"""

import sys
from pathlib import Path

from llama_exp.cli.main import run_command
from llama_exp.errors import UserError
from llama_exp.human import study as design
from llama_exp.human.keys import given
from llama_exp.human.store import Store
from llama_exp.web import LOOPBACK_NAMES, is_loopback, open_socket, url_host

PROGRAM, PORT = "llama_exp.human.app", 8765
KEYS = {
    "study": ("FOLDER", "the folder of the study"),
    "host": ("127.0.0.1", "where to listen; 0.0.0.0: for all who reach this machine, which needs open=true"),
    "port": (str(PORT), "0: any that is free"),
    "open": ("false", "true: others on the network may reach the page, unencrypted"),
    "address": ("…", "what links begin with where a proxy stands before the page: https://rate.example.org"),
}


def serve(words: dict[str, str]) -> None:
    """Check everything, say the links, and serve until interrupted."""
    folder = Path(words["study"])
    study = design.read(folder)
    host, port, hosts = where(words)
    uvicorn, pages = web()
    store = Store(folder)
    store.invite(len(study.queues))
    kept = store.hold()
    listening = open_socket(host, port)
    address = words.get("address", "").rstrip("/") or f"http://{url_host(host)}:{listening.getsockname()[1]}"
    print(links(study, store, address), flush=True)
    config = uvicorn.Config(pages(study, store, hosts), access_log=False, log_level="warning", server_header=False)
    try:  # no access log: it would hold the tokens
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:
        print("\nStopped. Every rating is saved; the same command goes on.")
    finally:
        kept.close()


def web():
    """uvicorn and the pages, or the words that install them."""
    try:
        import uvicorn

        from llama_exp.human.rating_page import pages
    except ImportError as error:
        raise UserError(f"The rating page needs {error.name}. Install it: pip install -e '.[ui]'") from None
    return uvicorn, pages


def where(words: dict[str, str]) -> tuple[str, int, set[str] | None]:
    """(host, port, names to answer to). UserError for a host that others can reach and that was not asked for twice."""
    from urllib.parse import urlsplit

    host, port, opened = words.get("host", "127.0.0.1"), words.get("port", str(PORT)), words.get("open", "false")
    if opened not in ("true", "false"):
        raise UserError(f"open={opened}: wanted true or false.")
    if not port.isdigit() or int(port) > 65535:
        raise UserError(f"port={port}: wanted a number from 0 (any that is free) to 65535.")
    names = LOOPBACK_NAMES
    behind = urlsplit(words.get("address", "")).hostname
    if words.get("address") and not behind:
        raise UserError(f"address={words['address']}: wanted what raters type, for example https://rate.example.org")
    if is_loopback(host):
        return host, int(port), names | ({behind} if behind else set())
    if opened != "true":
        raise UserError(
            f"host={host}: others on the network could reach the page, and it is not encrypted. If that is "
            f"what you want, type host={host} open=true; else leave host out."
        )
    return host, int(port), {behind} | names if behind else None


def links(study: design.Study, store: Store, address: str) -> str:
    lines = ["Give each rater their own link, and nobody else's:"]
    for rater in store.raters()[: len(study.queues)]:
        queue, rated = study.queues[rater.number - 1], sum(g.done for g in store.ratings(rater.number).values())
        name = f" ({rater.name!r})" if rater.name else ""
        lines.append(f"  rater {rater.number}{name}, {rated} of {len(queue)} rated: {address}/r/{rater.token}")
    return "\n".join([*lines, "Stop with Ctrl-C; ratings are on disk the moment they are given."])


if __name__ == "__main__":
    run_command(lambda: serve(given(sys.argv[1:], PROGRAM, KEYS)))
