"""What the runs of a study say of its variants: accuracies, paired differences, calibration; and tables of them.

`runs` is a dict of lab.study.Run by lab.study.Key, as `lab.study` returns it.
"""

import numpy as np

from lab.statistics import bootstrap_intervals, expected_calibration_error, mcnemar_exact, mean_interval


def of_variant(runs, variant):
    """Return a variant's runs, in the order of the plan."""
    return [run for key, run in runs.items() if key.variant == variant]


def variants_of(runs):
    """Return the names of the variants that there are, in their order."""
    return list(dict.fromkeys(key.variant for key in runs))


def seeds_text(runs):
    """Return in words how many seeds there are, and what the intervals of one cover."""
    seeds = len({key.seed for key in runs})
    return f"{seeds} seeds" if seeds > 1 else "one seed: the intervals cover the images, not the seed"


def accuracies(runs, variant, split):
    """Return a variant's accuracies in percent on a split, "test" or "train", one for each seed."""
    return [100 * run.record[split]["accuracy"] for run in of_variant(runs, variant)]


def right(runs, variant, split, test_labels):
    """Return whether a variant is right about each image of a split, bool (seeds, images)."""
    each = of_variant(runs, variant)
    if split == "test":
        return np.stack([run.arrays["predicted"] == test_labels for run in each])
    return np.stack([np.unpackbits(run.arrays["train_right"], count=run.record["train"]["n"]) == 1 for run in each])


def differences(runs, pairs, split, test_labels):
    """Return by how many points the first variant of each pair is ahead of the second.

    Args:
        pairs: dict of pairs of variants by name; those that the runs do not allow are left out
        split: "test" or "train"
        test_labels: of the n test images

    Returns:
        dict of (mean, low, high) by name, as `lab.statistics.bootstrap_intervals`
    """
    there = set(variants_of(runs))
    pairs = {name: pair for name, pair in pairs.items() if there.issuperset(pair)}
    if not pairs:
        return {}
    by_variant = {name: right(runs, name, split, test_labels).astype(np.int8) for name in there}
    stacked = np.stack([by_variant[first] - by_variant[second] for first, second in pairs.values()])
    return dict(zip(pairs, 100 * bootstrap_intervals(stacked), strict=True))


def differences_by_class(runs, pair, test_labels):
    """Return by how many points the first variant's recall of each class is ahead: float (10, 3)."""
    first, second = (right(runs, name, "test", test_labels).astype(np.int8) for name in pair)
    return np.stack([100 * bootstrap_intervals((first - second)[None, :, test_labels == c])[0] for c in range(10)])


def p_values(runs, pair, test_labels):
    """Return for each seed the p-value of McNemar's exact test on the test images."""
    first, second = (right(runs, name, "test", test_labels) for name in pair)
    return [mcnemar_exact(int((a & ~b).sum()), int((b & ~a).sum())) for a, b in zip(first, second, strict=True)]


def calibration(runs, variant, test_labels):
    """Return expected calibration error and negative log-likelihood (nats) on the test set, means over seeds."""
    each = of_variant(runs, variant)
    confidences = [run.arrays["confidence"].astype(np.float64) for run in each]
    errors = map(expected_calibration_error, confidences, right(runs, variant, "test", test_labels))
    return float(np.mean(list(errors))), -float(np.mean([run.arrays["log_probability"] for run in each], dtype=float))


def mean_text(values):
    """Return mean, standard deviation and 95% interval of the mean in words; of a single value, that."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    mean, low, high = mean_interval(values)
    return f"{mean:.2f} ± {np.std(values, ddof=1):.2f} [{low:.2f}, {high:.2f}]"


def signed(interval):
    """Return (mean, low, high) in words."""
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*interval)


def unsigned(interval):
    """Return in words by how much (mean, low, high) differs from 0, whichever way."""
    return "{:.2f} [{:.2f}, {:.2f}]".format(*(interval if interval[0] > 0 else np.negative(interval)[[0, 2, 1]]))


def markdown(header, rows):
    """Return a Markdown table, its columns aligned, all but the first to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(
        "| " + " | ".join([first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])]) + " |"
        for first, *rest in (header, rule, *rows)
    )
