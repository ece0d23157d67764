import re

import numpy as np
import pytest
from conftest import run_script
from scipy import stats

import sample_efficiency
from lab.study.records import Run
from lab.training.recipe import Recipe
from lab.study.runs import RunKey

LABELS = np.zeros(10_000, np.uint8)


def made_up_runs(sizes, **models):
    """Return runs of two seeds; models: functions of size and seed that return the number of correct predictions."""
    runs = {}
    for n in sizes:
        for name, correct in models.items():
            for seed in range(2):
                wrong = np.uint8(np.arange(10_000) >= correct(n, seed))
                record = dict.fromkeys(("test", "train"), {"accuracy": 1 - wrong.mean()})
                runs[RunKey(f"{name}-{n}", seed, Recipe())] = Run(record, {"predicted": wrong})
    return runs


def dense(n, seed):
    return 2_000 + 1_000 * np.log10(n) + seed


def conv(n, seed):
    """As good as dense is with twice the data."""
    return dense(2 * n, seed) + 50 * seed


def test_subsets_are_nested_and_class_balanced(splits):
    train_split, before = splits[0], set()
    numbered = train_split._replace(images=np.arange(60_000))
    for n in sample_efficiency.SIZES:
        images, labels = sample_efficiency.select_balanced(numbered, n, seed=3)
        np.testing.assert_array_equal(np.bincount(labels), [n // 10] * 10)
        assert len(set(images)) == n
        assert before <= set(images)
        before = set(images)
    np.testing.assert_array_equal(images, np.arange(60_000))
    few = [set(sample_efficiency.select_balanced(numbered, 100, seed).images) for seed in (3, 3, 4)]
    assert few[0] == few[1] != few[2]


def test_a_fifth_of_the_images_validates(splits):
    numbered = splits[0]._replace(images=np.arange(60_000))
    rest, test_split, validation = sample_efficiency.hold_out_a_fifth(300)(numbered, splits[1], 3)
    assert test_split is splits[1]
    np.testing.assert_array_equal(np.bincount(validation.labels), [6] * 10)
    selected = sample_efficiency.select_balanced(numbered, 300, 3)
    np.testing.assert_array_equal(np.union1d(rest.images, validation.images), selected.images)
    assert len(rest.labels) == 240


def test_equal_steps_repeat_the_images(splits):
    numbered = splits[0]._replace(images=np.arange(60_000))
    repeated, _ = sample_efficiency.repeat_images(300)(numbered, splits[1], 3)
    images, counts = np.unique(repeated.images, return_counts=True)
    np.testing.assert_array_equal(images, sample_efficiency.select_balanced(numbered, 300, 3).images)
    assert set(counts) == {200}


SIZES = (100, 1_000, 10_000)


def correct(fractions, seeds=3):
    """Return whether a model is correct, bool (sizes, seeds, images), a bit differently in each seed."""
    rng = np.random.default_rng(0)
    return np.stack([rng.permuted(np.tile(np.arange(1_000) < 1_000 * each, (seeds, 1)), axis=1) for each in fractions])


def test_a_model_that_needs_half_the_data_has_a_ratio_of_two():
    theirs = np.array([0.5, 0.6, 0.7])
    half = 0.1 * np.log10(2)
    twice, again, beyond = sample_efficiency.data_multiplier(SIZES, correct(theirs + half), correct(theirs))
    for mean, low, high in (twice, again):
        assert low < 2 < high
        assert mean == pytest.approx(2, rel=0.03)  # in whole images
    assert beyond is None


def test_the_interval_of_a_ratio_covers_it_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        levels = rng.uniform(size=(1, 1, 2_000))  # how easy each image is, the same for all runs
        drawn = [
            levels + rng.normal(0, 0.05, (3, 5, 2_000)) + rng.normal(0, 0.004, (3, 5, 1)) < np.reshape(p, (3, 1, 1))
            for p in ([0.53, 0.63, 0.73], [0.5, 0.6, 0.7])
        ]
        _, low, high = sample_efficiency.data_multiplier(SIZES, *drawn)[1]
        covered += low <= 10**0.3 <= high
    assert stats.binomtest(covered, 400, 0.95).pvalue > 0.001


def test_data_out_of_reach():
    theirs = correct([0.5, 0.6, 0.7])
    below, beyond, at_the_end = sample_efficiency.data_multiplier(SIZES, correct([0.45, 0.8, 0.71]), theirs)
    assert (below, at_the_end) == (None, None)
    assert beyond == (np.inf, 10, np.inf)
    assert sample_efficiency.format_multiplier(beyond) == "more than 10"


def test_table_and_conclusion_are_those_of_the_runs():
    runs = made_up_runs((100, 300, 1_000), dense=dense, conv=conv)
    gain = sample_efficiency.gains(runs, LABELS)
    _, table, sentence = sample_efficiency.report(runs, gain, LABELS, "stopped").split("\n\n")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert [row[0] for row in rows[2:]] == ["100", "300", "1,000"]
    assert rows[2][1].startswith("+3.27 [")  # 3.01 and 3.51, in whole images
    assert rows[2][2].startswith("2.1 [")
    assert rows[4][2] == "-"  # dense has not been tried with 2,000
    gains = ", ".join(f"{row[1].split(', p')[0]} ({row[0]} images)" for row in rows[2:])
    assert f"the gain of conv over dense is {gains}" in sentence
    clear = [f"{row[2]} ({row[0]} images)" for row in rows[2:4] if float(re.findall(r"[\d.]+", row[2])[1]) > 1]
    assert f"; the data-efficiency ratio of conv is {', '.join(clear)} (2 seeds" in sentence


def test_a_difference_that_is_not_clear_is_called_so():
    runs = made_up_runs(
        (100, 300), dense=dense, conv=lambda n, seed: dense(n, seed) + (18 * seed - 9 if n == 100 else 200)
    )
    sentence = sample_efficiency.report(runs, sample_efficiency.gains(runs, LABELS), LABELS, "stopped").split("\n\n")[2]
    assert re.search(r"gain of conv over dense is \+2\.00 \[.*\] \(300 images\)", sentence)
    assert "its 95% interval includes 0 with 100 images" in sentence


def test_sizes_and_models_without_runs_are_left_out():
    runs = made_up_runs((100, 300), dense=dense, conv=conv)
    runs |= made_up_runs((1_000,), dense=dense)
    assert sample_efficiency.models_and_sizes(runs) == (["dense", "conv"], [100, 300])
    gains = sample_efficiency.gains(runs, LABELS)
    sample_efficiency.plot(runs, gains, "stopped")
    assert "1,000" not in sample_efficiency.report(runs, gains, LABELS, "stopped")
    alone = sample_efficiency.report(made_up_runs((100, 300), dense=dense), {}, LABELS, "stopped")
    assert "conv |" not in alone
    assert alone.endswith("|")  # no sentence


def test_the_experiment_at_smoke_size(tmp_path):
    arguments = ("--smoke", "--seeds", 1, "--variants", "dense", "--output-dir", tmp_path)
    process = run_script("sample_efficiency.py", *arguments)
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "smoke" / "sample_efficiency.png").is_file()
    rows = [line.split()[1] for line in process.stdout.splitlines() if line.startswith("| ")]
    assert (rows[0], *rows[2:]) == ("images,", "100", "300", "1,000")
    runs = [Run.from_file(path) for path in (tmp_path / "smoke" / "sample_efficiency").iterdir()]
    assert sorted(run.record["train"]["n"] for run in runs) == [80, 240, 800]
    for run in runs:  # stopped: not before 600 steps are without gain
        steps = -(-run.record["train"]["n"] // 32) * len(run.record["history"]["val_loss"])
        assert 600 <= steps < 9_375


def test_equal_steps_at_smoke_size(tmp_path):
    arguments = ("--smoke", "--seeds", 1, "--variants", "dense", "--equal-steps", "--output-dir", tmp_path)
    process = run_script("sample_efficiency.py", *arguments)
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "smoke" / "sample_efficiency_equal_steps.png").is_file()
    runs = [Run.from_file(path) for path in (tmp_path / "smoke" / "sample_efficiency").iterdir()]
    assert [run.record["train"]["n"] for run in runs] == [2_000] * 3
