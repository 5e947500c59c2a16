"""Prepare the folder to be published, check it and upload it."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_exp.config.schema import Config
from llama_exp.errors import UserError
from llama_exp.hub.model_card import base_name, is_llama2, write_card, write_notice
from llama_exp.hub.upload import TOKEN, Hub, check_name
from llama_exp.model import hardware
from llama_exp.runs.files import write_json
from llama_exp.runs.find import find_run, training_command

if TYPE_CHECKING:
    from llama_exp.hub.command import PublishOptions

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def publish(config: Config, options: "PublishOptions") -> Path:
    """Prepare the folder of the run that the options mean, and upload it unless `dry_run`. Returns the folder."""
    if config.lora.r == 0:
        raise UserError(
            "lora.r=0 is the untuned model: there is nothing of yours to publish. Give the rank you trained."
        )
    if options.repo is not None:
        check_name(options.repo)
    elif not options.dry_run:
        raise UserError("Where to? Type repo=NAME, or dry_run=true to see what would go up.")
    found = find_run(config)
    run, trained = found.folder, found.config
    hub = (
        None if options.dry_run else Hub.open(options.repo, options.private)
    )  # a login that does not work is said before a merge is begun
    repo = hub.repo if hub else options.repo or f"OWNER/{run.name}"
    kind = "merged" if options.merged else "adapter"
    folder = run / "hub" / kind
    comparison = None
    if options.merged:
        comparison = prepare_merged(run, trained, config, folder, options)
    else:
        prepare_adapter(run, trained, folder)
    if is_llama2(trained):
        write_notice(trained, folder)
    write_card(folder / "README.md", run, trained, repo, comparison, Path(config.outputs))
    check_secrets(folder, run, hub)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    total = sum(path.stat().st_size for path in files)
    print(f"{folder}: {len(files)} files, {size(total)}, for {repo} ({'private' if options.private else 'public'})")
    for path in files:
        print(f"  {size(path.stat().st_size):>9}  {path.relative_to(folder)}", flush=True)
    if hub is None:
        print("Nothing was uploaded (dry_run=true).", flush=True)
    else:
        print(f"Uploaded: {hub.upload(folder, f'{kind} of {run.parent.name}/{run.name}')}", flush=True)
    return folder


def size(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def prepare_adapter(run: Path, trained: Config, folder: Path) -> None:
    """The adapter's two files; the base is named as others can find it, not by a path of this machine."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ADAPTER_FILES:
        if not (run / "adapter" / name).is_file():
            again = training_command(trained)
            raise UserError(f"{run}/adapter has no {name}. Delete {run} and train again: {again}")
        shutil.copyfile(run / "adapter" / name, folder / name)
    adapter = json.loads((folder / ADAPTER_FILES[0]).read_text(encoding="utf-8"))
    adapter |= {"base_model_name_or_path": base_name(trained), "revision": trained.model.revision}
    write_json(folder / ADAPTER_FILES[0], adapter)


def prepare_merged(
    run: Path, trained: Config, asked: Config, folder: Path, options: "PublishOptions"
) -> dict[str, Any]:
    """The merged model, compared with the adapter; a UserError where they differ by more than the options allow.

    A comparison is kept beside the folder, so that a broken upload goes on without merging and asking again.
    """
    from llama_exp.hub.merge import compare, fingerprint, merge

    kept = folder.with_name("comparison.json")
    wanted = {"adapter": fingerprint(run / "adapter"), "check": options.check, "split": asked.split.value}
    found = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    if not folder.is_dir() or {key: found.get(key) for key in wanted} != wanted:
        kept.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        hardware.check(dataclasses.replace(trained, trainer=asked.trainer))
        merge(run / "adapter", trained, asked, folder)
        found = {**wanted, **compare(run / "adapter", trained, asked, folder, options.check)}
        write_json(kept, found)
    told = (
        f"held-out loss {found['loss_adapter']:.4f} with the adapter, {found['loss_merged']:.4f} merged; "
        f"{found['equal_answers']:.0%} of {found['items']} greedy answers are the same"
    )
    print(f"  {told}", flush=True)
    if (
        abs(found["loss_merged"] - found["loss_adapter"]) > options.tolerance
        or found["equal_answers"] < options.agreement
    ):
        raise UserError(
            f"Refused: the merged model is not the adapter: {told}.\nWanted a difference in loss of at most "
            f"tolerance={options.tolerance:g} nats a token and agreement={options.agreement:g} of the answers equal. "
            "Publish the adapter (merged=false), or allow more."
        )
    return found


def check_secrets(folder: Path, run: Path, hub: Hub | None) -> None:
    """Refuse a text file that holds a token or the run's place on this machine."""
    secrets = [str(run.resolve()), *([hub.token] if hub else [])]
    for path in folder.iterdir():
        if path.suffix in (".json", ".md", "") and path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            if TOKEN.search(text) or any(secret in text for secret in secrets):
                raise UserError(f"{path} holds a token or a path of this machine: not uploaded. Is one in the config?")
