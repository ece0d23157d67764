"""The benchmark at its smallest, with the contestants whose packages are installed; no time is asserted."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT, run_script


def test_the_benchmark_runs_and_reports():
    process = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "run.py", "--smoke"], capture_output=True, text=True, timeout=900
    )
    assert process.returncode == 0, process.stderr
    result = json.loads((ROOT / "saves" / "smoke" / "results" / "benchmark.json").read_text())
    ran = {(entry["name"], entry["model"], entry["precision"]) for entry in result["contest"]}
    for model in ("dense", "conv"):
        assert {("ours", model, "float32"), ("ours", model, "bfloat16")} <= ran
        assert ("Keras, as in its tutorials", model, "float32") in ran
        floor = result["roofline"][model]
        assert 0 < floor["arithmetic_seconds"] < floor["floor_seconds"]
    for entry in result["contest"]:
        assert len(entry["epoch_seconds"]) == 2
        assert entry["test_accuracy"] > 0.5
        assert entry["name"] in process.stdout
    assert (ROOT / "saves" / "smoke" / "figures" / "benchmark.png").stat().st_size > 10_000


def test_bfloat16_against_float32_at_smoke_size(tmp_path):
    arguments = ("--smoke", "--seeds", 1, "--variants", "dense", "--output-dir", tmp_path)
    process = run_script("-m", "benchmarks.precision", *arguments)
    assert process.returncode == 0, process.stderr
    (row,) = (line for line in process.stdout.splitlines() if line.startswith("| dense"))
    single, half, difference = (float(cell.split()[0]) for cell in row.split("|")[2:5])
    assert half - single == pytest.approx(difference, abs=0.011)
