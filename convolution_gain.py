"""Experiment 5: how many points one convolution buys, with what uncertainty, and how much of it is something else.

On the test set 2.35 [1.88, 2.83], about half of it for neighbouring pixels, nothing measurable for the model's size;
on the training set 5.88 [5.56, 6.20] (results/convolution_gain.md).

Six variants under one recipe, ten seeds each, 60 runs: an hour and a half on two cores. Each run is kept as soon as it
is done, so that the study can be stopped and started again at any time.

python convolution_gain.py
python convolution_gain.py --from-results    # the published runs: table, sentence and figures in seconds
python convolution_gain.py --short           # the models of experiments 1 and 2 only, one seed
"""

import numpy as np

import deep_learning
import deep_learning_conv
from confusion_matrix import confusion_counts, plot_matrix, row_shares
from lab import cli, compare, figures
from lab.data import CLASS_NAMES, load_splits
from lab.statistics import mean_interval
from lab.study import Key, Run, Variant, measure_predictions


def build_wide():
    """Return the untrained dense model with 3,485 hidden units, as large as conv: 2,770,585 weights."""
    from keras import Input, Sequential, layers

    return Sequential(
        [
            Input((28, 28)),
            layers.Flatten(),
            layers.Dense(3485, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(10),
            layers.Softmax(),
        ]
    )


def build_conv_1x1():
    """Return the untrained conv model with its 26 x 26 x 32 activations, each of one pixel; 2,770,378 weights."""
    from keras import Input, Sequential, layers

    return Sequential(
        [
            Input((28, 28, 1)),
            layers.Cropping2D(1),
            layers.Conv2D(32, 1, activation="relu"),
            layers.Flatten(),
            layers.Dense(128),
            layers.Dropout(0.2),
            layers.Dense(10),
            layers.Softmax(),
        ]
    )


def shuffle_pixels(images, seed):
    """Return the images with their pixels in another order, the same for all images: what was near is near no more."""
    order = np.random.default_rng(seed).permutation(28 * 28)
    return images.reshape(-1, 28 * 28)[:, order].reshape(-1, 28, 28)


VARIANTS = {
    "dense": Variant("dense", deep_learning.build_model),
    "conv": Variant("conv", deep_learning_conv.build_model),
    "wide": Variant("dense, 3,485 units", build_wide),
    "conv-1x1": Variant("conv 1 x 1", build_conv_1x1),
    "conv-shuffled": Variant("conv, shuffled pixels", deep_learning_conv.build_model, shuffle_pixels),
    "dense-shuffled": Variant("dense, shuffled pixels", deep_learning.build_model, shuffle_pixels),
}
# name: which variant minus which; the three shares add up to the total
DIFFERENCES = {
    "total": ("conv", "dense"),
    "share of size": ("wide", "dense"),
    "the rest": ("conv-shuffled", "wide"),
    "share of locality": ("conv", "conv-shuffled"),
    "conv 1 x 1 against dense": ("conv-1x1", "dense"),
    "conv against conv 1 x 1": ("conv", "conv-1x1"),
    "check: dense, shuffled": ("dense-shuffled", "dense"),
}
SHARES = ["share of size", "the rest", "share of locality"]


def report(runs, test, train, test_labels):
    """Return all that the runs and their differences on both sets say, in Markdown, the sentence last."""
    parts = [accuracy_table(runs), run_table(runs)]
    if test:
        parts.append(difference_table(runs, test, train, test_labels))
    if "total" in test:
        parts += [class_table(runs, test_labels), calibration_table(runs, test_labels)]
        parts.append(sentence(test, train, compare.seeds_text(runs)))
    return "\n\n".join(parts)


def accuracy_table(runs):
    """Return each variant's mean, standard deviation and interval on both sets, in Markdown."""
    rows = [
        [
            VARIANTS[name].label,
            f"{compare.of_variant(runs, name)[0].record['parameters']:,}",
            *(compare.mean_text(compare.accuracies(runs, name, split)) for split in ("test", "train")),
        ]
        for name in compare.variants_of(runs)
    ]
    return compare.markdown(["variant", "parameters", "test accuracy, %", "training accuracy, %"], rows)


def run_table(runs):
    """Return every run's test accuracy, in Markdown."""
    names = compare.variants_of(runs)
    seeds = list(dict.fromkeys(str(key.seed) for key in runs))
    columns = [[f"{accuracy:.2f}" for accuracy in compare.accuracies(runs, name, "test")] for name in names]
    rows = zip(seeds, *columns, strict=True)
    return compare.markdown(["test accuracy, %: seed", *(VARIANTS[name].label for name in names)], list(rows))


def difference_table(runs, test, train, test_labels):
    """Return every difference on both sets with its interval, and how many seeds differ by themselves, in Markdown."""
    rows = []
    for name in test:
        p_values = compare.p_values(runs, DIFFERENCES[name], test_labels)
        of = " - ".join(VARIANTS[variant].label for variant in DIFFERENCES[name])
        differing = f"{sum(p < 0.05 for p in p_values)} of {len(p_values)}"
        rows.append([name, of, compare.signed(test[name]), compare.signed(train[name]), differing])
    header = ["difference", "of", "test set, points", "training set, points", "seeds with p < 0.05"]
    return compare.markdown(header, rows)


def class_table(runs, test_labels):
    """Return the gain of each class, in Markdown."""
    by_class = compare.differences_by_class(runs, DIFFERENCES["total"], test_labels)
    rows = [[name, compare.signed(gain)] for name, gain in zip(CLASS_NAMES, by_class, strict=True)]
    return compare.markdown(["garment", "gain in recall, points"], rows)


def calibration_table(runs, test_labels):
    """Return how far the probabilities of dense and conv can be trusted, in Markdown."""
    rows = [[name, *map("{:.4f}".format, compare.calibration(runs, name, test_labels))] for name in ("dense", "conv")]
    return compare.markdown(["test set", "expected calibration error", "negative log-likelihood"], rows)


def sentence(test, train, seeds):
    """Return the conclusion in one sentence."""
    text = "One 3 x 3 convolution buys {:.2f} points [{:.2f}, {:.2f}] on the test set".format(*test["total"])
    if test.keys() >= set(SHARES):
        size, rest, locality = (compare.signed(test[name]) for name in SHARES)
        text += (
            f": {locality} because it sees neighbouring pixels together, {size} because the model is larger, and "
            f"{rest} for the rest of what makes it another model"
        )
    text += "; on the training set it looks like {:.2f} [{:.2f}, {:.2f}]".format(*train["total"])
    return f"{text} ({seeds})."


def plot_gain(runs, test, train):
    """Draw every run's test accuracy, and the gain on both sets with its shares. Returns: matplotlib Figure"""
    import matplotlib.pyplot as plt
    import seaborn

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained", width_ratios=(1.15, 1))
    for row, name in enumerate(compare.variants_of(runs)):
        values = compare.accuracies(runs, name, "test")
        seaborn.stripplot(x=values, y=[VARIANTS[name].label] * len(values), color="0.55", size=4, ax=left)
        if len(values) > 1:
            mean, low, high = mean_interval(values)
            left.errorbar(
                mean, row, xerr=[[mean - low], [high - mean]], fmt="D", color="black", capsize=4, markersize=5
            )
    left.set(xlabel="test accuracy, %: a dot per seed, mean with 95% interval", ylabel="")
    names = [name for name in ("total", *SHARES) if name in test]
    for label, differences, shift, fill in (("test set", test, -0.12, "black"), ("training set", train, 0.12, "white")):
        means, lows, highs = np.transpose([differences[name] for name in names])
        right.errorbar(
            means,
            np.arange(len(names)) + shift,
            xerr=[means - lows, highs - means],
            fmt="o",
            color="black",
            markerfacecolor=fill,
            capsize=4,
            label=label,
        )
    right.axvline(0, color="0.7", linewidth=1)
    of = [" - ".join(VARIANTS[variant].label for variant in DIFFERENCES[name]) for name in names]
    right.set_yticks(range(len(names)), [f"{name}\n({pair})" for name, pair in zip(names, of, strict=True)])
    right.invert_yaxis()
    right.set(xlabel="difference in accuracy, points, with 95% interval")
    right.legend(frameon=False)
    return figure


def plot_confusion_difference(runs, test_labels):
    """Draw how conv's confusions differ from dense's, in points of each row, mean over seeds. Returns: Figure"""

    def shares(variant):
        each = [confusion_counts(test_labels, run.arrays["predicted"]) for run in compare.of_variant(runs, variant)]
        return 100 * np.mean([row_shares(counts) for counts in each], axis=0)

    return plot_matrix(
        (shares("conv") - shares("dense")).round(1) + 0.0,  # a zero without a minus
        fmt="+.1f",
        title="What one convolution changes on the test set",
        label="conv minus dense, points of the actual class",
        cmap="PuOr_r",
        center=0,
    )


def short_runs(options):
    """Return one run of dense and of conv, from the models that experiments 1 and 2 saved where they may be reused."""
    # conv first: a process keeps the number of threads that it began with, and only conv's last bits depend on it
    scripts = {"conv": deep_learning_conv, "dense": deep_learning}
    trained = {name: cli.run_of(script, options) for name, script in scripts.items()}
    splits = load_splits(data_dir=options.data_dir)  # not before: a training has its own
    return {
        Key(name, options.seed, options.recipe): Run(record, measure_predictions(model, record, *splits))
        for name, (model, record) in trained.items()
    }


def main(argv=None):
    """Do the runs that are missing; print tables and sentence, draw the figures."""
    flags = cli.study_parser(__doc__, VARIANTS, seeds=10)
    flags.add_argument(
        "--short", action="store_true", help="the saved models of experiments 1 and 2, one seed, no pictures"
    )
    options = cli.parse(flags, argv)
    if options.short and (options.save or options.cluster or options.jobs or options.from_results):
        flags.error("argument --short: not with the flags of a study")
    if options.short:
        runs = short_runs(options)
    else:
        path = figures.path_to_save(cli.save_path(options, "convolution_gain.png"), options.save)
        runs = cli.study_runs("convolution_gain", options)
    test_labels = cli.test_labels(options)
    test, train = (compare.differences(runs, DIFFERENCES, split, test_labels) for split in ("test", "train"))
    if "total" in test and not options.short:
        figures.save(plot_gain(runs, test, train), path)
        figures.save(plot_confusion_difference(runs, test_labels), path and path.with_stem(f"{path.stem}_by_class"))
    print(report(runs, test, train, test_labels))
    if not options.short:
        figures.show()


if __name__ == "__main__":
    cli.run(main)
