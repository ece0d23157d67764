"""Experiment 8: the gain against the number of training images.

Test accuracy of four models trained on 100 to 60,000 images, a fifth of which is held out and decides when to stop;
140 runs, which may be stopped and started again.

python sample_efficiency.py
python sample_efficiency.py --from-results    # the published runs: figure, table and sentence in seconds
"""

import logging
from dataclasses import replace

import numpy as np

import convolution_gain
from lab.analysis import compare, figures
from lab.analysis.statistics import estimate_data_ratios
from lab.changes.sample_efficiency import hold_out_a_fifth
from lab.guard.errors import LabError, run_main
from lab.study import command_line
from lab.study.runs import RunKey
from lab.training.data import load_data
from lab.training.predictions import collect_classes

logger = logging.getLogger(__name__)

SIZES = (100, 300, 1_000, 3_000, 10_000, 30_000, 60_000)  # numbers of training images
MODELS = {name: convolution_gain.MODELS[name] for name in ("dense", "conv", "fully-connected", "conv-shuffled")}
VARIANTS = {
    f"{name}-{n}": replace(model, select=hold_out_a_fifth(n), collect=collect_classes)
    for n in SIZES
    for name, model in MODELS.items()
}
CHAIN = {  # not planned
    "fully connected - dense": ("fully-connected", "dense"),
    "(conv, shuffled) - fully connected": ("conv-shuffled", "fully-connected"),
    "conv - (conv, shuffled)": ("conv", "conv-shuffled"),
    "conv - fully connected": ("conv", "fully-connected"),
}
PROTOCOL = "20% held out for early stopping"


def models_and_sizes(runs):
    """Return the models that have runs, and the numbers of training images for which all of them have one."""
    names = compare.variant_names(runs)
    models = list(dict.fromkeys(name.rpartition("-")[0] for name in names))
    return models, [n for n in SIZES if all(f"{model}-{n}" in names for model in models)]


def accuracies_by_size(runs, model):
    """Return a model's test accuracies in percent, float (seeds, sizes)."""
    return np.transpose([compare.accuracies(runs, f"{model}-{n}", "test") for n in models_and_sizes(runs)[1]])


def gains(runs):
    """Return by how many points each other model is ahead of dense at each size: dict of Estimate by (model, size)."""
    models, sizes = models_and_sizes(runs)
    pairs = {(model, n): {f"{model}-{n}": 1, f"dense-{n}": -1} for model in models if model != "dense" for n in sizes}
    found = compare.estimates(runs, pairs)
    return {key: on_test for key, (on_test, *_) in found.items()}


def report(runs, gain):
    """Return the tables and the conclusion, in Markdown."""
    models, sizes = models_and_sizes(runs)
    columns = [map(compare.format_mean, accuracies_by_size(runs, model).T) for model in models]
    rows = [[f"{n:,}", *means] for n, *means in zip(sizes, *columns, strict=True)]
    header = [f"images, {PROTOCOL}", *(f"{MODELS[model].label}, test accuracy in %" for model in models)]
    parts = [compare.markdown_table(header, rows)]
    if ("conv", sizes[0]) in gain:
        correct = (np.stack([compare.is_correct(runs, f"{name}-{n}") for n in sizes]) for name in ("conv", "dense"))
        multipliers = dict(zip(sizes, estimate_data_ratios(sizes, *correct), strict=True))
        others = [model for model in models if model != "dense"]
        rows = []
        for n in sizes:
            columns = compare.format_tests([gain[model, n] for model in others])
            rows.append([f"{n:,}", *columns, format_multiplier(multipliers[n])])
        header = ["images: points ahead of dense, p (Holm)", *(MODELS[model].label for model in others)]
        parts.append(compare.markdown_table([*header, "data-efficiency ratio of conv"], rows))
        parts += [chain_table(runs)] if set(models) == set(MODELS) else []
        text = conclusion(gain, sizes, multipliers)
        parts.append(f"{text} ({compare.format_seeds(runs)}; {compare.NOT_ADJUSTED}).")
    return "\n\n".join(parts)


def chain_table(runs):
    """Return the steps of the chain at each size, and conv - fully connected, which have the same size, in Markdown."""
    _, sizes = models_and_sizes(runs)
    pairs = {(n, step): {f"{a}-{n}": 1, f"{b}-{n}": -1} for n in sizes for step, (a, b) in CHAIN.items()}
    found = compare.estimates(runs, pairs)
    rows = [[f"{n:,}", *(compare.format_signed_ci(found[n, step][0]) for step in CHAIN)] for n in sizes]
    return compare.markdown_table(["images: points (not planned, no tests)", *CHAIN], rows)


def conclusion(gain, sizes, multipliers):
    """Return the conclusion in one sentence."""
    by_size = {n: gain["conv", n] for n in sizes}
    clear = [
        f"{compare.format_signed_ci(each)} ({n:,} images)" for n, each in by_size.items() if each.low * each.high > 0
    ]
    unclear = [f"{n:,}" for n, each in by_size.items() if each.low * each.high <= 0]
    ratios = [
        f"{format_multiplier(each)} ({n:,} images)" for n, each in multipliers.items() if not each[1] <= 1 <= each[2]
    ]
    parts = [f"the gain of conv over dense is {', '.join(clear)}"] if clear else []
    parts += [f"its 95% interval includes 0 with {', '.join(unclear)} images"] if unclear else []
    parts += [f"the data-efficiency ratio of conv is {', '.join(ratios)}"] if ratios else []
    return f"In points, {'; '.join(parts)}"


def format_multiplier(multiplier):
    """Return (mean, low, high) of a ratio as text."""
    mean, low, high = multiplier
    if np.isinf(mean):
        return f"more than {low:.1f}"
    return f"{mean:.1f} [{low:.1f}, {'∞' if np.isinf(high) else f'{high:.1f}'}]"


def plot(runs, gain):
    """Draw accuracy, and how far the others are ahead of dense, against the training images. Returns: Figure"""
    models, sizes = models_and_sizes(runs)
    figure = figures.new((12, 4.6))
    axes = figure.subplots(1, 2 if gain else 1, squeeze=False)
    left, right = axes[0, 0], axes[0, -1]
    for model in models:
        figures.plot_curve(left, sizes, accuracies_by_size(runs, model), MODELS[model].label, figures.STYLES[model])
    left.set_ylabel(f"test accuracy, %: mean [95% CI, {compare.seed_count(runs)}]")
    left.legend(loc="lower right", frameon=False)
    for shift, model in enumerate(dict.fromkeys(model for model, _ in gain)):
        x = np.array(sizes) * 1.06 ** (shift - 1)  # side by side
        estimates = [gain[model, n] for n in sizes]
        figures.plot_estimates(right, x, estimates, figures.STYLES[model], capsize=3, markersize=4)
    if gain:
        right.axhline(0, color="0.7", linewidth=1)
        right.set_ylabel(f"points ahead of dense [95% CI, {compare.seed_count(runs)}]")
    if ("conv", sizes[-1]) in gain:
        right.set_title(f"conv - dense: {gain['conv', sizes[-1]].mean:+.2f} points with {sizes[-1]:,} images")
    for ax in axes.flat:
        ax.set(xscale="log", xlabel=f"training images, {PROTOCOL}")
        ax.set_xticks(sizes, [f"{n / 1000:g}k" if n >= 1000 else f"{n}" for n in sizes])
        ax.minorticks_off()
    return figure


def main(argv=None):
    """Run what is missing; print tables and conclusion, draw the figure."""
    without = ["--epochs", "--train-images"]  # a validation set decides, and every size is tried
    parser = command_line.study_parser(__doc__, MODELS, seeds=5, without=without)
    options = command_line.parse(parser, argv)
    path = figures.path_to_save(options, "sample_efficiency.png")
    plan = [
        RunKey(f"{model}-{n}", seed, options.recipe)
        for seed in command_line.seeds(options)
        for n in usable_sizes(options)
        for model in options.variants
    ]
    runs = command_line.study_runs(__file__, options, plan)
    gain = gains(runs)
    print(report(runs, gain), flush=True)
    figures.save(plot(runs, gain), path)
    figures.show()


def usable_sizes(options):
    """Return the numbers of training images that a data set has, balanced by class; name those that it has not."""
    if options.from_results:
        return SIZES
    labels = load_data(options.dataset)[0].labels
    largest = 10 * np.bincount(labels, minlength=10).min()
    left_out = [f"{n:,}" for n in SIZES if n > largest]
    reason = f"{', '.join(left_out)} images; {options.dataset.name} has {largest:,} of ten classes in equal numbers"
    if len(left_out) == len(SIZES):
        raise LabError(f"cannot draw {reason}")
    if left_out:
        logger.info("left out: %s", reason)
    return [n for n in SIZES if n <= largest]


if __name__ == "__main__":
    run_main(main)
