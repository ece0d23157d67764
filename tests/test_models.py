import numpy as np
import pytest

import convolution_gain
import deep_learning
import deep_learning_conv
from lab.data import scale
from lab.plumbing.startup import start_tensorflow
from lab.recipe import Recipe, initialize_model


@pytest.mark.parametrize(
    ("script", "layers", "parameters", "input_shape"),
    [
        (deep_learning, ["Flatten", "Dense", "Dropout", "Dense", "Softmax"], 101_770, (None, 28, 28)),
        (
            deep_learning_conv,
            ["Conv2D", "Flatten", "Dense", "Dropout", "Dense", "Softmax"],
            2_770_634,
            (None, 28, 28, 1),
        ),
    ],
)
def test_the_models_are_those_of_the_original_project(script, layers, parameters, input_shape):
    start_tensorflow()
    model = script.build_model()
    assert [type(layer).__name__ for layer in model.layers] == layers
    assert model.count_params() == parameters
    assert model.input_shape == input_shape
    hidden, output = (layer for layer in model.layers if type(layer).__name__ == "Dense")
    assert (hidden.units, output.units) == (128, 10)
    assert hidden.activation.__name__ == ("relu" if script is deep_learning else "linear")
    assert output.activation.__name__ == "linear"
    (dropout,) = (layer for layer in model.layers if type(layer).__name__ == "Dropout")
    assert dropout.rate == 0.2
    if script is deep_learning_conv:
        convolution = model.layers[0]
        assert (convolution.filters, convolution.kernel_size) == (32, (3, 3))
        assert convolution.activation.__name__ == "relu"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("dense", 101_770),
        ("conv", 2_770_634),
        ("wide", 2_770_585),
        ("conv-1x1", 2_770_378),
        ("conv-shuffled", 2_770_634),
        ("dense-shuffled", 101_770),
    ],
)
def test_the_controls_are_as_large_as_they_say(name, parameters):
    start_tensorflow()
    assert convolution_gain.VARIANTS[name].build_model().count_params() == parameters


def test_the_contributions_add_up_to_the_total():
    """Every variant that is added in one contribution is subtracted in another, but for conv and dense."""
    added, subtracted = zip(
        *(convolution_gain.DIFFERENCES[name] for name in convolution_gain.CONTRIBUTIONS), strict=True
    )
    assert (set(added) - set(subtracted), set(subtracted) - set(added)) == ({"conv"}, {"dense"})


def test_the_recipe_is_that_of_the_original_project():
    recipe = Recipe()
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate) == (5, 32, 0.001)
    assert (recipe.train_images, recipe.test_images) == (60_000, 10_000)


def test_conv_1x1_has_no_interaction_of_pixels_and_conv_has(splits):
    """Its logits are a sum of functions of one pixel each: changing two pixels changes them as one after the other."""
    start_tensorflow()
    both = np.repeat(scale(splits[0].images[:1]), 4, axis=0)
    both[1:3, 14, 14] += [0.3, 0]
    both[1:3, 14, 15] += [0, 0.3]
    both[3, 14, 14:16] += 0.3
    for name, together in (("conv-1x1", False), ("conv", True)):
        model = initialize_model(convolution_gain.VARIANTS[name].build_model, Recipe(), seed=0)
        neither, left, right, two = np.log(model(both[..., None]))
        interaction = (two - left) - (right - neither)
        interaction -= interaction.mean()  # what the softmax adds to all logits alike
        assert (np.abs(interaction).max() > 1e-4) == together
