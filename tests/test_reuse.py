"""What is reused and what is rerun after a change, each tried for real in a copy of the project at --smoke size."""

import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import copy_project

EXPERIMENT = '''"""A tiny experiment."""

import numpy as np

from lab import cli, compare
from lab.study.runs import Variant, collect_predictions

SCALE = 1
EVERY = 2


def model_with(units):
    def build_model():
        """Return a model."""
        from keras import Input, Sequential, layers

        hidden = [layers.Flatten(), layers.Dense(units), layers.Dropout(0.2)]
        return Sequential([Input((28, 28)), *hidden, layers.Dense(10), layers.Softmax()])

    return build_model


def shuffle_pixels(images, seed):
    order = np.random.default_rng(seed).permutation(784)
    return images.reshape(-1, 784)[:, order].reshape(-1, 28, 28)


def select(train_split, test_split, seed):
    return train_split.at(slice(0, None, EVERY)), test_split


def collect(model, test_split, prepare):
    # the comment
    print("a message")
    return {"predicted": collect_predictions(model, test_split, prepare)["predicted"] * SCALE}


VARIANTS = {"tiny": Variant("a label", model_with(8), shuffle_pixels, select, collect, {"units": 8})}


def plot(runs):
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots()
    ax.set_title("a title")
    return figure


def main(argv=None):
    options = cli.parse(cli.study_parser(__doc__, VARIANTS, seeds=1), argv)
    runs = cli.study_runs("tiny", options)
    plot(runs)
    (run,) = runs.values()
    print(run.record["weights_sha256"], run.record["test"]["loss"], run.arrays["predicted"].sum())


if __name__ == "__main__":
    cli.run_main(main)
'''

# change that decides a run's numbers: (file, what is replaced, by what, the parts that are said to have changed)
CHANGES = {
    "optimizer": ("lab/recipe.py", 'optimizer="adam"', 'optimizer="sgd"', "training code"),
    "its setting": (
        "lab/recipe.py",
        '"learning_rate": learning_rate}',
        '"beta_1": 0.8, "learning_rate": learning_rate}',
        "training code",
    ),
    "loss": (
        "lab/recipe.py",
        "loss=loss",
        'loss=keras.losses.SparseCategoricalCrossentropy(reduction="sum")',
        "training code",
    ),
    "scaling in training": ("lab/fast.py", "tf.constant(255.0)", "tf.constant(256.0)", "training code"),
    "scaling in prediction": ("lab/data.py", "scaled /= 255", "scaled /= 128", "measurement code, training code"),
    "images as they are loaded": (
        "lab/data.py",
        "Split(np.frombuffer",
        "Split(255 - np.frombuffer",
        "images, training code",
    ),
    "seed of the training": (
        "lab/study.py",
        "train(variant.build_model, key.recipe, key.seed,",
        "train(variant.build_model, key.recipe, key.seed + 1,",
        "training code",
    ),
    "dropout rate": ("tiny.py", "Dropout(0.2)", "Dropout(0.3)", "model, model code"),
    "layer in a closure": ("tiny.py", "model_with(8)", "model_with(9)", "model, model code"),
    "pixel permutation": ("tiny.py", "default_rng(seed)", "default_rng(seed + 1)", "images, measurement code"),
    "subset rule": ("tiny.py", "EVERY = 2", "EVERY = 3", "images"),
    "measured value": ("tiny.py", "SCALE = 1", "SCALE = 2", "measurement code"),
}
# changes that do not, tried all at once: any of them would cause a rerun by itself
REUSED = {
    "label": ("tiny.py", '"a label"', '"another label"'),
    "docstring of a script": ("tiny.py", "A tiny experiment", "Another"),
    "docstring of a model": ("tiny.py", "Return a model", "Return it"),
    "docstring of the recipe": ("lab/recipe.py", '"""Train a compiled model;', '"""Fit a model;'),
    "comment": ("tiny.py", "# the comment", "# more\n    # comments"),
    "message": ("tiny.py", '"a message"', '"another message"'),
    "figure's title": ("tiny.py", '"a title"', '"another title"'),
    "settings for a table": ("tiny.py", '{"units": 8}', '{"units": "eight"}'),
}
KERAS_VERSION, REUSED_CHANGES = "Keras version", "label, docstring, comment, message, title, table"


def run(folder, *command):
    process = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process


def edit(folder, name, before, after):
    text = (folder / name).read_text()
    assert text.count(before) >= 1, (name, before)
    (folder / name).write_text(text.replace(before, after))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Return a copy of the project with the tiny experiment and its finished run, and what it printed."""
    folder = copy_project(tmp_path_factory.mktemp("base"))
    (folder / "tiny.py").write_text(EXPERIMENT)
    return folder, run(folder, "tiny.py", "--smoke").stdout


@pytest.fixture(scope="module")
def outcomes(base, tmp_path_factory):
    """Return the process that ran the experiment again after each change, two at a time."""

    def run_changed(change):
        folder = tmp_path_factory.mktemp("changed") / "copy"
        shutil.copytree(base[0], folder)
        if change == REUSED_CHANGES:
            for each in REUSED.values():
                edit(folder, *each)
        elif change == KERAS_VERSION:
            (folder / "keras-9.9.9.dist-info").mkdir()
            (folder / "keras-9.9.9.dist-info" / "METADATA").write_text("Name: keras\nVersion: 9.9.9\n")
        else:
            edit(folder, *CHANGES[change][:3])
        return run(folder, "tiny.py", "--smoke")

    changes = [*CHANGES, KERAS_VERSION, REUSED_CHANGES]
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(changes, pool.map(run_changed, changes), strict=True))


@pytest.mark.parametrize("change", [*CHANGES, KERAS_VERSION])
def test_what_decides_a_run_reruns_it_and_says_why(change, base, outcomes):
    expected = CHANGES[change][3] if change in CHANGES else "versions (keras)"
    printed, notes = outcomes[change].stdout, outcomes[change].stderr
    assert f"rerun: changed since earlier runs: {expected}\n" in notes
    assert "study: 1 of 1 runs" in notes
    if change != KERAS_VERSION:  # the run has really been done with the change
        assert printed != base[1]


def test_what_decides_no_number_reruns_nothing(base, outcomes):
    process = outcomes[REUSED_CHANGES]
    assert "rerun" not in process.stderr
    assert "study: 1 of 1" not in process.stderr
    assert process.stdout == base[1]


def test_an_undone_change_finds_the_earlier_run_again(base, outcomes, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(base[0], folder)
    edit(folder, "tiny.py", "SCALE = 1", "SCALE = 2")
    assert "rerun" in run(folder, "tiny.py", "--smoke").stderr
    edit(folder, "tiny.py", "SCALE = 2", "SCALE = 1")
    process = run(folder, "tiny.py", "--smoke")
    assert "rerun" not in process.stderr
    assert process.stdout == base[1]


def test_a_model_of_another_optimizer_is_not_taken_for_the_recipes(tmp_path):
    folder = copy_project(tmp_path / "copy")
    original = (folder / "deep_learning.py").read_text()
    edit(folder, "deep_learning.py", 'optimizer="adam"', 'optimizer="sgd"')
    by_sgd = run(folder, "deep_learning.py", "--smoke")
    assert "reused" in run(folder, "confusion_matrix.py", "--smoke").stderr
    (folder / "deep_learning.py").write_text(original)
    after = run(folder, "confusion_matrix.py", "--smoke")
    assert re.search(
        r"^training: .*fashion\.keras is from a training with different training code$", after.stderr, re.M
    )
    assert by_sgd.stdout.splitlines()[-1] not in after.stdout
    assert "reused" in run(folder, "confusion_matrix.py", "--smoke").stderr


def test_a_changed_optimizer_reruns_experiment_5(tmp_path):
    folder = copy_project(tmp_path / "copy")
    command = ("convolution_gain.py", "--smoke", "--seeds", "1", "--variants", "dense")
    before = run(folder, *command)
    edit(folder, "lab/recipe.py", 'optimizer="adam"', 'optimizer="sgd"')
    after = run(folder, *command)
    assert "rerun: changed since earlier runs: training code\n" in after.stderr
    assert after.stdout != before.stdout


def test_published_runs_of_other_code_are_called_so(base, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(base[0], folder)
    shutil.copytree(folder / "saves" / "smoke" / "tiny", folder / "results" / "tiny")
    same = run(folder, "tiny.py", "--smoke", "--from-results")
    assert "note" not in same.stderr
    edit(folder, *CHANGES["optimizer"][:3])
    other = run(folder, "tiny.py", "--smoke", "--from-results")
    assert "note: the published runs were made by different training code\n" in other.stderr
    assert other.stdout == same.stdout == base[1]
