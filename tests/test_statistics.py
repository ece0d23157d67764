import math

import numpy as np
import pytest
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import f1_score

from lab.analysis.statistics import (
    crossed_estimate,
    estimate_data_ratios,
    expected_calibration_error,
    f1_contributions,
    holm,
    mean_estimate,
    mean_interval,
    probability_of_superiority,
    t_critical,
    t_p_value,
    wilson_interval,
)


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (5, 10), (176, 200), (8_732, 10_000)])
def test_wilson_interval_is_that_of_scipy(successes, n):
    expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson_interval(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 10), (11, 10)])
def test_wilson_interval_refuses_what_is_not_a_proportion(successes, n):
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(successes, n)


@pytest.mark.parametrize("degrees", [1, 1.3, 2, 2.5, 4, 9.3, 10, 40.2, 199, 9_999, 90_000])
def test_students_t_is_that_of_scipy_also_in_the_tails(degrees):
    assert t_critical(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-9)
    for t in (0, 1e-170, 1e-9, 0.1, 0.9, 1.7, 1.74, 2, -2.3, 4.3, 12.7, 37, -1e3, 1e9, 1e30):
        assert t_p_value(t, degrees) == pytest.approx(2 * stats.t.sf(abs(t), degrees), rel=1e-8, abs=1e-300)
    assert 0 <= t_p_value(math.inf, degrees) < 1e-100


def test_the_estimate_of_a_mean_is_that_of_scipy():
    for values in ([0.3, 1.2, -0.4, 0.9, 0.1], [-5.1, -5.0, -5.2], [1.0, -1.0], [1e6, 1e6 + 1e-3]):
        found = stats.ttest_1samp(values, 0)
        expected = np.mean(values), *found.confidence_interval(), found.pvalue
        assert mean_estimate(values) == pytest.approx(expected, rel=1e-8, abs=1e-12)
        assert mean_estimate(values).p_value > 0


@pytest.mark.parametrize("values", [[1.5], [1.5, 1.5], [0.1, 0.1, 0.1]])
def test_nothing_is_concluded_from_values_that_do_not_vary(values):
    crossed = crossed_estimate(np.tile(values, (2, 3)) if len(values) == 2 else np.full((3, 4), values[0]))
    for mean, *others in (mean_estimate(values), crossed):
        assert mean == pytest.approx(values[0])
        assert np.isnan(others).all()


def test_an_interval_ends_at_the_limits_of_its_quantity():
    assert mean_interval([99.0, 99.9], (0, 100)) == pytest.approx((99.45, 93.73, 100), abs=0.01)
    assert mean_interval([0.1, 0.3], (0, 100))[1] == 0
    assert mean_interval([99.0, 99.9])[2] > 100
    assert np.isnan([*mean_estimate([np.nan, 1.0]), *mean_estimate([np.inf]), *mean_interval([np.nan])]).all()


def draw_two_way(rng, seeds, images, by_seed, by_image, residual=0.3, mean=0.02):
    """Draw differences (seeds, images) with random effects of the seed and of the image, and a residual."""
    effects = rng.normal(0, by_seed, (seeds, 1)) + rng.normal(0, by_image, images)
    return mean + effects + rng.normal(0, residual, (seeds, images))


@pytest.mark.parametrize(
    ("seeds", "images", "by_seed", "by_image"),
    [(10, 300, 0.1, 0.0), (10, 300, 0.02, 0.1), (10, 300, 0.005, 0.3), (5, 300, 0.1, 0.1), (10, 300, 0.0, 0.1)],
)
def test_the_crossed_interval_covers_the_true_difference_as_often_as_it_says(seeds, images, by_seed, by_image):
    rng = np.random.default_rng(1)
    estimates = [crossed_estimate(draw_two_way(rng, seeds, images, by_seed, by_image)) for _ in range(1_000)]
    covered = sum(low <= 0.02 <= high for _, low, high, _ in estimates)
    assert stats.binomtest(covered, 1_000, 0.95).pvalue > 0.001


def test_the_crossed_estimate_is_that_of_an_analysis_of_variance_written_out():
    values = draw_two_way(np.random.default_rng(0), 6, 40, 0.2, 0.2)
    seeds, images = values.shape
    grand = sum(sum(row) for row in values) / (seeds * images)
    seed_means, image_means = [row.mean() for row in values], [column.mean() for column in values.T]
    ms_seed = images * sum((mean - grand) ** 2 for mean in seed_means) / (seeds - 1)
    ms_image = seeds * sum((mean - grand) ** 2 for mean in image_means) / (images - 1)
    residuals = [values[s, i] - seed_means[s] - image_means[i] + grand for s in range(seeds) for i in range(images)]
    ms_residual = sum(each**2 for each in residuals) / ((seeds - 1) * (images - 1))
    variance = (ms_seed + ms_image - ms_residual) / (seeds * images)
    terms = [(ms_seed, seeds - 1), (ms_image, images - 1), (ms_residual, (seeds - 1) * (images - 1))]
    degrees = (ms_seed + ms_image - ms_residual) ** 2 / sum(square**2 / each for square, each in terms)
    half_width = stats.t.ppf(0.975, degrees) * variance**0.5
    p_value = 2 * stats.t.sf(abs(grand) / variance**0.5, degrees)
    assert crossed_estimate(values) == pytest.approx((grand, grand - half_width, grand + half_width, p_value))


def test_if_images_do_not_matter_or_with_one_seed_the_crossed_interval_is_students():
    values = np.random.default_rng(0).normal(2, 1, 10)
    for differences in (np.repeat(values[:, None], 5_000, axis=1), values[None]):
        assert crossed_estimate(differences) == pytest.approx(mean_estimate(list(values)))


def test_the_crossed_interval_of_few_seeds_is_finite():
    rng = np.random.default_rng(0)
    for _ in range(100):
        mean, low, high, _ = crossed_estimate(rng.choice([-1, 0, 1], p=[0.05, 0.9, 0.05], size=(2, 50)))
        assert low <= mean <= high < 100


@pytest.mark.parametrize("shape", [(3, 0), (0, 3), (3, 1)])
def test_the_crossed_interval_needs_a_seed_and_two_images(shape):
    with pytest.raises(ValueError, match="images"):
        crossed_estimate(np.zeros(shape))


def test_holm_on_known_cases():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1, 1]
    assert holm([]) == []
    assert holm([0.02, math.nan, 0.01]) == pytest.approx([0.02, math.nan, 0.02], nan_ok=True)


def test_probability_of_superiority_is_that_of_mann_and_whitney():
    first, second = [1.0, 2, 2, 5, 7], [2.0, 3, 1, 1]
    assert probability_of_superiority(first, second) == stats.mannwhitneyu(first, second).statistic / 20


SIZES = (100, 1_000, 10_000)


def draw_correct(rng, fractions, images=2_000):
    """Draw whether two models are correct, bool (sizes, seeds, images); images differ in how easy they are."""
    levels = rng.uniform(size=images)
    noise = [rng.normal(0, 0.05, (3, 5, images)) + rng.normal(0, 0.01, (3, 5, 1)) for _ in fractions]
    return [levels + each < np.reshape(p, (3, 1, 1)) for each, p in zip(noise, fractions, strict=True)]


def interpolate(theirs, sizes, n):
    """Return theirs at n images, read off the line over the logarithm of the size."""
    places = np.interp(np.log(n), np.log(sizes), range(len(sizes)))
    k = min(int(places), len(sizes) - 2)
    return (1 - places + k) * theirs[k] + (places - k) * theirs[k + 1]


def test_the_interval_of_a_data_ratio_is_where_the_test_does_not_reject():
    """So that it covers the true ratio as often as the interval of a difference covers the true difference."""
    rng, contained = np.random.default_rng(0), []
    for gain in (0, 0.01, 0.02, 0.03) * 3:
        ours, theirs = draw_correct(rng, ([0.5 + gain, 0.6 + gain, 0.7 + gain], [0.5, 0.6, 0.7]))
        for n, correct, (ratio, low, high) in zip(SIZES, ours, estimate_data_ratios(SIZES, ours, theirs), strict=True):
            for r in (0.5, 0.8, 1, 1.26, 1.6, 2.5):
                if SIZES[0] <= r * n <= SIZES[-1]:
                    p_value = crossed_estimate(correct - interpolate(theirs, SIZES, r * n)).p_value
                    assert (low < r < high) == (p_value >= 0.05)
                    contained.append(low < r < high)
            assert low <= ratio <= high
            if SIZES[0] < ratio * n < SIZES[-1]:
                assert correct.mean() == pytest.approx(interpolate(theirs, SIZES, ratio * n).mean())
    assert 0.2 < np.mean(contained) < 0.8


def test_data_ratios_beyond_what_was_tried():
    rng = np.random.default_rng(0)
    ours, theirs = draw_correct(rng, ([0.8, 0.55, 0.3], [0.5, 0.6, 0.7]))
    better, between, worse = estimate_data_ratios(SIZES, ours, theirs)
    assert better == pytest.approx((math.inf, 100, math.inf))  # more than 100 times
    assert between[0] == pytest.approx(10**-0.5, rel=0.2)
    assert worse == pytest.approx((0, 0, 0.01))
    (alike, *_), (*_, last) = (estimate_data_ratios(SIZES, each, each) for each in (theirs, theirs))
    assert alike[:2] == (1, 0)  # the smallest and the largest size exclude nothing beyond them
    assert (last[0], last[2]) == (1, math.inf)
    assert estimate_data_ratios(SIZES[:1], ours[:1], theirs[:1]) == [(math.inf, 1, math.inf)]


def test_f1_is_that_of_sklearn_and_its_contributions_say_how_it_varies():
    rng = np.random.default_rng(0)

    def draw(images=400):
        actual = rng.integers(0, 3, images)
        predicted = np.where(rng.uniform(size=(4, images)) < 0.8, actual, rng.integers(0, 3, (4, images)))
        return actual, predicted

    actual, predicted = draw()
    score, contributions = f1_contributions(actual, predicted, 1)
    expected = f1_score(np.tile(actual, 4), predicted.ravel(), labels=[1], average=None)[0]
    assert score == pytest.approx(expected)
    assert contributions.mean() == pytest.approx(0, abs=1e-12)
    drawn = [f1_contributions(*draw(), 1) for _ in range(1_000)]
    estimated = np.mean([each.mean(axis=0).var(ddof=1) / 400 for _, each in drawn])
    assert estimated == pytest.approx(np.var([score for score, _ in drawn]), rel=0.15)


def test_the_f1_of_a_class_that_is_absent_is_not_a_number():
    score, contributions = f1_contributions(np.zeros(4), np.zeros((2, 4)), 1)
    assert np.isnan([score, *contributions.flat]).all()
    assert f1_contributions(np.zeros(4), np.ones((2, 4)), 1)[0] == 0  # predicted, but never right


def test_calibration_error_is_that_of_sklearns_curve():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0, 1, 5_000)
    is_correct = rng.uniform(0, 1, 5_000) < confidence**2
    fractions, means = calibration_curve(is_correct, confidence, n_bins=15)
    weights = np.histogram(confidence, bins=15, range=(0, 1))[0] / len(is_correct)
    assert expected_calibration_error(confidence, is_correct) == pytest.approx(weights @ np.abs(fractions - means))
