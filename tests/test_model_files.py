"""Model files of other people that are accepted, what is said of them, and of those that are not.

tests/faults/test_model_file_faults.py has the corrupt and hostile ones.
"""

import re
import warnings

import numpy as np
import pytest
from model_files import alter_model, assert_refused, set_in_last_layer

from lab.guard.errors import LabError
from lab.guard.models import load_compatible_model, load_model, require_classifier
from lab.training.startup import start_tensorflow

start_tensorflow()

import keras  # noqa: E402
from keras import Input, Model, Sequential, layers, ops  # noqa: E402


@pytest.fixture(scope="session")
def linear_classifier(splits):
    """Return the kernel and bias of logits that are right for most images: a ridge regression, without training."""
    images, labels = splits[0].first(2_000)
    pixels = np.c_[images.reshape(-1, 784) / 255, np.ones(2_000)]
    kernel = np.linalg.solve(pixels.T @ pixels + 10 * np.eye(785), pixels.T @ np.eye(10)[labels])
    return 10 * kernel[:-1], 10 * kernel[-1] - 5


def build_linear_model(linear_classifier, pixel_range, head, shape=(28, 28), first=(), dtype=None):
    """Return the linear classifier as a model that takes pixels in a range.

    Args: kernel and bias; (lowest, highest) pixel; activation of the last layer; shape, first layers, dtype of inputs
    """
    kernel, bias = linear_classifier
    low, high = pixel_range
    kernel = kernel / (high - low)
    flatten = [] if shape == (784,) else [layers.Flatten()]
    model = Sequential([Input(shape, dtype=dtype), *first, *flatten, layers.Dense(10, activation=head)])
    model.layers[-1].set_weights([kernel, bias - low * kernel.sum(axis=0) if low else bias])
    return model


def expected_probabilities(linear_classifier, images, head):
    """Return what the linear classifier predicts for images, computed without Keras and this project."""
    kernel, bias = linear_classifier
    logits = images.reshape(-1, 784) / 255 @ kernel + bias
    values = 1 / (1 + np.exp(-logits)) if head == "sigmoid" else np.exp(logits)
    return values / values.sum(axis=1, keepdims=True)


def predict(model, images):
    return model.predict(images / np.float32(255), verbose=0)


def notes(caplog, level="INFO"):
    """Return what this project has logged at a level."""
    records = [record for record in caplog.records if record.name == "lab.guard.models"]
    return [record.getMessage() for record in records if record.levelname == level]


@pytest.mark.fault("models", "other people's, .keras and legacy .h5: accepted")
@pytest.mark.parametrize(
    ("weights_for", "head", "kind", "taken", "suffix", "settings"),
    [
        ((0, 255), "softmax", "probabilities", "[0, 255]", ".keras", {"shape": (28, 28, 1)}),
        ((-1, 1), None, "logits", "[-1, 1]", ".h5", {}),
        ((0, 1), "sigmoid", "scores in [0, 1], which are divided by their sum", "[0, 1]", ".h5", {"shape": (784,)}),
        ((0, 1), None, "logits", "[0, 255]", ".keras", {"first": [layers.Rescaling(1 / 255)], "dtype": "uint8"}),
        ((1, 0), None, "logits", "[0, 1]", ".keras", {"first": [layers.Rescaling(-1.0, 1)]}),
        ((-1, 1), None, "logits", "[0, 255]", ".keras", {"first": [layers.Normalization(None, 127.5, 127.5**2)]}),
    ],
)
def test_the_range_of_pixels_is_found_and_said(
    tmp_path, linear_classifier, splits, caplog, weights_for, head, kind, taken, suffix, settings
):
    path = tmp_path / f"model{suffix}"
    build_linear_model(linear_classifier, weights_for, head, **settings).save(path)
    images, labels = splits[1].first(300)
    probabilities = predict(load_compatible_model(path, images, labels), images)
    assert probabilities.shape == (300, 10)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, expected_probabilities(linear_classifier, images, head), atol=1e-4)
    accuracy = (probabilities.argmax(axis=1) == labels).mean()
    (note,) = notes(caplog)
    found = f"with pixels in {taken}: {accuracy:.0%} of 300 test images are correct (in "
    assert note.startswith(f"model: {path} gives {kind}; {found}")
    assert accuracy > 0.7
    assert not notes(caplog, "WARNING")


@pytest.mark.fault("models", "pixel values other than in its training, other classes: warned of")
def test_the_given_range_is_taken_and_what_is_bad_is_warned_of(tmp_path, linear_classifier, splits, caplog):
    path = tmp_path / "model.keras"
    build_linear_model(linear_classifier, (-0.5, 0.5), "softmax").save(path)
    images, labels = splits[1].first(300)
    probabilities = predict(load_compatible_model(path, images, labels, (-0.5, 0.5)), images)
    np.testing.assert_allclose(probabilities, expected_probabilities(linear_classifier, images, "softmax"), atol=1e-4)
    assert "with pixels in [-0.5, 0.5]: " in notes(caplog)[0]
    assert notes(caplog)[0].endswith("of 300 test images are correct (--pixel-range)")
    assert not notes(caplog, "WARNING")

    load_compatible_model(path, images, labels, (100, 50))
    load_compatible_model(path, images, (labels + 1) % 10)
    for warning, taken in zip(notes(caplog, "WARNING"), (", with pixels in [100, 50]: ", ""), strict=True):
        assert warning.startswith(f"warning: {path}{taken}")
        assert "of 300 test images are correct, where chance is 10%; was it trained on other classes" in warning


def test_a_half_float_that_overflows_in_some_range_is_taken_in_another(tmp_path, linear_classifier, splits):
    images, labels = splits[1].first(300)
    kernel, bias = linear_classifier
    model = build_linear_model((kernel * 1_000, bias * 1_000), (0, 1), None)
    model.layers[-1].dtype_policy = "mixed_float16"
    model.save(tmp_path / "model.keras")
    probabilities = predict(load_compatible_model(tmp_path / "model.keras", images, labels), images)
    assert probabilities.dtype == np.float32
    assert (probabilities.argmax(axis=1) == labels).mean() > 0.7


@pytest.mark.fault("models", "weights that are not finite")
def test_weights_that_are_not_finite_are_refused(tmp_path):
    model = build_linear_model((np.full((784, 10), np.nan), np.zeros(10)), (0, 1), None)
    model.save(tmp_path / "model.keras")
    assert_refused(tmp_path / "model.keras", match="not finite", predict=True)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_model_is_loaded_as_it_was_saved(tmp_path, suffix):
    def custom_loss(actual, predicted):
        return ops.mean(actual - predicted)

    hidden = [layers.Dense(4, activation="mish", kernel_regularizer="l2"), Sequential([layers.LeakyReLU()])]
    head = layers.Dense(10, activation=ops.log_softmax, bias_constraint="non_neg")
    model = Sequential([Input((28, 28)), layers.Flatten(), *hidden, head])
    model.compile(loss=custom_loss, metrics=["accuracy"])
    model.save(tmp_path / f"model{suffix}")
    loaded = load_model(tmp_path / f"model{suffix}")
    assert [type(layer) for layer in loaded.layers] == [type(layer) for layer in model.layers]
    assert loaded.layers[-1].activation.__name__ == "log_softmax"
    for found, saved in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(found, saved)
    assert not loaded.compiled


@pytest.mark.filterwarnings("ignore:The structure of `inputs`")  # Keras', of a dict of inputs
def test_one_tensor_in_a_dict_or_list_is_accepted(tmp_path, splits):
    image = Input((28, 28), name="image")
    Model({"image": image}, [layers.Dense(10)(layers.Flatten()(image))]).save(tmp_path / "model.keras")
    images, labels = splits[1].first(20)
    probabilities = predict(load_compatible_model(tmp_path / "model.keras", images, labels), images)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(("index", "name"), [(0, "MODEL.KERAS"), (1, "MODEL.H5"), (1, "model.hdf5")])
def test_suffixes_in_capitals_are_known(valid, index, name):
    path = valid[index].rename(valid[index].with_name(name))
    assert load_model(path).output_shape == (None, 10)
    assert sorted(path.parent.iterdir()) == sorted([path, valid[1 - index]])


def write_as_keras_2_1(config):
    """Change a model's config to what Keras 2.0 to 2.1 wrote: a list of layers, the first of them with its shape."""
    write_as_keras_2_3(config)
    config["config"] = config["config"]["layers"]


def write_as_keras_2_3(config):
    """Change a model's config to what Keras 2.2 to 2.3 wrote, and 2.12 to 2.15 in .keras files."""
    shape = config["config"]["layers"].pop(0)["config"]["batch_shape"]
    config["config"]["layers"][0]["config"]["batch_input_shape"] = shape


@pytest.mark.fault("models", "of Keras 1 or 2")
@pytest.mark.parametrize(
    ("name", "version", "write"),
    [
        ("valid.h5", "2.1.6", write_as_keras_2_1),
        ("valid.h5", "2.3.1", write_as_keras_2_3),
        ("valid.keras", "2.15.0", write_as_keras_2_3),
        ("flat.h5", "2.2.4", write_as_keras_2_3),  # Keras 3 reads another shape than it has
    ],
)
def test_what_keras_2_has_written_is_called_so(valid, tmp_path, name, version, write):
    Sequential([Input((784,)), layers.Dense(10)]).save(tmp_path / "flat.h5")
    line = assert_refused(alter_model(tmp_path / name, "old", write, version=version), match="Keras 3 cannot read it")
    assert f"Keras {version} wrote it" in line
    assert "pip install tf-keras" in line
    assert "load_model('" in line


def test_a_readable_file_of_keras_2_is_loaded_without_a_warning(valid):
    def write(config):
        config["config"]["layers"][1]["config"]["batch_input_shape"] = [None, 28, 28]

    path = alter_model(valid[1], "old", write, version="2.15.0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_model(path).input_shape == (None, 28, 28)


@pytest.mark.fault("models", "of Keras 1 or 2")
def test_a_saved_model_folder_is_called_so(tmp_path):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").touch()
    line = assert_refused(tmp_path / "saved", match="a SavedModel folder")
    assert 'model.save("model.keras")' in line


@pytest.mark.fault("models", "other shapes")
def test_other_shapes_are_refused_in_one_line(tmp_path):
    pair = Input((28, 28)), Input((28, 28))
    image = Input((784,))
    heads = [layers.Dense(classes)(image) for classes in (10, 3)]
    incompatible = {
        "(None, 783)": Sequential([Input((783,)), layers.Dense(10)]),
        "(None, 11)": Sequential([Input((28, 28)), layers.Flatten(), layers.Dense(11)]),
        "(None, 28, 28) and (None, 28, 28)": Model(pair, layers.Dense(10)(layers.Flatten()(layers.Add()(pair)))),
        "(None, 10) and (None, 3)": Model(image, heads),
    }
    for shapes, model in incompatible.items():
        model.save(tmp_path / "model.keras")
        assert shapes in assert_refused(tmp_path / "model.keras", match="it must take").partition(";")[0]


@pytest.mark.fault("models", "custom class")
def test_a_class_that_does_not_exist_here_is_refused(tmp_path):
    class CustomLayer(layers.Layer):
        pass

    Sequential([Input((28, 28)), CustomLayer(), layers.Flatten(), layers.Dense(10)]).save(tmp_path / "model.keras")
    assert_refused(tmp_path / "model.keras", match="CustomLayer")


@pytest.mark.fault("models", "loads but cannot predict")
def test_a_model_that_cannot_predict_is_refused_in_one_line(valid):
    path = alter_model(valid[0], "renamed", set_in_last_layer(name="not^valid"))  # for TensorFlow
    assert_refused(path, match="cannot predict", predict=True)


FLATTEN, DENSE, SOFTMAX, LOGITS = ("Flatten", {}), ("Dense", {"units": 10}), ("Softmax", {}), {"from_logits": True}


def build_classifier(*layers, shape=(28, 28), from_logits=False, metrics=("accuracy",)):
    """Return a compiled model. Args: names of layers with their arguments; shape of the inputs; of its loss; metrics"""
    layers = [getattr(keras.layers, name)(**arguments) for name, arguments in layers]
    model = keras.Sequential([*([keras.Input(shape)] if shape else []), *layers])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits), metrics=metrics)
    return model


def test_a_model_of_a_class_of_its_own_is_refused():
    class Mine(keras.Model):
        def call(self, inputs):
            return ops.softmax(ops.reshape(inputs, (-1, 784))[:, :10])

    model = Mine()
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model(np.zeros((1, 28, 28)))
    with pytest.raises(LabError, match=r"of a class of its own; make it keras.Sequential, or keras.Model\("):
        require_classifier(model)


def test_a_classifier_is_accepted_and_left_as_it_is():
    model = build_classifier(FLATTEN, ("GaussianNoise", {"stddev": 1.0}), DENSE, SOFTMAX)
    before = [variable.numpy() for variable in model.variables]  # also of the generators of noise
    require_classifier(model)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    require_classifier(build_classifier(FLATTEN, DENSE, SOFTMAX, shape=(28, 28, 1)))


@pytest.mark.parametrize(
    ("layers", "settings", "cause"),
    [
        ([FLATTEN, DENSE], LOGITS, "end it with keras.layers.Softmax() and use a loss without from_logits"),
        ([FLATTEN, DENSE, SOFTMAX], LOGITS, "its loss has from_logits=True; leave that out"),
        ([FLATTEN, ("Dense", {"units": 10, "activation": "sigmoid"})], {}, "that sum to one"),
        ([FLATTEN, ("Dense", {"units": 9}), SOFTMAX], {}, "gives (None, 9); it must"),
        ([DENSE, SOFTMAX], {}, "gives (None, 28, 10); it must"),
        ([DENSE, SOFTMAX], {"shape": (784,)}, "takes (None, 784)"),
        ([FLATTEN, DENSE, SOFTMAX], {"shape": None}, "not built; let keras.Input((28, 28)) be its first layer"),
        ([FLATTEN, DENSE, SOFTMAX], {"metrics": None}, 'the model reports loss; compile it with metrics=["accuracy"]'),
        ([FLATTEN, DENSE, SOFTMAX], {"metrics": ["mae"]}, "the model reports what cannot be computed here ("),
    ],
)
def test_what_cannot_be_trained_as_a_classifier_is_refused_by_its_cause(layers, settings, cause):
    with pytest.raises(LabError, match=re.escape(cause)):
        require_classifier(build_classifier(*layers, **settings))
