"""The README's numbers are those of the committed records."""

import json
import statistics

from conftest import ROOT

import deep_learning
import deep_learning_conv
from lab.statistics import mean_interval

README = (ROOT / "README.md").read_text(encoding="utf-8")
RECORDS = json.loads((ROOT / "results" / "precision.json").read_text())


def accuracies(model, precision, split):
    """Return accuracies in percent, by seed in order."""
    runs = [run for run in RECORDS if run["model"] == model and run["recipe"]["precision"] == precision]
    assert [run["seed"] for run in runs] == list(range(5))
    return [100 * run[split]["accuracy"] for run in runs]


def difference(ours, theirs):
    """Return the mean of the paired differences with its interval, as the README writes it."""
    mean, low, high = mean_interval([a - b for a, b in zip(ours, theirs, strict=True)])
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def test_the_table():
    for model, label in (("dense", "| dense |"), ("conv", "| conv:")):
        (row,) = (line for line in README.splitlines() if line.startswith(label))
        for split in ("test", "train"):
            values = accuracies(model, "float32", split)
            assert f"| {statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} |" in row
        runs = [run for run in RECORDS if run["model"] == model and run["recipe"]["precision"] == "float32"]
        assert f"| {statistics.median(run['seconds'] for run in runs):.0f} |" in row
        assert f"| {runs[0]['parameters']:,} |" in row


def test_the_docstrings():
    for model, script in (("dense", deep_learning), ("conv", deep_learning_conv)):
        assert f"{statistics.mean(accuracies(model, 'float32', 'test')):.2f}% on average of 5 seeds" in script.__doc__


def test_the_gain():
    for split in ("test", "train"):
        assert difference(accuracies("conv", "float32", split), accuracies("dense", "float32", split)) in README


def test_the_benchmark():
    from benchmarks import run

    result = json.loads((ROOT / "results" / "benchmark.json").read_text())
    assert len(run.rounds_of(result, name=run.OURS, model="conv", precision="float32")) >= 5
    table = run.table(result)
    assert table + "\n" == (ROOT / "results" / "benchmark.md").read_text()
    for part in table.split("\n\n"):
        if "bfloat16" not in part and "growth" not in part:
            assert part in README


def test_what_bfloat16_costs():
    for model in ("dense", "conv"):
        assert difference(accuracies(model, "bfloat16", "test"), accuracies(model, "float32", "test")) in README
