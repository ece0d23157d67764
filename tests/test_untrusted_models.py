"""Other people's Keras models: which are accepted, how they are adapted, and one example of each fault.

tests/faults/test_untrusted_model_faults.py has many examples of each.
"""

import os
import pickle

import numpy as np
import pytest
from model_files import (
    COMPATIBLE_MODELS,
    PickledCall,
    alter_model,
    assert_no_side_effects,
    assert_refused,
    build_compatible_model,
    compress_member,
    describe_names,
    insert_layer,
    load_or_refuse,
    save_valid_models,
)

import deep_learning
from lab import cli
from lab.study.digests import arrays_digest
from lab.guard.errors import LabError
from lab.training.startup import start_tensorflow
from lab.guard.models import load_compatible_model, load_model
from lab.training.recipe import predict


@pytest.fixture
def valid(tmp_path):
    """Return the paths of a small valid model, as .keras and as legacy .h5."""
    return save_valid_models(tmp_path)


def expected_probabilities(model, images, largest_pixel, gives_logits):
    """Return what a model as saved predicts for images, computed without this project."""
    import keras

    pixels = images.reshape(-1, *model.input_shape[1:]) / np.float32(255 / largest_pixel)
    outputs = model(pixels)
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.softmax(outputs) if gives_logits else outputs))


@pytest.mark.fault("models", "other people's, .keras and legacy .h5: accepted")
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("name", COMPATIBLE_MODELS)
def test_a_compatible_model_gives_probabilities_and_says_what_is_assumed(tmp_path, name, suffix, splits, caplog):
    caplog.set_level("INFO")
    largest_pixel, gives_logits = COMPATIBLE_MODELS[name]
    model = build_compatible_model(name)
    model.compile(optimizer="sgd", loss="mse")
    path = tmp_path / f"model{suffix}"
    model.save(path)
    images = splits[1].images[:20]
    probabilities = predict(load_compatible_model(path), images)
    assert probabilities.shape == (20, 10)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    expected = expected_probabilities(model, images, largest_pixel, gives_logits)
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    outputs = "logits" if gives_logits else "probabilities"
    assert [record.getMessage() for record in caplog.records if record.getMessage().startswith("model: ")] == [
        f"model: {path}, assumed to take pixels from 0 to {largest_pixel} (--pixels) and to give {outputs}"
    ]


@pytest.mark.parametrize(("name", "pixels"), [("logits", 255), ("logits", 1), ("rescaling", 1), ("rescaling", 255)])
def test_the_given_largest_pixel_overrides_the_assumed_one(tmp_path, name, pixels, splits, caplog):
    caplog.set_level("INFO")
    model = build_compatible_model(name)
    model.save(tmp_path / "model.keras")
    images = splits[1].images[:20]
    probabilities = predict(load_compatible_model(tmp_path / "model.keras", pixels), images)
    expected = expected_probabilities(model, images, pixels, gives_logits=True)
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    assert f"assumed to take pixels from 0 to {pixels} (--pixels)" in caplog.text


def test_a_model_is_loaded_as_it_was_saved(tmp_path):
    for name in COMPATIBLE_MODELS:
        model = build_compatible_model(name)
        model.save(tmp_path / "model.keras")
        loaded = load_model(tmp_path / "model.keras")
        assert [type(layer) for layer in loaded.layers] == [type(layer) for layer in model.layers], name
        assert (loaded.input_shape, loaded.output_shape) == (model.input_shape, model.output_shape), name
        assert arrays_digest(loaded.get_weights()) == arrays_digest(model.get_weights()), name


@pytest.fixture(scope="module")
def raw_pixel_model(tmp_path_factory, splits):
    """Return the path of a model that plain Keras has trained on pixels from 0 to 255, without a layer that rescales.

    With batch normalization, its predictions depend on the pixels' scale, not only its confidence.
    """
    start_tensorflow()
    import keras
    from keras import Input, Sequential, layers

    keras.utils.set_random_seed(0)
    images, labels = splits[0].first(2_000)
    model = Sequential([Input((784,)), layers.BatchNormalization(momentum=0.5), layers.Dense(10)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(images.reshape(-1, 784).astype(np.float32), labels, epochs=3, verbose=0)
    path = tmp_path_factory.mktemp("raw") / "raw.keras"
    model.save(path)
    return path


def load_given_model(*arguments, **more):
    """Return the model that arguments of a command line give. Args: arguments; options of one script only"""
    options = cli.parse(cli.figure_parser("A script."), [*map(str, arguments)])
    vars(options).update(more)
    return cli.given_or_trained_model(deep_learning, options)


def test_a_model_trained_on_raw_pixels_needs_pixels_255(raw_pixel_model, splits, caplog):
    import keras

    caplog.set_level("INFO")
    images, labels = splits[1].first(500)
    probabilities = predict(load_given_model("--model", raw_pixel_model, "--pixels", 255), images)
    saved = keras.models.load_model(raw_pixel_model, compile=False)
    np.testing.assert_allclose(probabilities, expected_probabilities(saved, images, 255, gives_logits=True), atol=1e-5)
    assert (probabilities.argmax(axis=1) == labels).mean() > 0.7
    assert "assumed to take pixels from 0 to 255 (--pixels) and to give logits" in caplog.text
    assert "warning" not in caplog.text


@pytest.mark.fault("models", "pixel values other than in its training: warned of")
@pytest.mark.parametrize("pixels", [[], ["--pixels", 1]])
def test_a_model_near_chance_is_warned_of(raw_pixel_model, pixels, splits, caplog):
    model = load_given_model("--model", raw_pixel_model, *pixels)
    images, labels = splits[1].first(500)
    accuracy = (predict(model, images).argmax(axis=1) == labels).mean()
    assert accuracy < 0.5
    (warning,) = (record for record in caplog.records if record.levelname == "WARNING")
    message = warning.getMessage()
    assert message.startswith(f"warning: {raw_pixel_model} is correct for {100 * accuracy:.0f}% of 500 test images")
    assert "--pixels 255" in message


def test_photographs_are_predicted_without_a_warning_and_without_the_data(raw_pixel_model, tmp_path, caplog):
    model = load_given_model("--model", raw_pixel_model, "--data-dir", tmp_path, image=["shoe.png"])
    assert model.output_shape == (None, 10)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_functions_of_keras_that_belong_to_a_model_are_accepted(tmp_path):
    start_tensorflow()
    from keras import Input, Sequential, activations, initializers, layers, ops, regularizers

    def custom_loss(actual, predicted):
        return ops.mean(actual - predicted)

    head = layers.Dense(
        10,
        activation=ops.log_softmax,
        kernel_initializer=initializers.HeNormal(),
        kernel_regularizer=regularizers.L2(0.1),
        bias_constraint="non_neg",
    )
    hidden = [layers.Dense(4, activation=activation) for activation in ("relu", activations.gelu, activations.mish)]
    model = Sequential([Input((28, 28)), layers.Flatten(), *hidden, layers.LeakyReLU(), head])
    model.compile(loss=custom_loss, metrics=["accuracy"])
    for suffix in (".keras", ".h5"):
        model.save(tmp_path / f"model{suffix}")
        loaded = load_model(tmp_path / f"model{suffix}")
        assert arrays_digest(loaded.get_weights()) == arrays_digest(model.get_weights())


@pytest.mark.fault("models", "other shapes")
def test_other_shapes_are_refused_in_one_line(tmp_path):
    start_tensorflow()
    from keras import Input, Model, Sequential, layers

    pair = Input((28, 28)), Input((28, 28))
    incompatible = {
        "other flat input": Sequential([Input((783,)), layers.Dense(10)]),
        "color input": Sequential([Input((28, 28, 3)), layers.Flatten(), layers.Dense(10)]),
        "eleven classes": Sequential([Input((28, 28)), layers.Flatten(), layers.Dense(11)]),
        "an output per row": Sequential([Input((28, 28)), layers.Dense(10)]),
        "two inputs": Model(pair, layers.Dense(10)(layers.Flatten()(layers.Add()(pair)))),
    }
    for name, model in incompatible.items():
        model.save(tmp_path / f"{name}.keras")
        assert_refused(tmp_path / f"{name}.keras", match="it must take")


@pytest.mark.fault("models", "not a zip archive, not HDF5, not a file")
def test_what_is_not_a_model_is_refused_in_one_line(tmp_path):
    for name, content in (
        ("empty.keras", b""),
        ("text.keras", b"hello"),
        ("text.h5", b"hello"),
        ("model.pkl", b"\x80"),
    ):
        (tmp_path / name).write_bytes(content)
        assert_refused(tmp_path / name)
    assert_refused(tmp_path / "missing.keras", match="no such model file")


@pytest.mark.fault("models", "folder, FIFO, link loop or unreadable file in its place")
def test_a_folder_or_a_fifo_is_refused(tmp_path):
    (tmp_path / "folder.keras").mkdir()
    os.mkfifo(tmp_path / "pipe.keras")  # opening it would block
    for name in ("folder.keras", "pipe.keras"):
        assert_refused(tmp_path / name, match="no such model file")


@pytest.mark.fault("models", "Lambda layer")
def test_code_in_a_model_is_not_run(tmp_path):
    start_tensorflow()
    from keras import Input, Sequential, layers

    witness = tmp_path / "ran"
    code = layers.Lambda(lambda x, path=str(witness): (open(path, "w").close(), x)[1])
    model = Sequential([Input((28, 28)), code, layers.Flatten(), layers.Dense(10)])
    witness.unlink()  # the layer has run when the model was built
    for suffix in (".keras", ".h5"):
        model.save(tmp_path / f"lambda{suffix}")
        assert_refused(tmp_path / f"lambda{suffix}")
    assert not witness.exists()


@pytest.mark.fault("models", "code named in its config")
def test_a_function_that_a_config_names_is_not_called(valid, tmp_path):
    with assert_no_side_effects(tmp_path) as (witness, _):
        function, _ = describe_names("os", "system", {"command": f"touch {witness}"})
        for path in valid:
            change = request_activation(function)
            assert_refused(alter_model(path, "named", config=change))


@pytest.mark.fault("models", "anything that Keras exports, in its config")
def test_a_class_of_keras_that_is_no_part_of_a_model_is_refused(valid, tmp_path):
    with assert_no_side_effects(tmp_path) as (witness, _):
        _, logger = describe_names("keras.callbacks", "CSVLogger", {"filename": str(witness)})
        for path in valid:
            change = request_activation(logger)
            assert_refused(alter_model(path, "exported", config=change), match="not a safe part of a model")


def request_activation(value):
    """Return a function that changes the activation of the last layer in a model's config."""
    return lambda config: config["config"]["layers"][-1]["config"].update(activation=value)


@pytest.mark.fault("models", "layers that read files or run code")
def test_a_layer_that_reads_a_file_is_refused(valid, tmp_path):
    (tmp_path / "secret.txt").write_text("a\nb\n")
    for path in valid:
        change = insert_layer("StringLookup", {"vocabulary": str(tmp_path / "secret.txt")})
        assert_refused(alter_model(path, "lookup", config=change))


@pytest.mark.fault("models", "pickle")
def test_a_pickle_is_not_unpickled(tmp_path):
    with assert_no_side_effects(tmp_path) as (witness, _):
        for name in ("model.pkl", "model.keras", "model.h5"):
            (tmp_path / name).write_bytes(pickle.dumps(PickledCall(witness)))
            assert_refused(tmp_path / name)


@pytest.mark.fault("models", "custom class")
def test_a_class_that_does_not_exist_here_is_refused(tmp_path):
    start_tensorflow()
    from keras import Input, Sequential, layers

    class CustomLayer(layers.Layer):
        pass

    Sequential([Input((28, 28)), CustomLayer(), layers.Flatten(), layers.Dense(10)]).save(tmp_path / "model.keras")
    assert_refused(tmp_path / "model.keras", match="CustomLayer")


@pytest.mark.fault("models", "decompression bomb: archive, HDF5, config, file")
def test_a_decompression_bomb_is_refused(valid, tmp_path):
    assert_refused(compress_member(valid[0], "config.json", b" " * 2**20, 2**26), match="compressed")
    assert_refused(alter_model(valid[0], "long", members=[("config.json", b" " * 2**23)]), match="its config has more")
    for path in valid:
        assert_refused(alter_model(path, "empty", dataset=create_empty_weights), match="larger than what is stored")
    (tmp_path / "sparse.keras").touch()
    os.truncate(tmp_path / "sparse.keras", 2**40)
    assert_refused(tmp_path / "sparse.keras", match="more than 1,073,741,824 bytes")


def create_empty_weights(group, name):
    group.create_dataset(name, (2**15, 2**15), "f4")


@pytest.mark.fault("models", "loads but cannot predict")
def test_a_model_that_cannot_predict_is_refused_in_one_line(valid):
    def rename(config):
        config["config"]["layers"][-1]["config"]["name"] = "not^valid"  # as the name of an operation in TensorFlow

    path = alter_model(valid[0], "renamed", config=rename)
    load_model(path)
    with pytest.raises(LabError, match="cannot predict") as caught:
        load_compatible_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.fault("models", "links out of an HDF5 file")
def test_a_link_to_another_file_is_refused(valid):
    import h5py

    def link(group, name):
        group[name] = h5py.ExternalLink(valid[1], "/model_weights")

    for path in valid:
        assert_refused(alter_model(path, "link", dataset=link), match="link to another place")


@pytest.mark.fault("models", "paths out of the archive")
def test_a_path_out_of_the_archive_is_refused(valid, tmp_path):
    path = alter_model(valid[0], "parent", members=[("../witness", b"")])
    before = sorted(tmp_path.parent.rglob("*"))
    assert_refused(path, match="does not hold just")
    assert sorted(tmp_path.parent.rglob("*")) == before


@pytest.mark.fault("models", "cut off")
def test_half_a_model_is_refused(valid):
    for path in valid:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        assert_refused(path)


@pytest.mark.fault("models", "bits flipped")
def test_a_model_with_a_flipped_bit_is_loaded_or_refused(valid, count_cases):
    bits = (0, 70, 4_000, 40_000)
    for path in valid:
        content = path.read_bytes()
        for bit in bits:
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            load_or_refuse(path)
    count_cases(2 * len(bits))


@pytest.mark.fault("models", "weights that are not finite")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    model = build_compatible_model("logits")
    model.layers[-1].kernel.assign(np.full((784, 10), value))
    path = tmp_path / "model.keras"
    model.save(path)
    with pytest.raises(LabError, match="not finite") as caught:
        load_compatible_model(path)
    assert str(caught.value).startswith(f"{path}: ")
