"""The scripts as commands: what a user types, at --smoke size, with no display and from another folder."""

import contextlib
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT, SCRIPTS, read_record, run_script
from mirror import make_arrays, write_data_set
from PIL import Image

import confusion_matrix
import convolution_gain
import deep_learning
import deep_learning_pred
from lab.guard.errors import LabError
from lab.study.records import Run

TRAINING = {"deep_learning": 101_770, "deep_learning_conv": 2_770_634}


@pytest.mark.parametrize("name", TRAINING)
def test_training_prints_the_accuracy_last_and_saves_model_and_learning_curves(smoke_saves, name):
    folder, processes = smoke_saves
    process, record = processes[f"{name}.py"], read_record(folder, name)
    assert [line.split(":")[0] for line in process.stderr.splitlines()] == ["data", "saved", "figure"]
    assert f"parameters {TRAINING[name]:,}\n" in process.stdout
    assert len(re.findall(r"^epoch 1/1: accuracy 0\.\d{4}, loss ", process.stdout, re.M)) == 1
    assert re.search(r"^time per epoch \d+\.\d\d s", process.stdout, re.M)
    form = r"test accuracy (0\.\d{4}) \(95% CI (0\.\d{4})-(0\.\d{4}), n = 500\), loss (\d\.\d{4})"
    accuracy, low, high, loss = map(float, re.fullmatch(form, process.stdout.splitlines()[-1]).groups())
    assert 0.6 < low < accuracy < high
    assert accuracy == pytest.approx(record["test_accuracy"], abs=1e-4)
    assert loss == pytest.approx(record["test_loss"], abs=1e-4)
    assert record["training_path"] == "XLA loop"
    endings = (".keras", ".json", "_learning_curves.png")
    assert all((folder / "smoke" / f"{name}{ending}").is_file() for ending in endings)


@pytest.mark.parametrize("name", TRAINING)
def test_a_training_script_is_one_screen_and_shows_its_steps_in_reading_order(name):
    source = (ROOT / f"{name}.py").read_text()
    assert len(source.splitlines()) <= 80
    steps = ("load_data(", "= build_model()", "model.summary()", "model.compile(", "optimizer=keras.optimizers.Adam(")
    steps += ('loss="sparse_categorical_crossentropy"', 'metrics=["accuracy"]', " fit(", " evaluate(", " save(")
    places = [source.index(step, source.index("def train(")) for step in steps]
    assert places == sorted(places)


def test_predictions_reuse_the_model_and_are_of_the_chosen_images(smoke_saves, capsys, caplog):
    folder, printed = smoke_saves[0], []
    for more in ([], ["--start", "3", "--count", "2"]):
        deep_learning_pred.main(["--smoke", "--output-dir", str(folder), *more])
        out, err = capsys.readouterr()
        assert err.endswith(f"figure: {folder / 'smoke' / 'predictions.png'}\n")
        printed.append(out.splitlines())
    assert f"reused: {folder / 'smoke' / 'deep_learning_conv.keras'}" in caplog.messages
    width, height = Image.open(folder / "smoke" / "predictions.png").size
    assert width > 500
    assert height > 300
    *lines, last = printed[0]
    assert [int(line.split()[0]) for line in lines] == list(range(20))
    assert last == f"{sum(line.endswith('correct') for line in lines)} of 20 correct"
    assert printed[1][:2] == printed[0][3:5]
    assert printed[1][-1].endswith("of 2 correct")


@pytest.mark.parametrize(
    ("script", "arguments", "problem"),
    [
        (confusion_matrix, ["--samples", "501"], "argument --samples: 501 samples, but there are 500"),
        (deep_learning_pred, ["--start", "499", "--count", "2"], "argument --start: 499 + 2 images, but there are 500"),
    ],
)
def test_more_images_than_there_are_is_wrong_usage(script, arguments, problem, smoke_saves, capsys):
    with pytest.raises(SystemExit, match="2"):
        script.main(["--smoke", "--output-dir", str(smoke_saves[0]), *arguments])
    assert problem in capsys.readouterr().err.splitlines()[-1]


def test_the_short_comparison_works_from_nothing_and_then_reuses(smoke_saves, tmp_path, capsys, caplog):
    printed = []
    for _ in range(2):
        convolution_gain.main(["--short", "--smoke", "--output-dir", str(tmp_path)])
        printed.append(capsys.readouterr().out)
    assert f"training: no saved model at {tmp_path / 'smoke' / 'deep_learning.keras'}" in caplog.messages
    assert printed[0].count("epoch 1/1") == 2
    assert caplog.text.count("reused: ") == 2
    assert printed[0].endswith(printed[1])
    dense, conv = (read_record(smoke_saves[0], name)["test_accuracy"] for name in TRAINING)  # of the same seed
    assert f"two models that differ in two things: {100 * (conv - dense):+.2f} [" in printed[1].splitlines()[-1]


@pytest.mark.fault("training", "learning rate that diverges: said, nothing saved")
def test_a_training_that_diverges_saves_nothing(tmp_path):
    with pytest.raises(LabError, match=r"training diverged: .* in epoch 1; try a smaller --learning-rate"):
        deep_learning.main(["--smoke", "--learning-rate", "1e30", "--output-dir", str(tmp_path)])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_another_data_set_has_a_folder_of_its_own(runs_here, tmp_path, caplog):
    write_data_set(tmp_path / "squares", make_arrays(2_000, 500))
    arguments = ["--smoke", "--dataset", str(tmp_path / "squares"), "--output-dir", str(tmp_path / "out")]
    deep_learning.main(arguments)
    convolution_gain.main([*arguments, "--seeds", "1", "--variants", "dense"])
    assert f"data: {tmp_path / 'squares'} (not verified" in caplog.text
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["squares"]
    (path,) = (tmp_path / "out" / "squares" / "smoke" / "convolution_gain").iterdir()
    script, study = read_record(tmp_path / "out" / "squares"), Run.from_file(path).record
    assert script["data_set"] == "squares"
    parts = ("data_set", "data_sha256", "weights_sha256", "training_code")
    for part in (*parts, "test_accuracy", "test_loss", "train_accuracy", "train_loss"):
        assert script[part] == study[part]


@pytest.mark.parametrize("command", ["convolution_gain.py --variants dense conv", "why_it_helps.py --variants dense"])
def test_a_script_says_that_it_draws_no_figure(tmp_path, command):
    process = run_script(*command.split(), "--from-results", "--save", tmp_path / "x.png", cwd=tmp_path)
    assert "no figure: " in process.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["deep_learning", "training_length"])
def test_help_answers_in_half_a_second(name, tmp_path):
    """A machine on which it takes longer takes longer for NumPy, too, which is a third of it."""

    def seconds(command):  # of the processor: other tests run meanwhile
        before = os.times()
        output = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        after = os.times()
        return sum(after[2:4]) - sum(before[2:4]), output

    commands = [sys.executable, "-c", "import numpy"], [sys.executable, ROOT / f"{name}.py", "--help"]
    numpy, of_help = ([seconds(command) for _ in range(3)] for command in commands)
    assert "--threads" in of_help[0][1]
    assert min(of_help)[0] < max(0.5, 3 * min(numpy)[0])


def test_importing_a_script_does_nothing():
    process = run_script("-c", f"import sys; import {', '.join(SCRIPTS)}; print(*sys.modules)")
    assert not {"tensorflow", "keras", "matplotlib", "seaborn", "pandas", "PIL"} & set(process.stdout.split())


def test_on_a_terminal_the_progress_bar_counts_real_steps(tmp_path):
    """Here, the terminal is a pseudo-terminal; 2,000 images are 63 steps."""
    ours, theirs = os.openpty()
    command = [sys.executable, ROOT / "deep_learning.py", "--smoke", "--precision", "bfloat16"]
    command += ["--output-dir", tmp_path]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.PIPE) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while piece := os.read(ours, 1 << 16):
                shown += piece
        complaints = process.stderr.read()
    assert process.returncode == 0, complaints
    assert b"Epoch 1/1" in shown
    steps = [int(done) for done in re.findall(rb"(\d+)/63", shown)]
    assert steps[-1] == max(steps) == 63
    assert len(set(steps)) >= 2


@pytest.mark.fault("data", "given folder without the data")
def test_in_a_notebook_an_error_is_one_line_and_the_kernel_lives():
    code = """
import signal, sys, types
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=object)
sys.argv = ["deep_learning.py", "--data-dir", "/nowhere"]
import deep_learning
from lab.guard.errors import run_main
handler = signal.getsignal(signal.SIGINT)
run_main(deep_learning.main)
assert signal.getsignal(signal.SIGINT) is handler
print("alive")
"""
    process = run_script("-c", code)
    assert process.stdout.endswith("alive\n"), process.stderr
    assert process.stderr.splitlines()[-1].startswith("error: /nowhere")
