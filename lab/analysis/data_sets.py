"""The gain on several data sets, compared: in points, and in errors avoided."""

import numpy as np

from lab.analysis import compare, figures
from lab.analysis.statistics import NO_ESTIMATE, Estimate, crossed_estimate


def errors_avoided(runs, pair=("conv", "dense")):
    """Return which percentage of the second variant's test errors the first avoids, an Estimate.

    A ratio of means, linearized as F1 is (the delta method; `lab.analysis.statistics.f1_contributions`).
    """
    correct = [compare.is_correct(runs, name).astype(np.float64) for name in pair]
    seeds = min(map(len, correct))
    gained, wrong = correct[0][:seeds] - correct[1][:seeds], 1 - correct[1][:seeds]
    if not wrong.any():
        return NO_ESTIMATE
    ratio = gained.mean() / wrong.mean()
    around = crossed_estimate(100 * (gained - ratio * wrong) / wrong.mean())
    p_value = crossed_estimate(100 * gained).p_value  # no errors are avoided exactly if there is no gain
    return Estimate(100 * ratio, 100 * ratio + around.low, 100 * ratio + around.high, p_value)


def estimate_all(runs_by_data_set, comparisons):
    """Return the Estimates on the test set, and the errors avoided, by data set and comparison.

    Args: dict of runs by name of the data set; comparisons, as `lab.analysis.compare.estimates` takes them
    """
    found = {}
    for name, runs in runs_by_data_set.items():
        found[name] = {each: on_test for each, (on_test, *_) in compare.estimates(runs, comparisons).items()}
        found[name]["errors avoided"] = errors_avoided(runs)
    return found


def report(runs_by_data_set, found, labels):
    """Return the tables, in Markdown; each comparison is a family of tests.

    Args: runs by data set; what `estimate_all` returns; labels of the variants, by name
    """
    names = list(labels)
    rows = [
        [data_set, *(compare.format_mean(compare.accuracies(runs, name, "test")) for name in names)]
        for data_set, runs in runs_by_data_set.items()
    ]
    parts = [compare.markdown_table(["data set: test accuracy, %", *labels.values()], rows)]
    comparisons = list(next(iter(found.values())))
    columns = [
        compare.format_tests([each[name] for each in found.values()], "%" if name == "errors avoided" else "")
        for name in comparisons
    ]
    rows = [[data_set, *row] for data_set, *row in zip(found, *columns, strict=True)]
    parts.append(compare.markdown_table(["data set: points, p (Holm, per column)", *comparisons], rows))
    return "\n\n".join(parts)


def plot(found, runs_by_data_set, comparisons):
    """Draw the comparisons in points, and the errors avoided, for each data set. Returns: matplotlib Figure

    Args: what `estimate_all` returns, and what it was made from
    """
    figure = figures.new((11, 4))
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    others = {name: min(weights, key=weights.get) for name, weights in comparisons.items()}  # than conv
    for ax, names in (left, others), (right, {"errors avoided": "dense"}):
        for row, data_set in enumerate(found):
            for place, (name, other) in enumerate(names.items()):
                mean, low, high, _ = found[data_set][name]
                height = row + 0.6 * (place + 0.5) / len(names) - 0.3
                label = name if ax is left and not row else ""
                style = {"fmt": figures.STYLES[other][:3], "capsize": 3, "label": label}
                ax.errorbar(mean, height, xerr=[[mean - low], [high - mean]], **style)
        ax.axvline(0, color="0.7", linewidth=1)
        labels = [f"{name}\n{compare.seed_count(runs)}" for name, runs in runs_by_data_set.items()]
        ax.set_yticks(range(len(found)), labels if ax is left else [""] * len(found))
        ax.set_ylim(len(found) - 0.5, -0.5)
    gains, avoided = ([each[name].mean for each in found.values()] for name in (next(iter(others)), "errors avoided"))
    left.set_title(f"The convolution buys {_listed(gains, '.2f')} points")
    right.set_title(f"and avoids {_listed(avoided, '.0f')}% of the errors")
    left.set(xlabel="difference on the test set, points [95% CI]")
    right.set(xlabel="errors of dense that conv avoids, % [95% CI]")
    figure.legend(loc="outside lower center", ncols=len(others), frameon=False)
    return figure


def _listed(numbers, fmt):
    *first, last = (f"{number:{fmt}}" for number in numbers)
    return f"{', '.join(first)} and {last}" if first else last
