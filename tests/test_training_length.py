from dataclasses import replace

import numpy as np
import pytest

import training_length
from lab.changes.training_length import hold_out
from lab.study import choice, command_line
from lab.study.records import Run
from lab.study.runs import RunKey
from lab.training.data import Split
from lab.training.recipe import Recipe


@pytest.mark.parametrize(("n", "held_out"), [(60_000, 10_000), (2_000, 400)])
def test_each_class_is_held_out_in_the_same_proportion(n, held_out):
    split = Split(np.arange(n), np.arange(n) % 10)
    rest, held = hold_out(split, None, 20)
    assert len(held.labels) == held_out
    np.testing.assert_array_equal(np.bincount(held.labels), held_out // 10)
    np.testing.assert_array_equal(np.sort([*rest.images, *held.images]), np.arange(n))
    assert (held.images != hold_out(split, None, 21)[1].images).any()


class Options:
    smoke, from_results, seed, seeds, recipe, variants = False, False, 20, 5, Recipe(), ["dense", "conv"]


def made_up_study(suits, missing=None):
    """Return what to have instead of `study_runs`: the nearer a recipe is to what suits a model, the more accurate."""

    def study_runs(script, options, plan):
        runs = {}
        for key in plan:
            name, tried = key.variant.removesuffix("-held-out"), (key.recipe.epochs, key.recipe.learning_rate)
            if (name, *tried) != missing:
                accuracy = 0.9 - 0.01 * np.abs(np.log(np.divide(tried, suits[name]))).sum()
                runs[key] = Run({"test_accuracy": accuracy}, {}, np.empty(0))
        return runs

    return study_runs


@pytest.mark.parametrize(
    ("epochs", "tried", "chosen"),
    [(5, [2, 5, 15, 45], 5), (45, [2, 5, 15, 45, 135], 45), (200, [2, 5, 15, 45, 135], 135)],
)
def test_the_longest_is_not_chosen_before_a_longer_one_is_tried(epochs, tried, chosen, monkeypatch):
    study, done = made_up_study({"dense": (15, 0.003), "conv": (epochs, 0.0003)}), []
    monkeypatch.setattr(command_line, "study_runs", lambda *given: done.extend(given[2]) or study(*given))
    found, best = training_length.choose(Options)
    assert (best["conv"].learning_rate, best["conv"].epochs, best["conv"].cosine_decay) == (0.0003, chosen, True)
    assert (best["dense"].learning_rate, best["dense"].epochs) == (0.003, 15)
    assert sorted({recipe.epochs for name, recipe in found if name == "conv"}) == tried
    assert sorted({recipe.epochs for name, recipe in found if name == "dense"}) == [2, 5, 15, 45, 135]
    assert {key.seed for key in done} == {20, 21}
    assert all(key.variant.endswith("-held-out") for key in done)  # the test images are not read
    assert len(done) == len(set(done))


@pytest.mark.parametrize("missing", [(2, 0.001), (45, 0.0003), (135, 0.0003)])
def test_a_model_without_all_its_published_runs_is_not_chosen_for(missing, monkeypatch):
    study = made_up_study({"dense": (15, 0.003), "conv": (200, 0.0003)}, missing=("conv", *missing))
    monkeypatch.setattr(command_line, "study_runs", study)
    monkeypatch.setattr(Options, "from_results", True)
    assert training_length.choose(Options)[1].keys() == {"dense"}
    monkeypatch.setattr(Options, "variants", ["conv"])
    assert training_length.choose(Options)[1] == {}


def test_final_runs_are_told_apart_by_their_recipe(monkeypatch):
    asked = []
    monkeypatch.setattr(command_line, "study_runs", lambda *given: asked.extend(given[2]) or dict.fromkeys(given[2]))
    long = Recipe(epochs=45, cosine_decay=True)
    runs = training_length.final_runs(Options, {"dense": replace(long, epochs=135), "conv": long})
    names = {key.variant for key in runs}
    assert names == {"dense", "conv", "local", "dense, original recipe", "conv, original recipe"}
    assert len(runs) == 25
    assert {key.recipe for key in runs if key.variant == "local"} == {long}
    assert RunKey("dense, original recipe", 24, Recipe()) in runs
    assert {key.variant for key in asked[-5:]} == {"local"}  # last: it is not in the gain


def test_the_best_recipe_is_that_of_the_highest_mean():
    short, long = Recipe(), Recipe(epochs=9)
    found = {("conv", short): [90, 80], ("conv", long): [86, 86], ("dense", short): [99, 99]}
    assert choice.best_recipe(found, "conv") == long
