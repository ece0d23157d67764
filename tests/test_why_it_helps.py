import numpy as np
import pytest

import why_it_helps
from lab.changes.why_it_helps import place, shrink


def test_garments_are_shrunk_by_a_box_filter(splits):
    images = splits[1].images[:50]
    edges, pixels = np.arange(21) * 1.4, np.arange(28)
    lows, highs = np.maximum.outer(edges[:-1], pixels), np.minimum.outer(edges[1:], pixels + 1)
    overlaps = np.maximum(highs - lows, 0) / 1.4  # of each small pixel with each large one
    np.testing.assert_array_less(np.abs(shrink(images) - overlaps @ images @ overlaps.T), 0.5 + 1e-6)


@pytest.mark.parametrize("largest", why_it_helps.OFFSETS)
def test_garments_are_placed_by_the_seed(largest, splits):
    images = np.full_like(splits[1].images[:2_000], 200)
    placed = place(images, largest, seed=3)
    np.testing.assert_array_equal(placed, place(images, largest, seed=3))
    assert (placed.sum((1, 2)) == 20 * 20 * 200).all()
    rows, columns = placed.any(axis=2).argmax(1), placed.any(axis=1).argmax(1)
    for first in rows, columns:
        assert set(first) == set(range(4 - largest, 4 + largest + 1))
    if largest:
        assert (place(images, largest, seed=4) != placed).any()
        assert (rows != columns).any()


def test_the_variants_differ_in_what_they_are_about():
    models = {name: each.build_model() for name, each in why_it_helps.VARIANTS.items()}
    dilated = [models[f"dilation-{d}"] for d in why_it_helps.DILATIONS]
    shuffled = [models[f"dilation-{d}-shuffled"] for d in why_it_helps.SHUFFLED]
    assert len({model.count_params() for model in [*dilated, *shuffled]}) == 1
    assert [model.layers[0].dilation_rate[0] for model in dilated] == list(why_it_helps.DILATIONS)
    names = ("conv", "conv-frozen", "conv-linear", "conv-frozen-linear")
    layers = [models[name].layers[0] for name in names]
    assert [layer.trainable for layer in layers] == [True, False, True, False]
    assert [layer.activation.__name__ for layer in layers] == ["relu", "relu", "linear", "linear"]
