"""Experiment 5: how many points one convolution buys, with what uncertainty, and what else contributes to them.

On the test set 2.35 [1.92, 2.78], about half of it for locality, nothing significant for the model's size; on the
training set 5.88 [5.57, 6.19] (results/convolution_gain.md).

Six variants under one recipe, ten seeds each, 60 runs: an hour and a half on two cores. Each run is kept as soon as it
is done, so that the study can be stopped and started again at any time.

python convolution_gain.py
python convolution_gain.py --from-results    # the published runs: table, sentence and figures in seconds
python convolution_gain.py --short           # the models of experiments 1 and 2 only, one seed
"""

import numpy as np

import deep_learning
import deep_learning_conv
from lab import cli, compare, figures
from lab.data import CLASS_NAMES, load_data, load_test_data
from lab.statistics import confusion_counts, mean_interval, row_fractions
from lab.study import Run, RunKey, Variant, collect_predictions


def build_wide():
    """Return the untrained dense model with 3,485 hidden units, as large as conv: 2,770,585 parameters."""
    from keras import Input, Sequential, layers

    hidden = [layers.Flatten(), layers.Dense(3485, activation="relu")]
    return Sequential([Input((28, 28)), *hidden, layers.Dropout(0.2), layers.Dense(10), layers.Softmax()])


def build_conv_1x1():
    """Return the untrained conv model with its 26 x 26 x 32 activations, each of one pixel; 2,770,378 parameters."""
    from keras import Input, Sequential, layers

    hidden = [layers.Cropping2D(1), layers.Conv2D(32, 1, activation="relu"), layers.Flatten(), layers.Dense(128)]
    return Sequential([Input((28, 28, 1)), *hidden, layers.Dropout(0.2), layers.Dense(10), layers.Softmax()])


def shuffle_pixels(images, seed):
    """Return the images after a fixed permutation of their pixels, the same for all images; it destroys locality."""
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
# name: which variant minus which; the three contributions add up to the total
DIFFERENCES = {
    "total": ("conv", "dense"),
    "size": ("wide", "dense"),
    "not isolated": ("conv-shuffled", "wide"),
    "locality": ("conv", "conv-shuffled"),
    "conv 1 x 1 against dense": ("conv-1x1", "dense"),
    "conv against conv 1 x 1": ("conv", "conv-1x1"),
    "check: dense, shuffled": ("dense-shuffled", "dense"),
}
CONTRIBUTIONS = ["size", "not isolated", "locality"]


def report(runs, test, train, test_labels):
    """Return all that the runs and their differences on both sets say, in Markdown, the sentence last."""
    parts = [accuracy_table(runs), run_table(runs)]
    if test:
        parts.append(difference_table(runs, test, train, test_labels))
    if "total" in test:
        by_class = compare.differences_by_class(runs, DIFFERENCES["total"], test_labels)
        rows = zip(CLASS_NAMES, map(compare.format_signed_ci, by_class), strict=True)
        parts.append(compare.markdown_table(["class", "gain in recall, points"], list(rows)))
        calibration = {name: compare.calibration(runs, name, test_labels) for name in ("dense", "conv")}
        rows = [[name, *map("{:.4f}".format, errors)] for name, errors in calibration.items()]
        header = ["test set", "expected calibration error", "negative log-likelihood"]
        parts += [compare.markdown_table(header, rows), conclusion(test, train, compare.format_seeds(runs))]
    return "\n\n".join(parts)


def accuracy_table(runs):
    """Return each variant's mean, standard deviation and interval on both sets, in Markdown."""
    rows = []
    for name in compare.variant_names(runs):
        means = [compare.format_mean(compare.accuracies(runs, name, split)) for split in ("test", "train")]
        rows.append([VARIANTS[name].label, f"{compare.runs_for(runs, name)[0].record['parameters']:,}", *means])
    return compare.markdown_table(["variant", "parameters", "test accuracy, %", "training accuracy, %"], rows)


def run_table(runs):
    """Return every run's test accuracy, in Markdown."""
    names = compare.variant_names(runs)
    seeds = list(dict.fromkeys(str(key.seed) for key in runs))
    columns = [[f"{accuracy:.2f}" for accuracy in compare.accuracies(runs, name, "test")] for name in names]
    rows = zip(seeds, *columns, strict=True)
    return compare.markdown_table(["test accuracy, %: seed", *(VARIANTS[name].label for name in names)], list(rows))


def difference_table(runs, test, train, test_labels):
    """Return every difference on both sets with its interval, and in how many seeds it is significant, in Markdown."""
    rows = []
    for name in test:
        p_values = compare.p_values(runs, DIFFERENCES[name], test_labels)
        pair = " - ".join(VARIANTS[variant].label for variant in DIFFERENCES[name])
        significant = f"{sum(p < 0.05 for p in p_values)} of {len(p_values)}"
        intervals = [compare.format_signed_ci(each[name]) for each in (test, train)]
        rows.append([name, pair, *intervals, significant])
    header = ["difference", "variants", "test set, points", "training set, points", "seeds with p < 0.05"]
    return compare.markdown_table(header, rows)


def conclusion(test, train, seeds):
    """Return the conclusion in one sentence."""
    text = "One 3 x 3 convolution buys {:.2f} points [{:.2f}, {:.2f}] on the test set".format(*test["total"])
    if test.keys() >= set(CONTRIBUTIONS):
        size, rest, locality = (compare.format_signed_ci(test[name]) for name in CONTRIBUTIONS)
        text += f": {locality} for locality, {size} for size, and {rest} for differences not isolated by a control"
    text += "; on the training set it buys {:.2f} [{:.2f}, {:.2f}]".format(*train["total"])
    return f"{text} ({seeds})."


def plot_gain(runs, test, train):
    """Draw every run's test accuracy, and the gain on both sets with its contributions. Returns: matplotlib Figure"""
    import matplotlib.pyplot as plt
    import seaborn

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained", width_ratios=(1.15, 1))
    for row, name in enumerate(compare.variant_names(runs)):
        values = compare.accuracies(runs, name, "test")
        seaborn.stripplot(x=values, y=[VARIANTS[name].label] * len(values), color="0.55", size=4, ax=left)
        if len(values) > 1:
            mean, low, high = mean_interval(values)
            left.errorbar(mean, row, xerr=[[mean - low], [high - mean]], fmt="kD", capsize=4, markersize=5)
    left.set(xlabel="test accuracy, %: a dot per seed, mean with 95% interval", ylabel="")
    names = [name for name in ("total", *CONTRIBUTIONS) if name in test]
    for label, differences, shift, fill in (("test set", test, -0.12, "black"), ("training set", train, 0.12, "white")):
        means, lows, highs = np.transpose([differences[name] for name in names])
        xerr, style = [means - lows, highs - means], {"markerfacecolor": fill, "capsize": 4, "label": label}
        right.errorbar(means, np.arange(len(names)) + shift, xerr=xerr, fmt="ko", **style)
    right.axvline(0, color="0.7", linewidth=1)
    pairs = [" - ".join(VARIANTS[variant].label for variant in DIFFERENCES[name]) for name in names]
    right.set_yticks(range(len(names)), [f"{name}\n({pair})" for name, pair in zip(names, pairs, strict=True)])
    right.invert_yaxis()
    right.set(xlabel="difference in accuracy, points, with 95% interval")
    right.legend(frameon=False)
    return figure


def plot_confusion_difference(runs, test_labels):
    """Draw how conv's confusions differ from dense's, in points of each row, mean over seeds. Returns: Figure"""

    def percentages(variant):
        counts = [confusion_counts(test_labels, run.arrays["predicted"]) for run in compare.runs_for(runs, variant)]
        return 100 * np.mean([row_fractions(each) for each in counts], axis=0)

    difference = (percentages("conv") - percentages("dense")).round(1) + 0.0  # a zero without a minus
    texts = "+.1f", "What one convolution changes on the test set", "conv minus dense, points of the actual class"
    return figures.plot_confusion(difference, *texts, cmap="PuOr_r", center=0)


def short_runs(options):
    """Return one run each of dense and conv, from the models of experiments 1 and 2, loaded or trained."""
    scripts = {"dense": deep_learning, "conv": deep_learning_conv}
    trained = {name: cli.load_or_train(script, options) for name, script in scripts.items()}
    train_split, test_split = load_data(options.data_dir)
    splits = train_split.first(options.recipe.train_images), test_split.first(options.recipe.test_images)
    return {
        RunKey(name, options.seed, options.recipe): Run(record, collect_predictions(model, *splits))
        for name, (model, record) in trained.items()
    }


def main(argv=None):
    """Do the runs that are missing; print tables and conclusion, draw the figures."""
    flags = cli.study_parser(__doc__, VARIANTS, seeds=10)
    flags.add_argument("--short", action="store_true", help="the models of experiments 1 and 2, one seed, no figures")
    options = cli.parse(flags, argv)
    if options.short and (options.save or options.cluster or options.jobs or options.from_results):
        flags.error("argument --short: not with the flags of a study")
    path = None if options.short else figures.path_to_save(options, "convolution_gain.png")
    runs = short_runs(options) if options.short else cli.study_runs("convolution_gain", options)
    test_labels = load_test_data(options.data_dir).first(options.recipe.test_images).labels
    test, train = (compare.differences(runs, DIFFERENCES, split, test_labels) for split in ("test", "train"))
    if "total" in test and not options.short:
        figures.save(plot_gain(runs, test, train), path)
        figures.save(plot_confusion_difference(runs, test_labels), path and path.with_stem(f"{path.stem}_by_class"))
    print(report(runs, test, train, test_labels))
    if not options.short:
        figures.show()


if __name__ == "__main__":
    cli.run_main(main)
