"""Publish a run: prepare a folder with the adapter or the merged model, check it, upload it."""

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_exp.config.compose import typed_keys
from llama_exp.config.schema import Config
from llama_exp.errors import UserError
from llama_exp.formatting import format_file_size
from llama_exp.hub.model_card import agreement, base_name, check_model_name, write_card, write_notice
from llama_exp.hub.upload import TOKEN, HubRepository, check_name
from llama_exp.model import hardware
from llama_exp.model.tokenizer import pieces_alone, read_tokenizer
from llama_exp.runs.adapter import ADAPTER_FILES, adapter_checksums
from llama_exp.runs.files import read_json, read_json_or_nothing, read_text, remove_leftovers, write_json
from llama_exp.runs.find import check_adapter, find_run
from llama_exp.runs.run import Run

if TYPE_CHECKING:
    from llama_exp.hub.command import PublishOptions


def publish_run(config: Config, options: "PublishOptions") -> Path:
    """Prepare the folder of the run that the config names, and upload it unless `dry_run`. Returns the folder."""
    if config.lora.r == 0:
        raise UserError(
            "lora.r=0 is the untuned model: there is nothing of yours to publish. Type the rank you trained."
        )
    if options.repo is not None:
        check_name(options.repo)
    elif not options.dry_run:
        raise UserError("Where to? Type repo=NAME, or dry_run=true to see what would be uploaded.")
    run = with_typed_licences(find_run(config), config)
    if options.repo is not None:
        check_model_name(run.config, options.repo)
    # before a merge, so that a login that does not work costs no time
    repository = None if options.dry_run else HubRepository.open(options.repo, options.private)
    name = repository.name if repository else options.repo or default_name(run)
    kind = "merged" if options.merged else "adapter"
    folder = run.folder / "hub" / kind
    comparison = None
    if options.merged:
        comparison = prepare_merged(run, config, folder, options)
    else:
        prepare_adapter(run, folder)
    remove_leftovers(folder.parent)
    write_notice(run.config, folder)
    write_card(folder / "README.md", run, name, comparison, Path(config.outputs))
    check_secrets(folder, run.folder, repository)
    list_files(folder, name, options.private)
    if repository is None:
        print("Nothing was uploaded (dry_run=true).", flush=True)
    else:
        print(f"Uploaded: {repository.upload(folder, f'{kind} of {run.name}')}", flush=True)
    return folder


def with_typed_licences(run: Run, config: Config) -> Run:
    """The run with the licences that this command names: they say what is known now, and change nothing of the run."""
    typed, model, dataset = typed_keys(), run.config.model, run.config.dataset
    if "model.licence" in typed:
        model = dataclasses.replace(model, licence=config.model.licence)
    if "dataset.licence" in typed:
        dataset = dataclasses.replace(dataset, licence=config.dataset.licence)
    return dataclasses.replace(run, config=dataclasses.replace(run.config, model=model, dataset=dataset))


def default_name(run: Run) -> str:
    terms = agreement(run.config)
    prefix = f"{terms.prefix}-" if terms and terms.prefix else ""
    return f"OWNER/{prefix}{run.folder.name}"


def list_files(folder: Path, name: str, private: bool) -> None:
    sizes = {path: path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    visibility, total = "private" if private else "public", format_file_size(sum(sizes.values()))
    print(f"{folder}: {len(sizes)} files, {total}, for {name} ({visibility})")
    for path, size in sizes.items():
        print(f"  {format_file_size(size):>9}  {path.relative_to(folder)}", flush=True)


def prepare_adapter(run: Run, folder: Path) -> None:
    """Copy the adapter's two files; the base is named as others can find it, not by a path of this machine."""
    check_adapter(run.adapter)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ADAPTER_FILES:
        shutil.copyfile(run.adapter / name, folder / name)
    adapter = read_json(folder / ADAPTER_FILES[0])
    adapter |= {"base_model_name_or_path": base_name(run.config), "revision": run.config.model.revision}
    write_json(folder / ADAPTER_FILES[0], adapter)
    model = run.config.model
    if Path(model.path).is_dir() and pieces_alone(model.path, model.revision):
        # transformers alone would read the base's tokenizer.model by other merges than the run did
        read_tokenizer(model.path, model.path, model.revision).save_pretrained(folder)


def prepare_merged(run: Run, config: Config, folder: Path, options: "PublishOptions") -> dict[str, Any]:
    """Write the merged model and compare it with the adapter; UserError where they differ by more than the options
    allow.

    The comparison is stored beside the folder: after a broken upload neither is done again.
    """
    from llama_exp.hub.merge import compare_with_adapter, merge

    path = folder.with_name("comparison.json")
    check_adapter(run.adapter)
    inputs = {"adapter": adapter_checksums(run.adapter), "check": options.check, "split": config.split.value}
    comparison = read_json_or_nothing(path)
    if not folder.is_dir() or {key: comparison.get(key) for key in inputs} != inputs:
        path.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        hardware.check(dataclasses.replace(run.config, trainer=config.trainer))
        merge(run, config, folder)
        comparison = {**inputs, **compare_with_adapter(run, config, folder, options.check)}
        write_json(path, comparison)
    adapter, merged, equal = (comparison[key] for key in ("loss_adapter", "loss_merged", "equal_answers"))
    message = (
        f"held-out loss {adapter:.4f} with the adapter, {merged:.4f} merged; "
        f"{equal:.0%} of {comparison['items']} greedy answers are equal"
    )
    print(f"  {message}", flush=True)
    if abs(merged - adapter) > options.tolerance or equal < options.agreement:
        raise UserError(
            f"Refused: the merged model differs from the adapter: {message}.\nWanted a difference in loss of at most "
            f"tolerance={options.tolerance:g} nats per token and at least agreement={options.agreement:g} equal "
            "answers. Publish the adapter (merged=false), or allow more."
        )
    return comparison


def check_secrets(folder: Path, run: Path, repository: HubRepository | None) -> None:
    """Raise UserError for a text file that holds a token or the path of the run's folder."""
    secrets = [str(run.resolve()), *([repository.token] if repository else [])]
    for path in folder.iterdir():
        if path.suffix in (".json", ".md", "") and path.is_file():
            text = read_text(path)
            if TOKEN.search(text) or any(secret in text for secret in secrets):
                raise UserError(f"{path} holds a token or a path of this machine: not uploaded. Is one in the config?")
