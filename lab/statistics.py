"""Intervals: for a share of a finite test set, and for a mean over a few runs."""

import math
import statistics
from statistics import NormalDist


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
