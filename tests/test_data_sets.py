"""The comparison of data sets, and the images that make up the gain: on made-up runs, and as a user types it."""

import re

import numpy as np
import pytest
from conftest import run_script
from scipy import stats

from lab.analysis import data_sets, garments
from lab.study.records import Run
from lab.study.runs import RunKey
from lab.training.recipe import Recipe

IMAGES = 1_000
LABELS = np.zeros(IMAGES, np.uint8)


def made_up_runs(wrong):
    """Return runs of three seeds. Args: function of variant and seed to the indices of images that it gets wrong"""
    runs = {}
    for variant in ("dense", "conv"):
        for seed in range(3):
            predicted = LABELS.copy()
            predicted[wrong(variant, seed)] = 7
            record = dict.fromkeys(("test_accuracy", "train_accuracy"), np.mean(predicted == LABELS))
            runs[RunKey(variant, seed, Recipe())] = Run(record, {"predicted": predicted}, LABELS)
    return runs


def a_quarter_less(variant, seed):
    return np.arange((200 if variant == "dense" else 150) + 2 * seed)


def test_errors_avoided_are_a_ratio_with_an_interval():
    mean, low, high, p_value = data_sets.errors_avoided(made_up_runs(a_quarter_less), LABELS)
    assert mean == pytest.approx(100 * 50 / 202)
    assert low < mean < high
    # a ratio over images: the interval is about that of the log of a ratio of two nested binomial counts
    expected = 100 * stats.norm.ppf(0.975) * np.sqrt(0.2475 * 0.7525 / 202)
    assert high - low == pytest.approx(2 * expected, rel=0.05)
    assert p_value < 0.001


def test_tables_and_figure_of_several_data_sets():
    runs = {
        "one": made_up_runs(a_quarter_less),
        "other": made_up_runs(lambda variant, seed: np.arange(seed, 90 + seed)),
    }
    found = data_sets.estimate_all(runs, {"conv - dense": {"conv": 1, "dense": -1}})
    assert found["one"]["conv - dense"].mean == pytest.approx(5)
    accuracies, gains = data_sets.report(runs, found, {"dense": "dense", "conv": "conv"}).split("\n\n")
    assert re.search(r"\| one +\| +79\.80 ± 0\.20 \[", accuracies)
    assert re.search(r"\| one +\| +\+5\.00 \[.*\], p < 0\.001 \| \+24\.75 \[.*\]%, p < 0\.001 \|", gains)
    assert "+0.00, p -" in gains.splitlines()[-1]
    axes = data_sets.plot(found).axes
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["one", "other"]


def test_images_that_make_up_the_gain():
    runs = made_up_runs(lambda variant, seed: np.arange(50) if variant == "dense" else np.arange(40, 55))
    text = garments.report(runs, LABELS)
    assert "1,000 test images, 40 are right" in text
    assert "of those of dense, 5 the other way round, and 10 in no run of either" in text
    assert "by 40 images a run, on others dense, by 5." in text
    names = [f"class {n}" for n in range(10)]
    upper, lower = garments.plot(runs, np.zeros((IMAGES, 28, 28), np.uint8), LABELS, names).subfigs
    assert len(upper.axes) == len(lower.axes) == garments.SHOWN
    assert upper.axes[0].get_xlabel() == "class 7\nconv 3, dense 0"
    assert lower.axes[0].get_xlabel() == "class 7\ndense 3, conv 0"


def test_each_variant_gets_the_learning_rate_that_suits_it(tmp_path):
    arguments = ("--smoke", "--choose-rate", "--variants", "dense", "--seeds", 1, "--output-dir", tmp_path)
    process = run_script("convolution_gain.py", *arguments)
    assert process.returncode == 0, process.stderr
    row = next(line for line in process.stdout.splitlines() if line.startswith("| dense"))
    tried = [float(cell) for cell in row.split("|")[2:5]]
    runs = [Run.from_file(path).record for path in (tmp_path / "smoke" / "convolution_gain").iterdir()]
    held_out = {run["learning_rate"]: run["test_accuracy"] for run in runs if run["variant"] == "dense-held-out"}
    assert [round(100 * held_out[rate], 2) for rate in sorted(held_out)] == tried
    (final,) = [run for run in runs if run["variant"] == "dense"]
    assert held_out[final["learning_rate"]] == max(held_out.values())
    assert final["train_images"] == 2_000
