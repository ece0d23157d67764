"""Find after how many epochs dense reaches conv's training accuracy of five epochs, for robustness.py.

Trains both with seeds 10 to 14, which no published run has. No test image is looked at.

python benchmarks/match_dense.py  # its output: results/match_dense.md
"""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import convolution_gain  # noqa: E402
from lab.training.data import load_data  # noqa: E402
from lab.training.predictions import evaluate  # noqa: E402
from lab.training.recipe import Recipe, compile_model, fit, initialize_model  # noqa: E402
from lab.training.startup import start_tensorflow  # noqa: E402

SEEDS, EPOCHS = range(10, 15), 120
THREADS = {"conv": 2, "dense": 1}  # those that results/match_dense.md was made with


def training_accuracies(name, seed, rounds, epochs):
    """Train a variant for some rounds of some epochs each; return its training accuracy in percent after each round."""
    recipe, (train_split, _) = Recipe(threads=THREADS[name]), load_data()
    start_tensorflow(recipe.threads)
    model = initialize_model(convolution_gain.VARIANTS[name].build_model, seed)
    compile_model(model, recipe, len(train_split.labels))
    found = []
    for _ in range(rounds):
        fit(model, *train_split, epochs, recipe.batch_size)
        found.append(100 * evaluate(model, *train_split)["accuracy"])
    return found


def main():
    """Print the mean training accuracies, and the number of epochs at which dense is closest to conv."""
    found = {}
    for name, rounds, epochs in (("conv", 1, Recipe().epochs), ("dense", EPOCHS, 1)):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:  # with its number of threads
            tasks = [process.submit(training_accuracies, name, seed, rounds, epochs) for seed in SEEDS]
            found[name] = np.mean([task.result() for task in tasks], axis=0)
    (conv,), dense = found["conv"], found["dense"]
    print(f"conv after {Recipe().epochs} epochs: {conv:.2f}%")
    for epoch, accuracy in enumerate(dense, 1):
        print(f"dense after {epoch} epochs: {accuracy:.2f}%")
    print(f"closest: {np.abs(dense - conv).argmin() + 1} epochs (n = {len(SEEDS)} seeds)")


if __name__ == "__main__":
    main()
