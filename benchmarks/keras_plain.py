"""Contestant: Keras' fit, as the tutorials write it, or with many steps in each execution and images in float32.

python benchmarks/keras_plain.py --model conv --epochs 5 --steps-per-execution 50
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
    parser = contestant.parser(__doc__)
    parser.add_argument("--steps-per-execution", type=int, metavar="N", help="and float32 images; without it, float64")
    options = parser.parse_args(argv)
    import keras

    load = contestant.load_scaled if options.steps_per_execution else contestant.load_bytes
    (train_images, train_labels), (test_images, test_labels) = load(options.images)
    if not options.steps_per_execution:
        train_images, test_images = train_images / 255.0, test_images / 255.0  # float64, as in the tutorials
    if options.model == "conv":
        train_images, test_images = train_images[..., None], test_images[..., None]

    keras.utils.set_random_seed(options.seed)
    model = build_model(options.model)
    model.compile(
        optimizer="adam",
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        steps_per_execution=options.steps_per_execution or 1,
    )
    timer, batch_size = epoch_timer(), contestant.BATCH_SIZE
    model.fit(train_images, train_labels, epochs=options.epochs, batch_size=batch_size, callbacks=[timer])
    _, test_accuracy = model.evaluate(test_images, test_labels)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.keras")
    contestant.report(options, timer.seconds, test_accuracy, ("tensorflow", "keras"))


if __name__ == "__main__":
    main()
