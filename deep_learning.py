"""Experiment 1: the dense baseline on Fashion-MNIST.

Trains 101,770 parameters for 5 epochs on 60,000 images and prints the accuracy on the 10,000 test images:
87.08%, averaged over ten seeds (results/convolution_gain.md).

    python deep_learning.py
"""

from lab.guard.errors import run_main
from lab.study.command_line import parse_arguments, print_record
from lab.study.records import save
from lab.training.data import load_data
from lab.training.predictions import evaluate
from lab.training.recipe import fit


def build_model():
    """Return the untrained dense model: pixels (28, 28) in [0, 1] to ten class probabilities; 101,770 parameters."""
    from keras import Input, Sequential, layers

    return Sequential(
        [
            Input((28, 28)),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(10),
            layers.Softmax(dtype="float32"),  # whatever --precision says
        ]
    )


def train(options):
    """Load the data; build, compile, fit, evaluate and save the model; return it and its record."""
    import keras

    # images, uint8 (n, 28, 28), and labels, 0 to 9
    (train_images, train_labels), (test_images, test_labels) = load_data(options.dataset)

    keras.utils.set_random_seed(options.seed)  # decides the initial weights
    model = build_model()
    keras.utils.set_random_seed(options.seed)  # and the orders and dropout masks: the same for all models of a seed
    model.summary()

    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate=options.learning_rate),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )

    # as model.fit(train_images / 255, train_labels, ...), up to rounding, in less time, reshuffled every epoch
    history = fit(model, train_images, train_labels, options.epochs, options.batch_size, options.checkpoint)

    scores = {"train": evaluate(model, train_images, train_labels), "test": evaluate(model, test_images, test_labels)}
    return save(model, history, scores, options)


def main(argv=None):
    """Train the model and print its accuracy."""
    options = parse_arguments(train, argv)
    _, record = train(options)
    print_record(record, options)


if __name__ == "__main__":
    run_main(main)
