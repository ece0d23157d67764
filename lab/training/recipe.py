"""The training recipe: how every model here is initialized, compiled, fitted and evaluated, in scripts and studies.

One recipe for all models, so that a difference in accuracy is a difference between models. Experiments 1 and 2 name the
optimizer, loss and metric for their readers; a test keeps them equal to the defaults here, which the studies use.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from lab import fast
from lab.data import scale
from lab.plumbing.progress import epoch_logger
from lab.plumbing.startup import start_tensorflow

EVALUATION_BATCH = 500
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}  # precision: Keras' name for it


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of a training, without its model and its seed; flags may change them.

    `precision` is that of the arithmetic, "float32" or "bfloat16"; weights and class probabilities are always
    float32. The number of threads affects rounding, so its default is fixed. With `cosine_decay`, the learning rate
    falls to 0 (Loshchilov and Hutter 2017, arXiv 1608.03983); `weight_decay` is AdamW's (Loshchilov and Hutter
    2019, arXiv 1711.05101); `dropout` replaces the rate of all Dropout layers.
    """

    epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 0.001
    precision: str = "float32"
    threads: int = 2
    cosine_decay: bool = False
    weight_decay: float = 0.0
    dropout: float | None = None
    train_images: int = 60_000
    test_images: int = 10_000


SMOKE = Recipe(epochs=1, train_images=2_000, test_images=500)


def initialize_model(build_model, recipe, seed):
    """Return an untrained model. The seed decides its initial weights, the order of the images, and dropout.

    Args: function that returns a Keras model of (28, 28) or (28, 28, 1) pixels in [0, 1] to ten probabilities; Recipe;
        int in [0, 2**32)
    Raises: LabError, TensorFlow has started with another number of threads.
    """
    start_tensorflow(recipe.threads)
    import keras

    keras.utils.set_random_seed(seed)  # before the layers are made: each draws its own seed when it is made
    keras.config.set_dtype_policy(POLICIES[recipe.precision])
    try:
        model = build_model()
    finally:
        keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(seed)  # whatever the layers drew: `fit` draws the same orders for all models of a seed
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout) and recipe.dropout is not None:
            layer.rate = recipe.dropout
    model.layers[-1].dtype_policy = "float32"
    return model


def compile_model(model, recipe, optimizer="adam", loss="sparse_categorical_crossentropy", metric="accuracy"):
    """Compile a model: how weights are updated, what is minimized, and what is reported beside the loss.

    The names are Keras'. The learning rate and weight decay are the recipe's; all other settings of the optimizer are
    Keras' defaults. Adam is by Kingma and Ba 2015 (arXiv 1412.6980).
    """
    import keras

    learning_rate = recipe.learning_rate
    if recipe.cosine_decay:
        steps = recipe.epochs * math.ceil(recipe.train_images / recipe.batch_size)
        learning_rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    optimizer = keras.optimizers.get(optimizer)
    settings = {**optimizer.get_config(), "learning_rate": learning_rate}
    if recipe.weight_decay:
        settings["weight_decay"] = recipe.weight_decay
    optimizer = type(optimizer).from_config(settings)
    model.compile(optimizer=optimizer, loss=loss, metrics=[metric])


def fit(model, images, labels, epochs, batch_size, checkpoint=None, validation=None):
    """Train a compiled model; every epoch sees each image once, in a new order, its pixels scaled to [0, 1].

    With a validation set, training stops when its loss has not improved for max(3 epochs, 600 steps), or after
    max(20 epochs, 9,375 steps); the weights of the best epoch are restored. Small training sets need many epochs, large
    ones few.

    Args:
        images, labels: uint8 (n, 28, 28) and (n,)
        epochs, batch_size: int
        checkpoint: lab.plumbing.results.Checkpoint, which saves the state after each epoch and may restore one
        validation: lab.data.Split; without one, training takes all epochs

    Returns: dict of lists `accuracy`, `loss` and `seconds`, with a validation set `val_loss`; a value for each epoch
    Raises: LabError, the loss is not finite.
    """
    import keras

    shuffle_seeds = keras.random.SeedGenerator()  # itself seeded by `keras.utils.set_random_seed`
    model.optimizer.build(model.trainable_variables)
    state = [*model.variables, *model.optimizer.variables, shuffle_seeds.state]
    history = (checkpoint and checkpoint.restore(state)) or {"accuracy": [], "loss": [], "seconds": []}
    steps, stopping, validate = -(-len(images) // batch_size), [], dict
    if validation:
        history["val_loss"], epochs = [], max(20, -(-9_375 // steps))
        patience = max(3, -(-600 // steps))
        stopping = [keras.callbacks.EarlyStopping("val_loss", patience=patience, restore_best_weights=True)]

        def validate():
            return {"val_loss": evaluate(model, *validation)["loss"]}

    logger = epoch_logger(history, epochs, steps, lambda: checkpoint and checkpoint.save(history, state))
    callbacks = [logger, *stopping]
    fast.fit(model, images, labels, batch_size, shuffle_seeds, epochs, len(history["seconds"]), callbacks, validate)
    return history


def evaluate(model, images, labels):
    """Evaluate a compiled model. Args: as `fit`. Returns: dict of `accuracy` in [0, 1], `loss` in nats, and `n`"""
    import tensorflow as tf

    def read(start):
        part = slice(start, start + EVALUATION_BATCH)
        return _pixels(model, images[part]), labels[part]

    def read_in_graph(start):
        pixels, classes = tf.numpy_function(read, [start], (tf.float32, labels.dtype))
        return tf.ensure_shape(pixels, (None, *model.input_shape[1:])), tf.ensure_shape(classes, (None,))

    # with a generator instead, Keras takes twice the time; with the images as one tensor, their memory twice
    batches = tf.data.Dataset.range(0, len(labels), EVALUATION_BATCH).map(read_in_graph)
    return {**model.evaluate(batches, verbose=0, return_dict=True), "n": len(labels)}


def predict(model, images):
    """Return a model's class probabilities, float32 (n, 10), for images uint8 (n, 28, 28)."""
    batches = [images[start : start + 10_000] for start in range(0, len(images), 10_000)]  # to limit the memory
    predicted = [model.predict(_pixels(model, batch), EVALUATION_BATCH, verbose=0) for batch in batches]
    return np.concatenate(predicted).astype(np.float32)


def _pixels(model, images):
    """Return images as the model takes them: scaled, and of its input shape."""
    return scale(images).reshape(-1, *model.input_shape[1:])


def train(build_model, recipe, seed, train_split, test_split, validation=None):
    """Do in a study what experiments 1 and 2 do step by step: build, compile, fit and evaluate a model.

    Args: as `initialize_model`, and the splits, lab.data.Split; validation: as `fit`
    Returns: model, history, scores: the trained Keras model, as `fit`, and as `evaluate` for "train" and "test"
    Raises: LabError, the loss is not finite.
    """
    model = initialize_model(build_model, recipe, seed)
    compile_model(model, replace(recipe, train_images=len(train_split.labels)))  # of which a study may select a part
    history = fit(model, *train_split, recipe.epochs, recipe.batch_size, validation=validation)
    return model, history, {"train": evaluate(model, *train_split), "test": evaluate(model, *test_split)}
