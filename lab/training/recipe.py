"""The training recipe of the studies: how every model is initialized, compiled, fitted and evaluated.

One recipe for all models, so that a difference in accuracy is a difference between models. Experiments 1 and 2 do the
same step by step, in sight of their readers, through the same `fit` and `evaluate`; a test holds both to the same bits.
"""

import math
from dataclasses import dataclass

from lab.guard.models import require_classifier
from lab.guard.progress import epoch_logger
from lab.training import loop
from lab.training.predictions import evaluate
from lab.training.startup import start_tensorflow


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of a training, without its model, its data and its seed; flags may change them.

    With `cosine_decay`, the learning rate falls to 0 (Loshchilov and Hutter 2017, arXiv 1608.03983). `precision` is
    that of the products, "float32", on a GPU also "tf32", or "bfloat16"; weights are always float32. The number
    of threads affects rounding, so its default is fixed.
    """

    epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 0.001
    cosine_decay: bool = False
    precision: str = "float32"
    threads: int = 2


def initialize_model(build_model, seed):
    """Return an untrained model. The seed decides its initial weights, the orders of the images, and dropout.

    Args: function that returns a Keras model of (28, 28) or (28, 28, 1) pixels in [0, 1] to ten probabilities; int in
        [0, 2**32)
    """
    import keras

    keras.utils.set_random_seed(seed)  # before the layers are made: each draws its own seed when it is made
    model = build_model()
    keras.utils.set_random_seed(seed)  # whatever the layers drew: `fit` draws the same orders for all models of a seed
    return model


def compile_model(model, recipe, images):
    """Compile a model for so many training images, as experiments 1 and 2 do, with Keras' defaults.

    Adam is by Kingma and Ba 2015 (arXiv 1412.6980).
    """
    import keras

    learning_rate = recipe.learning_rate
    if recipe.cosine_decay:
        steps = recipe.epochs * math.ceil(images / recipe.batch_size)
        learning_rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    optimizer = keras.optimizers.Adam(learning_rate=learning_rate)
    model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])


def fit(model, images, labels, epochs, batch_size, checkpoint=None, validation=None):
    """Train a compiled model, reshuffled every epoch, as `model.fit(images / 255, labels, ...)` does up to rounding.

    With a validation set, training stops when its loss has not improved for max(3 epochs, 600 steps), and the weights
    of the best epoch are restored. Small training sets need many epochs, large ones few.

    Args:
        images, labels: uint8 (n, 28, 28) and (n,)
        epochs, batch_size: int; with a validation set, the most epochs
        checkpoint: lab.study.records.Checkpoint, which saves the state after each epoch and may restore one
        validation: lab.training.data.Split

    Returns: dict of lists `accuracy`, `loss` and `seconds`, with a validation set `val_loss`, a value for each epoch;
        and `training_path`, "XLA loop", or "Keras fit: " and why
    Raises: LabError, the model is no classifier of ten classes that reports its accuracy, or the loss is not finite;
        ValueError, both a checkpoint and a validation set: early stopping's memory is not in a checkpoint
    """
    import keras

    if checkpoint and validation:
        raise ValueError("a training with a validation set cannot be resumed; give a checkpoint or a validation set")
    require_classifier(model)
    shuffle_seeds = keras.random.SeedGenerator()  # itself seeded by `keras.utils.set_random_seed`
    model.optimizer.build(model.trainable_variables)
    state = [*model.variables, *model.optimizer.variables, shuffle_seeds.state]
    history = (checkpoint and checkpoint.restore(state)) or {"accuracy": [], "loss": [], "seconds": []}
    steps, callbacks, validate = math.ceil(len(images) / batch_size), [], None
    if validation:
        history.setdefault("val_loss", [])
        patience = max(3, math.ceil(600 / steps))
        callbacks = [keras.callbacks.EarlyStopping("val_loss", patience=patience, restore_best_weights=True)]

        def validate():
            return {"val_loss": evaluate(model, *validation)["loss"]}

    logger = epoch_logger(history, epochs, steps, lambda: checkpoint and checkpoint.save(history, state))
    first_epoch = len(history["seconds"])
    arguments = images, labels, batch_size, shuffle_seeds, epochs, first_epoch, [logger, *callbacks], validate
    return {**history, "training_path": loop.fit(model, *arguments)}


def train(build_model, recipe, seed, train_split, test_split, validation=None, checkpoint=None):
    """Do in a study what experiments 1 and 2 do step by step: build, compile, fit and evaluate a model.

    Args: as `initialize_model`; Recipe; the splits, lab.training.data.Split. With one for validation, training takes as
        many epochs as it needs, at most max(20 epochs, 9,375 steps), whatever the recipe says; checkpoint as for `fit`
    Returns: model, history, scores: the trained Keras model, as `fit`, and as `evaluate` for "train" and "test"
    Raises: LabError, as `fit`
    """
    start_tensorflow(recipe.threads, recipe.precision)
    model = initialize_model(build_model, seed)
    compile_model(model, recipe, len(train_split.labels))
    steps = math.ceil(len(train_split.labels) / recipe.batch_size)
    epochs = max(20, math.ceil(9_375 / steps)) if validation else recipe.epochs
    history = fit(model, *train_split, epochs, recipe.batch_size, checkpoint, validation)
    return model, history, {"train": evaluate(model, *train_split), "test": evaluate(model, *test_split)}
