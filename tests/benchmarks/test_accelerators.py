"""The matrix of accelerators, in little and on a CPU: a line for each cell, whose figures are of one another."""

import importlib.util
import json
import pathlib
import sys

import jax
import pytest

pytestmark = pytest.mark.slow

PATH = pathlib.Path(__file__).parents[2] / "benchmarks" / "accelerators.py"
PEAK = 0.1


@pytest.fixture(scope="module")
def module():
    spec = importlib.util.spec_from_file_location("accelerators", PATH)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.mark.system
def test_a_smoke_run_prints_a_line_for_each_cell(module, monkeypatch, capsys):
    options = ["--smoke", "--devices", "1", "--sequences", "2", "--peak", str(PEAK)]
    monkeypatch.setattr(sys, "argv", [PATH.name, *options])
    module.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["width"], line["length"], line["rows"]) for line in lines] == [(32, 8, 80), (32, 80, 8)]
    for line in lines:
        L, D = line["length"], line["width"]
        assert line["device"] == jax.devices()[0].device_kind and line["devices"] == 1
        # Multiply-adds of a position: 6 D^2 of layers and 2 L D / 2 of half a square in each block, 2 D of scores.
        products = 3 * 640 * 2 * (2 * (6 * D**2 + L * D) + 2 * D)
        assert line["flop_products"] == products < line["flop_counted"]
        assert line["positions_per_s"] == pytest.approx(640_000 / line["step_ms"], rel=0.01)
        assert line["positions_per_s_min"] <= line["positions_per_s"] <= line["positions_per_s_max"]
        assert line["mfu"] == pytest.approx(
            products / (line["step_ms"] / 1000 * PEAK * 1e12), rel=0.01, abs=1e-4
        )
        assert line["program_gb"] > 0
        times = [one["ms"] for one in line["operations"]]
        assert len(times) == 10 and times == sorted(times, reverse=True) and times[0] > 0
        assert sum(one["share"] for one in line["operations"]) <= 1


def test_a_cell_without_room_is_a_line_that_says_so(module, monkeypatch, capsys):
    def full(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no room for 5 bytes\nand more")

    monkeypatch.setattr(module, "measured", full)
    monkeypatch.setattr(sys, "argv", [PATH.name, "--smoke", "--devices", "1"])
    module.main()
    for line in capsys.readouterr().out.splitlines():
        assert json.loads(line)["error"] == "RESOURCE_EXHAUSTED: no room for 5 bytes"
