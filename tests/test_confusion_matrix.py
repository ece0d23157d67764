"""Experiment 4: counts, precision, recall, and how they are printed and drawn."""

import numpy as np
import pytest
from sklearn import metrics

import confusion_matrix
from lab.data import CLASS_NAMES
from lab.statistics import confusion_counts, row_fractions


def test_counts_are_those_counted_by_hand():
    counts = confusion_counts(np.array([0, 0, 1, 9]), np.array([0, 2, 1, 1]))
    expected = np.zeros((10, 10), int)
    expected[0, 0] = expected[0, 2] = expected[1, 1] = expected[9, 1] = 1
    np.testing.assert_array_equal(counts, expected)


@pytest.mark.parametrize("classes", [10, 7])
def test_counts_precision_and_recall_are_those_of_scikit_learn(classes):
    rng = np.random.default_rng(0)
    actual = rng.integers(0, classes, 500).astype(np.uint8)
    predicted = np.where(rng.random(500) < 0.7, actual, rng.integers(0, classes, 500))
    counts = confusion_counts(actual, predicted)
    labels = range(10)
    np.testing.assert_array_equal(counts, metrics.confusion_matrix(actual, predicted, labels=labels))
    precision, recall, _, _ = metrics.precision_recall_fscore_support(
        actual, predicted, labels=labels, zero_division=np.nan
    )
    np.testing.assert_allclose(confusion_matrix.precision_and_recall(counts), (precision, recall))
    with np.errstate(invalid="raise"):
        fractions = row_fractions(counts)
    np.testing.assert_allclose(fractions[:classes].sum(axis=1), 1)
    assert np.isnan(fractions[classes:]).all()


def test_the_table_marks_a_class_that_is_absent():
    counts = confusion_counts(np.array([1, 1, 2]), np.array([1, 2, 2]))
    header, *rows = confusion_matrix.format_table(counts).splitlines()
    assert [row.split("  ")[0] for row in rows] == list(CLASS_NAMES)
    assert rows[0].split()[-2:] == ["-", "-"]
    assert rows[1].split()[-2:] == ["100.0%", "50.0%"]
    assert rows[2].split()[-2:] == ["50.0%", "100.0%"]
    assert len({len(row) for row in (header, *rows)}) == 1


@pytest.mark.parametrize("normalize", [False, True])
def test_the_figure_has_all_classes_actual_by_row(normalize):
    counts = confusion_counts(np.array([0, 0, 0, 0, 9]), np.array([0, 3, 3, 3, 9]))
    figure = confusion_matrix.plot_matrix(counts, normalize)
    ax = figure.axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == list(CLASS_NAMES)
    assert [label.get_text() for label in ax.get_yticklabels()] == list(CLASS_NAMES)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted", "actual")
    assert "40.0%" in ax.get_title()
    assert "n = 5" in ax.get_title()
    (text,) = (text.get_text() for text in ax.texts if text.get_position() == (3.5, 0.5))
    assert text == ("0.75" if normalize else "3")
    assert ax.yaxis_inverted()  # the first class is on top


def test_accuracy_is_printed_with_n_and_interval():
    counts = np.diag([18] * 8 + [16, 16]) + np.diag([3, 3, 3, 3, 3, 3, 3, 3, 0], k=1)
    assert confusion_matrix.format_accuracy(counts) == "accuracy 88.0% (95% CI 82.8% to 91.8%, n = 200)"
