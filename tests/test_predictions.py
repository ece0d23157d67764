"""How experiment 3 prints and draws predictions, and what it does with bad photographs."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from photograph_files import draw_garment, save
from PIL import Image

import deep_learning_pred as pred
from lab.analysis import figures
from lab.guard.errors import LabError
from lab.study.data_sets import CLASS_NAMES


@pytest.fixture
def predictions():
    """Return 23 images whose pixels are their index, random probabilities, and labels; every third one is wrong."""
    rng = np.random.default_rng(0)
    images = np.broadcast_to(np.arange(23, dtype=np.uint8)[:, None, None], (23, 28, 28))
    probabilities = rng.dirichlet(np.ones(10), 23)
    labels = probabilities.argmax(axis=1)
    labels[::3] = (labels[::3] + 1) % 10
    return images, probabilities, labels


def test_every_title_belongs_to_its_image(predictions):
    images, probabilities, labels = predictions
    figure = pred.plot_predictions(*predictions, CLASS_NAMES, "model: mine.keras")
    assert figure.get_suptitle() == "model: mine.keras"
    drawn = [ax for ax in figure.axes if ax.images]
    assert len(drawn) == len(images)
    for ax, row, label in zip(drawn, probabilities, labels, strict=True):
        number = ax.images[0].get_array()[0, 0]
        assert np.array_equal(probabilities[number], row)
        assert CLASS_NAMES[row.argmax()] in ax.get_title()
        assert f"{row.max():.0%}" in ax.get_title()
        assert ax.get_xlabel() == f"actual: {CLASS_NAMES[label]}"
        is_correct = row.argmax() == label
        assert ("✓" in ax.get_title(), "✗" in ax.get_title()) == (is_correct, not is_correct)
        assert ax.get_frame_on() == (not is_correct)
        assert (ax.xaxis.label.get_fontweight() == "bold") == (not is_correct)


def test_every_line_belongs_to_its_image(predictions):
    _, probabilities, labels = predictions
    lines = pred.format_predictions(100, probabilities, labels, CLASS_NAMES)
    assert sum(line.endswith("WRONG") for line in lines) == 8
    for index, (line, row, label) in enumerate(zip(lines, probabilities, labels, strict=True)):
        assert line.split()[0] == str(100 + index)
        verdict = "correct" if row.argmax() == label else "WRONG"
        assert line.endswith(f"{row.max():.1%}  {CLASS_NAMES[label]:<12} {verdict}")
        assert CLASS_NAMES[row.argmax()] in line


def test_top_classes_are_the_most_probable_in_order():
    row = np.array([0.1, 0, 0.2, 0, 0.4, 0, 0.3, 0, 0, 0])
    assert pred.top_classes(row, CLASS_NAMES) == [("Coat", 0.4), ("Shirt", 0.3), ("Pullover", 0.2)]


def test_each_photograph_is_beside_the_pixels_that_the_model_gets(predictions):
    images, probabilities, _ = predictions
    photographs = [
        (Path("folder", rf"$\q${number}.png"), Image.new("RGB", (5, 4), (number, 0, 0)), image)
        for number, image in enumerate(images)
    ]
    figures.has_display()  # sets how Matplotlib draws
    figure = pred.plot_photographs(photographs, probabilities, CLASS_NAMES, r"model: $\q$.keras")
    figure.canvas.draw()  # not as formulas
    assert figure.get_suptitle() == r"model: $\q$.keras"
    drawn = [ax for ax in figure.axes if ax.images]
    for number, (left, right) in enumerate(zip(drawn[::2], drawn[1::2], strict=True)):
        assert left.get_title() == rf"$\q${number}.png"
        assert left.images[0].get_array()[0, 0, 0] == number
        assert right.images[0].get_array()[0, 0] == number
        assert pred.top_classes(probabilities[number], CLASS_NAMES)[0][0] in right.get_title()


@pytest.mark.parametrize(
    ("name", "shown"),
    [("boot.jpg", "boot.jpg"), ("a" * 40 + ".jpg", "a" * 15 + "…" + "a" * 10 + ".jpg"), ("\x1b\udcff", "??")],
)
def test_the_name_of_a_file_fits_into_its_figure(name, shown):
    assert figures.shorten_name(name) == shown


def test_one_bad_photograph_does_not_cost_the_others(smoke_saves, tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.chdir(tmp_path)
    save(tmp_path, draw_garment("white", "black"), "good.png")
    Image.new("RGB", (100, 100), "white").save("flat.png")
    arguments = ["--smoke", "--output-dir", str(smoke_saves[0]), "--save", "seen.png", "--image"]
    with pytest.raises(LabError, match="^2 of 3 photographs could not be read$"):
        pred.main([*arguments, "flat.png", "good.png", "missing.png"])
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["good.png"]
    errors = [message.split(": ")[1] for message in caplog.messages if message.startswith("error: ")]
    assert errors == ["flat.png", "missing.png"]
    assert (tmp_path / "seen.png").is_file()


def test_what_is_printed_does_not_depend_on_the_figure(smoke_saves, monkeypatch, capsys):
    def fail(*_args, **_settings):
        raise RuntimeError("no LaTeX")

    monkeypatch.setattr(plt.Figure, "savefig", fail)
    with pytest.raises(RuntimeError, match="no LaTeX"):
        pred.main(["--smoke", "--count", "3", "--output-dir", str(smoke_saves[0])])
    assert capsys.readouterr().out.splitlines()[-1].endswith("of 3 correct")
