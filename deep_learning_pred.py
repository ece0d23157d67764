"""Experiment 3: what the original conv model predicts for 20 test images, or for your own photographs.

python deep_learning_pred.py
python deep_learning_pred.py --start 100 --count 40
python deep_learning_pred.py --image shoe.jpg shirt.png
"""

import math

import numpy as np

import deep_learning_conv
from lab.analysis import figures
from lab.guard.errors import run_main
from lab.guard.photographs import read_photographs, require_all
from lab.study import command_line
from lab.study.data_sets import class_names
from lab.study.flags import nonempty_path, whole_number
from lab.training.data import load_test_data
from lab.training.predictions import predict

LARGEST_COUNT = 100  # images in one figure


def format_predictions(start, probabilities, labels, names):
    """Return one line per image: index, predicted class, its probability, actual class, correct or WRONG."""
    width = max(map(len, names)) + 1
    return [
        f"{index:>5}  {names[row.argmax()]:<{width}}{row.max():>7.1%}  {names[label]:<{width}} "
        f"{'correct' if row.argmax() == label else 'WRONG'}"
        for index, (row, label) in enumerate(zip(probabilities, labels, strict=True), start)
    ]


def top_classes(probabilities, names, count=3):
    """Return the `count` most probable classes of one image as (name, probability), the most probable first."""
    return [(names[label], probabilities[label]) for label in np.argsort(-probabilities, kind="stable")[:count]]


def plot_predictions(images, probabilities, labels, names, title):
    """Draw each image under its prediction; a wrong one has a cross, a frame, and its actual class in bold.

    Args: images uint8 (n, 28, 28), probabilities float (n, 10), labels integer (n,), names of the classes, title.
    Returns: matplotlib Figure
    """
    columns = min(len(images), 5 if len(images) <= 20 else 10)
    rows = math.ceil(len(images) / columns)
    figure = figures.new((2 * columns, 2.4 * rows))
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.suptitle(title, fontsize=10)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[], frame_on=False)
    for ax, image, row, label in zip(axes.flat, images, probabilities, labels, strict=False):
        wrong = row.argmax() != label
        ax.imshow(image, cmap="gray")
        ax.set_title(f"{'✗' if wrong else '✓'} {names[row.argmax()]} {row.max():.0%}", fontsize=10)
        ax.set_xlabel(f"actual: {names[label]}", fontsize=9, fontweight="bold" if wrong else "normal")
        ax.set_frame_on(wrong)
        ax.spines[:].set(linewidth=5, color="tab:orange")
    return figure


def plot_photographs(photographs, probabilities, names, title):
    """Draw each photograph, named, beside the 28 x 28 pixels that the model gets, under its most probable classes.

    Args: photographs (path, PIL.Image, uint8 (28, 28)), probabilities float (n, 10), names of the classes, title.
    Returns: matplotlib Figure
    """
    pairs = min(4, len(photographs))
    rows = math.ceil(len(photographs) / pairs)
    figure = figures.new((5 * pairs, 2.7 * rows))
    axes = figure.subplots(rows, 2 * pairs, squeeze=False)
    figure.suptitle(title, fontsize=10)
    for ax in axes.flat:
        ax.axis("off")
    for left, right, (path, photograph, pixels), row in zip(
        axes.flat[::2], axes.flat[1::2], photographs, probabilities, strict=False
    ):
        left.imshow(photograph)
        left.set_title(figures.shorten_name(path.name), fontsize=9)
        right.imshow(pixels, cmap="gray", vmin=0, vmax=255)
        classes = "\n".join(f"{name} {probability:.0%}" for name, probability in top_classes(row, names))
        right.set_title(classes, fontsize=9)
    return figure


def main(argv=None):
    """Predict test images or photographs with the original conv model; print and draw the predictions."""
    flags = command_line.figure_parser(__doc__)
    flags.add_argument("--count", type=whole_number(1, LARGEST_COUNT), metavar="N", help="test images, default 20")
    flags.add_argument("--start", type=whole_number(0), metavar="N", help="index of the first, default 0")
    flags.add_argument("--image", type=nonempty_path, nargs="+", metavar="FILE", help="your photographs")
    options = command_line.parse(flags, argv)
    if options.image and (options.start, options.count) != (None, None):
        flags.error("argument --image: --start and --count are for test images")
    names = class_names(options.dataset)
    path = figures.path_to_save(options, "predictions.png")
    title = f"model: {figures.shorten_name(options.model.name) if options.model else 'deep_learning_conv.py'}"

    if options.image:
        photographs = read_photographs(options.image)
        model = command_line.given_or_trained_model(deep_learning_conv.train, options)
        probabilities = predict(model, np.stack([pixels for _, _, pixels in photographs]))
        for (photo, _, _), row in zip(photographs, probabilities, strict=True):
            classes = ", ".join(f"{name} {probability:.1%}" for name, probability in top_classes(row, names))
            print(f"{photo}: {classes}")
        drawn = slice(LARGEST_COUNT)
        figure = plot_photographs(photographs[drawn], probabilities[drawn], names, title)
    else:
        test, start = load_test_data(options.dataset), options.start or 0
        count = options.count or min(20, len(test.labels))
        if start + count > len(test.labels):
            flags.error(f"argument --start: {start} + {count} images, but there are {len(test.labels)}")
        images, labels = test.at(slice(start, start + count))
        model = command_line.given_or_trained_model(deep_learning_conv.train, options)
        probabilities = predict(model, images)
        print("\n".join(format_predictions(start, probabilities, labels, names)))
        print(f"{(probabilities.argmax(axis=1) == labels).sum()} of {len(labels)} correct", flush=True)
        figure = plot_predictions(images, probabilities, labels, names, title)
    figures.save(figure, path)
    figures.show()
    if options.image:
        require_all(photographs, options.image)


if __name__ == "__main__":
    run_main(main)
