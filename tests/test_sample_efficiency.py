import numpy as np
import pytest
from conftest import run_script

import sample_efficiency
from lab.recipe import Recipe
from lab.study import Key, Run

LABELS = np.zeros(10_000, np.uint8)


def made_up_runs(sizes, **models):
    """Return runs of two seeds; models: functions of size and seed that give how many of the images are right."""
    runs = {}
    for n in sizes:
        for name, right in models.items():
            for seed in range(2):
                wrong = np.uint8(np.arange(10_000) >= right(n, seed))
                record = {"test": {"accuracy": 1 - wrong.mean()}}
                runs[Key(f"{name}-{n}", seed, Recipe())] = Run(record, {"predicted": wrong})
    return runs


def dense(n, seed):
    return 2_000 + 1_000 * np.log10(n) + seed


def conv(n, seed):
    """As good as dense is with twice the data."""
    return dense(2 * n, seed) + 50 * seed


def test_fewer_images_are_among_more_and_balanced(splits):
    labels = splits[0].labels
    before = set()
    for n in sample_efficiency.SIZES:
        choose = sample_efficiency.balanced(n)
        once = choose(labels, n, seed=3)
        np.testing.assert_array_equal(np.bincount(labels[once]), [n // 10] * 10)
        assert len(set(once)) == n
        assert before <= set(once)
        before = set(once)
        again = choose(labels, 60_000, seed=3)
        np.testing.assert_array_equal(np.unique(again, return_counts=True)[1], [60_000 // n] * n)
    np.testing.assert_array_equal(once, np.arange(60_000))
    np.testing.assert_array_equal(choose(labels, 60_000, seed=3), once)
    other = sample_efficiency.balanced(100)
    assert set(other(labels, 100, seed=3)) != set(other(labels, 100, seed=4))


def test_data_that_is_worth_twice_as_much():
    sizes = [100, 1_000, 10_000]
    theirs = 50 + 10 * np.log10(np.array([sizes, sizes]))
    ours = theirs + 10 * np.log10(2) + [[0.001], [-0.001]]
    twice, twice_too, beyond = sample_efficiency.worth(sizes, ours, theirs)
    assert beyond is None
    for mean, low, high in (twice, twice_too):
        assert low < 2 < high
        assert mean == pytest.approx(2, rel=1e-3)


def test_data_out_of_reach():
    theirs = np.array([[70.0, 80, 90], [71, 81, 91]])
    below, beyond, at_the_end = sample_efficiency.worth([100, 1_000, 10_000], theirs + [-1, 11, 1], theirs)
    assert (below, at_the_end) == (None, None)
    assert beyond == (np.inf, 10, np.inf)
    assert sample_efficiency.times_text(beyond) == "more than 10"
    _, for_one_seed, _ = sample_efficiency.worth([100, 1_000, 10_000], theirs + [[0, 11, 0], [0, 0, 0]], theirs)
    assert for_one_seed is None


def test_table_and_sentence_say_what_the_runs_say():
    runs = made_up_runs((100, 300, 1_000), dense=dense, conv=conv)
    table, sentence = sample_efficiency.report(runs, sample_efficiency.gains_of(runs, LABELS)).split("\n\n")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert [row[0] for row in rows[2:]] == ["100", "300", "1,000"]
    assert rows[2][3].startswith("+3.27 [")  # 3.01 and 3.51, in whole images
    assert rows[2][4].startswith("2.1 [")
    assert rows[4][4] == "-"  # dense has not been tried with 2,000
    assert f"{rows[2][3]} points with 100 training images and {rows[4][3]} with 1,000;" in sentence
    assert f"in times the data it is worth {rows[2][4]} with 100, {rows[3][4]} with 300." in sentence


def test_sizes_and_models_that_are_not_there_are_left_out():
    runs = made_up_runs((100, 300), dense=dense, conv=conv)
    runs |= made_up_runs((1_000,), dense=dense)
    assert sample_efficiency.sizes_of(runs) == [100, 300]
    sample_efficiency.plot(runs, sample_efficiency.gains_of(runs, LABELS))
    table = sample_efficiency.report(runs, sample_efficiency.gains_of(runs, LABELS))
    assert "1,000" not in table
    alone = sample_efficiency.report(made_up_runs((100, 300), dense=dense), {})
    assert "conv |" not in alone
    assert alone.endswith("|")  # no sentence


def test_the_experiment_at_smoke_size(tmp_path):
    arguments = ("sample_efficiency.py", "--smoke", "--seeds", 2, "--variants", "dense", "--output-dir", tmp_path)
    process = run_script(*arguments)
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "smoke" / "sample_efficiency.png").is_file()
    rows = [line.split()[1] for line in process.stdout.splitlines() if line.startswith("| ")]
    assert rows == ["images", "------", "100", "300", "1,000"]
    assert len(list((tmp_path / "smoke" / "sample_efficiency").glob("*.npz"))) == 6
