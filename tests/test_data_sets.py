"""The comparison of data sets, and the images that make up the gain, on made-up runs."""

import argparse
import re

import numpy as np
import pytest
from scipy import stats
from test_training_length import made_up_study

import convolution_gain
from lab.analysis import data_sets, garments
from lab.study import command_line, published
from lab.study.records import Run
from lab.study.runs import RunKey
from lab.training.data import DataSet
from lab.training.recipe import Recipe

IMAGES = 1_000
LABELS = np.zeros(IMAGES, np.uint8)


def make_run(wrong):
    """Return a run. Args: indices of images that it gets wrong"""
    predicted = LABELS.copy()
    predicted[wrong] = 7
    record = dict.fromkeys(("test_accuracy", "train_accuracy"), np.mean(predicted == LABELS))
    return Run(record, {"predicted": predicted}, LABELS)


def made_up_runs(wrong):
    """Return runs of three seeds. Args: function of variant and seed to the images that it gets wrong"""
    keys = [RunKey(variant, seed, Recipe()) for variant in ("dense", "conv") for seed in range(3)]
    return {key: make_run(wrong(key.variant, key.seed)) for key in keys}


def a_quarter_less(variant, seed):
    return np.arange((200 if variant == "dense" else 150) + 2 * seed)


def test_errors_avoided_are_a_ratio_with_an_interval():
    mean, low, high, p_value = data_sets.errors_avoided(made_up_runs(a_quarter_less))
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
    comparisons = {"conv - dense": {"conv": 1, "dense": -1}}
    found = data_sets.estimate_all(runs, comparisons)
    assert found["one"]["conv - dense"].mean == pytest.approx(5)
    accuracies, gains = data_sets.report(runs, found, {"dense": "dense", "conv": "conv"}).split("\n\n")
    assert re.search(r"\| one +\| +79\.80 ± 0\.20 \[", accuracies)
    assert re.search(r"\| one +\| +\+5\.00 \[.*\], p < 0\.001 \| \+24\.75 \[.*\]%, p < 0\.001 \|", gains)
    assert "+0.00, p -" in gains.splitlines()[-1]
    axes = data_sets.plot(found, runs, comparisons).axes
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["one\n3 seeds", "other\n3 seeds"]


def test_images_that_make_up_the_gain():
    runs = made_up_runs(lambda variant, seed: np.arange(50) if variant == "dense" else np.arange(40, 55))
    text = garments.report(runs)
    assert "1,000 test images, 40 are right" in text
    assert "of those of dense, 5 the other way round, and 10 in no run of either" in text
    assert "by 40 images a run, on others dense, by 5." in text
    names = [f"class {n}" for n in range(10)]
    upper, lower = garments.plot(runs, np.zeros((IMAGES, 28, 28), np.uint8), names).subfigs
    assert len(upper.axes) == len(lower.axes) == garments.SHOWN
    assert upper.axes[0].get_xlabel() == "class 7\nconv 3, dense 0"
    assert lower.axes[0].get_xlabel() == "class 7\ndense 3, conv 0"


def test_each_variant_gets_the_learning_rate_that_suits_it(monkeypatch, capsys):
    suits, done = {"dense": 0.003, "conv": 0.0003}, []
    study = made_up_study({name: (Recipe().epochs, rate) for name, rate in suits.items()})
    monkeypatch.setattr(command_line, "study_runs", lambda *given: done.extend(given[2]) or study(*given))
    settings = {"variants": ["dense", "conv"], "seed": 20, "seeds": 2, "choose_rate": True, "dataset": DataSet()}
    convolution_gain.study_runs(argparse.Namespace(recipe=Recipe(), **settings))
    held_out, final = done[:6], done[6:]
    assert {(key.variant, key.seed) for key in held_out} == {("dense-held-out", 20), ("conv-held-out", 20)}
    chosen = {(key.variant, key.seed): key.recipe for key in final}
    for name, rate in suits.items():
        assert all(chosen[name, seed] == Recipe(learning_rate=rate) for seed in (20, 21))
    assert re.search(r"^\| dense +\| +87\.70 \| +88\.90 \| +90\.00 \|$", capsys.readouterr().out, re.M)
    assert {key.variant for key in done} <= convolution_gain.VARIANTS.keys()


def test_published_runs_on_other_data_sets_are_compared(monkeypatch, capsys, caplog):
    def runs_of(plan):
        return {key: make_run(slice(100 + 50 * (key.variant == "dense") + key.seed)) for key in plan}

    records = [{"data_set": "fashion-mnist"}, {"data_set": "mnist"}]
    monkeypatch.setattr(published, "read_records", lambda folder: records)
    monkeypatch.setattr(command_line, "study_runs", lambda script, options, plan: runs_of(plan))
    keys = [RunKey(name, seed, Recipe()) for name in convolution_gain.COMPARED_ON_DATA_SETS for seed in range(3)]
    options = argparse.Namespace(recipe=Recipe())
    convolution_gain.report_on_data_sets(runs_of(keys), options, None)
    printed = capsys.readouterr().out
    assert re.search(r"^\| mnist, held-out images: accuracy, % +\| +learning rate 0\.0003 \|", printed, re.M)
    assert re.search(r"^\| mnist, rates chosen +\| +\+5\.00 \[?.*\| +\+29\.07", printed, re.M)
    monkeypatch.setattr(command_line, "study_runs", lambda script, options, plan: runs_of(plan[:-1]))
    convolution_gain.report_on_data_sets(runs_of(keys), options, None)
    assert "rates chosen" not in capsys.readouterr().out
    assert "left out: mnist" in caplog.text
    convolution_gain.report_on_data_sets(runs_of(keys[:3]), options, None)  # not all variants
    assert capsys.readouterr().out == ""
