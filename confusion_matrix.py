"""Experiment 4: which garments the dense model takes for which, on 200 test samples.

python confusion_matrix.py
python confusion_matrix.py --samples all --normalize
"""

import numpy as np

import deep_learning
from lab import cli, figures, store
from lab.data import CLASS_NAMES, load_splits
from lab.statistics import wilson_interval


def parser():
    """Return the parser of this script's flags."""
    flags = cli.picture_parser(__doc__)
    flags.add_argument("--samples", type=samples, default=200, metavar="N", help="the first N, or all; default 200")
    flags.add_argument("--normalize", action="store_true", help="shares of each row instead of counts in the picture")
    return flags


def samples(text):
    """Read a number of test samples; None stands for all."""
    return None if text == "all" else cli.whole_number(1)(text)


def confusion_counts(actual, predicted):
    """Count how often each actual class was predicted as each class.

    Args: actual, predicted integer (n,) in [0, 10). Returns: integer (10, 10), rows actual, columns predicted
    """
    counts = np.zeros((len(CLASS_NAMES), len(CLASS_NAMES)), int)
    np.add.at(counts, (actual, predicted), 1)
    return counts


def precision_and_recall(counts):
    """Return per-class precision and recall, float (10,) each; nan where a class was never predicted or never there."""
    right = counts.diagonal()
    with np.errstate(invalid="ignore"):
        return right / counts.sum(axis=0), right / counts.sum(axis=1)


def row_shares(counts):
    """Return each row divided by its sum, float (10, 10); nan where a class is absent."""
    with np.errstate(invalid="ignore"):
        return counts / counts.sum(axis=1, keepdims=True)


def accuracy_text(counts):
    """Return n, accuracy and its 95% interval in words."""
    right, n = int(counts.trace()), int(counts.sum())
    low, high = wilson_interval(right, n)
    return f"accuracy {right / n:.1%} ±{50 * (high - low):.1f} points (95% CI {low:.1%} to {high:.1%}, n = {n:,})"


def table(counts):
    """Return the matrix with precision and recall as lines of text."""
    short_names = [name.split()[0].split("/")[0] for name in CLASS_NAMES]
    cells = [["actual \\ predicted", *short_names, "precision", "recall"]]
    for name, row, *shares in zip(CLASS_NAMES, counts, *precision_and_recall(counts), strict=True):
        cells.append([name, *map(str, row), *("-" if np.isnan(share) else f"{share:.1%}" for share in shares)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join([first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))])
        for first, *rest in cells
    )


def plot_confusion(counts, normalize):
    """Draw the matrix as a heatmap, in counts or in row shares. Returns: matplotlib Figure"""
    return plot_matrix(
        row_shares(counts) if normalize else counts,
        fmt=".2f" if normalize else "d",
        title=accuracy_text(counts),
        label="share of the actual class" if normalize else "images",
        cmap="Blues",
    )


def plot_matrix(values, fmt, title, label, **colors):
    """Draw numbers (10, 10), rows actual, columns predicted, as a heatmap; the label is its color bar's."""
    import matplotlib.pyplot as plt
    import seaborn

    figure, ax = plt.subplots(figsize=(8.5, 7.5), layout="constrained")
    seaborn.heatmap(
        values,
        annot=True,
        fmt=fmt,
        square=True,
        linewidths=0.5,
        xticklabels=CLASS_NAMES,
        yticklabels=CLASS_NAMES,
        cbar_kws={"label": label},
        ax=ax,
        **colors,
    )
    ax.set(xlabel="predicted", ylabel="actual", title=title)
    ax.tick_params(axis="x", rotation=45)
    ax.tick_params(axis="y", rotation=0)
    return figure


def main(argv=None):
    """Predict test samples with the dense model; print and draw the confusion matrix."""
    flags = parser()
    options = cli.parse(flags, argv)
    n = options.samples or options.recipe.test_images
    if n > options.recipe.test_images:
        flags.error(f"argument --samples: {n} samples, but there are {options.recipe.test_images}")
    picture = figures.path_to_save(cli.save_path(options, "confusion_matrix.png"), options.save)
    model = store.load_model(options.model) if options.model else cli.run_of(deep_learning, options)[0]
    (test,) = load_splits(["test"], options.data_dir)
    predicted = store.predict(model, test.images[:n]).argmax(axis=1)
    counts = confusion_counts(test.labels[:n], predicted)
    figure = plot_confusion(counts, options.normalize)
    figures.save(figure, picture)
    print(table(counts))
    print(accuracy_text(counts))
    figures.show()


if __name__ == "__main__":
    cli.run(main)
