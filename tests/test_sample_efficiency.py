import numpy as np
import pytest
from conftest import run_script

import sample_efficiency


def test_fewer_images_are_among_more_and_balanced(splits):
    labels = splits[0].labels
    before = set()
    for n in sample_efficiency.SIZES:
        choose = sample_efficiency.VARIANTS[f"conv-{n}"].choose
        once = choose(labels, n, seed=3)
        np.testing.assert_array_equal(np.bincount(labels[once]), [n // 10] * 10)
        assert len(set(once)) == n
        assert before <= set(once)
        before = set(once)
        again = choose(labels, 60_000, seed=3)
        np.testing.assert_array_equal(np.unique(again, return_counts=True)[1], [60_000 // n] * n)
    np.testing.assert_array_equal(once, np.arange(60_000))
    np.testing.assert_array_equal(choose(labels, 60_000, seed=3), once)
    other = sample_efficiency.VARIANTS["dense-100"].choose
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


def test_the_experiment_at_smoke_size(tmp_path):
    arguments = ("sample_efficiency.py", "--smoke", "--seeds", 2, "--variants", "dense", "--output-dir", tmp_path)
    process = run_script(*arguments)
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "smoke" / "sample_efficiency.png").is_file()
    rows = [line.split()[1] for line in process.stdout.splitlines() if line.startswith("| ")]
    assert rows == ["images", "------", "100", "300", "1,000"]
    assert len(list((tmp_path / "smoke" / "sample_efficiency").glob("*.npz"))) == 6
