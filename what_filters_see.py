"""Experiment 10: what the 32 filters of the convolution respond to, and which of them the model needs.

The kernels of a trained conv model in order of importance, their feature maps for three garments, and the test accuracy
without each filter and with the top-ranked ones only. A filter is ablated by setting its feature map to 0; the model is
not retrained. Five seeds; the pictures are of the first.

python what_filters_see.py
python what_filters_see.py --image shoe.jpg shirt.png
python what_filters_see.py --from-results    # the published runs: table, sentence and figures in seconds
"""

from dataclasses import replace

import numpy as np

import convolution_gain
from lab.analysis import compare, figures
from lab.changes.what_filters_see import collect_filters, feature_maps
from lab.guard.errors import run_main
from lab.guard.photographs import read_photographs, require_all
from lab.study import command_line, flags
from lab.study.data_sets import class_names
from lab.training.data import load_test_data

GARMENTS = (0, 1, 2)  # test images: an ankle boot, a pullover, trousers
MAPS = 6  # filters whose feature maps are drawn
COST = 0.1  # points
LARGEST_COUNT = 20  # photographs that are drawn


VARIANTS = {"conv": replace(convolution_gain.MODELS["conv"], collect=collect_filters)}


def ablation_accuracies(runs, name, half=1):
    """Return accuracies in percent by seed, on the half that did not decide the order: float (seeds, combinations).

    Args: name: "best", with the 0 to 32 top-ranked filters, or "without" each filter, the most important first
    """
    counts = [run.arrays[name][half] for run in runs]
    if name == "without":
        counts = [each[run.arrays["order"]] for each, run in zip(counts, runs, strict=True)]
    return 100 * np.stack([each / run.arrays["n"] for each, run in zip(counts, runs, strict=True)])


def count_removable(runs):
    """Return for each seed how many of the last filters can be removed with a loss below COST points on the half that
    ranks them, and the loss on the other half, in points.
    """
    kept = [int(np.argmax(values > values[-1] - COST)) for values in ablation_accuracies(runs, "best", half=0)]
    costs = [values[-1] - values[k] for values, k in zip(ablation_accuracies(runs, "best"), kept, strict=True)]
    return [32 - k for k in kept], costs


def report(runs, seeds):
    """Return the table of the first seed's filters and the conclusion, in Markdown. Args: how many seeds, as text"""
    arrays = runs[0].arrays
    norms = np.linalg.norm(arrays["kernel"].reshape(9, 32), axis=0)
    rows = [
        [str(filter), f"{norms[filter]:.2f}", f"{100 * arrays['active'][filter]:.1f}", f"{accuracy:.2f}"]
        for filter, accuracy in zip(arrays["order"], ablation_accuracies(runs, "without")[0], strict=True)
    ]
    header = [
        "filter, the most important first",
        "norm of its kernel",
        "active, %",
        "accuracy without it on half of the test images, %",
    ]
    best = ablation_accuracies(runs, "best")
    costs = best[:, -1:] - ablation_accuracies(runs, "without")
    values = costs[:, 0], costs[:, 15:17].mean(axis=1), best[:, -1], best[:, 8], *count_removable(runs)
    any_loss, limits = (-np.inf, np.inf), (0, 100)
    limits = any_loss, any_loss, limits, limits, (0, 32), any_loss
    first, median, full, eight, spare, cost = map(compare.format_mean, map(list, values), limits)
    sentence = (
        f"Without its most important filter, and without retraining, conv loses {first} points of test accuracy, "
        f"without one of median importance {median}. All 32 reach {full}%, the eight top-ranked ones alone {eight}%. "
        f"{spare} filters can be removed with a loss below {COST} points on the images that rank them; on the others, "
        f"it is {cost} points ({seeds}, n = {arrays['n']:,})."
    )
    return f"{compare.markdown_table(header, rows)}\n\n{sentence}"


def plot_filters(run, images, titles):
    """Draw the kernels in order of importance, and for each image the maps of the first ones. Returns: Figure"""
    kernel, bias, order = (run.arrays[name] for name in ("kernel", "bias", "order"))
    figure = figures.new((11, 3.4 + 1.6 * len(images)))
    upper, lower = figure.subfigures(2, 1, height_ratios=(3.4, 1.6 * len(images)))
    limit = np.abs(kernel).max()
    axes = upper.subplots(3, 11)
    for place, (ax, filter) in enumerate(zip(axes.flat, order, strict=False)):
        shown = ax.imshow(kernel[..., filter], cmap="PuOr_r", vmin=-limit, vmax=limit)
        ax.set_title(f"{place + 1}", fontsize=9)
    upper.colorbar(shown, ax=axes, label="weight")
    upper.suptitle("3 x 3 kernels, the most important first")
    axes = np.concatenate([axes.ravel(), lower.subplots(len(images), 1 + MAPS, squeeze=False).ravel()])
    maps = feature_maps(kernel, bias, images)[..., order[:MAPS]]
    for n, ax in enumerate(axes[33:]):
        row, column = divmod(n, 1 + MAPS)
        ax.imshow(maps[row, ..., column - 1] if column else images[row], cmap="gray", vmin=0)
        ax.set_title(f"feature map {column}" if column else titles[row], fontsize=9)
    for ax in axes:
        ax.set(xticks=[], yticks=[])
    axes[32].axis("off")
    return figure


def plot_importance(runs, seeds):
    """Draw test accuracy without each filter, and with the top-ranked ones only. Args: as `report`. Returns: Figure"""
    figure = figures.new((10, 3.6))
    left, right = figure.subplots(1, 2)
    places = np.arange(1, 33)
    without, best = (ablation_accuracies(runs, name) for name in ("without", "best"))
    figures.plot_curve(left, places, without, "without this filter", "ko-")
    left.axhline(best[:, -1].mean(), color="0.5", linestyle="--", label="with all")
    left.set_title(f"Without the most important filter: {(without[:, 0] - best[:, -1]).mean():+.2f} points")
    left.set(xlabel="filter, the most important first", ylabel=f"test accuracy, %: mean [95% CI, {seeds}]")
    left.legend(frameon=False)
    figures.plot_curve(right, places, best[:, 1:], "top-ranked filters only", "ko-")
    right.set_title(f"The eight most important filters alone: {best[:, 8].mean():.1f}%")
    right.set(xlabel="number of filters kept, the most important first", ylabel="test accuracy, %")
    return figure


def main(argv=None):
    """Run what is missing; print table and conclusion, draw the figures."""
    parser = command_line.study_parser(__doc__, VARIANTS, seeds=5)
    parser.add_argument("--image", type=flags.nonempty_path, nargs="+", metavar="FILE", help="your photographs")
    options = command_line.parse(parser, argv)
    if options.image and len(options.image) > LARGEST_COUNT:
        parser.error(f"argument --image: {len(options.image)} photographs; at most {LARGEST_COUNT} fit into the figure")
    photographs = read_photographs(options.image) if options.image else []
    path = figures.path_to_save(options, "what_filters_see.png")
    runs = command_line.study_runs(__file__, options)
    seeds, runs = compare.seed_count(runs), list(runs.values())
    print(report(runs, seeds), flush=True)
    images, labels = load_test_data(options.dataset).at(list(GARMENTS))
    names = class_names(options.dataset)
    titles = [names[label] for label in labels]
    if photographs:
        images = np.stack([pixels for _, _, pixels in photographs])
        titles = [figures.shorten_name(path.name) for path, _, _ in photographs]
    figures.save(plot_filters(runs[0], images, titles), path)
    figures.save(plot_importance(runs, seeds), path, "_importance")
    figures.show()
    require_all(photographs, options.image or [])


if __name__ == "__main__":
    run_main(main)
