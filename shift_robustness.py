"""Experiment 7: what becomes of the gain when the garment is not as training showed it.

The trained models of five seeds on test images that are shifted, turned, scaled, blurred, noisy or of another contrast:
how often they are right, and how often they say the same as of the unchanged image. 10 runs: half an hour on two cores.

python shift_robustness.py
python shift_robustness.py --from-results    # the published runs: figure, table and sentence in seconds
"""

from itertools import product

import numpy as np

import convolution_gain
from lab import cli, compare, figures
from lab.statistics import mean_interval
from lab.store import predict


def shifted(images, distance):
    """Yield the images shifted so many pixels in each of the eight directions, black where nothing was."""
    side = images.shape[1]
    padded = np.pad(images, ((0, 0), (distance, distance), (distance, distance)))
    for top, left in product((0, distance, 2 * distance), repeat=2):
        if (top, left) != (distance, distance):
            yield padded[:, top : top + side, left : left + side]


def rotated(images, degrees):
    """Yield the images turned to the left and to the right about their centre."""
    for angle in (degrees, -degrees):
        yield _each(images, lambda image, angle=angle: image.rotate(angle, _bilinear()))


def scaled(images, share):
    """Yield the images larger or smaller, about their centre."""
    side = images.shape[1]
    new = round(side * share / 2) * 2  # an even number, so that the centre stays
    start = (new - side) // 2
    box = (start, start, start + side, start + side)  # beyond the image, it is black
    yield _each(images, lambda image: image.resize((new, new), _bilinear()).crop(box))


def blurred(images, radius):
    """Yield the images behind a Gaussian filter of so many pixels' standard deviation."""
    from PIL import ImageFilter

    yield _each(images, lambda image: image.filter(ImageFilter.GaussianBlur(radius)))


def noisy(images, deviation):
    """Yield the images with Gaussian noise of so many grey levels' standard deviation, the same noise at each call."""
    noise = np.random.default_rng(0).normal(0, deviation, images.shape)
    yield (images + noise).round().clip(0, 255).astype(np.uint8)


def contrasted(images, factor):
    """Yield the images with each pixel's distance from the image's mean multiplied by the factor."""
    from PIL import ImageEnhance

    yield _each(images, lambda image: ImageEnhance.Contrast(image).enhance(factor))


def _each(images, change):
    from PIL import Image

    return np.stack([np.asarray(change(Image.fromarray(image))) for image in images])


def _bilinear():
    from PIL import Image

    return Image.Resampling.BILINEAR


# name: the function, what its strength is, the strengths, and which of them leaves the images as they are
CHANGES = {
    "shift": (shifted, "pixels", (0, 1, 2, 3, 4, 5, 6), 0),
    "rotation": (rotated, "degrees", (0, 5, 10, 15, 20, 25, 30, 35, 40, 45), 0),
    "scale": (scaled, "times as large", (0.5, 0.64, 0.79, 0.93, 1, 1.07, 1.21, 1.36, 1.5), 1),
    "blur": (blurred, "pixels (SD)", (0, 0.5, 1, 1.5, 2, 3), 0),
    "noise": (noisy, "grey levels (SD)", (0, 16, 32, 48, 64, 96, 128), 0),
    "contrast": (contrasted, "times as much", (0.25, 0.5, 0.75, 1, 1.5, 2), 1),
}


def measure_changes(model, record, train_split, test_split):
    """Return for each change the accuracy and the consistency at each strength, means over directions, float (n,)."""
    images, labels = (part[: record["test"]["n"]] for part in test_split[:2])
    unchanged = predict(model, images).argmax(axis=1)
    arrays = {}
    for name, (change, _, strengths, neutral) in CHANGES.items():
        shares = []
        for strength in strengths:
            views = [images] if strength == neutral else change(images, strength)
            said = [predict(model, view).argmax(axis=1) for view in views]
            shares.append([np.mean([of_view == wanted for of_view in said]) for wanted in (labels, unchanged)])
        arrays[f"{name} accuracy"], arrays[f"{name} consistency"] = np.transpose(shares)
    return arrays


VARIANTS = {name: convolution_gain.VARIANTS[name]._replace(measure=measure_changes) for name in ("dense", "conv")}


def percents(runs, variant, change, what):
    """Return a variant's "accuracy" or "consistency" in percent, float (seeds, strengths)."""
    return 100 * np.stack([run.arrays[f"{change} {what}"] for run in compare.of_variant(runs, variant)])


def report(runs):
    """Return the table and the sentence, in Markdown."""
    names = compare.variants_of(runs)
    both = len(names) == 2
    rows = []
    for change, (_, unit, strengths, _) in CHANGES.items():
        by_name = {name: percents(runs, name, change, "accuracy") for name in names}
        same = {name: percents(runs, name, change, "consistency").mean(axis=0) for name in names}
        for column, strength in enumerate(strengths):
            rows.append(
                [
                    f"{change}, {strength:g} {unit}",
                    *(compare.mean_text(by_name[name][:, column]) for name in names),
                    gain(by_name["conv"][:, column], by_name["dense"][:, column]) if both else "-",
                    *(f"{same[name][column]:.2f}" for name in names),
                ]
            )
    header = [
        "test images",
        *(f"{name}, accuracy in %" for name in names),
        "conv - dense, points",
        *(f"{name}, same prediction in %" for name in names),
    ]
    return compare.markdown(header, rows) + ("\n\n" + sentence(runs) if both else "")


def gain(ours, theirs):
    """Return the mean difference of paired percentages with its 95% Student-t interval over seeds, in words."""
    differences = ours - theirs
    return compare.signed(mean_interval(differences)) if len(differences) > 1 else f"{differences[0]:+.2f}"


def sentence(runs):
    """Return the conclusion in one sentence."""
    conv, dense = (percents(runs, name, "shift", "accuracy") for name in ("conv", "dense"))
    strengths = CHANGES["shift"][2]
    at = [strengths.index(distance) for distance in (0, 2, 4)]
    texts = [
        f"{gain(conv[:, column], dense[:, column])} points at {strengths[column]} pixels "
        f"({conv[:, column].mean():.1f}% against {dense[:, column].mean():.1f}%)"
        for column in at
    ]
    return f"A convolution without pooling is equivariant, not invariant: its lead is {', '.join(texts)} of shift."


def plot(runs):
    """Draw accuracy and consistency against the strength of each change. Returns: matplotlib Figure"""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(CHANGES), figsize=(16, 6), sharey="row", sharex="col", layout="constrained")
    for row, what in zip(axes, ("accuracy", "consistency"), strict=True):
        for ax, (change, (_, unit, strengths, _)) in zip(row, CHANGES.items(), strict=True):
            for name, style in zip(compare.variants_of(runs), ("--", "-"), strict=False):
                figures.curve(ax, strengths, percents(runs, name, change, what), name, style)
            if what == "consistency":
                ax.set_xlabel(f"{change}, {unit}")
    for ax in axes.flat:
        ax.set_ylim(0, 104)  # a band of few seeds may leave what is possible
        figures.label_ends(ax)
    axes[0, 0].set_ylabel("right, %")
    axes[1, 0].set_ylabel("same prediction as\nof the unchanged image, %")
    return figure


def main(argv=None):
    """Do the runs that are missing; print table and sentence, draw the figure."""
    options = cli.parse(cli.study_parser(__doc__, VARIANTS, seeds=5), argv)
    path = figures.path_to_save(cli.save_path(options, "shift_robustness.png"), options.save)
    runs = cli.study_runs("shift_robustness", options)
    figures.save(plot(runs), path)
    print(report(runs))
    figures.show()


if __name__ == "__main__":
    cli.run(main)
