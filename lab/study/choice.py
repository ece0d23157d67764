"""The choice of a recipe by the accuracy on training images that were held out: the test images have no say."""

from dataclasses import replace

import numpy as np

from lab.changes.training_length import hold_out
from lab.study import command_line
from lab.study.runs import RunKey
from lab.training.predictions import collect_classes


def held_out(variants):
    """Return the variants to choose by, as a dict: trained without some images, and evaluated on these."""
    return {
        f"{name}-held-out": replace(each, select=hold_out, collect=collect_classes) for name, each in variants.items()
    }


def held_out_accuracies(script, options, candidates, seeds):
    """Return the accuracies on held-out images in percent, one for each seed, by (variant, recipe).

    With --from-results, only of those that are published with all seeds.

    Args: as `lab.study.command_line.study_runs`; (variant, Recipe) pairs; seeds, each of another split of the images
    """
    keys = {each: [RunKey(f"{each[0]}-held-out", seed, each[1]) for seed in seeds] for each in candidates}
    runs = command_line.study_runs(script, options, [key for of_one in keys.values() for key in of_one])
    return {
        each: [100 * runs[key].record["test_accuracy"] for key in of_one]
        for each, of_one in keys.items()
        if runs.keys() >= {*of_one}
    }


def best_recipe(accuracies, name):
    """Return the Recipe of a variant with the highest mean accuracy of those tried, the first of equals."""
    tried = {recipe: np.mean(values) for (variant, recipe), values in accuracies.items() if variant == name}
    return max(tried, key=tried.get)
