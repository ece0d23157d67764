"""Experiment 9: robustness of the gain to common corruptions of the test images.

Models trained on clean images are evaluated on test images that are shifted, rotated, scaled, blurred, noisy or of
another contrast (in the manner of Hendrycks and Dietterich 2019, arXiv 1903.12261): accuracy, and consistency with the
prediction for the clean image. Five models, five seeds.

python robustness.py
python robustness.py --from-results    # the published runs: figure, tables and sentence in seconds
"""

from dataclasses import replace

import numpy as np

import convolution_gain
from lab.analysis import compare, figures
from lab.analysis.statistics import crossed_estimate
from lab.changes.robustness import CORRUPTIONS, collect_robustness
from lab.guard.errors import run_main
from lab.study import command_line
from lab.study.runs import RunKey
from lab.training.recipe import Recipe

UNITS = {"shift": "pixels", "rotation": "degrees", "blur": "pixels (SD)", "noise": "grey levels (SD)"}
UNITS |= {"scale": "factor", "contrast": "factor"}
HEADLINE_STRENGTHS = {"shift": 2, "rotation": 15, "scale": 0.79, "blur": 1, "noise": 32, "contrast": 0.5}
NAMES = ("dense", "conv", "conv-original", "conv-shuffled")
VARIANTS = {name: replace(convolution_gain.MODELS[name], collect=collect_robustness) for name in NAMES}
# dense until it fits its training images as conv does: epochs chosen with other seeds (docs/plan.md)
VARIANTS["dense-longer"] = replace(VARIANTS["dense"], label="dense, trained longer")
EPOCHS_LONGER = 90
COMPARED = {
    "conv - dense": ("conv", "dense"),
    "conv - (dense, longer)": ("conv", "dense-longer"),
    "conv - (conv, shuffled)": ("conv", "conv-shuffled"),
    "(conv, shuffled) - dense": ("conv-shuffled", "dense"),
}


def correct_fractions(runs, variant, corruption):
    """Return for which fraction of an image's views the prediction is correct, float (seeds, strengths, images)."""
    arrays = [run.arrays for run in compare.runs_for(runs, variant)]
    correct, views = ([each[f"{corruption} {name}"] for each in arrays] for name in ("correct", "views"))
    return np.stack(correct) / np.float32(views)[..., None]


def accuracies_by_strength(runs, variant, corruption):
    """Return a variant's accuracies in percent, float (seeds, strengths)."""
    return 100 * correct_fractions(runs, variant, corruption).mean(axis=2)


def consistencies(runs, variant, corruption):
    """Return how often the prediction is that for the clean image, in percent, float (seeds, strengths)."""
    return 100 * np.stack([run.arrays[f"{corruption} consistency"] for run in compare.runs_for(runs, variant)])


def gains(runs, corruption, against_clean=False):
    """Return the Estimates of COMPARED at each strength, in points: dict of lists by name.

    Args: name of a corruption; whether to subtract the difference on clean images: how much more the second loses
    """
    present, found = compare.variant_names(runs), {}
    for name, pair in COMPARED.items():
        if set(pair) <= set(present):
            first, second = (correct_fractions(runs, variant, corruption) for variant in pair)
            difference = 100 * (first - second)
            if against_clean:
                _, strengths, identity = CORRUPTIONS[corruption]
                difference = difference - difference[:, [strengths.index(identity)]]
            found[name] = [crossed_estimate(each) for each in difference.swapaxes(0, 1)]
    return found


def gain_table(title, found):
    """Return Estimates, by corruption as `gains` returns them, in Markdown; a corruption is a family of tests."""
    rows = []
    for corruption, by_name in found.items():
        strengths = CORRUPTIONS[corruption].strengths
        texts = iter(compare.format_tests([each for estimates in by_name.values() for each in estimates]))
        columns = [[next(texts) for _ in strengths] for _ in by_name]
        rows += [[format_corruption(corruption, each), *row] for each, *row in zip(strengths, *columns, strict=True)]
    return compare.markdown_table([title, *found["shift"]], rows)


def format_corruption(corruption, strength):
    """Return the label of a corruption at one strength, for tables."""
    return f"{corruption}, {UNITS[corruption]}: {strength:g}"


def report(runs):
    """Return the tables and the conclusion, in Markdown."""
    names = compare.variant_names(runs)
    labels = [VARIANTS[name].label for name in names]
    trained = [compare.format_mean(compare.accuracies(runs, name, "train")) for name in names]
    rows = {accuracies_by_strength: [["training images", *trained]], consistencies: []}
    for percentages in rows:
        for corruption, (_, strengths, _) in CORRUPTIONS.items():
            columns = [map(compare.format_mean, percentages(runs, name, corruption).T) for name in names]
            places = [format_corruption(corruption, strength) for strength in strengths]
            rows[percentages] += [list(row) for row in zip(places, *columns, strict=True)]
    titles = "accuracy in %", "consistency in %"
    parts = [compare.markdown_table([title, *labels], each) for title, each in zip(titles, rows.values(), strict=True)]
    gain = {corruption: gains(runs, corruption) for corruption in CORRUPTIONS}
    if gain["shift"]:
        change = {corruption: gains(runs, corruption, against_clean=True) for corruption in CORRUPTIONS}
        parts.append(gain_table("difference of accuracy in points, p (Holm, per corruption)", gain))
        parts.append(gain_table("minus the difference on clean images", change))
    if "conv - dense" in gain["shift"]:
        sentence = conclusion({name: each["conv - dense"] for name, each in gain.items()})
        parts.append(f"{sentence} ({compare.format_seeds(runs)}; {compare.NOT_ADJUSTED}).")
    return "\n\n".join(parts)


def conclusion(gain):
    """Return the conclusion in one sentence, at the headline strengths. Args: Estimates by corruption"""
    quoted = {"clean images": ("shift", 0)}
    quoted |= {format_corruption(name, each): (name, each) for name, each in HEADLINE_STRENGTHS.items()}
    ahead, behind, unclear = [], [], []
    for what, (name, strength) in quoted.items():
        estimate = gain[name][CORRUPTIONS[name].strengths.index(strength)]
        if estimate.low * estimate.high > 0:
            (ahead if estimate.mean > 0 else behind).append(f"{compare.format_ci(estimate)} ({what})")
        else:
            unclear.append(what)
    lists = {"ahead of dense by": ahead, "behind by": behind}
    lists["not shown to differ from dense (the 95% interval includes 0) with"] = unclear
    return "In points, conv is " + "; ".join(f"{heading} {', '.join(each)}" for heading, each in lists.items() if each)


def plot(runs):
    """Draw accuracy and, below it, consistency against the strength of each corruption. Returns: matplotlib Figure"""
    figure = figures.new((10, 10))
    axes = figure.subplots(4, 3, sharey=True)
    pairs = axes.reshape(2, 2, 3).swapaxes(1, 2).reshape(-1, 2)  # for each corruption, the upper and the lower Axes
    for pair, (name, corruption) in zip(pairs, CORRUPTIONS.items(), strict=True):
        for ax, percentages in zip(pair, (accuracies_by_strength, consistencies), strict=True):
            for variant in compare.variant_names(runs):
                label, style = VARIANTS[variant].label, figures.STYLES[variant]
                figures.plot_curve(ax, corruption.strengths, percentages(runs, variant, name), label, style)
            ax.set_ylim(0, 104)  # a band of few seeds may go beyond 100
        pair[0].set_title(name)
        pair[1].set_xlabel(f"{name}, {UNITS[name]}")
    for ax, label in zip(axes[:, 0], ("test accuracy, %", "consistency with\nthe clean image, %") * 2, strict=True):
        ax.set_ylabel(label)
    title = f"mean [95% CI, {compare.seed_count(runs)}]"
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=5, title=title)
    return figure


def main(argv=None):
    """Run what is missing; print table and conclusion, draw the figure."""
    options = command_line.parse(command_line.study_parser(__doc__, VARIANTS, seeds=5), argv)
    path = figures.path_to_save(options, "robustness.png")
    recipes = {"dense-longer": replace(options.recipe, epochs=EPOCHS_LONGER * options.recipe.epochs // Recipe().epochs)}
    plan = [
        RunKey(name, seed, recipes.get(name, options.recipe))
        for seed in command_line.seeds(options)
        for name in options.variants
    ]
    runs = command_line.study_runs(__file__, options, plan)
    print(report(runs), flush=True)
    figures.save(plot(runs), path)
    figures.show()


if __name__ == "__main__":
    run_main(main)
