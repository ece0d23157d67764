"""Experiment 7: why a convolution helps, by changing one thing at a time.

Three interventions, five seeds each, under the original recipe: how far apart the nine pixels of a kernel are; whether
kernels are learned, and whether a ReLU follows them; how far garments move (docs/plan.md). 130 runs.

python why_it_helps.py
python why_it_helps.py --from-results    # the published runs: tables and figure in seconds
"""

import logging
from functools import partial

from convolution_gain import MODELS, build_with_head
from lab.analysis import compare, figures
from lab.analysis.data_sets import errors_avoided
from lab.analysis.statistics import mean_interval
from lab.changes.convolution_gain import shuffle_pixels
from lab.changes.why_it_helps import place
from lab.guard.errors import run_main
from lab.study import command_line
from lab.study.runs import Variant
from lab.training.predictions import collect_classes

logger = logging.getLogger(__name__)


def build_conv_with(**settings):
    """Return a function that builds conv with other settings of its Conv2D."""
    return build_with_head(lambda layers: [layers.Conv2D(32, 3, **{"activation": "relu", **settings})])


def variant(label, build_model, transform=None):
    """Return a Variant that keeps the predicted classes only."""
    return Variant(label, build_model, transform, collect=collect_classes)


DILATIONS, SHUFFLED, OFFSETS = (1, 2, 4, 8), (1, 8), (0, 2, 4)  # SHUFFLED: dilations on shuffled pixels
# conv with so many pixels from one of the nine to the next; 28 x 28 outputs
DILATED = {d: build_conv_with(padding="same", dilation_rate=d) for d in DILATIONS}
DISTANCE = {f"dilation-{d}": variant(f"dilation {d}", build) for d, build in DILATED.items()}
DISTANCE |= {
    f"dilation-{d}-shuffled": variant(f"dilation {d}, shuffled pixels", DILATED[d], shuffle_pixels) for d in SHUFFLED
}
LEARNED = {
    "dense": variant("dense", MODELS["dense"].build_model),
    "conv-frozen-linear": variant("conv, frozen and linear", build_conv_with(trainable=False, activation=None)),
    "conv-linear": variant("conv, linear", build_conv_with(activation=None)),
    "conv-frozen": variant("conv, frozen", build_conv_with(trainable=False)),
    "conv": variant("conv", MODELS["conv"].build_model),
}
MOVED = ("dense", "fully-connected", "local", "conv", "conv-pooled")
SHARING = {
    f"{name}-moved-{n}": variant(
        f"{MODELS[name].label}, moved by up to {n} pixels", MODELS[name].build_model, partial(place, largest=n)
    )
    for n in OFFSETS
    for name in MOVED
}
VARIANTS = DISTANCE | LEARNED | SHARING

# family: comparison: weights of the variants; p-values are adjusted within a family (docs/plan.md)
FAMILIES = {
    "how far apart the nine pixels are": {
        **{f"dilation {d} - dilation 1": {f"dilation-{d}": 1, "dilation-1": -1} for d in DILATIONS[1:]},
        **{f"dilation {d} - shuffled pixels": {f"dilation-{d}": 1, "dilation-1-shuffled": -1} for d in DILATIONS},
    },
    "learned or not, with a ReLU or without": {
        f"({LEARNED[name].label}) - {other}": {name: 1, other: -1}
        for other in ("conv", "dense")
        for name in ("conv-frozen", "conv-linear", "conv-frozen-linear")
    },
    "garments that move": {
        **{
            f"conv - {other}, moved by up to {n} pixels": {f"conv-moved-{n}": 1, f"{other}-moved-{n}": -1}
            for other in ("local", "dense")
            for n in OFFSETS
        },
        "conv - local, moved by up to 4 pixels minus not moved": {
            "conv-moved-4": 1,
            "local-moved-4": -1,
            "conv-moved-0": -1,
            "local-moved-0": 1,
        },
    },
    # a kernel whose pixels are 8 apart has more of them beyond the image's border: what does that cost by itself?
    "not planned: pixels beyond the border": {
        "(dilation 8 - dilation 1), both on shuffled pixels": {"dilation-8-shuffled": 1, "dilation-1-shuffled": -1},
        "dilation 8 - (dilation 8, shuffled pixels)": {"dilation-8": 1, "dilation-8-shuffled": -1},
        "(dilation 8 - dilation 1) minus the same on shuffled pixels": {
            "dilation-8": 1,
            "dilation-1": -1,
            "dilation-8-shuffled": -1,
            "dilation-1-shuffled": 1,
        },
    },
    "prediction (in this script before its runs)": {
        "(conv, frozen) - half way from dense to conv": {"conv-frozen": 1, "dense": -0.5, "conv": -0.5},
    },
}
COMPARISONS = {name: weights for family in FAMILIES.values() for name, weights in family.items()}


def report(runs, found):
    """Return the tables, in Markdown. Args: runs; what `compare.estimates` returns"""
    header = [f"variant ({compare.format_seeds(runs)})"]
    table = compare.accuracy_table(runs, header, lambda name, record: [VARIANTS[name].label])
    parts = [table, *compare.family_tables(FAMILIES, found)]
    if {*SHARING} <= {*compare.variant_names(runs)}:  # where accuracy falls, all differences grow
        pairs = {
            f"conv instead of {other}, moved by up to {n} pixels": (f"conv-moved-{n}", f"{other}-moved-{n}")
            for other in ("local", "dense")
            for n in OFFSETS
        }
        rows = [[what, compare.format_ci(errors_avoided(runs, pair))] for what, pair in pairs.items()]
        parts.append(compare.markdown_table(["not planned: errors avoided on garments that move", "%"], rows))
    return "\n\n".join(parts)


def draw(figure, runs, found):
    """Draw a panel for each intervention that has all its runs on an empty Figure."""
    names = set(compare.variant_names(runs))
    panels = {plot_distance: DISTANCE, plot_learned: LEARNED, plot_sharing: SHARING}
    drawn = [plot for plot, variants in panels.items() if variants.keys() <= names]
    for n, plot in enumerate(drawn, 1):
        plot(figure.add_subplot(1, len(drawn), n), runs, found)


def plot_distance(ax, runs, found):
    """Draw accuracy against the distance of the nine pixels, on images as they are and on shuffled pixels."""
    for name, ending, dilations in (("conv", "", DILATIONS), ("conv-shuffled", "-shuffled", SHUFFLED)):
        values = [compare.accuracies(runs, f"dilation-{d}{ending}", "test") for d in dilations]
        means = [mean_interval(each, figures.PERCENT) for each in values]
        figures.plot_estimates(ax, dilations, means, figures.STYLES[name], label=name.replace("-", ", "))
    farther = found["dilation 8 - dilation 1"][0].mean
    ax.set_title(f"A kernel's pixels 8 apart\ninstead of 1: {farther:+.2f} points")
    ax.set_xscale("log")
    ax.set_ylabel(f"test accuracy, % [95% CI, {compare.seed_count(runs)}]")
    ax.set_xlabel("pixels from one of the nine to the next")
    ax.set_xticks(DILATIONS, DILATIONS)
    ax.minorticks_off()
    ax.legend(frameon=False)


def plot_learned(ax, runs, found):
    """Draw accuracies with kernels learned or frozen, with a ReLU or without."""
    for row, name in enumerate(LEARNED):
        mean, low, high = mean_interval(compare.accuracies(runs, name, "test"), figures.PERCENT)
        style = {"fmt": figures.STYLES[name][:3], "markersize": 6, "capsize": 4}
        ax.errorbar(mean, row, xerr=[[mean - low], [high - mean]], **style)
    ax.set_yticks(range(len(LEARNED)), [each.label for each in LEARNED.values()])
    frozen, linear = (found[f"(conv, {change}) - conv"][0].mean for change in ("frozen", "linear"))
    ax.set_title(f"Kernels frozen: {frozen:+.2f} points\nNo ReLU: {linear:+.2f} points")
    ax.set_xlabel(f"test accuracy, % [95% CI, {compare.seed_count(runs)}]")


def plot_sharing(ax, runs, found):
    """Draw the gains over local and over dense against how far garments move."""
    for other, note in ("dense", ""), ("local", " (no sharing)"):
        estimates = [found[f"conv - {other}, moved by up to {n} pixels"][0] for n in OFFSETS]
        figures.plot_estimates(ax, OFFSETS, estimates, figures.STYLES[other], label=f"conv - {other}{note}")
    ax.axhline(0, color="0.7", linewidth=1)
    least, *_, most = (found[f"conv - local, moved by up to {n} pixels"][0].mean for n in OFFSETS)
    ax.set_title(f"Sharing buys {least:+.2f} points,\nwhere garments move {most:+.2f}")
    ax.set_ylabel(f"gain, points [95% CI, {compare.seed_count(runs)}]")
    ax.set_xlabel("pixels that a garment is moved by, at most")
    ax.set_xticks(OFFSETS, OFFSETS)
    ax.legend(frameon=False)


def parse(argv):
    """Parse arguments; return options."""
    return command_line.parse(command_line.study_parser(__doc__, VARIANTS, seeds=5, first_seed=20), argv)


def study(options):
    """Do the runs that are missing; return all, and the Estimates."""
    runs = command_line.study_runs(__file__, options)
    return runs, compare.estimates(runs, COMPARISONS)


def main(argv=None):
    """Run what is missing; print the tables, draw the figure."""
    options = parse(argv)
    path = figures.path_to_save(options, "why_it_helps.png")
    runs, found = study(options)
    print(report(runs, found), flush=True)
    figure = figures.new((14, 4.2))
    draw(figure, runs, found)
    if figure.axes:
        figures.save(figure, path)
        figures.show()
    else:
        logger.info("no figure: none of its parts has all its variants")


if __name__ == "__main__":
    run_main(main)
