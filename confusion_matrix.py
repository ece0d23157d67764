"""Experiment 4: which classes the dense model confuses, on 200 test samples.

python confusion_matrix.py
python confusion_matrix.py --samples all --normalize
"""

import numpy as np

import deep_learning
from lab import cli, figures
from lab.data import CLASS_NAMES, load_test_data
from lab.recipe import predict
from lab.statistics import confusion_counts, row_fractions, wilson_interval


def samples(text):
    """Convert a number of test samples; None stands for all."""
    return None if text == "all" else cli.whole_number(1)(text)


def precision_and_recall(counts):
    """Return per-class precision and recall, float (10,) each; nan if a class was never predicted or is absent."""
    correct = counts.diagonal()
    with np.errstate(invalid="ignore"):
        return correct / counts.sum(axis=0), correct / counts.sum(axis=1)


def format_accuracy(counts):
    """Return n, accuracy and its 95% interval as text."""
    correct, n = int(counts.trace()), int(counts.sum())
    low, high = wilson_interval(correct, n)
    return f"accuracy {correct / n:.1%} (95% CI {low:.1%} to {high:.1%}, n = {n:,})"


def format_table(counts):
    """Return the matrix with precision and recall as lines of text."""
    short_names = [name.split()[0].split("/")[0] for name in CLASS_NAMES]
    cells = [["actual \\ predicted", *short_names, "precision", "recall"]]
    for name, row, *fractions in zip(CLASS_NAMES, counts, *precision_and_recall(counts), strict=True):
        cells.append([name, *map(str, row), *("-" if np.isnan(each) else f"{each:.1%}" for each in fractions)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join([first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))])
        for first, *rest in cells
    )


def plot_matrix(counts, normalize):
    """Draw the matrix as a heatmap, in counts or in fractions of each row. Returns: matplotlib Figure"""
    values, fmt = (row_fractions(counts), ".2f") if normalize else (counts, "d")
    label = "fraction of the actual class" if normalize else "images"
    return figures.plot_confusion(values, fmt, format_accuracy(counts), label, cmap="Blues")


def main(argv=None):
    """Predict test samples with the dense model; print and draw the confusion matrix."""
    flags = cli.figure_parser(__doc__)
    flags.add_argument("--samples", type=samples, default=200, metavar="N", help="the first N, or all; default 200")
    flags.add_argument("--normalize", action="store_true", help="draw fractions of each row instead of counts")
    options = cli.parse(flags, argv)
    n = options.samples or options.recipe.test_images
    if n > options.recipe.test_images:
        flags.error(f"argument --samples: {n} samples, but there are {options.recipe.test_images}")
    path = figures.path_to_save(options, "confusion_matrix.png")
    model = cli.given_or_trained_model(deep_learning, options)
    images, labels = load_test_data(options.data_dir).first(n)
    counts = confusion_counts(labels, predict(model, images).argmax(axis=1))
    figures.save(plot_matrix(counts, options.normalize), path)
    print(format_table(counts))
    print(format_accuracy(counts))
    figures.show()


if __name__ == "__main__":
    cli.run_main(main)
