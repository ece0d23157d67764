"""Experiment 1: the dense baseline on Fashion-MNIST.

Trains 101,770 parameters for 5 epochs on 60,000 images and prints the accuracy on the 10,000 test images:
87.08% on average of 10 seeds (results/convolution_gain.md).

    python deep_learning.py
"""

from lab import cli, store

SAVED_AS = "fashion.keras"
THREADS = 1  # a step is too small to be shared: two threads take longer than one


def build_model():
    """Return the untrained dense model: pixels (28, 28) in [0, 1] to ten class probabilities; 101,770 weights."""
    from keras import Input, Sequential, layers

    return Sequential(
        [
            Input((28, 28)),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(10),
            layers.Softmax(),
        ]
    )


def main(argv=None):
    """Train, save, evaluate, and print the accuracy."""
    options = cli.parse(cli.training_parser(__doc__), argv)
    path = cli.save_path(options, SAVED_AS)
    run = store.saved_or_trained if options.resume else store.trained
    model, record = run(build_model, path, options.recipe, options.seed, options.data_dir, THREADS)
    cli.report(record)


if __name__ == "__main__":
    cli.run(main)
