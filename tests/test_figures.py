"""What figures look like, whatever the user's settings, and where they go."""

import os
from argparse import Namespace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import ROOT, run_script

from lab.analysis import figures

DRAW = """
import argparse, builtins, pathlib, sys
from lab.analysis import figures
from lab.guard.errors import LabError
if "notebook" in sys.argv:
    builtins.__IPYTHON__ = True  # as IPython does
options = argparse.Namespace(save=None, output_dir=pathlib.Path(sys.argv[1]))
path = figures.path_to_save(options, "figure.png")
import matplotlib.pyplot as plt
figure, ax = plt.subplots()
ax.imshow([[0, 1], [2, 3]])
ax.set(title="a title")
figures.save(figure, path)
"""
SETTINGS = """
image.origin: lower
text.usetex: True
savefig.dpi: 30
image.cmap: gray
axes.facecolor: red
backend: TkAgg
"""


def draw(folder, *arguments, **environment):
    """Draw in a process of its own, without a display; return the process and the picture, None if not saved."""
    environment = {"MPLBACKEND": "", "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", **environment}
    process = run_script("-W", "error", "-c", DRAW, folder, *arguments, cwd=folder, **environment)
    path = folder / "figure.png"
    return process, path.read_bytes() if path.exists() else None


def test_a_figure_is_the_same_whatever_the_users_settings_are(tmp_path):
    _, expected = draw(tmp_path)
    settings = tmp_path / "matplotlibrc"
    settings.write_text(SETTINGS)
    (tmp_path / "figure.png").unlink()
    _, picture = draw(tmp_path, MATPLOTLIBRC=str(settings))
    assert picture == expected


@pytest.mark.parametrize("backend", ["TkAgg", "no_such_backend", "module://matplotlib_inline.backend_inline"])
def test_without_a_display_figures_are_saved_whatever_the_backend(tmp_path, backend):
    process, picture = draw(tmp_path, MPLBACKEND=backend)
    *warning, note = process.stderr.splitlines()
    assert note == f"figure: {tmp_path / 'figure.png'}"
    assert picture
    # a script that a notebook starts inherits its backend: that is no fault to speak of
    assert bool(warning) == ("inline" not in backend)


def test_a_notebook_shows_figures_itself(tmp_path):
    backend = "from matplotlib import get_backend\nfrom matplotlib.backends.backend_agg import FigureCanvas\n"
    # IPython's backend asks when it is imported, and else shows no picture
    (tmp_path / "my_inline.py").write_text(f"{backend}assert 'my_inline' in get_backend()")
    process, picture = draw(tmp_path, "notebook", MPLBACKEND="module://my_inline")
    assert (process.stderr, picture) == ("", None)


@pytest.mark.parametrize(
    ("display", "save", "model", "expected"),
    [
        (False, None, None, "out/matrix.png"),
        (True, None, None, None),
        (True, True, None, "out/matrix.png"),
        (False, None, "best.keras", "out/matrix_best.png"),
        (True, True, "runs/best.h5", "out/matrix_runs_best.png"),
        (False, Path("new/mine.svg"), "best.keras", "new/mine.svg"),
    ],
)
def test_where_a_figure_is_saved(tmp_path, monkeypatch, display, save, model, expected):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(figures, "has_display", lambda: display)
    options = Namespace(save=save, output_dir=Path("out"), model=model and Path(model))
    assert figures.path_to_save(options, "matrix.png") == (expected and Path(expected))
    assert not expected or Path(expected).parent.is_dir()


def test_models_differ_in_marker_and_in_color():
    lines = [plt.subplots()[1].plot([1, 2], style)[0] for style in figures.STYLES.values()]
    for values in ([line.get_marker() for line in lines], [line.get_color() for line in lines]):
        assert len(set(values)) == len(lines)
    assert "None" not in {line.get_linestyle() for line in lines}


def test_a_curve_has_the_mean_and_a_band_that_ends_at_100_percent():
    ax, one_seed = (plt.subplots()[1] for _ in range(2))
    figures.plot_curve(ax, [1, 2], [[50.0, 99.0], [60.0, 99.9]], "a label", figures.STYLES["conv"])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [55, 99.45])
    (band,) = ax.collections
    assert band.get_datalim(ax.transData).y1 == 100
    figures.plot_curve(one_seed, [1, 2], [[50.0, 99.0]], "a label")
    np.testing.assert_array_equal(one_seed.lines[0].get_ydata(), [50, 99])
    assert not any(path.vertices.size for path in one_seed.collections[0].get_paths())


def test_learning_curves_are_those_of_the_history():
    history = {"accuracy": [0.7, 0.8], "loss": [0.9, 0.5], "seconds": [1, 1], "val_loss": [0.8, 0.7]}
    figure = figures.plot_learning_curves(history, "dense")
    accuracy, loss = figure.axes
    assert figure.get_suptitle() == "dense"
    np.testing.assert_allclose([line.get_xydata() for line in accuracy.lines], [[[1, 70], [2, 80]]])
    np.testing.assert_allclose([line.get_ydata() for line in loss.lines], [[0.9, 0.5], [0.8, 0.7]])
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["training", "validation"]
    assert all(tick == int(tick) for tick in loss.get_xticks())
