import numpy as np
import pytest
from scipy import stats

from lab.statistics import mean_interval, t_quantile, wilson_interval


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (5, 10), (176, 200), (8_732, 10_000)])
def test_wilson_interval_is_that_of_scipy(successes, n):
    expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson_interval(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 10), (11, 10)])
def test_wilson_interval_refuses_what_is_no_proportion(successes, n):
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(successes, n)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 9, 10, 199])
@pytest.mark.parametrize("probability", [0.6, 0.975, 0.9999])
def test_t_quantile_is_that_of_scipy(probability, degrees):
    assert t_quantile(probability, degrees) == pytest.approx(stats.t.ppf(probability, degrees), rel=1e-9)


def test_mean_interval_is_that_of_scipy():
    values = [0.3, 1.2, -0.4, 0.9, 0.1]
    low, high = stats.t.interval(0.95, 4, loc=0.42, scale=stats.sem(values))
    assert mean_interval(values) == pytest.approx((0.42, low, high))


def test_mean_interval_covers_the_mean_as_often_as_it_says():
    samples = np.random.default_rng(0).normal(3, 2, (4_000, 5))
    covered = [low <= 3 <= high for _, low, high in map(mean_interval, samples)]
    assert stats.binomtest(sum(covered), len(covered), 0.95).pvalue > 0.001


def test_an_interval_needs_two_values():
    with pytest.raises(ValueError, match="two"):
        mean_interval([1.0])
