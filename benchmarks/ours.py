"""Contestant: this project's recipe, by the code that the training scripts run.

python benchmarks/ours.py --model conv --epochs 5
"""

import contestant

import deep_learning
import deep_learning_conv
from lab.guard.errors import run_main
from lab.training import recipe


def main(argv=None):
    """Train, evaluate, and print the closing line."""
    options = contestant.parser(__doc__).parse_args(argv)
    script = {"dense": deep_learning, "conv": deep_learning_conv}[options.model]
    splits = contestant.load_bytes(options.images)
    settings = recipe.Recipe(options.epochs, contestant.BATCH_SIZE)
    _, history, scores = recipe.train(script.build_model, settings, options.seed, *splits)
    packages, path = ("tensorflow", "keras"), history["training_path"]
    contestant.report(options, history["seconds"], scores["test"]["accuracy"], packages, training_path=path)


if __name__ == "__main__":
    run_main(main)
