"""Experiment 1: the dense baseline on Fashion-MNIST.

Trains 101,770 parameters for 5 epochs on 60,000 images and prints the accuracy on the 10,000 test images:
87.08%, averaged over ten seeds (results/convolution_gain.md).

    python deep_learning.py
"""

from lab import cli
from lab.data import load_data
from lab.recipe import compile_model, evaluate, fit, initialize_model

SAVED_AS = "fashion.keras"


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
            layers.Softmax(),
        ]
    )


def train(training):
    """Load the data, build the model, compile, fit, evaluate and save it; return the model and its record."""
    recipe = training.recipe  # epochs, batch size, learning rate, ...: lab/recipe.py, unless flags say otherwise

    # Load images, uint8 (n, 28, 28), and labels, 0 to 9
    train_split, test_split = load_data(training.data_dir)
    train_images, train_labels = train_split.first(recipe.train_images)
    test_images, test_labels = test_split.first(recipe.test_images)

    # Build the model; the seed decides its initial weights, the order of the images, and dropout
    model = initialize_model(build_model, recipe, training.seed)
    model.summary()

    # Compile: how the weights are updated (the learning rate is the recipe's), what is minimized, and what is reported
    compile_model(model, recipe, optimizer="adam", loss="sparse_categorical_crossentropy", metric="accuracy")

    # Fit: every epoch sees each training image once, in a new order, its pixels scaled to [0, 1]
    history = fit(model, train_images, train_labels, recipe.epochs, recipe.batch_size, training.checkpoint)

    # Evaluate the finished model, on the test images once
    train_scores = evaluate(model, train_images, train_labels)
    test_scores = evaluate(model, test_images, test_labels)

    # Save the model, and beside it a record of how it was trained
    return training.save(model, history, {"train": train_scores, "test": test_scores})


def main(argv=None):
    """Train the model and print its accuracy."""
    cli.run_training(__name__, argv)


if __name__ == "__main__":
    cli.run_main(main)
