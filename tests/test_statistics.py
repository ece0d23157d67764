import pytest
from scipy.stats import binomtest

from lab.statistics import wilson_interval


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (5, 10), (176, 200), (8_732, 10_000)])
def test_wilson_interval_is_that_of_scipy(successes, n):
    expected = binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson_interval(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 10), (11, 10)])
def test_wilson_interval_refuses_what_is_no_proportion(successes, n):
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(successes, n)
