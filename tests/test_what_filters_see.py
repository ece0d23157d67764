import numpy as np
import pytest

import what_filters_see
from lab.changes.what_filters_see import collect_filters, feature_maps
from lab.study.records import Run
from lab.training.data import scale
from lab.training.recipe import Recipe, train


@pytest.fixture(scope="module")
def trained(splits):
    few = splits[0].first(2_000), splits[1].first(200)
    model, *_ = train(what_filters_see.VARIANTS["conv"].build_model, Recipe(epochs=1), 0, *few)
    return model, few[1]


def count_correct(model, split):
    return (model(scale(split.images)[..., None]).numpy().argmax(axis=1) == split.labels).sum()


def test_feature_maps_are_those_of_the_model(trained):
    from keras import Model

    model, (images, _) = trained
    kernel, bias = (weights.numpy() for weights in model.layers[0].weights)
    expected = Model(model.inputs[0], model.layers[0].output).predict(images[..., None] / np.float32(255), verbose=0)
    np.testing.assert_allclose(feature_maps(kernel, bias, images), expected, atol=1e-5)


def test_filters_are_removed_as_if_their_weights_were_zero(trained):
    model, test_split = trained
    measured = collect_filters(model, test_split, lambda images: images)
    halves = [test_split.at(slice(start, None, 2)) for start in (0, 1)]
    assert measured["n"] == 100
    assert list(measured["best"][:, 32]) == [count_correct(model, half) for half in halves]
    assert sorted(measured["order"]) == list(range(32))
    weights = model.layers[0].get_weights()

    def keep(filters):
        model.layers[0].set_weights([weight * np.isin(np.arange(32), filters) for weight in weights])
        return model

    try:
        for gone in (0, 13, 31):
            left = [count_correct(keep(np.delete(np.arange(32), gone)), half) for half in halves]
            assert list(measured["without"][:, gone]) == left
        for k in (0, 1, 5):
            left = [count_correct(keep(measured["order"][:k]), half) for half in halves]
            assert list(measured["best"][:, k]) == left
        ranking = [count_correct(keep(np.delete(np.arange(32), n)), halves[0]) for n in range(32)]
    finally:
        model.layers[0].set_weights(weights)
    np.testing.assert_array_equal(measured["order"], np.argsort(ranking, kind="stable"))


def test_how_many_filters_can_go_is_decided_on_other_images_than_their_cost():
    ordering, others = [0, *range(100, 130), 130, 130], [0, *[900] * 31, 950]
    run = Run({}, {"best": np.array([ordering, others]), "n": np.array(1_000)}, None)
    assert what_filters_see.count_removable([run]) == ([1], [pytest.approx(5)])


def test_accuracies_without_a_filter_are_in_the_order_of_importance():
    order = np.arange(32)[::-1]
    run = Run({}, {"without": np.array([np.zeros(32), np.arange(32)]), "order": order, "n": np.array(100)}, None)
    np.testing.assert_allclose(what_filters_see.ablation_accuracies([run], "without"), [order])
