import numpy as np

import sample_efficiency
from lab.changes.sample_efficiency import hold_out_a_fifth, select_balanced
from lab.study.records import Run
from lab.study.runs import RunKey
from lab.training.recipe import Recipe

LABELS = np.zeros(10_000, np.uint8)


def made_up_runs(sizes, **rights):
    """Return runs of two seeds. Args: sizes; how many of 10,000 images each model gets right"""
    runs = {}
    for n in sizes:
        for name, right in rights.items():
            for seed in range(2):
                wrong = np.uint8(np.arange(10_000) >= right + n + seed)
                record = dict.fromkeys(("test_accuracy", "train_accuracy"), 1 - wrong.mean())
                runs[RunKey(f"{name}-{n}", seed, Recipe())] = Run(record, {"predicted": wrong}, LABELS)
    return runs


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


def test_sizes_and_models_without_runs_are_left_out():
    runs = made_up_runs((100, 300), dense=4_000, conv=5_000)
    runs |= made_up_runs((1_000,), dense=4_000)
    assert sample_efficiency.models_and_sizes(runs) == (["dense", "conv"], [100, 300])
    gains = sample_efficiency.gains(runs)
    assert len(sample_efficiency.plot(runs, gains).axes) == 2
    report = sample_efficiency.report(runs, gains)
    assert {"100", "300"} <= {line.split()[1] for line in report.splitlines() if line.startswith("| ")}
    assert "1,000" not in report
    alone = sample_efficiency.report(made_up_runs((100, 300), dense=4_000), {})
    assert "conv |" not in alone
    assert alone.endswith("|")  # no sentence
