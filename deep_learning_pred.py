"""Experiment 3: what the original conv model predicts for 20 test images, or for your own photographs.

python deep_learning_pred.py
python deep_learning_pred.py --start 100 --count 40
python deep_learning_pred.py --image shoe.jpg shirt.png
"""

import math

import numpy as np

import deep_learning_conv
from lab import cli, figures
from lab.training.data import CLASS_NAMES, load_test_data
from lab.training.recipe import predict

LARGEST_COUNT = 100  # images in one figure


def format_predictions(start, probabilities, labels):
    """Return one line per image: index, predicted class, its probability, actual class, correct or WRONG."""
    return [
        f"{index:>5}  {CLASS_NAMES[row.argmax()]:<12}{row.max():>7.1%}  {CLASS_NAMES[label]:<12} "
        f"{'correct' if row.argmax() == label else 'WRONG'}"
        for index, (row, label) in enumerate(zip(probabilities, labels, strict=True), start)
    ]


def top_classes(probabilities, count=3):
    """Return the `count` most probable classes of one image as (name, probability), the most probable first."""
    return [(CLASS_NAMES[label], probabilities[label]) for label in np.argsort(-probabilities, kind="stable")[:count]]


def plot_predictions(images, probabilities, labels):
    """Draw each image under its prediction; a wrong one has a cross, a frame, and its actual class in bold.

    Args: images uint8 (n, 28, 28), probabilities float (n, 10), labels integer (n,). Returns: matplotlib Figure
    """
    import matplotlib.pyplot as plt

    columns = min(len(images), 5 if len(images) <= 20 else 10)
    rows = math.ceil(len(images) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2 * columns, 2.4 * rows), squeeze=False, layout="constrained")
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[], frame_on=False)
    for ax, image, row, label in zip(axes.flat, images, probabilities, labels, strict=False):
        wrong = row.argmax() != label
        ax.imshow(image, cmap="gray")
        ax.set_title(f"{'✗' if wrong else '✓'} {CLASS_NAMES[row.argmax()]} {row.max():.0%}", fontsize=10)
        ax.set_xlabel(f"actual: {CLASS_NAMES[label]}", fontsize=9, fontweight="bold" if wrong else "normal")
        ax.set_frame_on(wrong)
        for edge in ax.spines.values():
            edge.set(linewidth=5, color="tab:orange")
    return figure


def plot_photographs(photographs, probabilities):
    """Draw each photograph beside the 28 x 28 pixels that the model gets, under its three most probable classes.

    Args: photographs (PIL.Image, uint8 (28, 28)) pairs, probabilities float (n, 10). Returns: matplotlib Figure
    """
    import matplotlib.pyplot as plt

    pairs = min(4, len(photographs))
    rows = math.ceil(len(photographs) / pairs)
    figure, axes = plt.subplots(rows, 2 * pairs, figsize=(5 * pairs, 2.7 * rows), squeeze=False, layout="constrained")
    for ax in axes.flat:
        ax.axis("off")
    for left, right, (photograph, pixels), row in zip(
        axes.flat[::2], axes.flat[1::2], photographs, probabilities, strict=False
    ):
        left.imshow(photograph)
        right.imshow(pixels, cmap="gray", vmin=0, vmax=255)
        right.set_title("\n".join(f"{name} {probability:.0%}" for name, probability in top_classes(row)), fontsize=9)
    return figure


def main(argv=None):
    """Predict test images or photographs with the original conv model; print and draw the predictions."""
    flags = cli.figure_parser(__doc__)
    flags.add_argument("--count", type=cli.whole_number(1, LARGEST_COUNT), metavar="N", help="test images, default 20")
    flags.add_argument("--start", type=cli.whole_number(0), metavar="N", help="index of the first, default 0")
    flags.add_argument("--image", type=cli.nonempty_path, nargs="+", metavar="FILE", help="your photographs")
    options = cli.parse(flags, argv)
    start, count, n = options.start or 0, options.count or 20, options.recipe.test_images
    if start + count > n:
        flags.error(f"argument --start: {start} + {count} images, but there are {n}")
    if options.image and (options.start, options.count) != (None, None):
        flags.error("argument --image: --start and --count are for test images")
    photographs = [cli.read_photograph(path) for path in options.image or []]
    path = figures.path_to_save(options, "predictions.png")
    model = cli.given_or_trained_model(deep_learning_conv, options)

    if photographs:
        probabilities = predict(model, np.stack([pixels for _, pixels in photographs]))
        figure = plot_photographs(photographs[:LARGEST_COUNT], probabilities[:LARGEST_COUNT])
        lines = [
            f"{path}: {', '.join(f'{name} {probability:.1%}' for name, probability in top_classes(row))}"
            for path, row in zip(options.image, probabilities, strict=True)
        ]
    else:
        images, labels = (part[start : start + count] for part in load_test_data(options.data_dir))
        probabilities = predict(model, images)
        figure = plot_predictions(images, probabilities, labels)
        correct = int((probabilities.argmax(axis=1) == labels).sum())
        lines = [*format_predictions(start, probabilities, labels), f"{correct} of {len(labels)} correct"]
    figures.save(figure, path)
    print("\n".join(lines))
    figures.show()


if __name__ == "__main__":
    cli.run_main(main)
