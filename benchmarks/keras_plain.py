"""Contestant: Keras' fit, as the tutorials write it.

python benchmarks/keras_plain.py --model conv --epochs 5
"""

import tempfile
import time
from pathlib import Path

import contestant


def build_model(name):
    """Return the untrained model; written out, so that this yardstick stays when the repository's models change."""
    import keras
    from keras import layers

    if name == "dense":
        first = [keras.Input((28, 28)), layers.Flatten(), layers.Dense(128, activation="relu")]
    else:
        first = [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, (3, 3), activation="relu"),
            layers.Flatten(),
            layers.Dense(128),
        ]
    return keras.Sequential([*first, layers.Dropout(0.2), layers.Dense(10), layers.Softmax()])


def epoch_timer():
    """Return a callback with the list `seconds`, one entry per epoch."""
    import keras

    class EpochTimer(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.seconds = []

        def on_epoch_begin(self, epoch, logs=None):
            self.started = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            self.seconds.append(time.perf_counter() - self.started)

    return EpochTimer()


def main(argv=None):
    """Train, evaluate, save, and print the closing line."""
    options = contestant.parser(__doc__).parse_args(argv)
    import keras

    train_images, train_labels, test_images, test_labels = contestant.load_bytes(options.images)
    train_images, test_images = train_images / 255.0, test_images / 255.0  # float64, as in the tutorials
    if options.model == "conv":
        train_images, test_images = train_images[..., None], test_images[..., None]

    keras.utils.set_random_seed(options.seed)
    model = build_model(options.model)
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    timer = epoch_timer()
    model.fit(train_images, train_labels, epochs=options.epochs, batch_size=options.batch_size, callbacks=[timer])
    _, test_accuracy = model.evaluate(test_images, test_labels)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.keras")
    contestant.report("keras_plain", options, timer.seconds, test_accuracy, ("tensorflow", "keras"))


if __name__ == "__main__":
    main()
