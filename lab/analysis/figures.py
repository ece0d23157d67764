"""Figures: drawn here if scripts share them, shown where there is a display, otherwise saved."""

import builtins
import functools
import logging
import os
import sys
from pathlib import Path

import numpy as np

from lab.analysis.statistics import mean_interval
from lab.guard.files import atomic_write, require_writable

logger = logging.getLogger(__name__)

# color, marker and line of each model in all figures; no two share a marker, so that they differ in black and white
STYLES = {
    "dense": "C0o--",
    "conv": "C1s-",
    "fully-connected": "C2^-.",
    "conv-shuffled": "C3v:",
    "conv-original": "C4D-.",
    "dense-longer": "C5X--",
    "local": "C6P-.",
    "conv-pooled": "C8*-",
    "conv-frozen": "C7<--",
    "conv-linear": "C9>-.",
    "conv-frozen-linear": "kd:",
}
PERCENT = (0, 100)


def shorten_name(name, length=30):
    """Return a file's name for a figure, its middle left out if it is long, without what cannot be drawn."""
    name = "".join(each if each.isprintable() else "?" for each in name)
    return name if len(name) <= length else f"{name[: length // 2]}…{name[-length // 2 + 1 :]}"


def plot_curve(ax, x, values, label, style="o-"):
    """Draw the mean of each column over seeds with its 95% interval on a Matplotlib Axes.

    Args: x, numbers (n,); values in percent (seeds, n); label; style, as Matplotlib's `plot` takes it, for example one
        of STYLES. The band, Student's t over seeds, is left out if there is one seed.
    """
    means, lows, highs = np.transpose([mean_interval(column, PERCENT) for column in np.transpose(values)])
    (line,) = ax.plot(x, means, style, markersize=4, label=label)
    ax.fill_between(x, lows, highs, color=line.get_color(), alpha=0.2, linewidth=0)


def plot_learning_curves(history, title):
    """Draw accuracy and loss against the epoch, of the training images and, if it has them, of the validation images.

    Args: dict of lists `accuracy` in [0, 1] and `loss` in nats, perhaps `val_accuracy` and `val_loss`; a value for each
        epoch; title. Returns: Figure
    """
    figure = new((9, 3.6))
    figure.suptitle(title)
    for ax, name in zip(figure.subplots(1, 2), ("accuracy", "loss"), strict=True):
        for key, label, style in ((name, "training", "C0o-"), (f"val_{name}", "validation", "C1s--")):
            if key in history:
                values = np.array(history[key]) * (100 if name == "accuracy" else 1)
                ax.plot(np.arange(len(values)) + 1, values, style, markersize=4, label=label)
        ax.set(xlabel="epoch", ylabel="accuracy, %" if name == "accuracy" else "loss, nats")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_xlim(0.5, len(history["loss"]) + 0.5)
        ax.legend(frameon=False)
    return figure


@functools.cache
def has_display():
    """Return whether figures open, in windows or in a notebook; without a display, Matplotlib is set to draw files.

    From then on, its other settings are its own defaults, whatever the user's are.
    """
    is_notebook, backend = hasattr(builtins, "__IPYTHON__"), os.environ.get("MPLBACKEND", "")
    if "matplotlib" in sys.modules or (is_notebook and "inline" in backend):
        backend = ""  # Matplotlib has read it, or must do so itself: only then IPython shows pictures
    else:
        os.environ.pop("MPLBACKEND", None)  # a bad one breaks the import
    if "inline" in backend:  # a notebook has started this process
        backend = "Agg"
    import matplotlib.pyplot as plt
    from matplotlib.backends import BackendFilter, backend_registry

    try:
        plt.switch_backend(backend or plt.get_backend())  # loads it
    except (ImportError, RuntimeError, ValueError) as error:
        logger.warning("%s; figures are saved", error)
        plt.switch_backend("Agg")
    plt.rcdefaults()  # all settings but the backend
    plt.rcParams["text.parse_math"] = False  # a file's or a class's name may have dollar signs
    backend, windows = plt.get_backend().lower(), BackendFilter.INTERACTIVE
    return backend in backend_registry.list_builtin(windows) or (is_notebook and "inline" in backend)


def path_to_save(options, name):
    """Return where to save a figure, on request or without a display; otherwise None.

    The default is the name in the output folder; with `--model`, the model's name follows, so that a picture of one
    model does not overwrite another's. Called before figures are drawn, because of `has_display`.

    Args: options, as from `lab.study.command_line.parse`; file name
    Raises: LabError, the path cannot be written; checked before the work begins.
    """
    if has_display() and not options.save:
        return None
    path = options.output_dir / name
    if getattr(options, "model", None):
        folder_and_model = filter(None, (options.model.parent.name, options.model.stem))
        path = path.with_stem("_".join((path.stem, *folder_and_model)))
    if isinstance(options.save, Path):
        path = options.save
    require_writable(path)
    return path


def new(size, layout="constrained"):
    """Return an empty Matplotlib Figure of a size in inches; the layout keeps its parts apart."""
    import matplotlib.pyplot as plt

    return plt.figure(figsize=size, layout=layout)


def plot_estimates(ax, x, estimates, style, **settings):
    """Draw the means of n Estimates, or of (mean, low, high), at x with their intervals; settings as `errorbar`'s."""
    means, lows, highs = np.transpose([each[:3] for each in estimates])
    ax.errorbar(x, means, [means - lows, highs - means], fmt=style, **{"capsize": 4, **settings})


def save(figure, path, ending=""):
    """Save a Matplotlib Figure, if there is a path, and note the path. Raises: LabError, it cannot be written.

    Args: Figure; path or None; what is added to the name, before the suffix
    """
    if path:
        path = path.with_stem(f"{path.stem}{ending}")
        with atomic_write(path) as temporary:
            figure.savefig(temporary, dpi=150)
        print(f"figure: {path}", file=sys.stderr)  # the last line on standard output is a result


def show():
    """Open the figures and wait until they are closed; without a display, return at once."""
    import matplotlib.pyplot as plt

    if has_display():
        plt.show()
