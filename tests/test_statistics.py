import numpy as np
import pytest
from scipy import stats
from sklearn.calibration import calibration_curve

from lab.statistics import (
    bootstrap_intervals,
    expected_calibration_error,
    mcnemar_exact,
    mean_interval,
    t_quantile,
    wilson_interval,
)


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


def two_way(rng, seeds, images, mean=0.02, by_seed=0.01, by_image=0.3):
    """Draw differences (1, seeds, images) with an effect of the seed, one of the image, and noise."""
    effects = rng.normal(0, by_seed, (seeds, 1)) + rng.normal(0, by_image, images)
    return (mean + effects + rng.normal(0, 0.3, (seeds, images)))[None]


@pytest.mark.parametrize(
    ("seeds", "by_seed", "by_image"), [(10, 0.1, 0.0), (10, 0.02, 0.1), (10, 0.005, 0.3), (4, 0.1, 0.1)]
)
def test_the_bootstrap_covers_the_true_difference_at_least_as_often_as_it_says(seeds, by_seed, by_image):
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        sample = two_way(rng, seeds, 300, by_seed=by_seed, by_image=by_image)
        _, low, high = bootstrap_intervals(sample, replicates=200)[0]
        covered += low <= 0.02 <= high
    assert stats.binomtest(covered, 400, 0.95, alternative="less").pvalue > 0.001
    assert covered < 400


def test_where_images_do_not_matter_the_bootstrap_is_students_interval():
    values = np.random.default_rng(0).normal(2, 1, 10)
    (interval,) = bootstrap_intervals(np.repeat(values[None, :, None], 5, axis=2), replicates=20_000)
    assert interval == pytest.approx(mean_interval(list(values)), rel=0.02)


def test_where_seeds_do_not_matter_the_bootstrap_is_that_of_scipy_over_images():
    images = np.random.default_rng(0).normal(0.1, 1, 2_000)
    expected = stats.bootstrap((images,), np.mean, n_resamples=4_000, rng=np.random.default_rng(0)).confidence_interval
    (interval,) = bootstrap_intervals(images[None, None], replicates=4_000)
    assert interval[1:] == pytest.approx(expected, abs=0.003)


def test_differences_are_drawn_together_and_the_same_again():
    sample = two_way(np.random.default_rng(0), 4, 100)
    both = bootstrap_intervals(np.concatenate([sample, 2 * sample]), replicates=100)
    assert both[1] == pytest.approx(2 * both[0], rel=1e-5)
    np.testing.assert_array_equal(both[0], bootstrap_intervals(sample, replicates=100)[0])


def test_the_bootstrap_needs_a_seed_and_an_image():
    with pytest.raises(ValueError, match="0 images"):
        bootstrap_intervals(np.zeros((1, 3, 0)))


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (0, 5), (10, 30), (215, 180), (3_000, 2_400)])
def test_mcnemar_is_the_exact_binomial_test(only_first, only_second):
    n = only_first + only_second
    expected = stats.binomtest(only_first, n, 0.5).pvalue if n else 1.0
    assert mcnemar_exact(only_first, only_second) == pytest.approx(expected, rel=1e-9)
    assert mcnemar_exact(only_second, only_first) == mcnemar_exact(only_first, only_second)


def test_calibration_error_of_known_cases():
    assert expected_calibration_error(np.full(10, 0.8), np.arange(10) < 8) == pytest.approx(0)
    assert expected_calibration_error(np.ones(4), np.array([True, True, False, False])) == pytest.approx(0.5)


def test_calibration_error_is_that_of_sklearns_curve():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0, 1, 5_000)
    right = rng.uniform(0, 1, 5_000) < confidence**2
    shares, means = calibration_curve(right, confidence, n_bins=15)
    weights = np.histogram(confidence, bins=15, range=(0, 1))[0] / len(right)
    assert expected_calibration_error(confidence, right) == pytest.approx(weights @ np.abs(shares - means))
