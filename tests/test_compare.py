from collections import namedtuple

import numpy as np
import pytest
from sklearn.metrics import f1_score, log_loss, recall_score

from lab.analysis import compare
from lab.guard.errors import LabError

RunKey = namedtuple("RunKey", "variant seed")
LABELS = np.arange(200) % 10
Run = namedtuple("Run", "record arrays labels", defaults=[LABELS])


def run(errors):
    """Return a run with wrong predictions for the images `errors` of either split, with a confidence of 0.7."""
    predicted = LABELS.copy()
    predicted[errors] = (predicted[errors] + 1) % 10
    correct = predicted == LABELS
    record = dict.fromkeys(("test_accuracy", "train_accuracy"), correct.mean())
    log_probability = np.log(np.where(correct, 0.7, 0.1))
    return Run(record, {"predicted": predicted, "log_probability": log_probability, "confidence": np.full(200, 0.7)})


@pytest.fixture
def runs():
    """Return three seeds of two variants; `good` makes 10, 12 and 14 errors, `bad` twenty more."""
    made = {}
    for seed in range(3):
        good = np.arange(10 + 2 * seed)
        made[RunKey("good", seed)] = run(good)
        made[RunKey("bad", seed)] = run(np.concatenate([good, np.arange(100, 120)]))
    return made


COMPARISONS = {"gain": {"good": 1, "bad": -1}, "half": {"good": 0.5, "bad": -0.5}, "missing": {"good": 1, "third": -1}}


def test_comparisons_are_in_points_and_paired(runs):
    found = compare.estimates(runs, COMPARISONS)
    assert list(found) == ["gain", "half"]
    for on_test, half in zip(found["gain"], found["half"], strict=True):
        assert on_test.mean == pytest.approx(10)
        assert half[:3] == pytest.approx(np.divide(on_test[:3], 2), nan_ok=True)
    on_test, on_train = found["gain"]
    assert 0 < on_test.low < 10 < on_test.high < 20
    assert on_train.mean == pytest.approx(10)
    assert np.isnan(on_train[1:]).all()  # the same in each seed, and no sample of images


def test_one_seed_has_an_interval_over_images_and_none_for_training(runs):
    one = {key: run for key, run in runs.items() if key.seed == 0}
    (on_test,) = compare.estimates(one, COMPARISONS)["gain"]
    assert on_test.mean == pytest.approx(10)
    assert on_test.low < 10 < on_test.high
    assert "training" not in compare.estimate_table("a family", COMPARISONS, {"gain": (on_test,)})


def test_a_variant_with_fewer_seeds_is_compared_on_the_first(runs):
    fewer = {key: run for key, run in runs.items() if key != RunKey("bad", 2)}
    first = {key: run for key, run in runs.items() if key.seed < 2}
    assert compare.estimates(fewer, COMPARISONS) == compare.estimates(first, COMPARISONS)


def test_runs_on_different_images_are_not_compared(runs):
    runs[RunKey("bad", 2)] = run([])._replace(labels=LABELS[::-1])
    with pytest.raises(LabError, match="different images"):
        compare.estimates(runs, COMPARISONS)


def test_differences_by_class_are_those_of_recall_and_f1(runs):
    predictions = [[run.arrays["predicted"] for run in compare.runs_for(runs, name)] for name in ("good", "bad")]
    recalls = [np.mean([recall_score(LABELS, each, average=None) for each in found], axis=0) for found in predictions]
    f1 = [f1_score(np.tile(LABELS, 3), np.concatenate(found), average=None) for found in predictions]
    for expected, estimates in zip(
        (recalls, f1), zip(*compare.by_class(runs, ("good", "bad")), strict=True), strict=True
    ):
        np.testing.assert_allclose([each.mean for each in estimates], 100 * (expected[0] - expected[1]), atol=1e-9)
        assert all(each.low <= each.mean <= each.high for each in estimates)


def test_nothing_is_said_of_a_class_without_test_images(runs):
    labels = np.where(LABELS == 3, 4, LABELS)
    found = compare.by_class({key: run._replace(labels=labels) for key, run in runs.items()}, ("good", "bad"))
    assert [compare.format_signed_ci(each) for each in found[3]] == ["-", "-"]
    assert "[" in compare.format_signed_ci(found[4][1])


def test_calibration_of_known_probabilities(runs):
    error, negative_log_likelihood = compare.calibration(runs, "good")
    wrong = np.mean([10, 12, 14]) / 200
    assert error == pytest.approx(1 - wrong - 0.7, abs=1e-6)
    # over the two classes correct and wrong, it is the log-loss
    expected = log_loss(np.arange(1000) < 1000 * wrong, np.full(1000, 0.1 / 0.8), labels=[False, True])
    assert negative_log_likelihood == pytest.approx(expected - np.log(0.8), rel=1e-5)


@pytest.mark.parametrize(
    ("values", "limits", "text"),
    [
        ([87.25], (0, 100), "87.25"),
        ([87.25, 87.25], (0, 100), "87.25 ± 0.00"),
        ([1, 2, 3], (-9, 9), "2.00 ± 1.00 [-0.48, 4.48]"),
        ([1, 2, 3], (0, 100), "2.00 ± 1.00 [0.00, 4.48]"),
        ([98, 100], (0, 100), "99.00 ± 1.41 [86.29, 100.00]"),
        ([1, 1, 4], (-9, 99), "2.00 ± 1.73 [-2.30, 6.30], median 1.00"),
        ([1, 1, 1, 9], (-9, 99), "3.00 ± 4.00 [-3.36, 9.36]"),
        ([1, 1, 1, 1, 9], (-9, 99), "2.60 ± 3.58 [-1.84, 7.04]"),
    ],
)
def test_means_as_text(values, limits, text):
    assert compare.format_mean(values, limits) == text


@pytest.mark.parametrize(
    ("interval", "signed", "unsigned"),
    [
        ((2.4, -0.1, 4.9), "+2.40 [-0.10, +4.90]", "2.40 [-0.10, 4.90]"),
        ((-1.5, -2, 0.25), "-1.50 [-2.00, +0.25]", "1.50 [-0.25, 2.00]"),
        ((-1.5, np.nan, np.nan), "-1.50", "1.50"),
        ((np.nan, np.nan, np.nan), "-", "-"),
    ],
)
def test_differences_as_text(interval, signed, unsigned):
    assert compare.format_signed_ci(interval) == signed
    assert compare.format_ci(interval) == unsigned


def test_p_values_as_text():
    assert [compare.format_p(p_value) for p_value in (0, 0.0499, 1, np.nan)] == ["< 0.001", "0.050", "1.000", "-"]
