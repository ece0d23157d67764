"""Contestant: this project's recipe, by the code that the training scripts run.

python benchmarks/ours.py --model conv --epochs 5
"""

import dataclasses
import sys
import tempfile
from pathlib import Path

import contestant

sys.path.insert(0, str(contestant.ROOT))

import deep_learning  # noqa: E402
import deep_learning_conv  # noqa: E402
from lab import recipe  # noqa: E402
from lab.data import Split  # noqa: E402


def main(argv=None):
    """Train, evaluate, save, and print the closing line."""
    options = contestant.parser(__doc__, tuple(recipe.POLICIES)).parse_args(argv)
    script = {"dense": deep_learning, "conv": deep_learning_conv}[options.model]
    arrays = contestant.load_bytes(options.images)
    settings = {name: getattr(options, name) for name in ("epochs", "batch_size", "precision")}
    model, record = recipe.train(
        script.build_model,
        dataclasses.replace(recipe.Recipe(), train_images=options.images, **settings),
        options.seed,
        Split(*arrays[:2], source=""),
        Split(*arrays[2:], source=""),
        script.THREADS,
    )
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.keras")
    seconds, accuracy = record["history"]["seconds"], record["test"]["accuracy"]
    contestant.report("ours", options, seconds, accuracy, ("tensorflow", "keras"))


if __name__ == "__main__":
    main()
