"""The README's numbers are those of the committed records."""

import json
import re

import pytest
from conftest import ROOT, run_script

import convolution_gain
import deep_learning
import deep_learning_conv
from lab.recipe import Recipe
from lab.statistics import mean_interval
from lab.study import Key, Run

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


@pytest.fixture(scope="module")
def gain(tmp_path_factory):
    """Return what experiment 5 says of the published runs: tables and sentence."""
    picture = tmp_path_factory.mktemp("figures") / "gain.png"
    process = run_script("convolution_gain.py", "--from-results", "--save", picture)
    assert process.returncode == 0, process.stderr
    assert "incomplete" not in process.stderr
    return process.stdout.split("\n", 2)[2]


def test_the_gain_is_that_of_the_published_runs(gain):
    assert gain == (ROOT / "results" / "convolution_gain.md").read_text()
    accuracies, _, differences, by_class, calibration, sentence = gain.strip().split("\n\n")
    for part in (accuracies, differences, sentence):
        assert part in README
    shirts = re.search(r"\| Shirt +\| +\+(\S+) \[\+(\S+), \+(\S+)\]", by_class).groups()
    assert "Conv finds {} points [{}, {}] more of them".format(*shirts) in README
    dense, conv = re.findall(r"^\| (?:dense|conv) +\| +(\S+)", calibration, re.M)
    assert re.search(rf"calibration error is {conv},\s+that of dense {dense}\.", README)


def test_the_docstrings(gain):
    for name, script in (("dense", deep_learning), ("conv", deep_learning_conv)):
        mean = re.search(rf"^\| {name} +\| +\S+ \| (\S+) ±", gain, re.M).group(1)
        assert f"{mean}% on average of 10 seeds" in script.__doc__
    test, train = (
        " ".join(re.search(rf"{words} (\S+)(?: points)? (\[.*?\])", gain).groups()) for words in ("buys", "like")
    )
    assert f"On the test set {test}, " in convolution_gain.__doc__
    assert f"on the training set {train} (" in convolution_gain.__doc__


def test_no_published_run_was_dropped():
    keys = [Run.from_file(path).key for path in (ROOT / "results" / "convolution_gain").iterdir()]
    assert sorted(keys) == sorted(Key(name, seed, Recipe()) for name in convolution_gain.VARIANTS for seed in range(10))


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


def test_every_link_into_the_repository_leads_somewhere():
    for target in re.findall(r"\]\((?!http|#)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
