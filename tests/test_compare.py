import numpy as np
import pytest
from sklearn.metrics import log_loss, recall_score

from lab import compare
from lab.plumbing.results import Run
from lab.recipe import SMOKE
from lab.study import RunKey

LABELS = np.arange(200) % 10


def run(seed, errors):
    """Return a run with wrong predictions for the images `errors` of either split, with a confidence of 0.7."""
    predicted = LABELS.copy()
    predicted[errors] = (predicted[errors] + 1) % 10
    correct = predicted == LABELS
    accuracy = {"accuracy": float(correct.mean()), "n": 200}
    return Run(
        {"seed": seed, "test": accuracy, "train": accuracy},
        {
            "predicted": predicted,
            "log_probability": np.log(np.where(correct, 0.7, 0.1)),
            "confidence": np.full(200, 0.7),
            "train_correct": np.packbits(correct),
        },
    )


@pytest.fixture
def runs():
    """Return three seeds of two variants; `good` makes 10, 12 and 14 errors, `bad` twenty more."""
    made = {}
    for seed in range(3):
        good = np.arange(10 + 2 * seed)
        made[RunKey("good", seed, SMOKE)] = run(seed, good)
        made[RunKey("bad", seed, SMOKE)] = run(seed, np.concatenate([good, np.arange(100, 120)]))
    return made


@pytest.mark.parametrize("split", ["test", "train"])
def test_differences_are_in_points_and_paired(runs, split):
    found = compare.differences(runs, {"gain": ("good", "bad"), "missing": ("good", "third")}, split, LABELS)
    assert list(found) == ["gain"]
    mean, low, high = found["gain"]
    assert mean == pytest.approx(10)
    assert 0 < low < 10 < high < 20


def test_differences_by_class_are_those_of_recall(runs):
    by_class = compare.differences_by_class(runs, ("good", "bad"), LABELS)[:, 0]
    recalls = [
        np.mean(
            [
                recall_score(LABELS, runs[RunKey(name, seed, SMOKE)].arrays["predicted"], average=None)
                for seed in range(3)
            ],
            axis=0,
        )
        for name in ("good", "bad")
    ]
    np.testing.assert_allclose(by_class, 100 * (recalls[0] - recalls[1]), atol=1e-4)


def test_p_values_are_per_seed(runs):
    assert compare.p_values(runs, ("good", "bad"), LABELS) == [pytest.approx(2 / 2**20)] * 3


def test_calibration_of_known_probabilities(runs):
    error, negative_log_likelihood = compare.calibration(runs, "good", LABELS)
    wrong = np.mean([10, 12, 14]) / 200
    assert error == pytest.approx(1 - wrong - 0.7, abs=1e-6)
    # over the two classes correct and wrong, it is the log-loss
    expected = log_loss(np.arange(1000) < 1000 * wrong, np.full(1000, 0.1 / 0.8), labels=[False, True])
    assert negative_log_likelihood == pytest.approx(expected - np.log(0.8), rel=1e-5)


def test_a_table_is_aligned_markdown():
    lines = compare.markdown_table(["name", "x"], [["a", "1.25"], ["longer", "-1"]]).splitlines()
    assert lines == ["| name   |    x |", "| ------ | ---: |", "| a      | 1.25 |", "| longer |   -1 |"]


def test_numbers_as_text():
    assert compare.format_mean([87.25]) == "87.25"
    assert compare.format_mean([1.0, 2.0, 3.0]) == "2.00 ± 1.00 [-0.48, 4.48]"
    assert compare.format_signed_ci((2.4, -0.1, 4.9)) == "+2.40 [-0.10, +4.90]"


def test_a_difference_as_text():
    assert compare.format_signed_ci((-1.5, -2, 0.25)) == "-1.50 [-2.00, +0.25]"
    assert compare.format_ci((1.5, -0.25, 2)) == "1.50 [-0.25, 2.00]"
    assert compare.format_ci((-1.5, -2, 0.25)) == "1.50 [-0.25, 2.00]"
