import json
import re

import numpy as np
import pytest
from conftest import run_script

import convolution_gain
import equal_tuning
from lab import study
from lab.data import Split
from lab.plumbing.results import Run
from lab.recipe import Recipe
from lab.study import RunKey

RECIPE = Recipe()


def test_a_search_cannot_see_test_images(splits):
    """Its split ends in training images: no test image or label decides any number of it."""
    (train_images, train_labels), test_split = splits
    train_split = Split(np.arange(60_000), train_labels)  # numbers in place of images: one image may be there twice
    for name in equal_tuning.SEARCHES:
        variant = equal_tuning.VARIANTS[name]
        selected, validation = variant.select(train_split, None, 100)  # it works without any
        np.testing.assert_array_equal(np.union1d(selected.images, validation.images), train_split.images)
        assert (len(selected.labels), len(validation.labels)) == (50_000, 10_000)
        np.testing.assert_array_equal(np.bincount(validation.labels), [1_000] * 10)
        key = RunKey(name, 100, RECIPE)
        other_images = test_split._replace(images=255 - test_split.images, labels=9 - test_split.labels)
        described = [study._describe_run(variant, key, (splits[0], each)) for each in (test_split, other_images)]
        assert described[0] == described[1]
    splits_of_searches = [variant.select(train_split, None, seed)[1].images for seed in (100, 101, 101)]
    assert len({each.tobytes() for each in splits_of_searches}) == 2


def test_the_trials_are_drawn_from_one_space_and_decided_by_their_numbers():
    recipes = [
        equal_tuning.draw_recipe(RECIPE, search, trial, (3, 6, 12)) for search in range(50) for trial in range(20)
    ]
    assert recipes[0] == equal_tuning.draw_recipe(RECIPE, 0, 0, (3, 6, 12))
    assert len(set(recipes)) > 950
    rates = np.log([recipe.learning_rate for recipe in recipes])
    assert np.exp([rates.min(), rates.max()]) == pytest.approx([1e-4, 3e-3], rel=0.02)
    assert np.quantile(rates, 0.5) == pytest.approx(np.log((1e-4 * 3e-3) ** 0.5), abs=0.15)
    for name, values in {"dropout": (0, 0.2, 0.5), "weight_decay": (0, 1e-4, 1e-2), "epochs": (3, 6, 12)}.items():
        drawn = [getattr(recipe, name) for recipe in recipes]
        assert set(drawn) == set(values)
        assert min(drawn.count(value) for value in values) > 280
    assert {recipe.cosine_decay for recipe in recipes} == {True}


def made_up_run(accuracy, predicted=None, seconds=1.0):
    record = {"test": {"accuracy": accuracy}, "history": {"seconds": [seconds]}}
    return Run(record, {} if predicted is None else {"predicted": predicted})


def test_the_winner_is_the_best_on_the_validation_set():
    recipes = [equal_tuning.draw_recipe(RECIPE, 0, trial, (3,)) for trial in range(3)]
    trials = {
        RunKey("dense-search", 100 + search, recipe): made_up_run(accuracy)
        for search, accuracies in enumerate([(0.8, 0.9, 0.7), (0.7, 0.6, 0.5)])
        for recipe, accuracy in zip(recipes, accuracies, strict=True)
    }
    winners = {cell: recipe for cell, (_, _, recipe) in equal_tuning.find_winners(trials).items()}
    assert winners == {("dense", 0): recipes[1], ("dense", 1): recipes[0]}
    best, seconds = equal_tuning.best_after(trials, "dense")
    np.testing.assert_allclose(best, 100 * np.array([[0.8, 0.8667, 0.9], [0.6, 0.6667, 0.7]]), atol=0.01)
    assert seconds == 1
    keys = equal_tuning.plan_trainings(equal_tuning.find_winners(trials))
    assert [(key.variant, key.seed, key.recipe) for key in keys] == [
        *(("dense", seed, recipes[1]) for seed in (0, 1)),
        *(("dense", seed, recipes[0]) for seed in (2, 3)),
    ]


def test_the_gain_is_paired_by_search_and_by_image():
    labels = np.arange(100) % 10
    runs = {}
    for seed in range(4):
        for name, errors in (("dense", 20 + seed), ("conv", 10)):
            predicted = np.where(np.arange(100) < errors, (labels + 1) % 10, labels)
            runs[RunKey(name, seed, RECIPE)] = made_up_run(1 - errors / 100, predicted)
    difference = equal_tuning.difference(runs, ("conv", "dense"), labels)
    np.testing.assert_allclose(difference.mean(axis=1), [10.5, 12.5])
    found = equal_tuning.compare_models(runs, runs, labels)
    assert found["tuned: conv - dense"].mean == pytest.approx(11.5)
    assert found["tuned - untuned: conv - dense"][:3] == (0, 0, 0)
    assert "the gain of conv over dense is +11.50 [" in equal_tuning.conclusion(runs, found)


def test_the_recipe_of_a_trial_reaches_the_training():
    from lab.recipe import compile_model, initialize_model

    recipe = Recipe(epochs=2, train_images=640, cosine_decay=True, weight_decay=0.01, dropout=0.5, learning_rate=0.002)
    model = initialize_model(convolution_gain.VARIANTS["conv"].build_model, recipe, 0)
    compile_model(model, recipe)
    assert [layer.rate for layer in model.layers if type(layer).__name__ == "Dropout"] == [0.5]
    assert model.optimizer.weight_decay == 0.01
    rates = [float(model.optimizer._learning_rate(step)) for step in (0, 20, 40)]
    assert rates == pytest.approx([0.002, 0.001, 0], abs=1e-9)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuning")
    arguments = ("--smoke", "--seeds", 2, "--variants", "dense", "conv", "--output-dir", folder)
    return folder, run_script("equal_tuning.py", *arguments)


def test_the_experiment_at_smoke_size(smoke):
    folder, process = smoke
    assert process.returncode == 0, process.stderr
    assert (folder / "smoke" / "equal_tuning.png").is_file()
    runs = [Run.from_file(path).record for path in (folder / "smoke" / "equal_tuning").iterdir()]
    sizes = sorted((run["train"]["n"], run["test"]["n"]) for run in runs)
    assert sizes == [(1_668, 332)] * 8 + [(2_000, 500)] * 8
    assert re.search(r"tuned gain is [+-]\S+ \[.*\]", process.stdout)
    assert len({json.dumps(run["made_of"]["training code"]) for run in runs}) == 1
