import numpy as np
import pytest

import robustness
from lab.changes.robustness import CORRUPTIONS, rescale, rotate, shift


@pytest.fixture
def images():
    """Return two images of one bright pixel each, the first in the centre, the second at an edge."""
    made = np.zeros((2, 28, 28), np.uint8)
    made[0, 14, 14] = made[1, 0, 5] = 200
    return made


def test_a_shift_moves_every_pixel_in_eight_directions(images):
    views = list(shift(images, 3))
    found = {tuple(int(n) for n in np.argwhere(view[0])[0]) for view in views}
    assert found == {(14 + down, 14 + right) for down in (-3, 0, 3) for right in (-3, 0, 3)} - {(14, 14)}
    assert len(views) == 8
    assert sorted(int(view[1].sum()) for view in views) == [0, 0, 0, *[200] * 5]  # three push it over the edge


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_gives_images_of_the_same_kind_and_a_stronger_one_changes_more(name, splits):
    function, strengths, identity = CORRUPTIONS[name]
    images, sizes = splits[1].images[:50], []
    assert {identity, robustness.HEADLINE_STRENGTHS[name]} <= set(strengths)
    for strength in sorted(strengths, key=lambda strength: abs(np.log(strength)) if identity else strength):
        if strength != identity:
            views = list(function(images, strength))
            assert {(view.shape, view.dtype) for view in views} == {(images.shape, np.dtype(np.uint8))}
            sizes.append([np.abs(view.astype(int) - images).mean() for view in views])
            assert min(sizes[-1]) > 0
    assert np.mean(sizes[0]) < np.mean(sizes[-1])


def test_rotation_and_scale_are_about_the_centre(images):
    left, right = rotate(images[:1], 90)
    assert (left[0, 13, 14], right[0, 14, 13]) == (200, 200)
    (half,) = rescale(np.full((1, 28, 28), 100, np.uint8), 0.5)
    assert (half[0, 7:21, 7:21] == 100).all()
    assert half.sum() == 100 * 14 * 14
