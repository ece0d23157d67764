"""The scripts as commands: what a user types, at --smoke size, with no display and from another folder."""

import contextlib
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, read_until, run_script, start
from PIL import Image

from lab.study.records import Run
from lab.training.data import CLASS_NAMES

TRAINING = {"deep_learning.py": ("fashion", 101_770), "deep_learning_conv.py": ("fashion_conv", 2_770_634)}
FIGURES = {"deep_learning_pred.py": "predictions.png", "confusion_matrix.py": "confusion_matrix.png"}
SCRIPTS = [*TRAINING, *FIGURES, "convolution_gain.py", "sample_efficiency.py", "robustness.py"]


@pytest.mark.parametrize("name", TRAINING)
def test_training_prints_the_accuracy_last_and_saves_the_model(smoke_saves, name):
    folder, processes = smoke_saves
    process = processes[name]
    assert process.returncode == 0, process.stderr
    stem, parameters = TRAINING[name]
    record = json.loads((folder / "smoke" / f"{stem}.json").read_text())
    assert f"parameters {parameters:,}\n" in process.stdout
    assert len(re.findall(r"^epoch 1/1: accuracy 0\.\d{4}, loss ", process.stdout, re.M)) == 1
    assert re.search(r"^time per epoch \d+\.\d\d s", process.stdout, re.M)
    last = process.stdout.splitlines()[-1]
    numbers = re.fullmatch(
        r"test accuracy (0\.\d{4}) \(95% CI (0\.\d{4})-(0\.\d{4}), n = 500\), loss (\d\.\d{4})", last
    ).groups()
    accuracy, low, high, loss = map(float, numbers)
    assert low < accuracy < high
    assert accuracy == pytest.approx(record["test"]["accuracy"], abs=1e-4)
    assert loss == pytest.approx(record["test"]["loss"], abs=1e-4)
    assert accuracy > 0.6
    assert (folder / "smoke" / f"{stem}.keras").is_file()


def test_standard_error_has_notes_only_and_no_file_is_left_over(smoke_saves):
    folder, processes = smoke_saves
    for process in processes.values():
        assert [line.split(":")[0] for line in process.stderr.splitlines()] == ["data", "saved"]
    saved = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {name for name in saved if not name.endswith(".png")} == {
        f"smoke/{stem}.{suffix}" for stem, _ in TRAINING.values() for suffix in ("keras", "json")
    }


def test_predictions_reuse_the_model_and_save_a_figure(smoke_saves, tmp_path):
    folder, _ = smoke_saves
    process = run_script("deep_learning_pred.py", "--smoke", "--output-dir", folder, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "reused" in process.stderr
    figure, *lines, last = process.stdout.splitlines()
    assert figure == f"figure: {folder / 'smoke' / 'predictions.png'}"
    assert Image.open(folder / "smoke" / "predictions.png").size > (500, 500)
    assert [int(line.split()[0]) for line in lines] == list(range(20))
    assert last == f"{sum(line.endswith('correct') for line in lines)} of 20 correct"
    assert not list(tmp_path.iterdir())


def test_count_and_start_choose_the_images(smoke_saves):
    arguments = ("deep_learning_pred.py", "--smoke", "--output-dir", smoke_saves[0])
    first = run_script(*arguments, "--count", 5).stdout.splitlines()
    later = run_script(*arguments, "--start", 3, "--count", 2).stdout.splitlines()
    assert first[4:6] == later[1:3]
    assert later[-1].endswith("of 2 correct")


def test_photographs_are_named_with_three_classes_each(smoke_saves, tmp_path):
    Image.new("RGB", (100, 100), "white").save(tmp_path / "flat.png")
    photo = Image.new("RGB", (100, 100), "white")
    photo.paste("black", (30, 10, 70, 90))
    photo.save(tmp_path / "a.png")
    photo.save(tmp_path / "b.jpg")
    arguments = ("deep_learning_pred.py", "--smoke", "--output-dir", smoke_saves[0])
    process = run_script(*arguments, "--image", "a.png", "b.jpg", "--save", "seen.png", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    figure, *lines = process.stdout.splitlines()
    assert figure == "figure: seen.png"
    assert (tmp_path / "seen.png").is_file()
    assert [line.split(":")[0] for line in lines] == ["a.png", "b.jpg"]
    for line in lines:
        assert sum(name in line for name in CLASS_NAMES) >= 3
        assert line.count("%") == 3
    failed = run_script(*arguments, "--image", "a.png", "flat.png", cwd=tmp_path)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("error: flat.png: ")


def test_confusion_matrix_prints_draws_and_takes_all_samples(smoke_saves, tmp_path):
    folder, _ = smoke_saves
    arguments = ("confusion_matrix.py", "--smoke", "--output-dir", folder)
    process = run_script(*arguments, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "reused" in process.stderr
    figure, header, *rows, last = process.stdout.splitlines()
    assert figure == f"figure: {folder / 'smoke' / 'confusion_matrix.png'}"
    assert [row.split("  ")[0] for row in rows] == list(CLASS_NAMES)
    assert sum(int(count) for row in rows for count in row.split()[-12:-2]) == 200
    assert "n = 200" in last
    everything = run_script(*arguments, "--samples", "all", "--normalize", "--save", tmp_path / "all.svg")
    assert "n = 500" in everything.stdout.splitlines()[-1]
    assert "<svg" in (tmp_path / "all.svg").read_text()


def test_a_model_of_another_folder(smoke_saves, tmp_path):
    folder, _ = smoke_saves
    theirs = (folder / "smoke" / "fashion_conv.keras").rename(tmp_path / "theirs.keras")
    try:
        process = run_script("confusion_matrix.py", "--model", theirs, "--save", tmp_path / "x.png", cwd=tmp_path)
    finally:
        theirs.rename(folder / "smoke" / "fashion_conv.keras")
    assert process.returncode == 0, process.stderr
    assert [line.split(":")[0] for line in process.stderr.splitlines()] == ["model", "data"]
    missing = run_script("confusion_matrix.py", "--model", tmp_path / "missing.keras")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr == f"error: {tmp_path / 'missing.keras'}: no such model file\n"


@pytest.mark.parametrize("command", ["confusion_matrix.py", "convolution_gain.py --short"])
def test_each_works_alone_from_nothing_and_then_reuses(tmp_path, command):
    arguments = (*command.split(), "--smoke", "--output-dir", tmp_path)
    first, second, retrained, other_seed = (
        run_script(*arguments, *more, cwd=tmp_path) for more in ((), (), ("--retrain",), ("--seed", 5))
    )
    for process in (first, second, retrained, other_seed):
        assert process.returncode == 0, process.stderr
    trained = ["epoch 1/1" in process.stdout for process in (first, second, retrained, other_seed)]
    assert trained == [True, False, True, True]
    assert "training: no " in first.stderr
    assert "different seed" in other_seed.stderr
    # what is printed after the training is the same for the same seed
    assert first.stdout.splitlines()[-3:] == second.stdout.splitlines()[-3:] == retrained.stdout.splitlines()[-3:]


def test_the_gain_is_the_difference_of_the_records(smoke_saves):
    folder, _ = smoke_saves
    process = run_script("convolution_gain.py", "--short", "--smoke", "--output-dir", folder)
    dense, conv = (json.loads((folder / "smoke" / f"{stem}.json").read_text()) for stem, _ in TRAINING.values())
    gain = 100 * (conv["test"]["accuracy"] - dense["test"]["accuracy"])
    assert f"two models that differ in two things: {gain:+.2f} [" in process.stdout.splitlines()[-1]


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_answers_at_once(name):
    times = []
    for _ in range(3):
        started = time.perf_counter()
        process = run_script(name, "--help")
        times.append(time.perf_counter() - started)
        assert process.returncode == 0
    assert "--learning-rate" in process.stdout
    assert min(times) < 0.5


def test_importing_a_script_does_nothing():
    program = (
        f"import sys; before = set(sys.modules); import {', '.join(name[:-3] for name in SCRIPTS)}; print(*sys.modules)"
    )
    modules = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"tensorflow", "keras", "matplotlib", "seaborn", "pandas", "PIL"} & set(modules)


WRONG_USAGE = {
    "deep_learning.py": [
        ("--epochs", "0"), ("--epochs", "1.5"), ("--batch-size", "-1"), ("--batch-size", "2.5"),
        ("--batch-size", "60001"),
        ("--learning-rate", "nan"), ("--learning-rate", "inf"), ("--learning-rate", "0"), ("--learning-rate", "fast"),
        ("--seed", "4294967296"), ("--seed", "-1"), ("--data-dir", ""), ("--output-dir", ""), ("--save", "model.h5"),
    ],
    "deep_learning_pred.py": [
        ("--count", "0"), ("--count", "101"), ("--start", "-1"), ("--start", "9981"), ("--image",),
        ("--image", "x.png", "--count", "2"), ("--pixels", "1"), ("--pixels", "2"),
    ],
    "confusion_matrix.py": [("--samples", "0"), ("--samples", "10001"), ("--samples", "some"), ("--save", "x.txt")],
}  # fmt: skip


@pytest.mark.fault("flags", "wrong values at the command line: exit 2 and the flag's name")
@pytest.mark.parametrize(("name", "arguments"), [(name, each) for name, all_ in WRONG_USAGE.items() for each in all_])
def test_wrong_usage_names_the_flag(name, arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module(name[:-3]).main(list(arguments))
    printed = capsys.readouterr()
    assert f"argument {arguments[0]}: " in printed.err.splitlines()[-1]
    assert not printed.out


@pytest.mark.fault("data", "given folder without the data")
def test_a_given_folder_without_the_data_is_one_line(tmp_path):
    process = run_script("deep_learning.py", "--smoke", "--data-dir", tmp_path, "--output-dir", tmp_path / "out")
    assert process.returncode == 1
    assert process.stderr.splitlines() == [f"error: {tmp_path / 'train-images-idx3-ubyte.gz'}: no such file"]
    debug = run_script(
        "deep_learning.py", "--smoke", "--data-dir", tmp_path, "--output-dir", tmp_path / "out", "--debug"
    )
    assert debug.returncode == 1
    assert "Traceback" in debug.stderr


@pytest.mark.fault("processes", "SIGINT, SIGTERM or SIGKILL in the training: its checkpoint is whole")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_stopped_training_leaves_its_checkpoint_and_resumes_to_the_same_weights(tmp_path, number, code):
    arguments = ("deep_learning.py", "--smoke", "--epochs", "40", "--output-dir", tmp_path)
    process = start(*arguments)
    read_until(process.stdout, "epoch 2/40")
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert stderr.splitlines()[-1] == "interrupted" if number == signal.SIGINT else "Traceback" not in stderr
    (checkpoint,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert checkpoint.name == "fashion.checkpoint.npz"
    assert len(Run.from_file(checkpoint).record["history"]["seconds"]) >= 2


@pytest.mark.fault("processes", "training stopped after an epoch, then --resume: the same weights, bit for bit")
def test_a_resumed_training_is_the_uninterrupted_one(tmp_path):
    arguments = ("deep_learning.py", "--smoke", "--epochs", 4)
    whole = run_script(*arguments, "--output-dir", tmp_path / "whole")
    process = start(*arguments, "--output-dir", tmp_path)
    read_until(process.stdout, "epoch 2/4")
    process.kill()
    process.communicate()
    resumed = run_script(*arguments, "--resume", "--output-dir", tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    done = int(re.search(r"resumed: after epoch (\d)$", resumed.stderr, re.M).group(1))
    assert done >= 2
    assert len(re.findall(r"^epoch \d/4", resumed.stdout, re.M)) == 4 - done
    assert resumed.stdout.splitlines()[-1] == whole.stdout.splitlines()[-1]
    records = [json.loads((path / "smoke" / "fashion.json").read_text()) for path in (tmp_path, tmp_path / "whole")]
    for part in ("weights_sha256", "test", "train", "made_of"):
        assert records[0][part] == records[1][part]
    again = run_script(*arguments, "--resume", "--output-dir", tmp_path)
    assert "reused" in again.stderr
    assert again.stdout.splitlines()[-1] == whole.stdout.splitlines()[-1]


@pytest.mark.parametrize("name", TRAINING)
def test_a_training_script_is_one_screen_and_shows_its_steps_in_reading_order(name):
    source = (ROOT / name).read_text()
    assert len(source.splitlines()) <= 80
    steps = ("load_data(", "initialize_model(", ".summary()", "compile_model(", "fit(", "evaluate(", ".save(")
    places = [source.index(step, source.index("def train(")) for step in steps]
    assert places == sorted(places)
    for word in ('optimizer="adam"', 'loss="sparse_categorical_crossentropy"', 'metric="accuracy"'):
        assert word in source


def test_on_a_terminal_the_progress_bar_counts_real_steps(tmp_path):
    """Here, the terminal is a pseudo-terminal; 2,000 images are 63 steps."""
    ours, theirs = os.openpty()
    command = [sys.executable, ROOT / "deep_learning_conv.py", "--smoke", "--output-dir", tmp_path]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.PIPE) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while piece := os.read(ours, 1 << 16):
                shown += piece
        complaints = process.stderr.read()
    assert process.returncode == 0, complaints
    steps = [int(done) for done in re.findall(rb"(\d+)/63", shown)]
    assert steps[-1] == 63
    assert len(set(steps)) >= 4
    assert b"Epoch 1/1" in shown


def test_an_unavailable_backend_is_no_error(smoke_saves):
    arguments = ("confusion_matrix.py", "--smoke", "--output-dir", smoke_saves[0])
    process = run_script(*arguments, MPLBACKEND="module://nowhere.to_be_found")
    assert process.returncode == 0, process.stderr
    assert "figure: " in process.stdout


def test_experiment_5_does_not_ignore_a_bad_folder(smoke_saves):
    arguments = ("convolution_gain.py", "--short", "--smoke", "--output-dir", smoke_saves[0], "--data-dir", "/nowhere")
    process = run_script(*arguments)
    assert (process.returncode, process.stdout) == (1, "")


@pytest.mark.fault("training", "learning rate that diverges: said, nothing saved")
def test_a_training_that_diverges_saves_nothing(tmp_path):
    process = run_script("deep_learning.py", "--smoke", "--learning-rate", "1e30", "--output-dir", tmp_path)
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith("error: training diverged")
    assert "epoch" not in process.stdout
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_in_a_notebook_an_error_is_one_line_and_the_kernel_lives():
    code = """
import signal, sys, types
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=object)
sys.argv = ["deep_learning.py", "--data-dir", "/nowhere"]
import deep_learning
from lab import cli
handler = signal.getsignal(signal.SIGINT)
cli.run_main(deep_learning.main)
assert signal.getsignal(signal.SIGINT) is handler
print("alive")
"""
    process = run_script("-c", code)
    assert process.stdout.endswith("alive\n"), process.stderr
    assert process.stderr.splitlines()[-1].startswith("error: /nowhere/")
