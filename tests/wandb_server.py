"""A stand-in for the W&B server: as much of its GraphQL as saving a view, a report and a chart takes, and an online
run with its artifacts.

It keeps what was saved and gives it back, knows one key and one entity, and collects every request.
"""

import base64
import contextlib
import http.server
import itertools
import json
import threading
from collections.abc import Iterator

KEY, ENTITY = "0123456789" * 4, "me"
USER = {"username": "u", "userInfo": {}, "name": "n", "photoUrl": "", "admin": False, "__typename": "User"}


def _error(message: str) -> dict:
    return {"data": None, "errors": [{"message": message}]}


class Artifacts:
    """made: what CreateArtifact was asked for, by id, with "files": the paths that were uploaded, and "committed";
    used: [(run, id)]."""

    def __init__(self) -> None:
        self.made: dict[str, dict] = {}
        self.used: list[tuple[str, str]] = []

    def answer(self, query: str, given: dict, address: str) -> dict | None:
        """Data of an answer; None for what is not about artifacts."""
        asked = given.get("input") or {}
        upload = {"uploadUrl": f"{address}/upload/artifact", "uploadHeaders": []}
        manifest = {"artifactManifest": {"id": "m", "file": {"id": "f", **upload}}}
        if "mutation CreateArtifactManifest" in query:
            return {"createArtifactManifest": manifest}
        if "mutation UpdateArtifactManifest" in query:
            return {"updateArtifactManifest": manifest}
        if "mutation CreateArtifactFiles" in query:
            nodes = [self._file(one, upload) for one in asked["artifactFiles"]]
            return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}
        if "mutation CreateArtifact" in query:
            id = _id("Artifact", len(self.made) + 1)
            self.made[id] = {**asked, "files": [], "committed": False}
            state = {"id": id, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
            return {"createArtifact": {"artifact": state}}
        if "mutation CommitArtifact" in query:
            self.made[given["artifactID"]]["committed"] = True
            return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": "d"}}}
        if "mutation UseArtifact" in query or "useArtifact(" in query:
            known = {**given, **asked}
            self.used.append((known["runName"], known["artifactID"]))
            return {"useArtifact": {"artifact": self._fields(known["artifactID"])}}
        if "query ArtifactType" in query:
            found = self._named(given["name"])
            return {"project": {"artifact": found and {"artifactType": {"name": self.made[found]["artifactTypeName"]}}}}
        if "query ArtifactMembershipByName" in query:
            found = self._named(given["name"])
            return {"project": {"artifactCollectionMembership": found and self._membership(found)}}
        return None

    def _file(self, asked: dict, upload: dict) -> dict:
        self.made[asked["artifactID"]]["files"].append(asked["name"])
        return {
            "storagePath": asked["name"],
            "uploadMultipartUrls": None,
            "artifact": {"id": asked["artifactID"]},
        } | upload

    def _named(self, name: str) -> str | None:
        """The newest of NAME:latest that is whole."""
        wanted = name.rpartition("/")[2].partition(":")[0]
        found = [id for id, one in self.made.items() if one["committed"] and wanted == one["artifactCollectionName"]]
        return found[-1] if found else None

    def _collection(self, id: str) -> dict:
        project = {"id": "p", "internalId": "p", "name": self.made[id]["projectName"], "entity": {"name": ENTITY}}
        name = self.made[id]["artifactCollectionName"]
        return {"__typename": "ArtifactSequence", "name": name, "project": project}

    def _fields(self, id: str) -> dict:
        one = self.made[id]
        empty = dict.fromkeys(("description", "historyStep", "commitHash", "updatedAt", "digestAlgorithm"))
        numbers = {"ttlDurationSeconds": 0, "ttlIsInherited": False, "size": 1, "fileCount": len(one["files"])}
        text = {
            "metadata": one.get("metadata"),
            "digest": "d",
            "state": "COMMITTED",
            "createdAt": "2026-01-01T00:00:00",
        }
        kind = {"artifactType": {"name": one["artifactTypeName"]}, "artifactSequence": self._collection(id)}
        return (
            {"__typename": "Artifact", "id": id, "versionIndex": 0, "tags": [], "aliases": []}
            | empty
            | numbers
            | text
            | kind
        )

    def _membership(self, id: str) -> dict:
        latest = {"__typename": "ArtifactAlias", "id": _id("Alias", 1), "alias": "latest"}
        own = {"__typename": "ArtifactCollectionMembership", "id": _id("Membership", 1), "versionIndex": 0}
        parts = {"artifactCollection": self._collection(id), "artifact": self._fields(id)}
        return {**own, "createdAt": "2026-01-01T00:00:00", "aliases": [latest], **parts}


def _id(kind: str, number: int) -> str:
    return base64.b64encode(f"{kind}:{number}".encode()).decode()


class Server:
    """views: what was saved, by id; charts: presets by name; runs: ids, once for each time that one was written;
    requests: (path, headers, body); silent_after: from the first request to an address that ends like this on,
    nothing is answered any more."""

    def __init__(self) -> None:
        self.artifacts = Artifacts()
        self.silent_after: str | None = None
        self.silent = False
        self.views: dict[str, dict] = {}
        self.charts: dict[str, str] = {}
        self.runs: list[str] = []
        self.address = ""
        self.requests: list[tuple[str, dict, str]] = []
        self.numbers = itertools.count(1)

    def answer(self, query: str, given: dict) -> dict:
        entity = given.get("entityName") or given.get("entity") or ENTITY
        if entity != ENTITY:
            return _error(f"entity {entity} not found during upsertView")
        if given.get("chartName") in self.charts:
            return _error(f"chart {given['chartName']} already exists")
        return {"data": self._data(query, given)}

    def _data(self, query: str, given: dict) -> dict:
        if (found := self.artifacts.answer(query, given, self.address)) is not None:
            return found
        if "ServerFeaturesQuery" in query:
            return {"serverInfo": {"features": []}}
        if "upsertView" in query:
            return {"upsertView": {"view": self._save(given), "inserted": not given.get("id")}}
        if "allViews" in query:
            found = [{"node": view} for view in self.views.values() if view["name"] == given["viewName"]]
            return {"project": {"allViews": {"edges": found}}}
        if "SpecificReport" in query:
            return {"view": self.views.get(given["reportId"])}
        if "upsertBucket" in query:
            project = {"id": "p", "name": given["project"], "entity": {"id": "e", "name": ENTITY}}
            run = {"id": "r", "name": given["name"], "displayName": given["name"], "description": "", "config": "{}"}
            run |= {"sweepName": None, "project": project, "historyLineCount": 0}
            self.runs.append(given["name"])
            return {"upsertBucket": {"bucket": run, "inserted": True}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.address}/upload/{name}"} for name in given["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        if "ustomChart" in query:
            self.charts[given["chartName"]] = given["spec"]
            return {"createCustomChart": {"chart": {"id": f"{ENTITY}/{given['chartName']}"}}}
        if "upsertModel" in query:
            project = {"id": "p", "name": given.get("name"), "entityName": ENTITY}
            return {"upsertModel": {"model": project, "project": project, "inserted": True}}
        if "viewer" in query:
            none = {"edges": []}
            viewer = {"id": "u", "flags": "{}", "entity": ENTITY, **USER, "email": "", "teams": none, "apiKeys": none}
            return {"viewer": viewer, "serverInfo": {"cliVersionInfo": {"max_cli_version": "9.0.0"}}}
        if "models" in query or "projects" in query.lower():
            return {"models": {"edges": [], "pageInfo": {"endCursor": None, "hasNextPage": False}}}
        return {}

    def _save(self, given: dict) -> dict:
        number = given.get("id") or _id("View", next(self.numbers))
        project = {"id": "p", "name": given["projectName"], "entityName": given["entityName"]}
        times = {"createdAt": "2026-01-01T00:00:00", "updatedAt": "2026-01-01T00:00:00"}
        shown = {name: given.get(name) or "" for name in ("name", "displayName", "type", "description", "spec")}
        view = {**self.views.get(number, {}), "id": number, "project": project, "user": USER, **times, **shown}
        self.views[number] = view
        return view


@contextlib.contextmanager
def wandb_server() -> Iterator[tuple[str, Server]]:
    """(address, server) while the block runs."""
    server, closed = Server(), threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode(errors="replace")
            server.requests.append((self.path, dict(self.headers), body))
            server.silent |= server.silent_after is not None and self.path.endswith(server.silent_after)
            if server.silent:
                closed.wait()
                return
            if self.path.startswith("/upload/"):
                return self.reply(200, {})
            wanted = "Basic " + base64.b64encode(f"api:{KEY}".encode()).decode()
            if self.headers.get("Authorization") != wanted:
                return self.reply(401, {"errors": [{"message": "user is not logged in"}]})
            asked = json.loads(body or "{}")
            self.reply(200, server.answer(asked.get("query", ""), asked.get("variables") or {}))

        do_GET = do_PUT = do_POST  # noqa: N815 (the name that http.server calls)

        def reply(self, code: int, value: dict) -> None:
            text = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.address = f"http://127.0.0.1:{web.server_port}"
    threading.Thread(target=web.serve_forever, daemon=True).start()
    try:
        yield server.address, server
    finally:
        closed.set()
        web.shutdown()
        web.server_close()
