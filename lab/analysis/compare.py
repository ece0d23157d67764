"""Summaries and comparisons of a study's runs: accuracies, paired differences, calibration; and tables of them.

`runs` is a dict of runs by key, as `lab.study.runs.run_study` returns it. A key has `variant` and `seed`; a run has
`record`, a flat dict, `arrays`, and the `labels` of the test images.
"""

import numpy as np

from lab.analysis import statistics
from lab.guard.errors import LabError


def runs_for(runs, variant):
    """Return a variant's runs, in the order of the plan."""
    return [run for key, run in runs.items() if key.variant == variant]


def variant_names(runs):
    """Return the names of the variants that have runs, in their order."""
    return list(dict.fromkeys(key.variant for key in runs))


def accuracies(runs, variant, split):
    """Return a variant's accuracies in percent on a split, "test" or "train", one for each seed."""
    return [100 * run.record[f"{split}_accuracy"] for run in runs_for(runs, variant)]


def shared_labels(runs):
    """Return the labels of the images that all runs were evaluated on. Raises: LabError, they are not the same."""
    labels, *others = (run.labels for run in runs.values())
    if not all(np.array_equal(labels, each) for each in others):
        raise LabError("runs that were evaluated on different images cannot be compared image by image")
    return labels


def is_correct(runs, variant):
    """Return whether a variant's prediction is correct for each test image, bool (seeds, images)."""
    labels = shared_labels(runs)
    return np.stack([run.arrays["predicted"] == labels for run in runs_for(runs, variant)])


def estimates(runs, comparisons):
    """Return how variants compare in accuracy, in percentage points, on the test set and on the training set.

    Test images are a sample, as seeds are: `lab.analysis.statistics.crossed_estimate`. The training images are all that
    a model was fitted to: their intervals are Student's over seeds. If variants have different numbers of seeds, the
    first seeds common to all are used.

    Args: dict of {variant: weight} by name, for example {"conv": 1, "dense": -1}; those without runs are left out
    Returns: dict of (test, training) Estimate by name; with one seed, there is none for the training set
    Raises: LabError, the runs were evaluated on different images.
    """
    correct = {name: is_correct(runs, name).astype(np.int8) for name in variant_names(runs)}
    train = {name: np.array(accuracies(runs, name, "train")) for name in correct}
    found = {}
    for name, weights in comparisons.items():
        if weights.keys() <= correct.keys():
            seeds = min(len(correct[variant]) for variant in weights)
            on_test = sum(100.0 * weight * correct[variant][:seeds] for variant, weight in weights.items())
            on_train = sum(weight * train[variant][:seeds] for variant, weight in weights.items())
            estimates_on_train = [statistics.mean_estimate(on_train)] if seeds > 1 else []
            found[name] = statistics.crossed_estimate(on_test), *estimates_on_train
    return found


def by_class(runs, pair):
    """Return by how many points two variants differ in recall and in F1, for each class: (recall, F1) Estimates.

    Of a class with fewer than two test images, nothing can be said: the Estimates are nan.
    """
    first, second = (np.stack([run.arrays["predicted"] for run in runs_for(runs, name)]) for name in pair)
    found, labels = [], shared_labels(runs)
    for label in range(10):
        if np.count_nonzero(labels == label) < 2:
            found.append((statistics.NO_ESTIMATE, statistics.NO_ESTIMATE))
            continue
        hits = [(predicted == label)[:, labels == label].astype(np.int8) for predicted in (first, second)]
        f1 = [sum(statistics.f1_contributions(labels, predicted, label)) for predicted in (first, second)]
        found.append(tuple(statistics.crossed_estimate(100 * (one - other)) for one, other in (hits, f1)))
    return found


def calibration(runs, variant):
    """Return expected calibration error and negative log-likelihood (nats) on the test set, means over seeds."""
    found = runs_for(runs, variant)
    confidences = [run.arrays["confidence"].astype(np.float64) for run in found]
    errors = map(statistics.expected_calibration_error, confidences, is_correct(runs, variant))
    return float(np.mean(list(errors))), -float(np.mean([run.arrays["log_probability"] for run in found], dtype=float))


NOT_ADJUSTED = "p-values in the tables are adjusted for multiple comparisons, intervals are not"


def seed_count(runs):
    """Return how many seeds there are, as text."""
    seeds = len({key.seed for key in runs})
    return f"{seeds} seeds" if seeds > 1 else "one seed"


def format_seeds(runs):
    """Return how many seeds there are, and what the intervals of a single seed cover."""
    count = seed_count(runs)
    return f"{count}: the intervals cover the images, not the seed" if count == "one seed" else count


def format_mean(values, limits=(0, 100)):
    """Return mean, standard deviation and 95% interval of the mean as text; of one value, or equal ones, no interval.

    If mean and median differ by more than half the standard deviation, the median is shown as well.

    Args: values (n,); limits, which the quantity cannot exceed and the interval must not: by default, those of percent
    """
    mean, low, high = statistics.mean_interval(values, limits)
    if len(values) == 1:
        return f"{mean:.2f}"
    deviation, median = np.std(values, ddof=1), np.median(values)
    interval = "" if np.isnan(low) else f" [{low:.2f}, {high:.2f}]"
    skewed = f", median {median:.2f}" if abs(mean - median) > deviation / 2 else ""
    return f"{mean:.2f} ± {deviation:.2f}{interval}{skewed}"


def accuracy_table(runs, header, describe):
    """Return each variant's accuracies on both sets as a Markdown table.

    Args: runs; header of the first columns; function of a variant's name and its first record to their content
    """
    rows = []
    for name in variant_names(runs):
        means = [format_mean(accuracies(runs, name, split)) for split in ("test", "train")]
        rows.append([*describe(name, runs_for(runs, name)[0].record), *means])
    return markdown_table([*header, "test accuracy, %", "training accuracy, %"], rows)


def family_tables(families, found):
    """Return a Markdown table for each family of comparisons that has any. Args: as `estimate_table`, by family"""
    return [estimate_table(family, names, found) for family, names in families.items() if found.keys() & names]


def estimate_table(family, names, found):
    """Return a family of comparisons as a Markdown table, its p-values adjusted by Holm's method.

    Args: title of the family; names of its comparisons; dict of Estimates on the test set and, if there are any, on the
        training set, as `estimates` returns it
    """
    planned, names = len(names), [name for name in names if name in found]
    family = family if len(names) == planned else f"{family} ({len(names)} of {planned})"
    adjusted = statistics.holm([found[name][0].p_value for name in names])
    rows = [
        [name, format_signed_ci(on_test), format_p(p_value), *map(format_signed_ci, others)]
        for name, p_value, (on_test, *others) in zip(names, adjusted, map(found.get, names), strict=True)
    ]
    return markdown_table([family, "test set, points", "p (Holm)", "training set, points"][: len(rows[0])], rows)


def format_tests(estimates, unit=""):
    """Return the Estimates of a family as texts, each with its p-value adjusted by Holm's method."""
    adjusted = statistics.holm([each.p_value for each in estimates])
    return [f"{format_signed_ci(each)}{unit}, p {format_p(p)}" for each, p in zip(estimates, adjusted, strict=True)]


def format_p(p_value):
    """Return a p-value as text; "-" if there is no test."""
    if np.isnan(p_value):
        return "-"
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def format_signed_ci(interval, sign="+"):
    """Return (mean, low, high) as text, with signs; without what is nan."""
    mean, low, high = (f"{each:{sign}.2f}" for each in interval[:3])
    return "-" if "nan" in mean else mean if "nan" in low else f"{mean} [{low}, {high}]"


def format_ci(interval):
    """Return as text by how much (mean, low, high) differs from 0, in whichever direction."""
    mean, low, high = interval[:3]
    return format_signed_ci((-mean, -high, -low) if mean < 0 else (mean, low, high), "")


def markdown_table(header, rows):
    """Return a Markdown table, all columns but the first aligned to the right."""
    widths = [max(2, *map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(
        "| " + " | ".join([first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])]) + " |"
        for first, *rest in (header, rule, *rows)
    )
