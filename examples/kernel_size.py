"""Example: an experiment of your own. Does a larger kernel buy more accuracy?

20 runs: half an hour on two cores.

python -m examples.kernel_size
python -m examples.kernel_size --smoke --seeds 2
"""

import numpy as np

from lab import cli, compare, figures
from lab.study import Variant


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
    import matplotlib.pyplot as plt

    options = cli.parse(cli.study_parser(__doc__, VARIANTS, seeds=4), argv)
    path = figures.path_to_save(options, "kernel_size.png")
    runs = cli.study_runs("examples.kernel_size", options)
    accuracies = {name: compare.accuracies(runs, name, "test") for name in compare.variant_names(runs)}
    rows = [[VARIANTS[name].label, compare.format_mean(values)] for name, values in accuracies.items()]
    figure, ax = plt.subplots(layout="constrained")
    sizes = [VARIANTS[name].settings["kernel size"] for name in accuracies]
    figures.plot_curve(ax, sizes, np.transpose(list(accuracies.values())), "conv")
    ax.set(xlabel="kernel size, pixels", ylabel="test accuracy, %: mean and 95% interval over seeds")
    figures.save(figure, path)
    print(compare.markdown_table(["kernel", "test accuracy, %"], rows))
    figures.show()


if __name__ == "__main__":
    cli.run_main(main)
