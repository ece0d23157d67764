"""What the runs of a study say of its variants: accuracies, paired differences, calibration; and tables of them.

`runs` is a dict of Run by lab.study.RunKey, as `lab.study.run_study` returns it.
"""

import numpy as np

from lab.statistics import crossed_interval, expected_calibration_error, mcnemar_exact, mean_interval


def runs_for(runs, variant):
    """Return a variant's runs, in the order of the plan."""
    return [run for key, run in runs.items() if key.variant == variant]


def variant_names(runs):
    """Return the names of the variants that have runs, in their order."""
    return list(dict.fromkeys(key.variant for key in runs))


def accuracies(runs, variant, split):
    """Return a variant's accuracies in percent on a split, "test" or "train", one for each seed."""
    return [100 * run.record[split]["accuracy"] for run in runs_for(runs, variant)]


def is_correct(runs, variant, split, test_labels):
    """Return whether a variant's prediction is correct for each image of a split, bool (seeds, images)."""
    found = runs_for(runs, variant)
    if split == "test":
        return np.stack([run.arrays["predicted"] == test_labels for run in found])
    return np.stack([np.unpackbits(run.arrays["train_correct"], count=run.record["train"]["n"]) == 1 for run in found])


def differences(runs, pairs, split, test_labels):
    """Return the difference in accuracy of pairs of variants, in percentage points, with its 95% interval.

    Args: dict of (variant, variant subtracted) by name, of which those without runs are left out; split; test labels
    Returns: dict of (mean, low, high) by name, as `lab.statistics.crossed_interval`
    """
    correct = {name: is_correct(runs, name, split, test_labels).astype(np.int8) for name in variant_names(runs)}
    return {
        name: 100 * np.array(crossed_interval(correct[first] - correct[second]))
        for name, (first, second) in pairs.items()
        if {first, second} <= correct.keys()
    }


def differences_by_class(runs, pair, test_labels):
    """Return the difference in recall of each class between two variants: float (10, 3), mean, low and high."""
    first, second = (is_correct(runs, name, "test", test_labels).astype(np.int8) for name in pair)
    return 100 * np.array([crossed_interval((first - second)[:, test_labels == c]) for c in range(10)])


def p_values(runs, pair, test_labels):
    """Return for each seed the p-value of McNemar's exact test on the test images."""
    first, second = (is_correct(runs, name, "test", test_labels) for name in pair)
    return [mcnemar_exact(int((a & ~b).sum()), int((b & ~a).sum())) for a, b in zip(first, second, strict=True)]


def calibration(runs, variant, test_labels):
    """Return expected calibration error and negative log-likelihood (nats) on the test set, means over seeds."""
    found = runs_for(runs, variant)
    confidences = [run.arrays["confidence"].astype(np.float64) for run in found]
    errors = map(expected_calibration_error, confidences, is_correct(runs, variant, "test", test_labels))
    return float(np.mean(list(errors))), -float(np.mean([run.arrays["log_probability"] for run in found], dtype=float))


def format_seeds(runs):
    """Return how many seeds there are, and what the intervals of a single seed cover."""
    seeds = len({key.seed for key in runs})
    return f"{seeds} seeds" if seeds > 1 else "one seed: the intervals cover the images, not the seed"


def format_mean(values):
    """Return mean, standard deviation and 95% interval of the mean as text; of a single value, that value."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return "{1:.2f} ± {0:.2f} [{2:.2f}, {3:.2f}]".format(np.std(values, ddof=1), *mean_interval(values))


def format_signed_ci(interval):
    """Return (mean, low, high) as text, with signs."""
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*interval)


def format_ci(interval):
    """Return as text by how much (mean, low, high) differs from 0, in whichever direction."""
    return "{:.2f} [{:.2f}, {:.2f}]".format(*(interval if interval[0] > 0 else np.negative(interval)[[0, 2, 1]]))


def markdown_table(header, rows):
    """Return a Markdown table, all columns but the first aligned to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(
        "| " + " | ".join([first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])]) + " |"
        for first, *rest in (header, rule, *rows)
    )
