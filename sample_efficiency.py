"""Experiment 6: whether the convolution helps with little data.

With 30,000 training images, conv is ahead by 1.33 [0.42, 2.23] points; with 10,000 it is behind by 0.55 [0.26, 0.84]
(results/sample_efficiency.md).

Test accuracy of four models trained on 100 to 60,000 images, all with the same number of gradient steps, so that little
data is not also little training. The runs with all 60,000 are experiment 5's; the 120 others take two hours and a half
on two cores, and may be stopped and started again.

python sample_efficiency.py
python sample_efficiency.py --equal-epochs    # five epochs at every size
python sample_efficiency.py --from-results    # the published runs: figure, table and sentence in seconds
"""

from dataclasses import replace

import numpy as np

import convolution_gain
from lab import cli, compare, figures
from lab.data import load_test_data
from lab.statistics import mean_interval
from lab.study import collect_predictions

SIZES = (100, 300, 1_000, 3_000, 10_000, 30_000, 60_000)  # numbers of training images


def select_balanced(n):
    """Return a function that selects n training images, as many of each class; the subsets of a seed are nested."""

    def select(labels, count, seed):
        order = np.random.default_rng(seed).permutation(len(labels))
        by_class = [order[labels[order] == label][: n // 10] for label in range(10)]
        return np.resize(np.sort(np.concatenate(by_class)), count)  # repeated if there are fewer

    return select


def collect_predicted(model, test_split, prepare):
    """Return the predicted class of each test image only."""
    return {"predicted": collect_predictions(model, test_split, prepare)["predicted"]}


MODELS = {name: convolution_gain.VARIANTS[name] for name in ("dense", "conv", "fully-connected", "conv-shuffled")}
NAMES = {(model, n): f"{model}-{n}" for n in SIZES for model in MODELS}
VARIANTS = {
    name: replace(MODELS[model], select_train=select_balanced(n), collect=collect_predicted)
    for (model, n), name in NAMES.items()
}


def models_and_sizes(runs):
    """Return the models that have runs, and the numbers of training images for which all of them have one."""
    present = compare.variant_names(runs)
    models = [model for model in MODELS if any(NAMES[model, n] in present for n in SIZES)]
    return models, [n for n in SIZES if all(NAMES[model, n] in present for model in models)]


def accuracies(runs, model):
    """Return a model's test accuracies in percent, float (seeds, sizes)."""
    return np.transpose([compare.accuracies(runs, NAMES[model, n], "test") for n in models_and_sizes(runs)[1]])


def data_multiplier(sizes, ours, theirs):
    """Return how many times the data theirs needs to be as accurate as ours, at each size: mean, low and high, or None.

    The mean is read off a line through the mean accuracies of theirs over the logarithm of the size. The interval comes
    from the difference to that line, its slope taken as known (the delta method): that difference varies by seed and by
    image, as in `lab.statistics.crossed_estimate`. If ours is significantly beyond theirs at any size, mean and high are
    infinite and low is how far theirs was tried. None if ours is out of reach otherwise.

    Args: sizes; whether two models are correct, (sizes, seeds, images)
    """
    multipliers, places = [], np.log(sizes)
    rising = np.maximum.accumulate(theirs.mean(axis=(1, 2)))
    for n, correct in zip(sizes, ours, strict=True):
        value = correct.mean()
        beyond = crossed_estimate(correct.astype(np.int8) - theirs[-1])
        if n < sizes[-1] and beyond.low > 0:
            multipliers.append((np.inf, sizes[-1] / n, np.inf))
        elif not rising[0] <= value <= rising[-1]:
            multipliers.append(None)
        else:
            k = max(1, np.searchsorted(rising, value))  # the first size at which theirs is as accurate
            share = (value - rising[k - 1]) / (rising[k] - rising[k - 1])
            slope = (rising[k] - rising[k - 1]) / (places[k] - places[k - 1])
            line = (1 - share) * theirs[k - 1] + share * theirs[k]
            mean, low, high, _ = crossed_estimate((correct - line) / slope)
            center = places[k - 1] + share * (places[k] - places[k - 1]) - np.log(n)
            multipliers.append(tuple(np.exp([center, center + low - mean, center + high - mean])))
    return multipliers


def gains(runs, test_labels):
    """Return by how many points conv is ahead of dense at each size: dict of (mean, low, high)."""
    pairs = {n: (NAMES["conv", n], NAMES["dense", n]) for n in models_and_sizes(runs)[1]}
    return compare.differences(runs, pairs, "test", test_labels)


def report(runs, gain, equal):
    """Return the table and the conclusion, in Markdown. Args: `equal`, what the models have as much of at every size"""
    models, sizes = models_and_sizes(runs)
    multipliers = dict.fromkeys(sizes)
    if gain:
        values = data_multiplier(sizes, accuracies(runs, "conv"), accuracies(runs, "dense"))
        multipliers = dict(zip(sizes, values, strict=True))
    rows = []
    for n in sizes:
        means = [compare.format_mean(compare.accuracies(runs, NAMES[model, n], "test")) for model in models]
        ratio = format_multiplier(multipliers[n]) if multipliers[n] else "-"
        rows.append([f"{n:,}", *means, compare.format_signed_ci(gain[n]) if gain else "-", ratio])
    labels = [MODELS[model].label for model in models]
    header = [f"images, equal {equal}", *labels, "conv - dense, points", "data-efficiency ratio"]
    table = compare.markdown_table(header, rows)
    return f"{table}\n\n{conclusion(gain, multipliers)} ({compare.format_seeds(runs)})." if gain else table


def conclusion(gain, multipliers):
    """Return the conclusion in one sentence."""
    clear = [f"{compare.format_signed_ci(each)} with {n:,}" for n, each in gain.items() if each[1] * each[2] > 0]
    unclear = [f"{n:,}" for n, each in gain.items() if each[1] * each[2] <= 0]
    ratios = [f"{format_multiplier(each)} with {n:,}" for n, each in multipliers.items() if each]
    gains = ", ".join(clear) or "nothing significant with any number of"
    text = f"In points, one convolution buys {gains} training images"
    text += f"; there is no significant difference at {', '.join(unclear)}" if unclear else ""
    return text + (f"; the data-efficiency ratio is {', '.join(ratios)}" if ratios else "")


def format_multiplier(multiplier):
    """Return (mean, low, high) of a ratio as text."""
    return ("more than {1:.0f}" if np.isinf(multiplier[0]) else "{:.1f} [{:.1f}, {:.1f}]").format(*multiplier)


def plot(runs, gain, equal):
    """Draw accuracy, and how far conv is ahead, against the number of training images. Returns: matplotlib Figure"""
    import matplotlib.pyplot as plt

    models, sizes = models_and_sizes(runs)
    figure, axes = plt.subplots(1, 2 if gain else 1, figsize=(12, 4.6), layout="constrained", squeeze=False)
    left, right = axes[0, 0], axes[0, -1]
    for model, style in zip(MODELS, ("C0--", "C1-", "C2-.", "C3:"), strict=True):
        if model in models:
            figures.plot_curve(left, sizes, accuracies(runs, model), MODELS[model].label, style)
    left.set_ylabel("test accuracy, %: mean and 95% interval over seeds")
    left.legend(loc="lower right", frameon=False)
    if gain:
        means, lows, highs = np.transpose(list(gain.values()))
        right.errorbar(list(gain), means, yerr=[means - lows, highs - means], fmt="ko-", capsize=4, markersize=4)
        right.axhline(0, color="0.7", linewidth=1)
        right.set_ylabel("conv - dense, points, with 95% interval")
    for ax in axes.flat:
        ax.set(xscale="log", xlabel=f"training images, equal {equal}")
        ax.set_xticks(sizes, [f"{n / 1000:g}k" if n >= 1000 else f"{n}" for n in sizes])
        ax.minorticks_off()
    return figure


def main(argv=None):
    """Do the runs that are missing; print table and conclusion, draw the figure."""
    flags = cli.study_parser(__doc__, MODELS, seeds=5)
    flags.add_argument("--equal-epochs", action="store_true", help="equal epochs instead of equal gradient steps")
    options = cli.parse(flags, argv)
    equal = "epochs" if options.equal_epochs else "gradient steps"
    name = "sample_efficiency_equal_epochs.png" if options.equal_epochs else "sample_efficiency.png"
    path = figures.path_to_save(options, name)
    arms = [
        (NAMES[model, n], replace(options.recipe, train_images=n) if options.equal_epochs else options.recipe)
        for n in SIZES[:-1]
        if n <= options.recipe.train_images
        for model in options.variants
    ]
    runs = cli.study_runs("sample_efficiency", options, arms)
    if options.recipe.train_images == SIZES[-1]:
        seeds = {key.seed for key in runs}
        with_all_images = cli.study_runs("convolution_gain", options, retrain=False)
        for key, run in with_all_images.items():
            if key.seed in seeds:
                runs[key._replace(variant=NAMES[key.variant, SIZES[-1]])] = run
    gain = gains(runs, load_test_data(options.data_dir).first(options.recipe.test_images).labels)
    figures.save(plot(runs, gain, equal), path)
    print(report(runs, gain, equal))
    figures.show()


if __name__ == "__main__":
    cli.run_main(main)
