"""Experiment 5, so far its short version: how many points one convolution buys, at one seed, on both sets.

Reuses the models that experiments 1 and 2 saved and trains what is missing. One seed is one draw: the gain of another
seed may well differ by a point.

python convolution_gain.py
"""

import deep_learning
import deep_learning_conv
from lab import cli
from lab.data import load_splits


def gain(dense_record, conv_record, split):
    """Return by how many percentage points the conv model is ahead on a split, "test" or "train"."""
    return 100 * (conv_record[split]["accuracy"] - dense_record[split]["accuracy"])


def main(argv=None):
    """Print both models' accuracies on both sets, and the differences."""
    options = cli.parse(cli.parser(__doc__), argv)
    load_splits(data_dir=options.data_dir)  # a given folder that is bad is an error even if nothing is trained
    # conv first: a process keeps the number of threads that it began with, and only conv's last bits depend on it
    conv, dense = (cli.run_of(script, options)[1] for script in (deep_learning_conv, deep_learning))
    for name, record in (("dense", dense), ("conv", conv)):
        test, train = record["test"]["accuracy"], record["train"]["accuracy"]
        print(
            f"{name:<6} {record['parameters']:>9,} parameters, test accuracy {test:.4f}, training accuracy {train:.4f}"
        )
    print(
        f"one convolution: {gain(dense, conv, 'test'):+.2f} points on the test set, "
        f"{gain(dense, conv, 'train'):+.2f} on the training set (one seed, {options.seed})"
    )


if __name__ == "__main__":
    cli.run(main)
