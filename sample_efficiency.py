"""Experiment 6: the gain against the number of training images.

Test accuracy of four models trained on 100 to 60,000 images, a fifth of which is held out and decides when to stop;
140 runs, which may be stopped and started again.

python sample_efficiency.py
python sample_efficiency.py --equal-steps     # instead, the same number of gradient steps at every size
python sample_efficiency.py --from-results    # the published runs: figure, table and sentence in seconds
"""

from dataclasses import replace

import numpy as np

import convolution_gain
from lab import cli, compare, figures
from lab.data import load_test_data
from lab.statistics import crossed_estimate, holm
from lab.study import RunKey, collect_predicted

SIZES = (100, 300, 1_000, 3_000, 10_000, 30_000, 60_000)  # numbers of training images


def select_balanced(train_split, n, seed):
    """Return n training images, the same number from each class; the subsets of a seed are nested."""
    order = np.random.default_rng(seed).permutation(len(train_split.labels))
    by_class = [order[train_split.labels[order] == label][: n // 10] for label in range(10)]
    return train_split.at(np.sort(np.concatenate(by_class)))


def hold_out_a_fifth(n):
    """Return a function that selects n training images, a fifth of which validates."""

    def select(train_split, test_split, seed):
        rest, validation = select_balanced(train_split, n, seed).hold_out(0.2, seed)
        return rest, test_split, validation

    return select


def repeat_images(n):
    """Return a function that selects n training images, repeated to the same number of steps an epoch at every size."""

    def select(train_split, test_split, seed):
        selected = select_balanced(train_split, n, seed)
        return selected.at(np.resize(np.arange(n), len(train_split.labels))), test_split

    return select


MODELS = {name: convolution_gain.VARIANTS[name] for name in ("dense", "conv", "fully-connected", "conv-shuffled")}
PROTOCOLS = {"": hold_out_a_fifth, "-equal-steps": repeat_images}
VARIANTS = {
    f"{name}-{n}{protocol}": replace(
        model, select=select(n), collect=collect_predicted, settings={"model": name, "images": n}
    )
    for protocol, select in PROTOCOLS.items()
    for n in SIZES
    for name, model in MODELS.items()
}


def name_runs(runs):
    """Return the names of the variants that have runs, by (model, number of training images)."""
    return {tuple(VARIANTS[name].settings.values()): name for name in compare.variant_names(runs)}


def models_and_sizes(runs):
    """Return the models that have runs, and the numbers of training images for which all of them have one."""
    names = name_runs(runs)
    models = list(dict.fromkeys(model for model, _ in names))
    return models, [n for n in SIZES if all((model, n) in names for model in models)]


def accuracies(runs, model):
    """Return a model's test accuracies in percent, float (seeds, sizes)."""
    names = name_runs(runs)
    return np.transpose([compare.accuracies(runs, names[model, n], "test") for n in models_and_sizes(runs)[1]])


def data_multiplier(sizes, ours, theirs):
    """Return how many times the data theirs needs to be as accurate as ours, at each size: mean, low and high, or None.

    The mean is read off a line through the mean accuracies of theirs over the logarithm of the size. The interval comes
    from the difference to that line, its slope taken as known (the delta method): that difference varies by seed and by
    image, as in `lab.statistics.crossed_estimate`; a high beyond the sizes tried is infinite. If ours is
    significantly better than theirs at the largest size, mean and high are infinite and low is the largest size divided
    by n. None if the accuracy of ours is outside of the range of theirs otherwise.

    Args: sizes; whether two models are correct, (sizes, seeds, images)
    """
    multipliers, places = [], np.log(sizes)
    rising = np.maximum.accumulate(theirs.mean(axis=(1, 2)))
    for n, correct in zip(sizes, ours, strict=True):
        value = correct.mean()
        beyond = crossed_estimate(correct.astype(np.int8) - theirs[-1])
        if n < sizes[-1] and beyond.low > 0:
            multipliers.append((np.inf, sizes[-1] / n, np.inf))
        elif not rising[0] <= value <= rising[-1]:
            multipliers.append(None)
        else:
            k = max(1, np.searchsorted(rising, value))  # the first size at which theirs is as accurate
            share = (value - rising[k - 1]) / (rising[k] - rising[k - 1])
            slope = (rising[k] - rising[k - 1]) / (places[k] - places[k - 1])
            line = (1 - share) * theirs[k - 1] + share * theirs[k]
            mean, low, high, _ = crossed_estimate((correct - line) / slope)
            center = places[k - 1] + share * (places[k] - places[k - 1]) - np.log(n)
            low, high = np.exp([center + low - mean, center + high - mean])
            multipliers.append((np.exp(center), low, high if high * n <= sizes[-1] else np.inf))
    return multipliers


def gains(runs, test_labels):
    """Return by how many points each other model is ahead of dense at each size: dict of Estimate by (model, size)."""
    names, (models, sizes) = name_runs(runs), models_and_sizes(runs)
    others = [model for model in models if model != "dense"] if "dense" in models else []
    pairs = {(model, n): {names[model, n]: 1, names["dense", n]: -1} for model in others for n in sizes}
    found = compare.estimates(runs, pairs, test_labels)
    return {key: on_test for key, (on_test, *_) in found.items()}


def report(runs, gain, test_labels, protocol):
    """Return the tables and the conclusion, in Markdown. Args: `protocol`, when the trainings stop"""
    models, sizes = models_and_sizes(runs)
    columns = [map(compare.format_mean, accuracies(runs, model).T) for model in models]
    rows = [[f"{n:,}", *means] for n, *means in zip(sizes, *columns, strict=True)]
    header = [f"images, {protocol}", *(f"{MODELS[model].label}, test accuracy in %" for model in models)]
    parts = [compare.markdown_table(header, rows)]
    if ("conv", sizes[0]) in gain:
        multipliers = dict(zip(sizes, data_multiplier(sizes, *correct(runs, test_labels)), strict=True))
        others = [model for model in models if model != "dense"]
        rows = []
        for n in sizes:
            adjusted = holm([gain[model, n].p_value for model in others])
            columns = [
                f"{compare.format_signed_ci(gain[model, n])}, p {compare.format_p(p_value)}"
                for model, p_value in zip(others, adjusted, strict=True)
            ]
            rows.append([f"{n:,}", *columns, format_multiplier(multipliers[n]) if multipliers[n] else "-"])
        header = ["images: points ahead of dense, p (Holm)", *(MODELS[model].label for model in others)]
        parts.append(compare.markdown_table([*header, "data-efficiency ratio of conv"], rows))
        text = conclusion(gain, sizes, multipliers)
        parts.append(f"{text} ({compare.format_seeds(runs)}; {compare.NOT_ADJUSTED}).")
    return "\n\n".join(parts)


def correct(runs, test_labels):
    """Return whether conv and dense are correct: two arrays of bool (sizes, seeds, images)."""
    names, (_, sizes) = name_runs(runs), models_and_sizes(runs)
    return [
        np.stack([compare.is_correct(runs, names[model, n], test_labels) for n in sizes]) for model in ("conv", "dense")
    ]


def conclusion(gain, sizes, multipliers):
    """Return the conclusion in one sentence."""
    by_size = {n: gain["conv", n] for n in sizes}
    clear = [
        f"{compare.format_signed_ci(each)} ({n:,} images)" for n, each in by_size.items() if each.low * each.high > 0
    ]
    unclear = [f"{n:,}" for n, each in by_size.items() if each.low * each.high <= 0]
    ratios = [f"{format_multiplier(each)} ({n:,} images)" for n, each in multipliers.items() if differs_from_one(each)]
    parts = [f"the gain of conv over dense is {', '.join(clear)}"] if clear else []
    parts += [f"its 95% interval includes 0 with {', '.join(unclear)} images"] if unclear else []
    parts += [f"the data-efficiency ratio of conv is {', '.join(ratios)}"] if ratios else []
    return f"In points, {'; '.join(parts)}"


def differs_from_one(multiplier):
    """Say whether the interval of a ratio excludes 1."""
    return bool(multiplier) and not multiplier[1] <= 1 <= multiplier[2]


def format_multiplier(multiplier):
    """Return (mean, low, high) of a ratio as text."""
    mean, low, high = multiplier
    return (
        f"more than {low:.0f}"
        if np.isinf(mean)
        else f"{mean:.1f} [{low:.1f}, {f'{high:.1f}' if high < np.inf else '∞'}]"
    )


def plot(runs, gain, protocol):
    """Draw accuracy, and how far the others are ahead of dense, against the training images. Returns: Figure"""
    import matplotlib.pyplot as plt

    models, sizes = models_and_sizes(runs)
    figure, axes = plt.subplots(1, 2 if gain else 1, figsize=(12, 4.6), layout="constrained", squeeze=False)
    left, right = axes[0, 0], axes[0, -1]
    for model in models:
        figures.plot_curve(left, sizes, accuracies(runs, model), MODELS[model].label, convolution_gain.STYLES[model])
    left.set_ylabel("test accuracy, %: mean and 95% interval over seeds")
    left.legend(loc="lower right", frameon=False)
    for shift, model in enumerate(dict.fromkeys(model for model, _ in gain)):
        estimates = np.array([gain[model, n] for n in sizes])
        errors = [estimates[:, 0] - estimates[:, 1], estimates[:, 2] - estimates[:, 0]]
        x = np.array(sizes) * 1.06 ** (shift - 1)  # side by side
        right.errorbar(x, estimates[:, 0], errors, fmt=convolution_gain.STYLES[model], capsize=3, markersize=4)
    if gain:
        right.axhline(0, color="0.7", linewidth=1)
        right.set_ylabel("points ahead of dense, with 95% interval")
    for ax in axes.flat:
        ax.set(xscale="log", xlabel=f"training images, {protocol}")
        ax.set_xticks(sizes, [f"{n / 1000:g}k" if n >= 1000 else f"{n}" for n in sizes])
        ax.minorticks_off()
    return figure


def main(argv=None):
    """Run what is missing; print tables and conclusion, draw the figure."""
    flags = cli.study_parser(__doc__, MODELS, seeds=5)
    flags.add_argument("--equal-steps", action="store_true", help="equal gradient steps, without a validation set")
    options = cli.parse(flags, argv)
    ending = "-equal-steps" if options.equal_steps else ""
    protocol = "equal gradient steps" if options.equal_steps else "20% held out for early stopping"
    path = figures.path_to_save(options, f"sample_efficiency{ending.replace('-', '_')}.png")
    sizes = [n for n in SIZES if n <= options.recipe.train_images]
    plan = [
        RunKey(f"{model}-{n}{ending}", seed, options.recipe)
        for seed in cli.seeds(options)
        for n in sizes
        for model in options.variants
    ]
    runs = cli.study_runs("sample_efficiency", options, plan)
    test_labels = load_test_data(options.data_dir).first(options.recipe.test_images).labels
    gain = gains(runs, test_labels)
    figures.save(plot(runs, gain, protocol), path)
    print(report(runs, gain, test_labels, protocol))
    figures.show()


if __name__ == "__main__":
    cli.run_main(main)
