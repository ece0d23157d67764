"""The benchmark at its smallest, with the contestants whose packages are installed; no time is asserted."""

import json

import pytest
from conftest import run_script

from benchmarks import run
from benchmarks.run import BETTER, EXPERT, KERAS, OURS, PLAIN, compare_seconds


def test_the_benchmark_runs_and_reports(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "MODELS", {"conv": 320})  # dense goes the same way
    run.main(["--smoke", "--output-dir", str(tmp_path)])
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "results" / "benchmark.json").read_text())
    ran = {
        part: {tuple(entry.get(key) for key in ("name", "model", "precision")) for entry in result[part]}
        for part in ("contest", "scripts")
    }
    assert {(name, "conv", "float32") for name in (OURS, *KERAS)} <= ran["contest"]
    assert {(name, "conv", None) for name in (OURS, *KERAS)} <= ran["scripts"]
    for floor in result["roofline"]["dense"], result["roofline"]["conv"]:
        assert 0 < floor["arithmetic_seconds"] < floor["floor_seconds"]
    for entry in result["contest"]:
        assert len(entry["epoch_seconds"]) == 2
        assert entry["test_accuracy"] > 0.3  # of ten classes
        assert entry["name"] in printed
    assert (tmp_path / "results" / "benchmark.md").read_text() == printed
    assert (tmp_path / "figures" / "benchmark.png").stat().st_size > 10_000
    assert not any((tmp_path / "saves").iterdir())


def test_the_better_form_of_keras_is_that_of_each_round():
    cells = compare_seconds({OURS: [1.0, 1.0, 1.0], PLAIN: [4.0, 0.8, 4.0], EXPERT: [2.0, 4.0, 5.0]}, 1)
    assert cells[PLAIN] == ["4.0", "0.25 (0.25 to 1.25), no claim"]
    assert cells[EXPERT] == ["4.0", "0.25 (0.20 to 0.50)"]
    assert cells[BETTER] == ["2.0", "0.50 (0.25 to 1.25), no claim"]


def test_bfloat16_against_float32_at_smoke_size(tmp_path):
    arguments = ("--smoke", "--seeds", 1, "--variants", "dense", "--output-dir", tmp_path)
    process = run_script("-m", "benchmarks.precision", *arguments)
    (row,) = (line for line in process.stdout.splitlines() if line.startswith("| dense"))
    single, half, difference = (float(cell.split()[0]) for cell in row.split("|")[2:5])
    assert half - single == pytest.approx(difference, abs=0.011)
