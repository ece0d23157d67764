"""Experiment 4: counts, precision, recall, and how they are printed and drawn."""

import numpy as np
import pytest
from sklearn import metrics

import confusion_matrix
from lab.analysis.statistics import confusion_counts, row_fractions
from lab.study.data_sets import CLASS_NAMES


@pytest.mark.parametrize("classes", [10, 7])
def test_counts_precision_and_recall_are_those_of_scikit_learn(classes):
    rng = np.random.default_rng(0)
    actual = rng.integers(0, classes, 500).astype(np.uint8)
    predicted = np.where(rng.random(500) < 0.7, actual, rng.integers(0, classes, 500))
    counts, labels = confusion_counts(actual, predicted), range(10)
    np.testing.assert_array_equal(counts, metrics.confusion_matrix(actual, predicted, labels=labels))
    expected = metrics.precision_recall_fscore_support(actual, predicted, labels=labels, zero_division=np.nan)[:2]
    np.testing.assert_allclose(confusion_matrix.precision_and_recall(counts), expected)
    fractions = row_fractions(counts)
    np.testing.assert_allclose(fractions[:classes].sum(axis=1), 1)
    assert np.isnan(fractions[classes:]).all()


def test_the_table_marks_a_class_that_is_absent():
    counts = confusion_counts(np.array([1, 1, 2]), np.array([1, 2, 2]))
    table = confusion_matrix.format_table(counts, CLASS_NAMES).splitlines()
    _, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table)
    assert [row[0] for row in rows] == list(CLASS_NAMES)
    assert [row[-2:] for row in rows[:3]] == [["-", "-"], ["100.0%", "50.0%"], ["50.0%", "100.0%"]]
    assert rows[1][1:5] == ["0", "1", "1", "0"]


@pytest.mark.parametrize("normalize", [False, True])
def test_the_figure_names_models_and_classes_actual_by_row(normalize):
    dense = confusion_counts(np.array([0, 0, 0, 0, 9]), np.array([0, 3, 3, 3, 9]))
    names = [f"class {label}" for label in range(10)]
    figure = confusion_matrix.plot_matrices({"dense": dense, "other": dense.T}, names, normalize)
    ax, other = [ax for ax in figure.axes if ax.get_title()]
    for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
        assert [label.get_text() for label in labels] == names
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted", "actual")
    assert ax.get_title() == f"dense: {confusion_matrix.format_accuracy(dense)}"
    assert other.get_title() == "other: accuracy 40.0% (95% CI 11.8% to 76.9%, n = 5)"
    (text,) = (text.get_text() for text in ax.texts if text.get_position() == (3.5, 0.5))
    assert text == ("0.75" if normalize else "3")
    assert ax.yaxis_inverted()  # the first class is on top
    assert ax.collections[0].get_clim() == other.collections[0].get_clim() == (0, 1 if normalize else 3)


def test_both_models_are_shown_and_one_of_them_alone_keeps_its_picture(smoke_saves, capsys):
    folder, given = smoke_saves[0] / "smoke", ["--smoke", "--output-dir", str(smoke_saves[0])]
    confusion_matrix.main([*given, "--both", "--samples", "all"])
    printed, notes = capsys.readouterr()
    lines = printed.splitlines()
    assert [line.split(": accuracy")[0] for line in lines if "n = 500" in line] == ["dense", "conv, original"]
    assert lines[-1].startswith("conv, original: ")
    assert notes.endswith(f"figure: {folder / 'confusion_matrix_both.png'}\n")
    confusion_matrix.main([*given, "--normalize", "--model", str(folder / "deep_learning_conv.keras")])
    _, _, *rows, last = capsys.readouterr().out.splitlines()
    assert [row.split("|")[1].strip() for row in rows] == list(CLASS_NAMES)
    assert sum(int(count) for row in rows for count in row.split("|")[2:12]) == 200
    assert last.startswith("deep_learning_conv.keras: accuracy ")
    assert last.endswith("n = 200)")
    assert (folder / "confusion_matrix_smoke_deep_learning_conv.png").is_file()
