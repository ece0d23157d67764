"""Experiment 5: the accuracy gain of one convolution, its confidence interval, and its decomposition.

Eleven variants under one recipe, ten seeds each (five of the largest), 105 runs; docs/plan.md says what each is for.
Each run is kept as soon as it is done, so that the study can be stopped and started again at any time.

python convolution_gain.py
python convolution_gain.py --from-results    # the published runs: tables, sentence and figures in seconds
python convolution_gain.py --short           # the models of experiments 1 and 2 only, one seed
python convolution_gain.py --dataset mnist --choose-rate   # each variant with the learning rate that suits it
"""

import argparse
import logging
import math
from dataclasses import replace

import numpy as np

import deep_learning
import deep_learning_conv
from lab.analysis import compare, data_sets, figures, garments
from lab.analysis.statistics import holm, probability_of_superiority
from lab.changes.convolution_gain import shuffle_pixels
from lab.guard.errors import LabError, run_main
from lab.study import choice, command_line, published
from lab.study.data_sets import class_names
from lab.study.runs import Run, RunKey, Variant
from lab.training.data import FASHION_MNIST, DataSet, load_test_data
from lab.training.predictions import collect_predictions

logger = logging.getLogger(__name__)


def build_with_head(make_layers):
    """Return a function that builds a model of these layers, followed by the layers of dense (experiment 1)."""

    def build_model():
        from keras import Input, Sequential, layers

        head = [layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dropout(0.2), layers.Dense(10)]
        return Sequential([Input((28, 28, 1)), *make_layers(layers), *head, layers.Softmax(dtype="float32")])

    return build_model


def locally_connected(layers):
    """Return the layers of a 3 x 3 convolution with 32 filters with separate weights at each position."""
    from keras import initializers

    def one_pixel_each(shape, dtype=None):
        return np.eye(9, dtype="float32").reshape(shape)

    patches = layers.Conv2D(9, 3, use_bias=False, kernel_initializer=one_pixel_each, trainable=False)
    limit = math.sqrt(6 / (9 + 9 * 32))  # Glorot's for the convolution; EinsumDense counts the places as inputs, too
    uniform = initializers.RandomUniform(-limit, limit)
    product = {"equation": "bhwk,hwkf->bhwf", "output_shape": (26, 26, 32), "bias_axes": "hwf"}
    return [patches, layers.EinsumDense(**product, activation="relu", kernel_initializer=uniform)]


build_conv = build_with_head(lambda layers: [layers.Conv2D(32, 3, activation="relu")])
build_local = build_with_head(locally_connected)
build_fully_connected = build_with_head(lambda layers: [layers.Flatten(), layers.Dense(3033, activation="relu")])
build_many_units = build_with_head(lambda layers: [layers.Flatten(), layers.Dense(21632, activation="relu")])
build_conv_1x1 = build_with_head(lambda layers: [layers.Cropping2D(1), layers.Conv2D(32, 1, activation="relu")])
build_pooled = build_with_head(lambda layers: [layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D()])


MODELS = {
    "dense": Variant("dense", deep_learning.build_model),
    "conv-original": Variant("conv, original", deep_learning_conv.build_model),
    "conv": Variant("conv", build_conv),
    "fully-connected": Variant("fully connected", build_fully_connected),
    "local": Variant("local", build_local),
    "conv-shuffled": Variant("conv, shuffled pixels", build_conv, shuffle_pixels),
    "local-shuffled": Variant("local, shuffled pixels", build_local, shuffle_pixels),
    "dense-shuffled": Variant("dense, shuffled pixels", deep_learning.build_model, shuffle_pixels),
    "conv-1x1": Variant("conv 1 x 1", build_conv_1x1),
    "conv-pooled": Variant("conv, pooled", build_pooled),
    "fully-connected-21632": Variant("fully connected, 21,632 units", build_many_units),
}
VARIANTS = {**MODELS, **choice.held_out(MODELS)}
SEEDS, FEWER_SEEDS = 10, {"fully-connected-21632": 5}
RATES = (0.0003, 0.001, 0.003)  # of --choose-rate
# family: comparison: weights of the variants; p-values are adjusted within a family (docs/plan.md)
FAMILIES = {
    "headline": {
        "controlled gain: conv - dense": {"conv": 1, "dense": -1},
        "original comparison: (conv, original) - dense": {"conv-original": 1, "dense": -1},
        "bridge: conv - (conv, original)": {"conv": 1, "conv-original": -1},
    },
    "chain": {
        "depth and size: fully connected - dense": {"fully-connected": 1, "dense": -1},
        "sparse, shared weights: (conv, shuffled) - fully connected": {"conv-shuffled": 1, "fully-connected": -1},
        "locality: conv - (conv, shuffled)": {"conv": 1, "conv-shuffled": -1},
    },
    "sharing x locality": {
        "sharing, main effect": {"conv": 0.5, "local": -0.5, "conv-shuffled": 0.5, "local-shuffled": -0.5},
        "locality, main effect": {"conv": 0.5, "local": 0.5, "conv-shuffled": -0.5, "local-shuffled": -0.5},
        "interaction": {"conv": 1, "local": -1, "conv-shuffled": -1, "local-shuffled": 1},
    },
    "the other order, through local (not planned)": {
        "sparse weights: (local, shuffled) - fully connected": {"local-shuffled": 1, "fully-connected": -1},
        "locality without sharing: local - (local, shuffled)": {"local": 1, "local-shuffled": -1},
        "sharing on natural pixels: conv - local": {"conv": 1, "local": -1},
        "sharing on shuffled pixels: (conv, shuffled) - (local, shuffled)": {"conv-shuffled": 1, "local-shuffled": -1},
    },
    "checks": {
        "(dense, shuffled) - dense": {"dense-shuffled": 1, "dense": -1},
        "(conv 1 x 1) - dense": {"conv-1x1": 1, "dense": -1},
        "(conv, pooled) - conv": {"conv-pooled": 1, "conv": -1},
        "21,632 units - fully connected": {"fully-connected-21632": 1, "fully-connected": -1},
    },
}
CONTROLLED, ORIGINAL, BRIDGE = FAMILIES["headline"]
COMPARISONS = {name: weights for family in FAMILIES.values() for name, weights in family.items()}
ON_DATA_SETS = {
    "conv - dense": {"conv": 1, "dense": -1},
    "conv - fully connected": {"conv": 1, "fully-connected": -1},
    "conv - (conv, shuffled)": {"conv": 1, "conv-shuffled": -1},
    "conv - local": {"conv": 1, "local": -1},
}
COMPARED_ON_DATA_SETS = [name for name in MODELS if any(name in weights for weights in ON_DATA_SETS.values())]


def report(runs, found, names):
    """Return the tables and the conclusion, in Markdown.

    Args: `found`, what `compare.estimates` returns; names of the classes
    """

    def describe(name, record):
        return MODELS[name].label, f"{record['learning_rate']:g}", f"{record['parameters']:,}"

    header = ["variant", "learning rate", "parameters"]
    parts = [compare.accuracy_table(runs, header, describe), *compare.family_tables(FAMILIES, found)]
    if CONTROLLED in found:
        columns = []
        for estimates in zip(*compare.by_class(runs, ("conv", "dense")), strict=True):
            adjusted = holm([each.p_value for each in estimates])
            columns += [map(compare.format_signed_ci, estimates), map(compare.format_p, adjusted)]
        rows = list(zip(names, *columns, strict=True))
        header = ["class (conv - dense)", "recall, points", "p (Holm)", "F1, points", "p (Holm)"]
        parts.append(compare.markdown_table(header, rows))
        names = [name for name in ("dense", "conv-original", "conv") if name in compare.variant_names(runs)]
        calibration = {MODELS[name].label: compare.calibration(runs, name) for name in names}
        rows = [[label, *map("{:.4f}".format, errors)] for label, errors in calibration.items()]
        header = ["calibration on the test set", "expected calibration error", "negative log-likelihood"]
        parts.append(compare.markdown_table(header, rows))
        parts.append(garments.report(runs))
    if {CONTROLLED, ORIGINAL} & found.keys():
        parts.append(conclusion(runs, found))
    return "\n\n".join(parts)


def conclusion(runs, found):
    """Return the conclusion in one sentence."""
    if CONTROLLED not in found:
        original = compare.format_signed_ci(found[ORIGINAL][0])
        text = f"The original comparison, of two models that differ in two things: {original} points on the test set"
        return f"{text} ({compare.format_seeds(runs)})."
    text = "One 3 x 3 convolution in front of the same head buys {} points on the test set"
    text = text.format(compare.format_signed_ci(found[CONTROLLED][0]))
    if found.keys() >= set(FAMILIES["chain"]):
        parts = [f"{compare.format_signed_ci(found[name][0])} for {name.split(':')[0]}" for name in FAMILIES["chain"]]
        text += f": in this order, {', '.join(parts)}"
    if ORIGINAL in found:
        other, bridge = (compare.format_signed_ci(found[name][0]) for name in (ORIGINAL, BRIDGE))
        text += f". The original comparison, whose conv model lacks a ReLU, gives {other}; the ReLU is worth {bridge}"
    pairs = [compare.accuracies(runs, name, "test") for name in ("conv", "dense")]
    text += f". A run of conv is better than a run of dense in {probability_of_superiority(*pairs):.0%} of all"
    return f"{text} pairs ({compare.format_seeds(runs)})."


def plot_chain(runs, found):
    """Draw the chain from dense to conv as steps with intervals, the original comparison below. Returns: Figure"""
    means = {name: np.mean(compare.accuracies(runs, name, "test")) for name in compare.variant_names(runs)}
    figure = figures.new((10, 4.4))
    ax = figure.subplots()
    steps = dict.fromkeys(FAMILIES["chain"], "0.75") | {CONTROLLED: "0.55", ORIGINAL: "white"}
    for row, (name, color) in enumerate(steps.items()):
        (end, _), (start, _) = COMPARISONS[name].items()
        mean, low, high, _ = found[name][0]
        ax.barh(row, means[end] - means[start], left=means[start], color=color, edgecolor="black", height=0.6)
        ax.errorbar(means[end], row, xerr=[[mean - low], [high - mean]], fmt="none", ecolor="black", capsize=4)
        place = means[end] + high - mean, row
        text = compare.format_signed_ci(found[name][0])
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # over the dotted lines
        ax.annotate(text, place, (8, 0), textcoords="offset points", va="center", bbox=box)
    for name in ("dense", "conv"):
        ax.axvline(means[name], color="0.5", linestyle=":", linewidth=1, zorder=0)
        ax.annotate(
            f"{name}\n{means[name]:.2f}%", (means[name], -0.55), ha="center", va="bottom", annotation_clip=False
        )
    for row in (2.5, 3.5):
        ax.axhline(row, color="0.7", linewidth=1)
    ax.set_yticks(range(len(steps)), [name.replace(": ", "\n") for name in steps])
    ax.set_ylim(len(steps) - 0.5, -0.5)
    ax.set_xlim(means["dense"] - 0.6, max(means.values()) + 1.6)
    ax.set(xlabel=f"test accuracy, % (beside the bars: difference in points [95% CI, {compare.seed_count(runs)}])")
    epochs = next(iter(runs)).recipe.epochs
    figure.suptitle(f"The convolution buys {found[CONTROLLED][0].mean:.2f} points (epochs: {epochs})")
    return figure


def short_runs(options):
    """Return one run each of dense and of the original conv, the models of experiments 1 and 2, loaded or trained.

    Raises: LabError, they were not trained in the same way.
    """
    trainings, found, ways = {"dense": deep_learning.train, "conv-original": deep_learning_conv.train}, {}, []
    for name, train in trainings.items():
        model, record = command_line.load_or_train(train, options)
        test_split = load_test_data(options.dataset)
        run = Run(record, collect_predictions(model, test_split), test_split.labels)
        found[RunKey(name, options.seed, options.recipe)] = run
        ways.append({"optimizer": record["optimizer"], "epochs": record["epochs_done"], "data": record["data_sha256"]})
    parts = [part for part in ways[0] if ways[0][part] != ways[1][part]]
    if parts:
        raise LabError(f"dense and conv were trained with different {', '.join(parts)}; there is no fair comparison")
    return found


def study_runs(options):
    """Return the runs of the study, done if they are missing, with a learning rate for each variant if wanted."""
    recipes = choose_rates(options) if options.choose_rate else dict.fromkeys(options.variants, options.recipe)
    plan = [
        RunKey(name, seed, recipe)
        for n, seed in enumerate(command_line.seeds(options))
        for name, recipe in recipes.items()
        if n < FEWER_SEEDS.get(name, options.seeds)
    ]
    return command_line.study_runs(__file__, options, plan)


def choose_rates(options):
    """Print how accurate each variant is on held-out training images; return the Recipe with the best rate of each."""
    tried = [replace(options.recipe, learning_rate=rate) for rate in RATES]
    candidates = [(name, recipe) for recipe in tried for name in options.variants]
    found = choice.held_out_accuracies(__file__, options, candidates, [options.seed])
    names = [name for name in options.variants if all((name, recipe) in found for recipe in tried)]
    rows = [[MODELS[name].label, *(f"{found[name, recipe][0]:.2f}" for recipe in tried)] for name in names]
    header = [f"{options.dataset.name}, held-out images: accuracy, %", *(f"learning rate {rate:g}" for rate in RATES)]
    print(compare.markdown_table(header, rows), end="\n\n")
    return {name: choice.best_recipe(found, name) for name in names}


def report_on_data_sets(runs, options, path):
    """Print how the published runs on other data sets compare with these; draw the figure, saved beside the path.

    A data set of which not all runs are published is left out.
    """
    rows = published.read_records(published.RESULTS / "convolution_gain")
    others = dict.fromkeys(row["data_set"] for row in rows if row["data_set"] != FASHION_MNIST.name)
    needed = {*COMPARED_ON_DATA_SETS}
    if not others or not needed <= {*compare.variant_names(runs)}:
        return
    print()
    found = {FASHION_MNIST.name: runs}
    for name in others:
        elsewhere = {"dataset": DataSet(name), "variants": COMPARED_ON_DATA_SETS, "choose_rate": True}
        elsewhere |= {"seed": 20, "seeds": 5}  # those of the published runs
        try:
            there = study_runs(argparse.Namespace(**{**vars(options), **elsewhere}))
        except LabError as error:
            logger.warning("%s", error)
            there = {}
        if needed <= {*compare.variant_names(there)}:
            found[f"{name}, rates chosen"] = there
        else:
            logger.warning("left out: %s, of which not all runs are published", name)
    if len(found) > 1:
        estimates = data_sets.estimate_all(found, ON_DATA_SETS)
        labels = {name: MODELS[name].label for name in COMPARED_ON_DATA_SETS}
        print(data_sets.report(found, estimates, labels), flush=True)
        figures.save(data_sets.plot(estimates, found, ON_DATA_SETS), path, "_data_sets")


def main(argv=None):
    """Run what is missing; print tables and conclusion, draw the figures."""
    parser = command_line.study_parser(__doc__, MODELS, seeds=SEEDS)
    rate_help = f"of {', '.join(map(str, RATES))}, take what suits each variant best on held-out training images"
    parser.add_argument("--choose-rate", action="store_true", help=rate_help)
    parser.add_argument("--short", action="store_true", help="the models of experiments 1 and 2, one seed, no figures")
    options = command_line.parse(parser, argv)
    if options.short and (options.seeds != SEEDS or len(options.variants) < len(MODELS)):
        parser.error("argument --short: not with --seeds or --variants")
    path = None if options.short else figures.path_to_save(options, "convolution_gain.png")
    runs = short_runs(options) if options.short else study_runs(options)
    names, found = class_names(options.dataset), compare.estimates(runs, COMPARISONS)
    print(report(runs, found, names), flush=True)
    if found.keys() >= {*FAMILIES["chain"], *FAMILIES["headline"]}:
        figures.save(plot_chain(runs, found), path)
        images = load_test_data(options.dataset).images
        figures.save(garments.plot(runs, images, names), path, "_garments")
    elif not options.short:
        logger.info("no figure: it takes dense, conv-original, conv, fully-connected and conv-shuffled")
    if options.from_results and options.dataset == FASHION_MNIST:
        report_on_data_sets(runs, options, path)
    if not options.short:
        figures.show()


if __name__ == "__main__":
    run_main(main)
