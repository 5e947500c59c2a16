"""The drawing of who may import whom, held against the imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "llama_exp"
HEAVY = {"torch", "lightning", "transformers", "peft", "bitsandbytes", "datasets", "wandb"}
LIGHT = """records untrusted config runs lookup cli commands sweep asking evaluation leaks metrics.squad metrics.decision
    metrics.bertscore metrics.rouge statistics data data.synthetic tiny tables chat hub.__main__ hub.uploading
    hub.model_card human.study human.app human.pages human.evaluated human.report report.__main__ report.captions
    report.costs report.drawing report.exact report.families report.findings report.grouping report.items report.page report.plots
    report.results report.score_tables report.settings report.spreadsheet report.standing report.training_plots
    report.words report.worth""".split()


def imports(path: Path, everywhere: bool = True) -> set[str]:
    """Modules that a file imports; with everywhere=False only those at its top."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files(pattern: str) -> list[Path]:
    found = sorted(PACKAGE.glob(pattern))
    assert found, f"nothing matches {pattern}: the test would hold nothing"
    return found


def test_records_import_nothing_of_ours_and_config_only_records():
    ours = {name for name in imports(PACKAGE / "records.py") if name.startswith("llama_exp")}
    assert ours == set()
    ours = {name for name in imports(PACKAGE / "config.py") if name.startswith("llama_exp.")}
    assert all(name.startswith("llama_exp.records") for name in ours)


def test_the_data_side_does_not_know_the_model_side():
    for path in files("data/**/*.py"):
        assert not {
            name
            for name in imports(path)
            if name.startswith(("llama_exp.model.base", "llama_exp.finetune", "llama_exp.generation"))
        }


def test_metrics_and_statistics_know_records_only():
    for path in [*files("metrics/*.py"), *files("statistics/*.py")]:
        ours = {name for name in imports(path) if name.startswith("llama_exp.")}
        assert all(
            name.startswith(("llama_exp.records", "llama_exp.metrics", "llama_exp.statistics")) for name in ours
        ), path


def test_no_file_is_a_bag():
    bags = {"utils", "base", "common", "helpers", "misc"}
    assert not [path for path in files("**/*.py") if path.stem in bags]


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_nothing_heavy(module):
    code = f"import sys, llama_exp.{module}; print(sorted({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
