import re

import numpy as np
import pytest
from conftest import run_script

import sample_efficiency
from lab.plumbing.results import Run
from lab.recipe import Recipe
from lab.study import RunKey

LABELS = np.zeros(10_000, np.uint8)


def made_up_runs(sizes, **models):
    """Return runs of two seeds; models: functions of size and seed that return the number of correct predictions."""
    runs = {}
    for n in sizes:
        for name, correct in models.items():
            for seed in range(2):
                wrong = np.uint8(np.arange(10_000) >= correct(n, seed))
                record = {"test": {"accuracy": 1 - wrong.mean()}}
                runs[RunKey(f"{name}-{n}", seed, Recipe())] = Run(record, {"predicted": wrong})
    return runs


def dense(n, seed):
    return 2_000 + 1_000 * np.log10(n) + seed


def conv(n, seed):
    """As good as dense is with twice the data."""
    return dense(2 * n, seed) + 50 * seed


def test_subsets_are_nested_and_class_balanced(splits):
    labels = splits[0].labels
    before = set()
    for n in sample_efficiency.SIZES:
        select = sample_efficiency.select_balanced(n)
        once = select(labels, n, seed=3)
        np.testing.assert_array_equal(np.bincount(labels[once]), [n // 10] * 10)
        assert len(set(once)) == n
        assert before <= set(once)
        before = set(once)
        again = select(labels, 60_000, seed=3)
        np.testing.assert_array_equal(np.unique(again, return_counts=True)[1], [60_000 // n] * n)
    np.testing.assert_array_equal(once, np.arange(60_000))
    np.testing.assert_array_equal(select(labels, 60_000, seed=3), once)
    other = sample_efficiency.select_balanced(100)
    assert set(other(labels, 100, seed=3)) != set(other(labels, 100, seed=4))


def test_a_model_that_needs_half_the_data_has_a_ratio_of_two():
    sizes = [100, 1_000, 10_000]
    theirs = 50 + 10 * np.log10(np.array([sizes, sizes]))
    ours = theirs + 10 * np.log10(2) + [[0.001], [-0.001]]
    twice, twice_too, beyond = sample_efficiency.data_multiplier(sizes, ours, theirs)
    assert beyond is None
    for mean, low, high in (twice, twice_too):
        assert low < 2 < high
        assert mean == pytest.approx(2, rel=1e-3)


def test_data_out_of_reach():
    theirs = np.array([[70.0, 80, 90], [71, 81, 91]])
    below, beyond, at_the_end = sample_efficiency.data_multiplier([100, 1_000, 10_000], theirs + [-1, 11, 1], theirs)
    assert (below, at_the_end) == (None, None)
    assert beyond == (np.inf, 10, np.inf)
    assert sample_efficiency.format_multiplier(beyond) == "more than 10"
    _, for_some_seeds, _ = sample_efficiency.data_multiplier(
        [100, 1_000, 10_000], theirs + [[0, 11, 0], [0, 0, 0]], theirs
    )
    assert for_some_seeds is None
    assert sample_efficiency.data_multiplier([100, 1_000], np.array([[80.0, 90]]), np.array([[70.0, 75]])) == [
        None,
        None,
    ]


def test_a_plateau_is_reached_at_its_beginning():
    assert sample_efficiency.first_crossing(np.array([1.0, 2, 3, 4]), np.array([80.0, 90, 90, 91]), 90) == 2


def test_table_and_conclusion_are_those_of_the_runs():
    runs = made_up_runs((100, 300, 1_000), dense=dense, conv=conv)
    table, sentence = sample_efficiency.report(runs, sample_efficiency.gains(runs, LABELS), "steps").split("\n\n")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert [row[0] for row in rows[2:]] == ["100", "300", "1,000"]
    assert rows[2][3].startswith("+3.27 [")  # 3.01 and 3.51, in whole images
    assert rows[2][4].startswith("2.1 [")
    assert rows[4][4] == "-"  # dense has not been tried with 2,000
    gains = ", ".join(f"{row[3]} with {row[0]}" for row in rows[2:])
    assert f"convolution buys {gains} training images; the data-efficiency" in sentence
    assert f"the data-efficiency ratio is {rows[2][4]} with 100, {rows[3][4]} with 300 (2 seeds)." in sentence


def test_a_gain_that_is_not_significant_is_called_so():
    runs = made_up_runs(
        (100, 300), dense=dense, conv=lambda n, seed: dense(n, seed) + (18 * seed - 9 if n == 100 else 200)
    )
    sentence = sample_efficiency.report(runs, sample_efficiency.gains(runs, LABELS), "steps").split("\n\n")[1]
    assert re.search(
        r"buys \+2\.00 \[.*\] with 300 training images; there is no significant difference at 100", sentence
    )


def test_sizes_and_models_without_runs_are_left_out():
    runs = made_up_runs((100, 300), dense=dense, conv=conv)
    runs |= made_up_runs((1_000,), dense=dense)
    assert sample_efficiency.models_and_sizes(runs) == (["dense", "conv"], [100, 300])
    gains = sample_efficiency.gains(runs, LABELS)
    sample_efficiency.plot(runs, gains, "steps")
    table = sample_efficiency.report(runs, gains, "steps")
    assert "1,000" not in table
    alone = sample_efficiency.report(made_up_runs((100, 300), dense=dense), {}, "steps")
    assert "conv |" not in alone
    assert alone.endswith("|")  # no sentence


def test_the_experiment_at_smoke_size(tmp_path):
    arguments = ("--smoke", "--seeds", 1, "--variants", "dense", "--equal-epochs", "--output-dir", tmp_path)
    process = run_script("sample_efficiency.py", *arguments)
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "smoke" / "sample_efficiency_equal_epochs.png").is_file()
    rows = [line.split()[1] for line in process.stdout.splitlines() if line.startswith("| ")]
    assert (rows[0], *rows[2:]) == ("images,", "100", "300", "1,000")
    runs = [Run.from_file(path) for path in (tmp_path / "smoke" / "sample_efficiency").iterdir()]
    assert sorted(run.record["train"]["n"] for run in runs) == [100, 300, 1_000]
