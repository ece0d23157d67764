"""Pictures: shown where there is a screen, saved where there is none or where the user asks for a file."""

import functools
import logging
import os

import numpy as np

from lab import replacing, require_writable
from lab.statistics import mean_interval

LINES = {"-": "\N{BOX DRAWINGS LIGHT HORIZONTAL}" * 2, "--": "- -", "-.": "- \N{MIDDLE DOT}", ":": "\N{MIDDLE DOT}" * 3}

logger = logging.getLogger(__name__)


@functools.cache
def has_screen():
    """Say whether Matplotlib's backend opens windows; without a display it falls back to one that does not."""
    try:
        import matplotlib.pyplot as plt

        plt.switch_backend(plt.get_backend())  # loads it
    except (ImportError, ValueError) as error:  # MPLBACKEND may be a notebook's, which hands its own to its children
        logger.warning("%s; pictures are saved", error)
        os.environ["MPLBACKEND"] = "Agg"
        import matplotlib.pyplot as plt

        plt.switch_backend("Agg")
    from matplotlib.backends import BackendFilter, backend_registry

    return plt.get_backend().lower() in backend_registry.list_builtin(BackendFilter.INTERACTIVE)


def path_to_save(path, asked):
    """Return the path if a picture is to be saved there, asked for or for want of a screen, and otherwise None.

    Raises:
        LabError: the path cannot be written; better known before the work than after.
    """
    if has_screen() and not asked:
        return None
    require_writable(path)
    return path


def save(figure, path):
    """Save a Matplotlib figure, if there is a path, and print where.

    Raises:
        LabError: the file cannot be written.
    """
    if path:
        with replacing(path) as partial:
            figure.savefig(partial, dpi=150)
        print(f"picture: {path}")


def curve(ax, x, values, label, style="-"):
    """Draw on a Matplotlib axis the mean of each column over seeds with its 95% interval.

    Args: x numbers (n,); values (seeds, n); a label; a style as Matplotlib's plot takes it, say "C0--". The band,
        Student's over seeds, is left out where there is one seed.
    """
    values = np.asarray(values)
    (line,) = ax.plot(x, values.mean(axis=0), style, marker="o", markersize=4, label=label)
    if len(values) > 1:
        _, lows, highs = np.transpose([mean_interval(column) for column in values.T])
        ax.fill_between(x, lows, highs, color=line.get_color(), alpha=0.2, linewidth=0)


def label_ends(ax, points=11):
    """Write each curve's label and kind of line beside its end, so many points apart; for an axis of final limits."""
    bottom, top = ax.get_ylim()
    gap = points * (top - bottom) / (ax.get_window_extent().height * 72 / ax.figure.dpi)
    free = bottom
    for line in sorted(ax.get_lines(), key=lambda line: line.get_ydata()[-1]):
        height = max(free, line.get_ydata()[-1])
        free = height + gap
        ax.annotate(
            f"{LINES[line.get_linestyle()]} {line.get_label()}",
            (1, height),
            (4, 0),
            xycoords=ax.get_yaxis_transform(),
            textcoords="offset points",
            va="center",
            color=line.get_color(),
            annotation_clip=False,
        )


def show():
    """Open the figures that were made and wait until they are closed; without a screen, return at once."""
    import matplotlib.pyplot as plt

    if has_screen():
        plt.show()
