"""The map of the house held against the imports: one direction, no circles, light modules stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "llama_exp"
# Lowest first: a room may import from the lines above its own, and from itself.
LAYERS = [
    "errors programs records batch formatting sanitize quiet web console stopping",
    "processes",
    "config",
    "runs",
    "statistics metrics data model overlap tiny",
    "report",
    "session tracking",
    "evaluation",
    "training",
    "preflight chat simulation human hub dashboard adaptive",
    "trials",
    "cli launch tables",
]
HEAVY = {"torch", "lightning", "transformers", "peft", "bitsandbytes", "datasets", "wandb", "mlflow", "trackio"}
LIGHT = """records errors sanitize formatting quiet config.schema config.compose config.identity config.command_line
    runs.run runs.find runs.files config.options cli.main cli.commands cli.completion cli.errors cli.options
    cli.sweep evaluation.request evaluation.recipe evaluation.results training.train overlap.audit metrics.squad
    metrics.decision metrics.bertscore metrics.rouge statistics data data.synthetic tiny chat hub.command
    dashboard.command dashboard.answers dashboard.chart
    hub.upload hub.model_card human.study human.design human.conditions human.create human.command human.server
    human.rating_page human.metrics human.report report.command report.write report.breakdown report.captions
    report.costs report.findings report.compare report.items report.page report.figures.draw report.load
    report.tables report.cells report.runs_csv report.labels report.analyse report.terminal
    report.loss_page tracking launch.plugins launch.cells""".split()


def imports(path: Path, everywhere: bool = True) -> set[str]:
    """Modules that a file imports; with everywhere=False only those at its top. What `python -m` alone runs is left
    out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and "__name__" in ast.unparse(node.test))]
    found = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def modules(path: Path) -> set[str]:
    """Our modules that are imported at the top of a file; `from package import module` imports the module."""

    def is_module(name: str) -> bool:
        location = ROOT / name.replace(".", "/")
        return location.is_dir() or location.with_suffix(".py").is_file()

    nodes = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
    ours = [node for node in nodes if node.level == 0 and node.module.startswith("llama_exp.")]
    named = [(node.module, f"{node.module}.{alias.name}") for node in ours for alias in node.names]
    return {whole if is_module(whole) else module for module, whole in named}


def files(pattern: str) -> list[Path]:
    found = sorted(PACKAGE.glob(pattern))
    assert found, f"nothing matches {pattern}: the test would hold nothing"
    return found


def room(path: Path) -> str:
    """The room that a file belongs to: the package or module directly below llama_exp."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_room_is_on_the_map():
    level = {name for layer in LAYERS for name in layer.split()}
    assert {room(path) for path in files("**/*.py")} - {"__init__", "__main__"} - level == set()


def test_imports_point_downwards():
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer.split()}
    wrong = []
    for path in files("**/*.py"):
        if path.stem == "__main__" or path == PACKAGE / "__init__.py":
            continue
        mine = room(path)
        for name in imports(path):
            theirs = name.split(".")[1] if name.startswith("llama_exp.") else mine
            if theirs in level and theirs != mine and level[theirs] > level[mine]:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(sorted(wrong))


def test_the_data_side_and_the_model_side_do_not_know_each_other():
    for path in files("data/**/*.py"):
        assert not {name for name in imports(path) if name.startswith("llama_exp.model")}, path
    for path in files("model/**/*.py"):
        assert not {name for name in imports(path) if name.startswith("llama_exp.data")}, path


def test_metrics_and_statistics_know_no_other_room_of_their_layer():
    for path in [*files("metrics/*.py"), *files("statistics/**/*.py")]:
        ours = {name.split(".")[1] for name in imports(path) if name.startswith("llama_exp.")}
        assert ours <= {"records", "errors", "programs", "formatting", "sanitize", room(path)}, path


def test_no_module_imports_itself_in_a_circle():
    """At the top of files; an import inside a function may look upwards within its room."""
    graph = {}
    for path in files("**/*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        graph[name] = modules(path)
    done: set[str] = set()

    def walk(name: str, trail: list[str]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name in graph and name not in done:
            for other in sorted(graph[name] - {name}):
                walk(other, [*trail, name])
            done.add(name)

    for name in graph:
        walk(name, [])


def test_no_file_is_a_bag():
    bags = {"utils", "common", "helpers", "misc"}
    assert not [path for path in files("**/*.py") if path.stem in bags]


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_nothing_heavy(module):
    code = f"import sys, llama_exp.{module}; print(sorted({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
