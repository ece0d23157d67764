"""Experiment 2: the original project's conv model on Fashion-MNIST. Unlike in dense, Dense(128) has no ReLU.

Trains 2,770,634 parameters for 5 epochs on 60,000 images and prints the accuracy on the 10,000 test images:
89.42%, averaged over ten seeds (results/convolution_gain.md).

    python deep_learning_conv.py
"""

from lab.guard.errors import run_main
from lab.study.command_line import parse_arguments, print_record
from lab.study.records import save
from lab.training.data import load_data
from lab.training.predictions import evaluate
from lab.training.recipe import fit


def build_model():
    """Return the untrained model: pixels (28, 28, 1) in [0, 1] to ten probabilities; 2,770,634 parameters."""
    from keras import Input, Sequential, layers

    return Sequential(
        [
            Input((28, 28, 1)),
            layers.Conv2D(32, (3, 3), activation="relu"),
            layers.Flatten(),
            layers.Dense(128),  # no activation, as in the original project
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
