"""Pictures: shown where there is a screen, saved where there is none or where the user asks for a file."""

import logging

from lab import replacing

logger = logging.getLogger(__name__)


def has_screen():
    """Say whether Matplotlib's backend opens windows; without a display it falls back to one that does not."""
    import matplotlib.pyplot as plt
    from matplotlib.backends import BackendFilter, backend_registry

    return plt.get_backend().lower() in backend_registry.list_builtin(BackendFilter.INTERACTIVE)


def save_where_needed(figure, path, asked):
    """Save a Matplotlib figure at `path` if that was asked for or nothing can show it, and print where.

    Raises:
        LabError: the file cannot be written.
    """
    if asked or not has_screen():
        with replacing(path) as partial:
            figure.savefig(partial, dpi=150)
        print(f"picture: {path}")


def show():
    """Open the figures that were made and wait until they are closed; without a screen, return at once."""
    import matplotlib.pyplot as plt

    if has_screen():
        plt.show()
