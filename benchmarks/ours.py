"""Contestant: this project's recipe, by the code that the training scripts run.

python benchmarks/ours.py --model conv --epochs 5
"""

import sys
import tempfile
from pathlib import Path

import contestant

sys.path.insert(0, str(contestant.ROOT))

import deep_learning  # noqa: E402
import deep_learning_conv  # noqa: E402
from lab.guard.errors import run_main  # noqa: E402
from lab.training import recipe  # noqa: E402
from lab.training.data import Split  # noqa: E402


def main(argv=None):
    """Train, evaluate, save, and print the closing line."""
    options = contestant.parser(__doc__, ("float32", "bfloat16")).parse_args(argv)
    script = {"dense": deep_learning, "conv": deep_learning_conv}[options.model]
    arrays = contestant.load_bytes(options.images)
    settings = {name: getattr(options, name) for name in ("epochs", "batch_size", "precision")}
    model, history, scores = recipe.train(
        script.build_model, recipe.Recipe(**settings), options.seed, Split(*arrays[:2]), Split(*arrays[2:])
    )
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.keras")
    contestant.report("ours", options, history["seconds"], scores["test"]["accuracy"], ("tensorflow", "keras"))


if __name__ == "__main__":
    run_main(main)
