"""The benchmark at its smallest, with the contestants whose packages are installed; no time is asserted."""

import json
import subprocess
import sys

from conftest import ROOT


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
