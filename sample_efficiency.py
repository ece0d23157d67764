"""Experiment 6: whether the convolution helps with little data.

It takes some 30,000 images: with those conv is ahead by 1.33 [0.38, 2.27] points, with 10,000 it is behind by
0.55 [0.05, 1.04] (results/sample_efficiency.md).

Test accuracy of four models trained on 100 to 60,000 images, all with the same number of gradient steps, so that little
data is not also little training. The runs with all 60,000 are experiment 5's; the 120 others take two hours and a half
on two cores, and may be stopped and started again.

python sample_efficiency.py
python sample_efficiency.py --equal-epochs    # five epochs of whatever data there is
python sample_efficiency.py --from-results    # the published runs: figure, table and sentence in seconds
"""

from dataclasses import replace

import numpy as np

import convolution_gain
from lab import cli, compare, figures, study
from lab.statistics import mean_interval

SIZES = (100, 300, 1_000, 3_000, 10_000, 30_000, 60_000)  # numbers of training images


def balanced(n):
    """Return a function that chooses among n training images, as many of each class, a seed's fewer among its more."""

    def choose(labels, count, seed):
        order = np.random.default_rng(seed).permutation(len(labels))
        of_classes = [order[labels[order] == label][: n // 10] for label in range(10)]
        return np.resize(np.sort(np.concatenate(of_classes)), count)  # again and again, where there are fewer

    return choose


def measure_predicted(model, record, *splits):
    """Return the predicted class of each test image only."""
    return {"predicted": study.measure_predictions(model, record, *splits)["predicted"]}


MODELS = {name: convolution_gain.VARIANTS[name] for name in ("dense", "conv", "wide", "conv-shuffled")}
VARIANTS = {
    f"{name}-{n}": model._replace(choose=balanced(n), measure=measure_predicted)
    for n in SIZES[:-1]
    for name, model in MODELS.items()
}


def accuracies(runs, name):
    """Return a model's test accuracies in percent, float (seeds, sizes)."""
    by_size = [compare.accuracies(runs, variant, "test") for variant in variants_of(runs, name)]
    return np.transpose(by_size)


def variants_of(runs, name):
    """Return the names of a model's variants in the order of the sizes; none if the model has no runs."""
    there = {variant.rpartition("-")[0] for variant in compare.variants_of(runs)}
    return [f"{name}-{n}" for n in sizes_of(runs)] if name in there else []


def sizes_of(runs):
    """Return the numbers of training images that all models there have run."""
    there = compare.variants_of(runs)
    names = {variant.rpartition("-")[0] for variant in there}
    return [n for n in SIZES if all(f"{name}-{n}" in there for name in names)]


def worth(sizes, ours, theirs):
    """Return how many times the data theirs needs to be as accurate as ours, at each size: mean, low and high, or None.

    Read for each seed off a line through theirs over the logarithm of the size. Where ours is beyond theirs at any
    size, by an interval that excludes 0, mean and high are infinite and low is how far theirs was tried. Otherwise None
    where a seed is out of reach, and with one seed.

    Args: numbers of images; accuracies of two models, float (seeds, sizes). The interval: Student's t of the logarithm.
    """
    times = []
    rising = np.maximum.accumulate(theirs, axis=1)
    for n, column in zip(sizes, ours.T, strict=True):
        beyond = column - rising[:, -1]
        if len(beyond) > 1 and n < sizes[-1] and mean_interval(beyond)[1] > 0:
            times.append((np.inf, sizes[-1] / n, np.inf))
        elif len(beyond) < 2 or (beyond > 0).any() or (column < theirs[:, 0]).any():
            times.append(None)
        else:
            needed = [reached(np.log(sizes), *each) for each in zip(rising, column, strict=True)]
            times.append(tuple(np.exp(mean_interval(needed - np.log(n)))))
    return times


def reached(x, rising, value):
    """Return where a line through points that never fall first reaches a value."""
    steps = np.append(True, np.diff(rising) > 0)
    return np.interp(value, rising[steps], x[steps])


def gains_of(runs, test_labels):
    """Return by how many points conv is ahead of dense at each size: dict of (mean, low, high)."""
    gains = {}
    for n in sizes_of(runs):
        gains |= compare.differences(runs, {n: (f"conv-{n}", f"dense-{n}")}, "test", test_labels)
    return gains


def report(runs, gains, equal):
    """Return the table and the sentence, in Markdown. Args: `equal`, what the models have as much of at every size"""
    sizes = sizes_of(runs)
    names = [name for name in MODELS if variants_of(runs, name)]
    times = dict.fromkeys(sizes)
    if gains:
        times = dict(zip(sizes, worth(sizes, accuracies(runs, "conv"), accuracies(runs, "dense")), strict=True))
    rows = [
        [
            f"{n:,}",
            *(compare.mean_text(compare.accuracies(runs, f"{name}-{n}", "test")) for name in names),
            compare.signed(gains[n]) if gains else "-",
            times_text(times[n]) if times[n] else "-",
        ]
        for n in sizes
    ]
    header = [
        f"images, equal {equal}",
        *(MODELS[name].label for name in names),
        "conv - dense, points",
        "worth times the data",
    ]
    table = compare.markdown(header, rows)
    return f"{table}\n\n{sentence(gains, times)} ({compare.seeds_text(runs)})." if gains else table


def sentence(gains, times):
    """Return the conclusion in one sentence."""
    clear = [f"{compare.signed(gain)} with {n:,}" for n, gain in gains.items() if gain[1] * gain[2] > 0]
    unclear = [f"{n:,}" for n, gain in gains.items() if gain[1] * gain[2] <= 0]
    worth_it = [f"{times_text(times[n])} with {n:,}" for n in times if times[n]]
    text = (
        f"In points, one convolution buys {', '.join(clear)} training images"
        if clear
        else "One convolution buys nothing sure"
    )
    text += f"; the interval holds 0 with {', '.join(unclear)}" if unclear else ""
    return text + (f"; in times the data it is worth {', '.join(worth_it)}" if worth_it else "")


def times_text(times):
    """Return (mean, low, high) of a factor in words."""
    return "more than {1:.0f}".format(*times) if np.isinf(times[0]) else "{:.1f} [{:.1f}, {:.1f}]".format(*times)


def plot(runs, gains, equal):
    """Draw accuracy, and how far conv is ahead, against the number of training images. Returns: matplotlib Figure"""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2 if gains else 1, figsize=(12, 4.6), layout="constrained", squeeze=False)
    left, right = axes[0, 0], axes[0, -1]
    for name, style in zip(MODELS, ("C0--", "C1-", "C2-.", "C3:"), strict=True):
        if variants_of(runs, name):
            figures.curve(left, sizes_of(runs), accuracies(runs, name), MODELS[name].label, style)
    left.set_ylabel("test accuracy, %: mean and 95% interval over seeds")
    if gains:
        means, lows, highs = np.transpose(list(gains.values()))
        right.errorbar(list(gains), means, yerr=[means - lows, highs - means], fmt="ko-", capsize=4, markersize=4)
        right.axhline(0, color="0.7", linewidth=1)
        right.set_ylabel("conv - dense, points, with 95% interval")
    for ax in axes.flat:
        ax.set(xscale="log", xlabel=f"training images, equal {equal}")
        ax.set_xticks(sizes_of(runs), [f"{n / 1000:g}k" if n >= 1000 else f"{n}" for n in sizes_of(runs)])
        ax.minorticks_off()
    figures.label_ends(left)
    return figure


def all_images(runs, seeds):
    """Return experiment 5's runs of these seeds under the names that they have here."""
    return {key._replace(variant=f"{key.variant}-{SIZES[-1]}"): run for key, run in runs.items() if key.seed in seeds}


def main(argv=None):
    """Do the runs that are missing; print table and sentence, draw the figure."""
    flags = cli.study_parser(__doc__, MODELS, seeds=5)
    flags.add_argument("--equal-epochs", action="store_true", help="equal passes over the data instead of equal steps")
    options = cli.parse(flags, argv)
    equal = "epochs" if options.equal_epochs else "gradient steps"
    name = "sample_efficiency_equal_epochs.png" if options.equal_epochs else "sample_efficiency.png"
    path = figures.path_to_save(cli.save_path(options, name), options.save)
    arms = [
        (f"{name}-{n}", replace(options.recipe, train_images=n) if options.equal_epochs else options.recipe)
        for n in SIZES[:-1]
        if n <= options.recipe.train_images
        for name in options.variants
    ]
    runs = cli.study_runs("sample_efficiency", options, arms)
    if options.recipe.train_images == SIZES[-1]:
        runs |= all_images(cli.study_runs("convolution_gain", options), {key.seed for key in runs})
    gains = gains_of(runs, cli.test_labels(options))
    figures.save(plot(runs, gains, equal), path)
    print(report(runs, gains, equal))
    figures.show()


if __name__ == "__main__":
    cli.run(main)
