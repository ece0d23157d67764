"""Confusion counts, confidence intervals and tests: for a proportion, a mean over runs, runs paired by image."""

import math
import statistics
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

LEVEL = 0.05  # of all tests; intervals are those of 95%


def confusion_counts(actual, predicted):
    """Return how often each of ten actual classes (row) was predicted as each class (column), from integers (n,)."""
    return np.bincount(np.ravel_multi_index((actual, predicted), (10, 10)), minlength=100).reshape(10, 10)


def row_fractions(counts):
    """Return each row divided by its sum, float; nan if a class is absent."""
    with np.errstate(invalid="ignore"):
        return counts / counts.sum(axis=1, keepdims=True)


def wilson_interval(successes, n):
    """Return Wilson's score interval (low, high) for a proportion (Wilson 1927, doi:10.1080/01621459.1927.10502953).

    Raises: ValueError, not 0 <= successes <= n, or n is 0.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n}")
    z = NormalDist().inv_cdf(1 - LEVEL / 2)
    proportion = successes / n
    center = (proportion + z**2 / (2 * n)) / (1 + z**2 / n)
    half_width = z / (1 + z**2 / n) * math.sqrt(proportion * (1 - proportion) / n + z**2 / (4 * n**2))
    return max(0.0, center - half_width), min(1.0, center + half_width)


class Estimate(NamedTuple):
    """A mean with its confidence interval, and the two-sided p-value of the hypothesis that the true mean is 0.

    Interval and p-value are nan where nothing is known of the variation: of one value, or of values that are all equal.
    """

    mean: float
    low: float
    high: float
    p_value: float


NO_ESTIMATE = Estimate(*[math.nan] * 4)


def mean_estimate(values):
    """Return the Estimate of the mean of finite values (n,), else nan (Student 1908, doi:10.2307/2331554)."""
    n = len(values)
    if not np.isfinite(values).all():
        return NO_ESTIMATE
    return t_estimate(statistics.fmean(values), statistics.stdev(values) / math.sqrt(n) if n > 1 else 0.0, n - 1)


def mean_interval(values, limits=(-math.inf, math.inf)):
    """Return the mean of values (n,) and its 95% interval, which ends at the limits: (0, 100) for percentages."""
    mean, low, high, _ = mean_estimate(values)
    return mean, *map(float, np.clip((low, high), *limits))


def t_estimate(mean, standard_error, degrees):
    """Return the Estimate of a mean by Student's t distribution."""
    if standard_error <= 1e-12 * abs(mean):  # 0, or rounding
        return Estimate(mean, math.nan, math.nan, math.nan)
    half_width = t_critical(degrees) * standard_error
    return Estimate(mean, mean - half_width, mean + half_width, t_p_value(mean / standard_error, degrees))


def crossed_estimate(differences):
    """Return the Estimate of the mean of differences that vary by seed and by image, both random and crossed.

    The variance of the mean is (MS_seed + MS_image - MS_residual) / (seeds x images), from the mean squares of a
    two-way layout with one value per cell; it takes both another draw of seeds and another draw of images into account.
    A mean square below the residual one counts as equal to it. The interval is Student's t with Satterthwaite's degrees
    of freedom (1946, doi:10.2307/3002019).

    Args: differences (seeds, images), for example -1, 0 or 1; with one seed, the interval covers the images only
    Raises: ValueError, no seed or fewer than two images.
    """
    differences = np.asarray(differences, np.float64)
    seeds, images = differences.shape
    if not seeds or images < 2:
        raise ValueError(f"{seeds} seeds and {images} images")
    if seeds == 1:
        return mean_estimate(differences[0].tolist())
    mean = differences.mean()
    by_seed = images * ((differences.mean(axis=1) - mean) ** 2).sum()
    by_image = seeds * ((differences.mean(axis=0) - mean) ** 2).sum()
    residual = max(0.0, ((differences - mean) ** 2).sum() - by_seed - by_image)
    degrees = np.array([seeds - 1, images - 1, (seeds - 1) * (images - 1)])
    squares = np.array([by_seed, by_image, residual]) / degrees
    terms = np.maximum(squares, squares[2]) * [1, 1, -1]
    variance = terms.sum()
    satterthwaite = variance**2 / (terms**2 / degrees).sum() if variance else 1
    return t_estimate(mean, math.sqrt(variance / (seeds * images)), max(1, satterthwaite))


def holm(p_values):
    """Return the p-values of a family of tests adjusted for their number (Holm 1979, jstor.org/stable/4615733).

    nan, which stands for no test, stays nan and is not counted.
    """
    adjusted = np.array(p_values, np.float64)
    order = np.argsort(adjusted)[: np.count_nonzero(~np.isnan(adjusted))]  # nan is sorted to the end
    products = adjusted[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(products))
    return adjusted.tolist()


def estimate_data_ratios(sizes, ours, theirs):
    """Return by what factor theirs must change its training data to be as accurate as ours, at each size.

    Theirs is known with some numbers of training images; between two, it is read off a line over their logarithm. The
    95% interval inverts the test of `crossed_estimate`: it goes from the smallest to the largest factor r for which
    ours with n images does not differ significantly from that line at r n images. So the interval contains 1, that is
    low < 1 < high, exactly if the two do not differ significantly with the same n images.

    Args: numbers of training images, rising (sizes,); whether the models are correct, bool (sizes, seeds, images)
    Returns: a (ratio, low, high) for each size. The ratio is infinite if ours is more accurate than theirs ever is, and
        0 if it is less. A high that no size excludes is infinite, and such a low is 0.
    """
    levels = theirs.mean(axis=(1, 2))
    last = len(sizes) - 1

    def is_excluded(correct, place):  # places count sizes: 1.5 is halfway from the second to the third
        before, after = theirs[math.floor(place)], theirs[math.ceil(place)].astype(np.float64)
        return crossed_estimate(correct - before - place % 1 * (after - before)).p_value < LEVEL

    def find_limit(correct, excluded, included):
        for _ in range(20):
            middle = (excluded + included) / 2
            excluded, included = (middle, included) if is_excluded(correct, middle) else (excluded, middle)
        return included

    found = []
    for n, correct in zip(sizes, ours.astype(np.float64), strict=True):
        accuracy = correct.mean()
        k = int(np.argmax(levels >= accuracy))  # the first size with which theirs is as accurate
        if levels[k] < accuracy:
            meeting = math.inf
        elif k == 0:
            meeting = 0.0 if levels[0] == accuracy else -math.inf
        else:
            meeting = k - (levels[k] - accuracy) / (levels[k] - levels[k - 1])
        places = sorted({*map(float, range(len(sizes))), float(min(max(meeting, 0), last))})
        included = [place for place in places if place == meeting or not is_excluded(correct, place)]
        low, high = -math.inf, math.inf
        if not included:  # nearest to what was tried
            low, high = (last, math.inf) if meeting > 0 else (-math.inf, 0)
        else:
            if included[0] > 0:
                low = find_limit(correct, places[places.index(included[0]) - 1], included[0])
            if included[-1] < last:
                high = find_limit(correct, places[places.index(included[-1]) + 1], included[-1])
        logs = np.interp((meeting, low, high), range(len(sizes)), np.log(sizes), -math.inf, math.inf)
        found.append(tuple(np.exp(logs - np.log(n)).tolist()))
    return found


def probability_of_superiority(first, second):
    """Return the fraction of all pairs in which the first value is higher, ties counted half.

    Bouthillier et al. 2021 (arXiv 2103.03098).
    """
    first, second = np.asarray(first)[:, None], np.asarray(second)[None]
    return float((first > second).mean() + (first == second).mean() / 2)


def f1_contributions(actual, predicted, label):
    """Return the F1 score of a class over all seeds, and what each image adds to it in each seed.

    F1 is a ratio of sums over images, 2 TP / (2 TP + FP + FN). Its linearization (the delta method; Cochran 1977,
    Sampling Techniques, 6.3) is a sum over images, so that the variance of F1 is that of a mean.

    Args: classes, actual (images,) and predicted (seeds, images)
    Returns: float, and float (seeds, images) whose mean is 0; all nan if the class is neither actual nor predicted
    """
    is_actual, is_predicted = actual == label, predicted == label
    hits = 2.0 * (is_actual & is_predicted)
    counts = is_actual.astype(float) + is_predicted
    with np.errstate(invalid="ignore"):
        score = hits.mean() / counts.mean()
        return score, (hits - score * counts) / counts.mean()


def t_critical(degrees):
    """Return the t that |T| exceeds with a probability of 5%, by the secant method; at least one degree of freedom."""
    before, t = 1.8, 1.9  # below the solution; the curve is convex, so that each step stays below
    while abs(t - before) > 1e-9:
        p_value = t_p_value(t, degrees)
        slope = (p_value - t_p_value(before, degrees)) / (t - before)
        before, t = t, t - (p_value - LEVEL) / slope
    return t


def t_p_value(t, degrees):
    """Return P(|T| >= |t|), T having Student's t distribution; exact far out in the tails, too."""
    square = min(abs(t), 1e150) ** 2
    return incomplete_beta(degrees / (degrees + square), square / (degrees + square), degrees / 2, 0.5)


def incomplete_beta(x, y, a, b):
    """Return the regularized incomplete beta function I_x(a, b), by its continued fraction (dlmf.nist.gov/8.17#v).

    Args: x in [0, 1]; y = 1 - x, which the caller knows to more digits if it is small; a and b, positive
    """
    if x > (a + 1) / (a + b + 2):  # there, it converges slowly
        return 1 - incomplete_beta(y, x, b, a)
    fraction = 1.0
    for n in range(60, 0, -1):
        m = n // 2
        odd = -(a + m) * (a + b + m) / ((a + 2 * m) * (a + 2 * m + 1))
        fraction = 1 + x / fraction * (odd if n % 2 else m * (b - m) / ((a + 2 * m - 1) * (a + 2 * m)))
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    return x**a * y**b * math.exp(-log_beta) / (a * fraction)


def expected_calibration_error(confidence, is_correct, bins=15):
    """Return the mean absolute difference between confidence and accuracy, weighted over bins of equal width.

    Naeini, Cooper and Hauskrecht 2015 (doi:10.1609/aaai.v29i1.9602); 15 bins as in Guo et al. 2017 (arXiv 1706.04599).

    Args: probability of the predicted class, float (n,) in [0, 1]; whether it is correct, bool (n,).
    """
    bin_index = np.minimum((np.asarray(confidence, np.float64) * bins).astype(int), bins - 1)
    return np.abs(np.bincount(bin_index, np.asarray(is_correct) - confidence, bins)).sum() / len(bin_index)
