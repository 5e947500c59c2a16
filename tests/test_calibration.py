"""The small version of benchmarks/calibration.py: its worlds run, its limits can be missed, and it resumes."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from benchmarks import calibration
from benchmarks.calibration import FAMILIES, World, draw_scores, group_sizes, measure, missed, stored, wilson


@pytest.mark.parametrize("family", FAMILIES)
def test_the_centre_of_each_family_keeps_its_limits(family):
    line = measure(family, FAMILIES[family].centre, 40)
    assert not missed(line), line
    assert line == measure(family, FAMILIES[family].centre, 40), "the same draws every time"


@pytest.mark.parametrize("kind", ["binary", "bounded", "heavy"])
@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_worlds_have_the_mean_that_they_state(kind, correlation):
    world = World(kind=kind, groups=400, correlation=correlation)
    sizes, rng = group_sizes(world), np.random.default_rng(0)
    found = np.mean([draw_scores(world, sizes, rng).sum() / sizes.sum() for _ in range(20)])
    assert found == pytest.approx(1.0 if kind == "heavy" else 0.7, abs=0.05)


def test_a_limit_is_missed_only_outside_the_monte_carlo_interval():
    line = {"family": "scores", "world": asdict(World()), "rate": 0.9, "width": None}
    assert not missed(line | {"interval": wilson(45, 50)}) and missed(line | {"interval": wilson(900, 1000)})
    wide = line | {"interval": wilson(1000, 1000)}
    assert missed(wide) and not missed(wide | {"world": asdict(World(groups=5))}), "few groups may be cautious"


def test_a_killed_run_resumes_where_it_stopped(tmp_path, monkeypatch):
    path = tmp_path / "calibration.jsonl"
    few = replace(FAMILIES["scores"], factors={"groups": (5, 8)}, corners=0)
    monkeypatch.setitem(calibration.FAMILIES, "scores", few)
    calibration.run(["scores"], 5, path, workers=2)
    whole = path.read_text().splitlines()
    path.write_text("\n".join(whole[:2]) + "\n" + whole[2][:20] + "\n")
    calibration.run(["scores"], 5, path, workers=2)
    assert sorted(json.dumps(line) for line in stored(path)) == sorted(whole)
