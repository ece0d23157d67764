"""Confusion counts, confidence intervals and tests: for a proportion, a mean over runs, runs paired by image."""

import math
import statistics
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

NODES, WEIGHTS = np.polynomial.legendre.leggauss(100)  # of Gaussian quadrature


def confusion_counts(actual, predicted, classes=10):
    """Return how often each actual class (row) was predicted as each class (column), from integers (n,)."""
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (actual, predicted), 1)
    return counts


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
    z = NormalDist().inv_cdf(0.975)
    proportion = successes / n
    center = (proportion + z**2 / (2 * n)) / (1 + z**2 / n)
    half_width = z / (1 + z**2 / n) * math.sqrt(proportion * (1 - proportion) / n + z**2 / (4 * n**2))
    return max(0.0, center - half_width), min(1.0, center + half_width)


def mean_estimate(values):
    """Return the Estimate of the mean of at least two values (Student 1908, doi:10.2307/2331554)."""
    error = statistics.stdev(values) / math.sqrt(len(values))
    return t_estimate(statistics.fmean(values), error, len(values) - 1)


def mean_interval(values):
    """Return mean, low and high of the 95% interval of `mean_estimate`."""
    return mean_estimate(values)[:3]


class Estimate(NamedTuple):
    """A mean with its confidence interval, and the two-sided p-value of the hypothesis that the true mean is 0."""

    mean: float
    low: float
    high: float
    p_value: float


def t_estimate(mean, standard_error, degrees):
    """Return the Estimate of a mean by Student's t distribution."""
    if not standard_error:
        return Estimate(mean, mean, mean, float(mean == 0))
    half_width = t_quantile(0.975, degrees) * standard_error
    p_value = 2 * (1 - t_distribution(abs(mean) / standard_error, degrees))
    return Estimate(mean, mean - half_width, mean + half_width, p_value)


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
    """Return the p-values of a family of tests adjusted for their number (Holm 1979, jstor.org/stable/4615733)."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def probability_of_superiority(first, second):
    """Return the fraction of all pairs in which the first value is higher, ties counted half.

    Bouthillier et al. 2021 (arXiv 2103.03098).
    """
    first, second = np.asarray(first)[:, None], np.asarray(second)[None]
    return float((first > second).mean() + (first == second).mean() / 2)


def expected_maximum(values, k):
    """Return the expected largest of k of the values, drawn without replacement.

    The sum over i of C(i - 1, k - 1) / C(n, k) times the i-th smallest of n values: what the best of k trials of a
    search is expected to be (Dodge et al. 2019, arXiv 1909.03004; without bias, Tang et al. 2020, arXiv 2004.13705).
    """
    ways = [math.comb(i, k - 1) for i in range(len(values))]
    return sum(way * value for way, value in zip(ways, sorted(values), strict=True)) / math.comb(len(values), k)


def f1_contributions(actual, predicted, label):
    """Return the F1 score of a class over all seeds, and what each image adds to it in each seed.

    F1 is a ratio of sums over images, 2 TP / (2 TP + FP + FN). Its linearization (the delta method; Cochran 1977,
    Sampling Techniques, 6.3) is a sum over images, so that the variance of F1 is that of a mean.

    Args: classes, actual (images,) and predicted (seeds, images)
    Returns: float, and float (seeds, images) whose mean is 0
    """
    is_actual, is_predicted = actual == label, predicted == label
    hits = 2.0 * (is_actual & is_predicted)
    counts = is_actual.astype(float) + is_predicted
    score = hits.mean() / counts.mean()
    return score, (hits - score * counts) / counts.mean()


def t_quantile(probability, degrees):
    """Return a quantile above the median of Student's t distribution, by bisection of `t_distribution`."""
    low, high = 0.0, 1.0
    while t_distribution(high, degrees) < probability:
        high *= 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if t_distribution(middle, degrees) < probability else (low, middle)
    return high


def t_distribution(t, degrees):
    """Return P(T <= t) for t >= 0, T having Student's t distribution, by quadrature over atan(t / sqrt(df))."""
    degrees = min(degrees, 1e6)  # beyond, it is the normal distribution to six digits
    half = math.atan2(t, math.sqrt(degrees)) / 2
    constant = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(math.pi)
    return 0.5 + constant * half * float(WEIGHTS @ np.cos(half * (NODES + 1)) ** (degrees - 1))


def expected_calibration_error(confidence, is_correct, bins=15):
    """Return the mean absolute difference between confidence and accuracy, weighted over bins of equal width.

    Naeini, Cooper and Hauskrecht 2015 (doi:10.1609/aaai.v29i1.9602); 15 bins as in Guo et al. 2017 (arXiv 1706.04599).

    Args: probability of the predicted class, float (n,) in [0, 1]; whether it is correct, bool (n,).
    """
    bin_index = np.minimum((np.asarray(confidence, np.float64) * bins).astype(int), bins - 1)
    return np.abs(np.bincount(bin_index, np.asarray(is_correct) - confidence, bins)).sum() / len(bin_index)
