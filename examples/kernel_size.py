"""Example: an experiment of your own. Does a larger kernel buy more accuracy?

20 runs: half an hour on two cores.

python examples/kernel_size.py
python examples/kernel_size.py --smoke --seeds 2
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where lab/ is

from lab.analysis import compare, figures
from lab.guard.errors import run_main
from lab.study import command_line
from lab.study.runs import Variant


def conv_model(kernel_size):
    """Return the function that builds the conv model with another kernel size."""

    def build_model():
        from keras import Input, Sequential, layers

        return Sequential(
            [
                Input((28, 28, 1)),
                layers.Conv2D(32, kernel_size, activation="relu"),
                layers.Flatten(),
                layers.Dense(128, activation="relu"),
                layers.Dropout(0.2),
                layers.Dense(10),
                layers.Softmax(),
            ]
        )

    return build_model


VARIANTS = {
    f"kernel-{size}": Variant(f"{size} x {size}", conv_model(size), settings={"kernel size": size})
    for size in (1, 2, 3, 5, 7)
}


def main(argv=None):
    """Run what is missing; print the table, draw the figure."""
    options = command_line.parse(command_line.study_parser(__doc__, VARIANTS, seeds=4), argv)
    path = figures.path_to_save(options, "kernel_size.png")
    runs = command_line.study_runs(__file__, options)
    accuracies = {name: compare.accuracies(runs, name, "test") for name in compare.variant_names(runs)}
    rows = [[VARIANTS[name].label, compare.format_mean(values)] for name, values in accuracies.items()]
    print(compare.markdown_table(["kernel", "test accuracy, %"], rows), flush=True)

    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(layout="constrained")
    sizes = [VARIANTS[name].settings["kernel size"] for name in accuracies]
    figures.plot_curve(ax, sizes, np.transpose(list(accuracies.values())), "conv")
    ax.set(xlabel="kernel size, pixels", ylabel="test accuracy, %: mean and 95% interval over seeds")
    figures.save(figure, path)
    figures.show()


if __name__ == "__main__":
    run_main(main)
