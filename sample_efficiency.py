"""Experiment 6: how much the convolution helps with little data.

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

    Read for each seed off a line through theirs over the logarithm of the size. Where ours is out of its reach for all
    seeds, mean and high are infinite and low is what has been tried; where it is for some, or with one seed, None.

    Args: numbers of images; accuracies of two models, float (seeds, sizes). The interval: Student's t of the logarithm.
    """
    times = []
    rising = np.maximum.accumulate(theirs, axis=1)
    for n, column in zip(sizes, ours.T, strict=True):
        beyond = column > rising[:, -1]
        if beyond.all() and n < sizes[-1]:
            times.append((np.inf, sizes[-1] / n, np.inf))
            continue
        if len(column) < 2 or (column < theirs[:, 0]).any() or beyond.any():
            times.append(None)
            continue
        needed = [np.interp(accuracy, row, np.log(sizes)) for accuracy, row in zip(column, rising, strict=True)]
        times.append(tuple(np.exp(mean_interval(needed - np.log(n)))))
    return times


def gains_of(runs, test_labels):
    """Return by how many points conv is ahead of dense at each size: dict of (mean, low, high)."""
    gains = {}
    for n in sizes_of(runs):
        gains |= compare.differences(runs, {n: (f"conv-{n}", f"dense-{n}")}, "test", test_labels)
    return gains


def report(runs, gains):
    """Return the table and the sentence, in Markdown."""
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
    header = ["images", *(MODELS[name].label for name in names), "conv - dense, points", "worth times the data"]
    table = compare.markdown(header, rows)
    return table + "\n\n" + sentence(gains, times) if gains else table


def sentence(gains, times):
    """Return the conclusion in one sentence."""
    few, many = min(gains), max(gains)
    text = (
        f"One convolution buys {compare.signed(gains[few])} points with {few:,} training images and "
        f"{compare.signed(gains[many])} with {many:,}"
    )
    worth_it = [f"{times_text(times[n])} with {n:,}" for n in times if times[n]]
    return text + (f"; in times the data it is worth {', '.join(worth_it)}." if worth_it else ".")


def times_text(times):
    """Return (mean, low, high) of a factor in words."""
    return "more than {1:.0f}".format(*times) if np.isinf(times[0]) else "{:.1f} [{:.1f}, {:.1f}]".format(*times)


def plot(runs, gains):
    """Draw accuracy, and how far conv is ahead, against the number of training images. Returns: matplotlib Figure"""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained", width_ratios=(1.3, 1))
    for name, style in zip(MODELS, ("--", "-", "-.", ":"), strict=True):
        if variants_of(runs, name):
            figures.curve(left, sizes_of(runs), accuracies(runs, name), MODELS[name].label, style)
    left.set_ylabel("test accuracy, %: mean and 95% interval over seeds")
    if gains:
        means, lows, highs = np.transpose(list(gains.values()))
        right.errorbar(list(gains), means, yerr=[means - lows, highs - means], fmt="ko-", capsize=4, markersize=4)
    right.axhline(0, color="0.7", linewidth=1)
    right.set_ylabel("conv - dense, points, with 95% interval")
    for ax in (left, right):
        ax.set(xscale="log", xlabel="training images")
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
    path = figures.path_to_save(cli.save_path(options, "sample_efficiency.png"), options.save)
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
    figures.save(plot(runs, gains), path)
    print(report(runs, gains))
    figures.show()


if __name__ == "__main__":
    cli.run(main)
