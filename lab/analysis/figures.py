"""Figures: drawn here if scripts share them, opened in a window if a display is available, otherwise saved."""

import functools
import logging
import os
from pathlib import Path

import numpy as np

from lab.data import CLASS_NAMES
from lab.plumbing.files import atomic_write, require_writable
from lab.statistics import mean_interval

logger = logging.getLogger(__name__)


def plot_curve(ax, x, values, label, style="o-"):
    """Draw the mean of each column over seeds with its 95% interval on a Matplotlib Axes.

    Args: x, numbers (n,); values (seeds, n); label; style, as Matplotlib's `plot` takes it, for example "C0o--". The
        band, Student's t over seeds, is left out if there is one seed.
    """
    values = np.asarray(values)
    (line,) = ax.plot(x, values.mean(axis=0), style, markersize=4, label=label)
    if len(values) > 1:
        _, lows, highs = np.transpose([mean_interval(column) for column in values.T])
        ax.fill_between(x, lows, highs, color=line.get_color(), alpha=0.2, linewidth=0)


def plot_mean(ax, row, values, **style):
    """Draw the mean of values with its 95% interval on a row of a Matplotlib Axes; of a single value, that value."""
    mean, low, high = mean_interval(values) if len(values) > 1 else [values[0]] * 3
    ax.errorbar(mean, row, xerr=[[mean - low], [high - mean]], capsize=4, **style)


def plot_confusion(values, fmt, title, label, **colors):
    """Draw numbers (10, 10), rows actual, columns predicted, as a heatmap; return the Figure.

    Args: values; fmt of an annotation; title; label of the color bar; colors, as seaborn's `heatmap` takes them
    """
    import matplotlib.pyplot as plt
    import seaborn

    figure, ax = plt.subplots(figsize=(8.5, 7.5), layout="constrained")
    style = {"annot": True, "fmt": fmt, "square": True, "linewidths": 0.5, "cbar_kws": {"label": label}, **colors}
    seaborn.heatmap(values, xticklabels=CLASS_NAMES, yticklabels=CLASS_NAMES, ax=ax, **style)
    ax.set(xlabel="predicted", ylabel="actual", title=title)
    ax.tick_params(axis="x", rotation=45)
    ax.tick_params(axis="y", rotation=0)
    return figure


@functools.cache
def has_display():
    """Say whether Matplotlib's backend opens windows; without a display it falls back to one that does not."""
    try:
        import matplotlib.pyplot as plt

        plt.switch_backend(plt.get_backend())  # loads it
    except (ImportError, ValueError) as error:  # MPLBACKEND may be a notebook's, inherited by its child processes
        logger.warning("%s; figures are saved", error)
        os.environ["MPLBACKEND"] = "Agg"
        import matplotlib.pyplot as plt

        plt.switch_backend("Agg")
    from matplotlib.backends import BackendFilter, backend_registry

    backend = plt.get_backend().lower()
    return backend in backend_registry.list_builtin(BackendFilter.INTERACTIVE) or "inline" in backend  # a notebook's


def path_to_save(options, name):
    """Return where to save a figure, on request or without a display; otherwise None. Args: `cli.parse`'s; a name

    Raises: LabError, the path cannot be written; checked before the work begins.
    """
    if has_display() and not options.save:
        return None
    path = options.save if isinstance(options.save, Path) else options.output_dir / name
    require_writable(path)
    return path


def save(figure, path):
    """Save a Matplotlib Figure, if there is a path, and print the path. Raises: LabError, it cannot be written."""
    if path:
        with atomic_write(path) as temporary:
            figure.savefig(temporary, dpi=150)
        print(f"figure: {path}")


def show():
    """Open the figures and wait until they are closed; without a display, return at once."""
    import matplotlib.pyplot as plt

    if has_display():
        plt.show()
