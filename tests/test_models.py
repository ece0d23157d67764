import numpy as np
import pytest

import convolution_gain
import deep_learning
import deep_learning_conv
from lab.training.data import scale
from lab.training.recipe import Recipe, initialize_model
from lab.training.startup import start_tensorflow


@pytest.mark.parametrize(("script", "first"), [(deep_learning, []), (deep_learning_conv, ["Conv2D"])])
def test_the_models_and_the_recipe_are_those_of_the_original_project(script, first):
    start_tensorflow()
    model = script.build_model()
    layers = [*first, "Flatten", "Dense", "Dropout", "Dense", "Softmax"]
    assert [type(layer).__name__ for layer in model.layers] == layers
    for layer in model.layers[: len(first)]:
        assert (layer.filters, layer.kernel_size, layer.activation.__name__) == (32, (3, 3), "relu")
    assert model.input_shape == ((None, 28, 28, 1) if first else (None, 28, 28))
    assert Recipe() == Recipe(epochs=5, batch_size=32, learning_rate=0.001, cosine_decay=False)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("dense", 101_770),
        ("conv-original", 2_770_634),
        ("conv", 2_770_634),
        ("fully-connected", 2_770_547),
        ("local", 81 + 26 * 26 * 32 * (9 + 1) + 26 * 26 * 32 * 128 + 128 + 1_290),  # the first 81 make the patches
        ("conv-1x1", 2_770_378),
        ("conv-pooled", 320 + 13 * 13 * 32 * 128 + 128 + 1_290),
        ("fully-connected-21632", 784 * 21_632 + 21_632 + 21_632 * 128 + 128 + 1_290),
    ],
)
def test_the_variants_end_in_the_same_layers_and_are_as_large_as_they_say(name, parameters):
    start_tensorflow()
    model = convolution_gain.VARIANTS[name].build_model()
    assert model.count_params() == parameters
    *_, flatten, hidden, dropout, output, softmax = model.layers
    assert [type(layer).__name__ for layer in (flatten, dropout, softmax)] == ["Flatten", "Dropout", "Softmax"]
    assert (hidden.units, output.units, dropout.rate) == (128, 10, 0.2)
    activations = hidden.activation.__name__, output.activation.__name__
    assert activations == ("linear" if name == "conv-original" else "relu", "linear")


def hidden_map(model):
    """Return a model of the layer before the head: (n, 28, 28, 1) to (n, 26, 26, 32)."""
    from keras import Model

    return Model(model.inputs[0], model.layers[-6].output)


@pytest.mark.parametrize(("name", "places"), [("conv", 9), ("local", 9), ("conv-1x1", 1)])
def test_a_pixel_is_seen_by_its_neighbourhood_only(name, places, splits):
    model = initialize_model(convolution_gain.VARIANTS[name].build_model, seed=0)
    model.layers[-6].activation = None  # a ReLU would hide some of it
    image = scale(splits[0].images[:1])[..., None]
    changed = image.copy()
    changed[0, 14, 14] += 0.5
    see = hidden_map(model)
    differs = np.abs(see(changed).numpy() - see(image).numpy()).max(axis=-1) > 1e-6
    assert differs.sum() == places


def test_local_is_a_convolution_whose_places_have_weights_of_their_own(splits):
    conv, local = (initialize_model(convolution_gain.VARIANTS[name].build_model, seed=0) for name in ("conv", "local"))
    kernel, bias = (weights.numpy() for weights in conv.layers[0].weights)
    own, own_bias = (weights.numpy() for weights in local.layers[1].weights)
    assert own.shape == (26, 26, 9, 32)
    assert len(np.unique(own)) > 0.9 * own.size
    assert own.std() == pytest.approx(kernel.std(), rel=0.1)  # as Conv2D begins
    assert np.abs(own).max() <= np.sqrt(6 / (9 + 9 * 32))
    local.layers[1].set_weights(
        [np.broadcast_to(kernel.reshape(9, 32), own.shape), np.broadcast_to(bias, own_bias.shape)]
    )
    images = scale(splits[0].images[:5])[..., None]
    np.testing.assert_allclose(hidden_map(local)(images), hidden_map(conv)(images), atol=1e-5)
    assert [weights.path for weights in local.trainable_variables if "conv2d" in weights.path] == []
