"""Publishing, through the real command and the real huggingface_hub client, to a hub that is a few lines of this
file."""

import base64
import dataclasses
import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from llama_exp.cli.main import CommandLine
from llama_exp.cli.options import parse_options
from llama_exp.config.compose import default_config
from llama_exp.errors import UserError
from llama_exp.hub import command as hub
from llama_exp.hub import model_card
from llama_exp.hub.publish import check_secrets, publish_run
from llama_exp.records import Prediction
from llama_exp.runs.files import write_json, write_jsonl
from llama_exp.runs.run import Run

from .conftest import make_it_matter
from .test_tokenizer import trained_pieces

TOKEN = "hf_" + "aVerySecretOne0123456789"
WORDS = ("model=tiny", "dataset=squad", "sample=100", "lora.r=4")


FILES = {"README.md", "adapter_config.json", "adapter_model.safetensors"}
ENDPOINTS = {
    r"/api/whoami-v2": "whoami",
    r"/api/repos/create": "create",
    r"/api/validate-yaml": "validate",
    r"/api/models/(.+)/preupload/main": "preupload",
    r"/api/models/(.+)/tree/main": "tree",
    r"/api/models/(.+)/settings": "settings",
    r"/api/models/(.+)/xet-write-token/main": "xet",
    r"/api/models/(.+)/commit/main": "commit",
    r"/(.+)\.git/info/lfs/objects/batch": "batch",
    r"/api/models/(.+?)(?:/revision/main)?": "info",
}


class FakeHub(ThreadingHTTPServer):
    """The endpoints of the hub that an upload meets. `repos` is {id: {"private": …, "files": {path: bytes}}}.

    faults    [(pattern of "METHOD /path", status or "cut", how often)], the first that fits is used up first
    log       every "METHOD /path" that was asked for
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.repos, self.objects, self.faults, self.log = {}, {}, [], []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """A client that goes away, or is sent away, is part of the test."""

    def asked(self, pattern: str) -> int:
        return sum(bool(re.search(pattern, line)) for line in self.log)


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.handle_request()

    def do_POST(self):
        self.handle_request()

    def do_PUT(self):
        self.handle_request()

    def handle_request(self):
        path, line = self.path.split("?")[0], f"{self.command} {self.path.split('?')[0]}"
        self.server.log.append(line)
        for number, (pattern, what, times) in enumerate(self.server.faults):
            if times and re.search(pattern, line):
                self.server.faults[number] = (pattern, what, times - 1)
                if what == "cut":  # half of the body is read, and the line goes dead
                    self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
                    self.close_connection = True
                    return self.connection.close()
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                return self.reply({"error": f"no, with {TOKEN}"}, what)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path.startswith("/lfs/"):  # signed addresses: no login
            self.server.objects[path.removeprefix("/lfs/")] = body
            return self.reply({})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.reply({"error": "Invalid user token."}, 401)
        for pattern, method in ENDPOINTS.items():
            if found := re.fullmatch(pattern, path):
                return getattr(self, method)(body, *found.groups())
        self.reply({"error": "unknown"}, 404)

    def reply(self, value, status=200, **headers):
        text = json.dumps(value).encode()
        self.send_response(status)
        for key, content in {"Content-Type": "application/json", "Content-Length": str(len(text)), **headers}.items():
            self.send_header(key.replace("_", "-"), content)
        self.end_headers()
        self.wfile.write(text)

    def whoami(self, body):
        self.reply({"name": "ann", "type": "user", "orgs": []})

    def validate(self, body):
        self.reply({"errors": [], "warnings": []})

    def create(self, body):
        asked = json.loads(body)
        name = f"{asked.get('organization') or 'ann'}/{asked['name']}"
        if name in self.server.repos:
            return self.reply({"error": "You already created this model repo", "url": f"{self.server.url}/{name}"}, 409)
        self.server.repos[name] = {"private": asked.get("private", asked.get("visibility") == "private"), "files": {}}
        self.reply({"url": f"{self.server.url}/{name}", "name": name, "id": name})

    def info(self, body, name):
        if name not in self.server.repos:
            return self.reply({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        repo = self.server.repos[name]
        siblings = [{"rfilename": path} for path in repo["files"]]
        self.reply(
            {
                "id": name,
                "private": repo["private"],
                "sha": "0" * 40,
                "siblings": siblings,
                "tags": repo.get("tags", []),
            }
        )

    def settings(self, body, name):
        asked = json.loads(body)
        self.server.repos[name]["private"] = asked.get("private", asked.get("visibility") == "private")
        self.reply({})

    def xet(self, body, name):
        self.reply({"error": "unknown"}, 404)

    def tree(self, body, name):
        files = self.server.repos[name]["files"]
        self.reply(
            [{"type": "file", "path": p, "size": len(c), "oid": hashlib.sha1(c).hexdigest()} for p, c in files.items()]
        )

    def preupload(self, body, name):
        modes = [
            (file["path"], "lfs" if file["path"].endswith(".safetensors") else "regular")
            for file in json.loads(body)["files"]
        ]
        self.reply({"files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes]})

    def batch(self, body, name):
        objects = [{"oid": o["oid"], "size": o["size"]} for o in json.loads(body)["objects"]]
        for o in objects:
            if o["oid"] not in self.server.objects:
                o["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{o['oid']}"}}
        self.reply({"transfer": "basic", "objects": objects})

    def commit(self, body, name):
        files = self.server.repos[name]["files"]
        for row in map(json.loads, body.decode().strip().split("\n")):
            value = row["value"]
            if row["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            elif row["key"] == "deletedFile":
                files.pop(value["path"])
        self.reply({"success": True, "commitOid": "1" * 40, "commitUrl": f"{self.server.url}/{name}/commit/{'1' * 40}"})


@pytest.fixture
def server():
    serving = FakeHub()
    threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield serving
    serving.shutdown()
    serving.server_close()


def address(server, home: Path, token: str = TOKEN) -> dict[str, str]:
    """The environment of a command that talks to the server."""
    return {
        "HF_ENDPOINT": server.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(home),
        "HF_TOKEN": token,
    }


@pytest.fixture
def publish(server, tmp_path, monkeypatch, capfd):
    """The command without the seconds that a process of its own takes; publish.words are those of a finished run."""
    from huggingface_hub import constants

    for name, value in (
        ("ENDPOINT", server.url),
        ("HF_HUB_OFFLINE", False),
        ("HF_HUB_DISABLE_XET", True),
        ("HF_TOKEN_PATH", str(tmp_path / "no_token")),
    ):
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)

    def run(*words, token=TOKEN, check=True):
        monkeypatch.setenv("HF_TOKEN", token)
        capfd.readouterr()
        code = CommandLine("publish", [*run.words, *words]).run()
        written = capfd.readouterr()
        assert TOKEN not in written.out + written.err
        assert not check or not code, written.err
        return SimpleNamespace(returncode=code, stdout=written.out, stderr=written.err)

    finished_run(tmp_path / "outputs")
    run.words = (*WORDS, f"outputs={tmp_path}/outputs")
    return run


def finished_run(outputs: Path, **changes) -> Path:
    """A run's folder as training and evaluation leave it, with an adapter of one tensor."""
    config = default_config({"dataset": "squad", "model": "tiny"})
    lora = dataclasses.replace(config.lora, r=4)
    config = dataclasses.replace(config, outputs=str(outputs), sample=100, lora=lora, **changes)
    run = Run.of(config).folder
    Run(config, run).write_config()
    (run / "adapter").mkdir()
    save_file({"lora_A": np.arange(2560, dtype=np.float32)}, run / "adapter" / "adapter_model.safetensors")
    write_json(
        run / "adapter" / "adapter_config.json", {"base_model_name_or_path": str(outputs), "r": 4, "revision": None}
    )
    counts = {"asked": 100, "available": 900, "sampled": 100, "encoded": 97, "dropped_response_too_long": 3}
    write_json(
        run / "summary.json",
        {
            "status": "finished",
            "counts": {"train": counts},
            "identity": {"lora.r": 4, "model.name": "tiny", "dataset.path": f"{outputs}/rows.json"},
            "commit": "abc123",
            "versions": {"torch": "2.13"},
            "steps": 21,
            "seconds": {"train": 12.0},
            "device": "cpu",
            "trainable_parameters": 1234,
            "loss": {"train": 0.5, "validation": 0.7},
        },
    )
    write_json(
        run / "eval" / "squad-test-300" / "results.json",
        {
            "dataset": "squad",
            "trained_on": "squad",
            "split": "test",
            "items": 300,
            "groups": 12,
            "scores": {"squad/f1": 71.23, "loss": 0.61},
            "intervals": {"squad/f1": {"low": 66.1, "high": 75.9}},
            "facts": {
                "bertscore": {"model": "roberta-large", "layer": 17, "versions": {"bert-score": "0.3.13", "torch": "2"}}
            },
            "unmeasured": 120,
            "empty_replies": 4,
        },
    )
    return run


def the_run(publish) -> Path:
    return next(Path(publish.words[-1].removeprefix("outputs=")).glob("squad/*"))


def test_an_adapter_goes_up_private_with_a_card_made_from_its_run(command, server, tmp_path):
    run = finished_run(tmp_path / "outputs")
    done = command(
        "llama-exp", "publish", *WORDS, f"outputs={tmp_path}/outputs", "repo=squad-r4", env=address(server, tmp_path)
    )
    repo = server.repos["ann/squad-r4"]
    assert repo["private"] is True
    assert set(repo["files"]) == FILES
    assert repo["files"]["adapter_model.safetensors"] == (run / "adapter" / "adapter_model.safetensors").read_bytes()
    assert json.loads(repo["files"]["adapter_config.json"])["base_model_name_or_path"] == "llama_exp/tiny"
    card = repo["files"]["README.md"].decode()
    for told in (
        "| F1 | 71.2 | 66.1 to 75.9 |",
        "300 items in 12 groups",
        "100 of 900 Examples drawn",
        "97 trained on",
        "CC BY-SA 4.0",
        "abc123",
        "torch 2.13",
        "12 s training",
        "1,234",
        "bertscore: model roberta-large, layer 17, versions bert-score 0.3.13 and torch 2.",
        "fine-tuned on 97 Examples of squad (task",
        "Of 100 sampled Examples the others were left out for the reasons below.\n",
        "loss and perplexity of 180 items (the other responses are empty or do not fit)",
        "empty replies: 4.",
        'PeftModel.from_pretrained(model, "ann/squad-r4")',
        "license: mit",
        "- rajpurkar/squad",
    ):
        assert told in card, told
    assert str(tmp_path) not in card  # no path of this machine
    assert "/ann/squad-r4/commit/" in done.stdout
    assert TOKEN not in done.stdout + done.stderr + card


def test_a_name_that_exists_is_updated_and_what_an_earlier_kind_left_there_goes(publish, server):
    server.repos["ann/squad-r4"] = {
        "private": True,
        "files": {"model.safetensors": b"merged", "notes.md": b"mine"},
        "tags": ["llama_exp"],
    }
    done = publish("repo=squad-r4")
    assert "exists and is updated" in done.stdout
    assert set(server.repos) == {"ann/squad-r4"}
    assert set(server.repos["ann/squad-r4"]["files"]) == FILES | {"notes.md"}


def test_in_a_repository_that_is_not_of_our_making_nothing_is_deleted(publish, server):
    server.repos["ann/other"] = {"private": True, "files": {"model.safetensors": b"someone's"}}
    publish("repo=other")
    assert server.repos["ann/other"]["files"]["model.safetensors"] == b"someone's"


def test_a_public_repository_is_updated_only_when_private_is_false(publish, server):
    server.repos["ann/open"] = {"private": False, "files": {}}
    done = publish("repo=open", check=False)
    assert done.returncode == 2
    assert "exists and is public. Type private=false" in done.stderr
    assert server.repos["ann/open"]["files"] == {}
    publish("repo=open", "private=false")
    assert "README.md" in server.repos["ann/open"]["files"]


def test_a_dry_run_writes_the_folder_and_asks_no_server(publish, server):
    done = publish("dry_run=true", token="")
    folder = the_run(publish) / "hub" / "adapter"
    assert {path.name for path in folder.iterdir()} == FILES
    assert "adapter_model.safetensors" in done.stdout
    assert "Nothing was uploaded" in done.stdout
    assert server.log == []


def test_a_login_that_is_not_valid_is_said_before_anything_is_prepared(publish, server):
    done = publish("repo=x", token="hf_" + "wrongwrongwrong", check=False)
    assert done.returncode == 2
    assert "Could not log in: the hub answered 401" in done.stderr
    assert "hf auth login" in done.stderr
    assert "wrongwrong" not in done.stdout + done.stderr
    assert not (the_run(publish) / "hub").exists()


def test_without_a_login_the_command_says_how_to_log_in(publish, server):
    done = publish("repo=x", token="", check=False)
    assert (done.returncode, server.log) == (2, [])
    assert "Not logged in" in done.stderr


def test_a_conflict_a_broken_server_and_a_cut_connection_are_waited_out(publish, server):
    server.faults = [(r"/commit/main", 409, 1), (r"POST /api/repos/create", 503, 1), (r"PUT /lfs/", "cut", 1)]
    done = publish("repo=squad-r4")
    assert set(server.repos["ann/squad-r4"]["files"]) == FILES
    assert "the hub answered 409" in done.stdout
    assert "the hub answered 503" in done.stdout
    assert "/lfs/" not in done.stdout + done.stderr  # signed addresses are as good as a password


# The client itself tries an upload six times after a 5xx or a cut, and once after a 403: a signature that ran out.
BROKEN = [(500, 6, "the hub answered 500"), (403, 1, "the hub answered 403"), ("cut", 6, "ReadError: ")]


@pytest.mark.parametrize(("fault", "times", "said"), BROKEN)
def test_what_broke_an_upload_is_said_and_it_is_tried_again(publish, server, fault, times, said):
    server.faults = [(r"PUT /lfs/", fault, times)]
    done = publish("repo=squad-r4")
    assert set(server.repos["ann/squad-r4"]["files"]) == FILES
    assert f"upload to ann/squad-r4: {said}" in done.stdout.replace("RemoteProtocolError", "ReadError")
    assert "RuntimeError" not in done.stdout and "/lfs/" not in done.stdout + done.stderr


def test_a_broken_upload_goes_on_from_what_is_there(publish, server):
    server.faults = [(r"/commit/main", 500, 99)]
    done = publish("repo=squad-r4", check=False)
    assert done.returncode == 2
    assert "the same command continues from it" in done.stderr
    assert server.repos["ann/squad-r4"]["files"] == {}
    server.faults, server.log = [], []
    publish("repo=squad-r4")
    assert server.asked("PUT /lfs/") == 0  # the weights went up the first time
    assert "adapter_model.safetensors" in server.repos["ann/squad-r4"]["files"]


def test_no_right_to_write_is_said_at_once(publish, server):
    server.faults = [(r"POST /api/repos/create", 403, 99)]
    done = publish("repo=bob/theirs", check=False)
    assert done.returncode == 2
    assert "may not write there" in done.stderr
    assert server.asked("create") == 1


def test_a_server_without_xet_is_asked_once_and_the_way_around_is_said(publish, server, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    done = publish("repo=squad-r4", check=False)
    assert "the hub answered 404 to /api/models/ann/squad-r4/xet-write-token/main." in done.stderr
    assert "Put HF_HUB_DISABLE_XET=1 before the same command" in done.stderr and server.asked("xet-write-token") == 1
    assert "hf repos delete ann/squad-r4" in done.stderr


def test_what_is_to_be_public_is_private_until_all_of_it_is_there(publish, server):
    server.faults = [(r"/commit/main", 500, 99)]
    done = publish("repo=squad-r4", "private=false", check=False)
    assert done.returncode == 2 and "ann/squad-r4 is left there, private and without these files" in done.stderr
    assert server.repos["ann/squad-r4"] == {"private": True, "files": {}}
    server.faults = []
    publish("repo=squad-r4", "private=false")  # the same command
    assert server.repos["ann/squad-r4"]["private"] is False and set(server.repos["ann/squad-r4"]["files"]) == FILES
    server.repos["ann/mine"] = {"private": True, "files": {"notes.md": b""}}
    assert "its visibility is not changed" in publish("repo=mine", "private=false").stdout
    assert server.repos["ann/mine"]["private"] is True
    server.faults = [(r"PUT /api/models/ann/new/settings", 403, 99)]
    done = publish("repo=new", "private=false", check=False)
    assert (
        done.returncode == 2 and "All files are uploaded" in done.stderr and server.repos["ann/new"]["private"] is True
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["repo=x", "sample=7"], "Train it first: python train.py dataset=squad model=tiny sample=7 lora.r=4"),
        ([], "Where to? Type repo=NAME"),
        (["repo=x", "lora.r=0"], "nothing of yours to publish"),
        (["repo=a/b/c"], "repo=a/b/c"),
        (["repo=my name/x", "dry_run=true"], "repo=my name/x"),
        (["repo=", "dry_run=true"], "repo=: "),
        (["repo=x", "merged=perhaps"], "merged=perhaps: wanted true or false"),
        (["repo=x", "tolerance=-1"], "tolerance=-1: wanted 0 or more"),
        (["repo=x", f"token={TOKEN}"], "hf auth login"),
        (["repo=x", "sampel=3"], "No key 'sampel'. Did you mean sample"),
        (["repo=x", "tolerence=3"], "No key 'tolerence'. Did you mean tolerance?"),
    ],
)
def test_what_is_wrong_with_the_words_is_said_in_a_line(publish, server, words, said):
    done = publish(*words, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert server.repos == {}


def test_what_is_ours_is_told_from_what_is_hydras():
    typed = ["repo=me/it", "merged=True", "tolerance=0.5", "dataset=squad", "-m", "check=8"]
    options, rest = parse_options(hub.PublishOptions, typed)
    assert options == hub.PublishOptions(repo="me/it", merged=True, tolerance=0.5, check=8)
    assert rest == ["dataset=squad", "-m"]


def test_a_file_that_holds_a_token_or_a_path_of_this_machine_stays_here(tmp_path):
    for number, text in enumerate((f"logger: {TOKEN}", f"data: {tmp_path.resolve()}/rows")):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "README.md").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match="holds a token or a path"):
            check_secrets(folder, tmp_path, None)


def test_llama_2_goes_with_its_notice_and_synthetic_rows_are_called_so(tmp_path):
    config = default_config({"dataset": "tweetsumm", "model": "llama2_7b"})
    run = finished_run(tmp_path / "outputs")
    model_card.write_notice(config, tmp_path)
    notice = (tmp_path / "NOTICE").read_text(encoding="utf-8")
    assert "Llama 2 is licensed under the LLAMA 2 Community License" in notice
    model_card.write_card(tmp_path / "README.md", Run(config, run), "ann/it", None, tmp_path / "outputs")
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    for told in (
        "license: llama2",
        "base_model: NousResearch/Llama-2-7b-hf",
        "base_model_relation: adapter",
        "see NOTICE",
        "non-commercial purposes only",
        "- Salesforce/dialogstudio",
    ):
        assert told in card, told
    synthetic = dataclasses.replace(config.dataset, source=model_card.Source.synthetic)
    synthetic_run = Run(dataclasses.replace(config, dataset=synthetic), run)
    model_card.write_card(tmp_path / "README.md", synthetic_run, "ann/it", None, tmp_path / "outputs")
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "This model has not seen the real tweetsumm" in card
    assert "dialogstudio" not in card.split("## Training data")[0]


@pytest.mark.parametrize(
    ("path", "licence", "readme", "version"),
    [
        ("meta-llama/Llama-3.1-8B", "unknown", "", "3.1"),
        ("meta-llama/Meta-Llama-3-8B", "unknown", "", "3"),
        ("my-base", "Llama 3.2 Community Licence", "", "3.2"),
        ("my-base", "unknown", "---\nlicense: llama3.3\n---\n", "3.3"),
        ("my-base", "unknown", "---\nlicense: other\nlicense_name: llama3\n---\n", "3"),
        ("Llama-2-7b-hf", "Llama 2 Community Licence", "", "2"),
        ("openlm-research/open_llama_3b_v2", "unknown", "", None),
        ("princeton-nlp/Sheared-LLaMA-2.7B", "unknown", "", None),
        ("Llama-3-mine", "Apache-2.0", "", None),
        ("my-base", "unknown", "no head", None),
    ],
)
def test_metas_licence_is_recognised_by_key_card_or_name(path, licence, readme, version, tmp_path):
    model = default_config({"model": "custom"}).model
    if "/" not in path:
        (tmp_path / path).mkdir()
        (tmp_path / path / "README.md").write_text(readme)
        path = str(tmp_path / path)
    config = dataclasses.replace(default_config({}), model=dataclasses.replace(model, path=path, licence=licence))
    found = model_card.agreement(config)
    assert (found and found.version) == version


@pytest.mark.parametrize(
    ("version", "built_with", "name", "notice"),
    [
        (
            "3.1",
            "Built with Llama",
            "Llama-it",
            "Llama 3.1 is licensed under the Llama 3.1 Community License, Copyright",
        ),
        ("3", "Built with Meta Llama 3", "Llama-3-it", "Meta Llama 3 is licensed under the Meta Llama 3 Community"),
    ],
)
def test_llama_3_is_named_shown_and_noticed_as_its_licence_asks(version, built_with, name, notice, tmp_path, capsys):
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text(f"---\nlicense: llama{version}\n---\n")
    (base / "LICENSE").write_text("the agreement itself")
    model = dataclasses.replace(default_config({"model": "custom"}).model, path=str(base), licence="unknown")
    config = dataclasses.replace(
        Run.load(finished_run(tmp_path / "outputs", model=model)).config, outputs=str(tmp_path / "outputs")
    )
    folder = publish_run(config, hub.PublishOptions(dry_run=True))
    assert "NOTICE" in (listed := capsys.readouterr().out) and f"for OWNER/{name.removesuffix('it')}" in listed
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert (
        f"# {name.removesuffix('it')}" in card and f"**{built_with}**" in card and f"license: llama{version}\n" in card
    )
    written = (folder / "NOTICE").read_text(encoding="utf-8")
    assert notice in written and notice in card and built_with in written
    assert (folder / "LICENSE").read_text() == "the agreement itself"
    with pytest.raises(UserError, match=f"a name that begins with .*Type repo=ann/{name}$"):
        publish_run(config, hub.PublishOptions(dry_run=True, repo="ann/it"))
    publish_run(config, hub.PublishOptions(dry_run=True, repo=f"ann/{name.lower()}"))


def test_a_licence_typed_when_publishing_is_the_one_that_counts(publish, tmp_path):
    done = publish("dry_run=true", "model.licence='Llama 3.2 Community Licence'", "dataset.licence='our own'")
    assert "for OWNER/Llama-" in done.stdout and "NOTICE" in done.stdout
    [card] = tmp_path.glob("**/hub/adapter/README.md")
    assert "license: llama3.2\n" in card.read_text(encoding="utf-8")
    assert "Llama" not in publish("dry_run=true").stdout


def test_an_adapter_of_a_base_with_pieces_alone_brings_the_tokenizer_that_it_learnt_with(tmp_path):
    from transformers import AutoTokenizer

    from llama_exp.model.tokenizer import load_tokenizer

    base = tmp_path / "base"
    base.mkdir()
    texts = trained_pieces(base, turned=True)
    model = dataclasses.replace(default_config({"model": "custom"}).model, path=str(base), licence="MIT")
    run = finished_run(tmp_path / "outputs", model=model)
    config = dataclasses.replace(Run.load(run).config, outputs=str(tmp_path / "outputs"))
    folder = publish_run(config, hub.PublishOptions(dry_run=True, repo="ann/it"))
    [line] = re.findall("^tokenizer = .*", (folder / "README.md").read_text(encoding="utf-8"), re.M)
    assert line.startswith('tokenizer = AutoTokenizer.from_pretrained("ann/it")')
    published = AutoTokenizer.from_pretrained(folder)
    learnt = load_tokenizer(model)(texts)["input_ids"]
    assert published(texts)["input_ids"] == learnt != AutoTokenizer.from_pretrained(base)(texts)["input_ids"]
    assert not any(str(tmp_path) in path.read_text() for path in folder.glob("*.json"))


def test_the_untuned_models_scores_stand_beside_the_tuned_ones_where_it_answered_the_same_items(tmp_path):
    run, card = finished_run(tmp_path / "outputs"), tmp_path / "README.md"
    asked = {"dataset": "squad", "split": "test", "items": 300, "groups": 12, "trained_on": None}
    base = {
        **asked,
        "r": 0,
        "model": "tiny",
        "scores": {"squad/f1": 4.5, "loss": 3.25},
        "intervals": {"squad/f1": {"low": 2.1, "high": 9.0}},
    }

    def written(untuned: dict, ids: str) -> str:
        """The card where the untuned model answered items of these ids."""
        folder = tmp_path / "outputs" / "squad" / "tiny-r0" / "eval" / "squad-test-300"
        for place, names in ((run / "eval" / "squad-test-300", "abc"), (folder, ids)):
            write_jsonl(place / "predictions.jsonl", [Prediction(name, "p", ("yes",), "no", "g") for name in names])
        write_json(folder / "results.json", untuned)
        model_card.write_card(card, Run.load(run), "ann/it", None, tmp_path / "outputs")
        return card.read_text(encoding="utf-8")

    assert "| F1 | 71.2 | 66.1 to 75.9 | 4.5 | 2.1 to 9.0 |" in (beside := written(base, "abc"))
    assert "| loss | 0.610 | unknown | 3.250 | unknown |" in beside
    assert "| score | value | 95 % interval | untuned model | 95 % interval |\n|---|---:|---|---:|---|\n| F1" in beside
    assert "the same base without the adapter, given the same prompts" in beside
    others = {
        "split": {**base, "split": "validation"},
        "data": {**base, "dataset": "guanaco"},
        "model": {**base, "model": "x"},
    }
    for told in (written(base, "abd"), *(written(other, "abc") for other in others.values())):
        assert "| F1 | 71.2 | 66.1 to 75.9 |\n" in told and "untuned" not in told


def test_a_merged_model_is_compared_with_its_adapter_and_answers_like_it(publish, server, tmp_path):
    import torch

    from llama_exp.model.base import load_base
    from llama_exp.model.lora import attach_lora, detach_lora, save_lora

    synthetic = dataclasses.replace(
        default_config({"dataset": "squad", "model": "tiny"}).dataset,
        source=model_card.Source.synthetic,
        rows=80,
        max_new_tokens=8,
    )
    run = finished_run(tmp_path / "merged", dataset=synthetic)
    trained = Run.load(run).config
    model = attach_lora(load_base(trained.model, torch.device("cpu")), trained.lora, seed=0)
    make_it_matter(model)
    save_lora(model, run / "adapter")
    detach_lora(model)
    publish.words = (
        *WORDS,
        "dataset.source=synthetic",
        "trainer=cpu",
        "merged=true",
        "check=6",
        f"outputs={tmp_path}/merged",
    )
    refused = publish("repo=both", "tolerance=0", "agreement=1", check=False)
    assert refused.returncode == 2
    assert "Refused: the merged model differs from the adapter: held-out loss" in refused.stderr
    assert server.repos == {}
    weights = next(run.glob("hub/merged/*.safetensors"))
    written = weights.stat().st_mtime_ns
    publish("repo=both", "agreement=0.5")
    assert weights.stat().st_mtime_ns == written  # merged and compared once: a broken upload goes on without either
    files = server.repos["ann/both"]["files"]
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= set(files)
    assert "quantization_config" not in json.loads(files["config.json"])
    assert "Merged model against adapter on 6 held-out Examples" in files["README.md"].decode()
    kept = json.loads((run / "hub" / "comparison.json").read_text(encoding="utf-8"))
    assert kept["items"] == 6
    assert 0 < abs(kept["loss_merged"] - kept["loss_adapter"]) < 0.01  # bfloat16's rounding, and no more than that
