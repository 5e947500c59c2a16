"""Serve the rating page of a study, and print a link for each rater."""

from pathlib import Path
from urllib.parse import urlsplit

from llama_exp.errors import UserError
from llama_exp.human.store import RatingStore
from llama_exp.human.study import Study, read_study
from llama_exp.programs import install
from llama_exp.web import LOOPBACK_NAMES, is_loopback, open_socket, run_server, url_host

HOST, PORT = "127.0.0.1", 8765


def serve_study(folder: Path, host: str = HOST, port: int = PORT, open: bool = False, address: str = "") -> None:
    """Serve until interrupted.

    port       0: any free port
    open       confirms a host that others on the network can reach: nothing is encrypted
    address    what the links begin with where a proxy stands in front: https://rate.example.org

    Raises UserError before anything is served where one of these is wrong, or there is no study.
    """
    study = read_study(folder)
    hosts = allowed_hosts(host, open, address)
    create_app = _import_web()
    store = RatingStore(folder)
    if store.path.is_file():
        store.check_study(study)
    store.invite(len(study.queues))
    store.check_study(study)
    connection = store.keep_open()
    listening = open_socket(host, port)
    address = address.rstrip("/") or f"http://{url_host(host)}:{listening.getsockname()[1]}"
    print(rater_links(study, store, address), flush=True)
    try:
        run_server(create_app(study, store, hosts), listening)
    except KeyboardInterrupt:
        print("\nStopped. Every rating is saved; run the same command to continue.")
    finally:
        connection.close()


def _import_web():
    """The application. UserError, saying what to install, without the `ui` extra."""
    try:
        import uvicorn  # noqa: F401  # run_server needs it

        from llama_exp.human.rating_page import create_app
    except ImportError as error:
        raise UserError(f"The rating page needs {error.name}. Install it: {install('ui')}") from None
    return create_app


def allowed_hosts(host: str, open: bool, address: str) -> set[str] | None:
    """The host names that requests may carry; None: any. UserError for a reachable host without `open`."""
    proxy = urlsplit(address).hostname
    if address and not proxy:
        raise UserError(f"address={address}: wanted what raters type, for example https://rate.example.org")
    names = LOOPBACK_NAMES | ({proxy} if proxy else set())
    if is_loopback(host):
        return names
    if not open:
        raise UserError(
            f"host={host}: others on the network could reach the page, and it is not encrypted. If that is "
            f"what you want, type host={host} open=true; else leave host out."
        )
    return names if proxy else None


def rater_links(study: Study, store: RatingStore, address: str) -> str:
    lines = ["Give each rater their own link, and nobody else's:"]
    for rater in store.raters()[: len(study.queues)]:
        queue, rated = (
            study.queues[rater.number - 1],
            sum(stored.complete for stored in store.ratings(rater.number).values()),
        )
        name = f" ({rater.name!r})" if rater.name else ""
        lines.append(f"  rater {rater.number}{name}, {rated} of {len(queue)} rated: {address}/r/{rater.token}")
    return "\n".join([*lines, "Stop with Ctrl-C. Every rating is on disk the moment it is given."])
