"""Intervals and tests: for a share of a test set, a mean over a few runs, and runs compared on the same images."""

import math
import statistics
from statistics import NormalDist

import numpy as np


def wilson_interval(successes, n, confidence=0.95):
    """Return Wilson's score interval (low, high) for a proportion (Wilson 1927, doi:10.1080/01621459.1927.10502953).

    Raises:
        ValueError: not 0 <= successes <= n, or n is 0.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / n
    center = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half_width = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, center - half_width), min(1.0, center + half_width)


def mean_interval(values, confidence=0.95):
    """Return mean, low and high of Student's t interval for the mean (Student 1908, doi:10.2307/2331554).

    Raises:
        ValueError: fewer than two values.
    """
    n = len(values)
    mean = statistics.fmean(values)
    half_width = t_quantile((1 + confidence) / 2, n - 1) * statistics.stdev(values) / math.sqrt(n)
    return mean, mean - half_width, mean + half_width


def t_quantile(probability, degrees):
    """Return a quantile above the median of Student's t distribution with a whole number of degrees of freedom.

    The distribution function is Abramowitz and Stegun's closed form (26.7.3 and 26.7.4), inverted by bisection.
    """
    low, high = 0.0, 1.0
    while t_distribution(high, degrees) < probability:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if t_distribution(middle, degrees) < probability else (low, middle)
    return high


def t_distribution(t, degrees):
    """Return P(T <= t) for t >= 0, T having Student's t distribution with a whole number of degrees of freedom."""
    angle = math.atan2(t, math.sqrt(degrees))
    cosine = math.cos(angle)
    term, total = (cosine, cosine) if degrees % 2 else (1.0, 1.0)
    for k in range(3 if degrees % 2 else 2, degrees - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    if degrees == 1:
        between = 2 * angle / math.pi
    elif degrees % 2:
        between = 2 / math.pi * (angle + math.sin(angle) * total)
    else:
        between = math.sin(angle) * total
    return (1 + between) / 2


def bootstrap_intervals(differences, replicates=2000, confidence=0.95, seed=0):
    """Return mean, low and high of paired differences that vary by seed and by image.

    Seeds and images are drawn anew independently of each other, so that an image that is hard for all seeds, and a seed
    that is bad for all images, both count: the pigeonhole bootstrap (Owen 2007, doi:10.1214/07-AOAS122), which errs on
    the wide side. Of the few seeds, one less than there are is drawn, without which their variance would be too small
    (Rao and Wu 1988, doi:10.1080/01621459.1988.10478591). The interval is mean ± t times the standard deviation of the
    replicates; t is Student's, with as many more degrees of freedom than seeds - 1 as images add to the variance
    (Satterthwaite 1946, doi:10.2307/3002019). Where images do not matter, that is Student's interval over seeds.

    Args:
        differences: (k, seeds, images), what each of k comparisons has at each seed and image, say -1, 0 or 1. With
            one seed only images are drawn, and t is the normal distribution's.
        replicates: how often to draw

    Returns:
        float (k, 3)

    Raises:
        ValueError: no seed or no image.
    """
    differences = np.asarray(differences, np.float32)
    k, seeds, images = differences.shape
    if not (seeds and images):
        raise ValueError(f"{seeds} seeds and {images} images")
    flat = differences.reshape(k * seeds, images)
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, replicates, 50):  # in blocks, for the memory's sake
        drawn = [rng.integers(images, size=images) for _ in range(min(50, replicates - start))]
        image_weights = np.stack([np.bincount(each, minlength=images) for each in drawn], axis=1).astype(np.float32)
        by_seed = (flat @ image_weights / images).reshape(k, seeds, -1)
        seeds_drawn = max(1, seeds - 1)
        seed_weights = rng.multinomial(seeds_drawn, np.full(seeds, 1 / seeds), len(drawn)) / seeds_drawn
        means.append(np.einsum("ksr,rs->kr", by_seed, seed_weights))
    variances = np.concatenate(means, axis=1).var(axis=1, ddof=1)
    probability = (1 + confidence) / 2
    intervals = []
    for each, variance in zip(differences.astype(np.float64), variances, strict=True):
        t = NormalDist().inv_cdf(probability)
        if seeds > 1:
            of_seeds = each.mean(axis=1).var(ddof=1) / seeds
            share = min(1.0, of_seeds / variance) if variance else 1.0
            t = t_quantile(probability, min(1000, int((seeds - 1) / max(share, 1e-3) ** 2)))
        half_width = t * math.sqrt(variance)
        intervals.append((each.mean(), each.mean() - half_width, each.mean() + half_width))
    return np.array(intervals)


def mcnemar_exact(only_first, only_second):
    """Return the exact two-sided p-value that two classifiers err equally often (McNemar 1947, doi:10.1007/BF02295996).

    Args: on how many of the same images only the first, and only the second, is right.
    """
    n, fewer = only_first + only_second, min(only_first, only_second)
    term = total = 1
    for k in range(1, fewer + 1):
        term = term * (n - k + 1) // k
        total += term
    return min(1.0, 2 * total / 2**n)


def expected_calibration_error(confidence, right, bins=15):
    """Return by how much confidence and accuracy differ, a weighted mean over bins of equal width.

    Naeini, Cooper and Hauskrecht 2015 (doi:10.1609/aaai.v29i1.9602); 15 bins as in Guo et al. 2017 (arXiv 1706.04599).

    Args: probability of the predicted class, float (n,) in [0, 1]; whether it is right, bool (n,).
    """
    of_bin = np.minimum((np.asarray(confidence, np.float64) * bins).astype(int), bins - 1)
    return np.abs(np.bincount(of_bin, np.asarray(right) - confidence, bins)).sum() / len(of_bin)
