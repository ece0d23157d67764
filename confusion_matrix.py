"""Experiment 4: which classes the dense model confuses, on 200 test samples.

python confusion_matrix.py
python confusion_matrix.py --samples all --normalize
python confusion_matrix.py --both    # beside it, the original project's conv model
"""

import numpy as np

import deep_learning
import deep_learning_conv
from lab.analysis import compare, figures
from lab.analysis.statistics import confusion_counts, row_fractions, wilson_interval
from lab.guard.errors import run_main
from lab.study import command_line, flags
from lab.study.data_sets import class_names
from lab.training.data import load_test_data
from lab.training.predictions import predict


def samples(text):
    """Convert a number of test samples; None stands for all."""
    return None if text == "all" else flags.whole_number(1)(text)


def precision_and_recall(counts):
    """Return per-class precision and recall, float (10,) each; nan if a class was never predicted or is absent."""
    return row_fractions(counts.T).diagonal(), row_fractions(counts).diagonal()


def format_accuracy(counts):
    """Return n, accuracy and its 95% interval as text."""
    correct, n = int(counts.trace()), int(counts.sum())
    low, high = wilson_interval(correct, n)
    return f"accuracy {correct / n:.1%} (95% CI {low:.1%} to {high:.1%}, n = {n:,})"


def format_table(counts, names):
    """Return the matrix with precision and recall as a Markdown table."""
    short_names = [name.split()[0].split("/")[0] for name in names]
    rows = [
        [name, *map(str, row), *("-" if np.isnan(each) else f"{each:.1%}" for each in fractions)]
        for name, row, *fractions in zip(names, counts, *precision_and_recall(counts), strict=True)
    ]
    return compare.markdown_table(["actual \\ predicted", *short_names, "precision", "recall"], rows)


def plot_matrices(counts, names, normalize):
    """Draw matrices, a dict by model, side by side, in counts or in fractions of each row. Returns: Figure"""
    import seaborn

    figure = figures.new((8.5 * len(counts), 7.5), "compressed")
    axes = figure.subplots(1, len(counts), squeeze=False)
    largest = 1 if normalize else np.max(list(counts.values()))  # one scale of colors
    style = {"annot": True, "square": True, "linewidths": 0.5, "cmap": "Blues", "vmin": 0, "vmax": largest}
    style |= {"fmt": ".2f" if normalize else "d", "xticklabels": names, "yticklabels": names}
    style["cbar_kws"] = {"label": "fraction of the actual class" if normalize else "images"}
    for ax, (model, matrix) in zip(axes.flat, counts.items(), strict=True):
        seaborn.heatmap(row_fractions(matrix) if normalize else matrix, ax=ax, **style)
        title = f"{figures.shorten_name(model)}: {format_accuracy(matrix)}"
        ax.set(xlabel="predicted", ylabel="actual", title=title)
        ax.tick_params(axis="x", rotation=45)
        ax.tick_params(axis="y", rotation=0)
    return figure


def main(argv=None):
    """Predict test samples; print and draw the confusion matrix."""
    parser = command_line.figure_parser(__doc__)
    parser.add_argument("--samples", type=samples, default=200, metavar="N", help="the first N, or all; default 200")
    parser.add_argument("--normalize", action="store_true", help="draw fractions of each row instead of counts")
    parser.add_argument("--both", action="store_true", help="the models of experiments 1 and 2 side by side")
    options = command_line.parse(parser, argv)
    path = figures.path_to_save(options, f"confusion_matrix{'_both' if options.both else ''}.png")
    images, labels = load_test_data(options.dataset).first(options.samples)
    if options.samples and options.samples > len(labels):
        parser.error(f"argument --samples: {options.samples} samples, but there are {len(labels)}")
    names = class_names(options.dataset)
    model = command_line.given_or_trained_model(deep_learning.train, options)
    models = {options.model.name if options.model else "dense": model}
    if options.both:
        models["conv, original"], _ = command_line.load_or_train(deep_learning_conv.train, options)
    counts = {name: confusion_counts(labels, predict(each, images).argmax(axis=1)) for name, each in models.items()}
    for name, matrix in counts.items():
        print(format_table(matrix, names))
        print(f"{name}: {format_accuracy(matrix)}")
    figures.save(plot_matrices(counts, names, options.normalize), path)
    figures.show()


if __name__ == "__main__":
    run_main(main)
