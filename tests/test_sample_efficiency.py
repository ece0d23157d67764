import re

import numpy as np

import sample_efficiency
from lab.changes.sample_efficiency import hold_out_a_fifth, select_balanced
from lab.study.records import Run
from lab.study.runs import RunKey
from lab.training.recipe import Recipe

LABELS = np.zeros(10_000, np.uint8)


def made_up_runs(sizes, **models):
    """Return runs of two seeds; models: functions of size and seed that return the number of correct predictions."""
    runs = {}
    for n in sizes:
        for name, correct in models.items():
            for seed in range(2):
                wrong = np.uint8(np.arange(10_000) >= correct(n, seed))
                record = dict.fromkeys(("test_accuracy", "train_accuracy"), 1 - wrong.mean())
                runs[RunKey(f"{name}-{n}", seed, Recipe())] = Run(record, {"predicted": wrong}, LABELS)
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
        images, labels = select_balanced(numbered, n, seed=3)
        np.testing.assert_array_equal(np.bincount(labels), [n // 10] * 10)
        assert len(set(images)) == n
        assert before <= set(images)
        before = set(images)
    np.testing.assert_array_equal(images, np.arange(60_000))
    few = [set(select_balanced(numbered, 100, seed).images) for seed in (3, 3, 4)]
    assert few[0] == few[1] != few[2]


def test_a_fifth_of_the_images_validates(splits):
    numbered = splits[0]._replace(images=np.arange(60_000))
    rest, test_split, validation = hold_out_a_fifth(300)(numbered, splits[1], 3)
    assert test_split is splits[1]
    np.testing.assert_array_equal(np.bincount(validation.labels), [6] * 10)
    selected = select_balanced(numbered, 300, 3)
    np.testing.assert_array_equal(np.union1d(rest.images, validation.images), selected.images)
    assert len(rest.labels) == 240


def test_table_and_conclusion_are_those_of_the_runs():
    runs = made_up_runs((100, 300, 1_000), dense=dense, conv=conv)
    gain = sample_efficiency.gains(runs, LABELS)
    _, table, sentence = sample_efficiency.report(runs, gain, LABELS).split("\n\n")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert [row[0] for row in rows[2:]] == ["100", "300", "1,000"]
    assert rows[2][1].startswith("+3.27 [")  # 3.01 and 3.51, in whole images
    assert rows[2][2].startswith("2.1 [")
    assert rows[4][2].startswith("more than ")  # dense has not been tried with 2,000
    gains = ", ".join(f"{row[1].split(', p')[0]} ({row[0]} images)" for row in rows[2:])
    assert f"the gain of conv over dense is {gains}" in sentence
    clear = [f"{row[2]} ({row[0]} images)" for row in rows[2:4] if float(re.findall(r"[\d.]+", row[2])[1]) > 1]
    assert f"; the data-efficiency ratio of conv is {', '.join(clear)} (2 seeds" in sentence


def test_a_difference_that_is_not_clear_is_called_so():
    runs = made_up_runs(
        (100, 300), dense=dense, conv=lambda n, seed: dense(n, seed) + (18 * seed - 9 if n == 100 else 200)
    )
    sentence = sample_efficiency.report(runs, sample_efficiency.gains(runs, LABELS), LABELS).split("\n\n")[2]
    assert re.search(r"gain of conv over dense is \+2\.00 \[.*\] \(300 images\)", sentence)
    assert "its 95% interval includes 0 with 100 images" in sentence


def test_sizes_and_models_without_runs_are_left_out():
    runs = made_up_runs((100, 300), dense=dense, conv=conv)
    runs |= made_up_runs((1_000,), dense=dense)
    assert sample_efficiency.models_and_sizes(runs) == (["dense", "conv"], [100, 300])
    gains = sample_efficiency.gains(runs, LABELS)
    sample_efficiency.plot(runs, gains)
    assert "1,000" not in sample_efficiency.report(runs, gains, LABELS)
    alone = sample_efficiency.report(made_up_runs((100, 300), dense=dense), {}, LABELS)
    assert "conv |" not in alone
    assert alone.endswith("|")  # no sentence
