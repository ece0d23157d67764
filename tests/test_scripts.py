"""The scripts as commands: what a user types, at --smoke size, with no screen and from another folder."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, run_script
from PIL import Image

from lab.data import CLASS_NAMES

TRAINING = {"deep_learning.py": ("fashion", 101_770), "deep_learning_conv.py": ("fashion_conv", 2_770_634)}
PICTURES = {"deep_learning_pred.py": "predictions.png", "confusion_matrix.py": "confusion_matrix.png"}
SCRIPTS = [*TRAINING, *PICTURES, "convolution_gain.py", "sample_efficiency.py", "shift_robustness.py"]


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


def test_nothing_but_notes_on_standard_error_and_no_leftovers(smoke_saves):
    folder, processes = smoke_saves
    for process in processes.values():
        assert [line.split(":")[0] for line in process.stderr.splitlines()] == ["data", "saved"]
    saved = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {name for name in saved if not name.endswith(".png")} == {
        f"smoke/{stem}.{suffix}" for stem, _ in TRAINING.values() for suffix in ("keras", "json")
    }


def test_predictions_reuse_the_model_and_draw_a_picture(smoke_saves, tmp_path):
    folder, _ = smoke_saves
    process = run_script("deep_learning_pred.py", "--smoke", "--output-dir", folder, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "reused" in process.stderr
    picture, *lines, last = process.stdout.splitlines()
    assert picture == f"picture: {folder / 'smoke' / 'predictions.png'}"
    assert Image.open(folder / "smoke" / "predictions.png").size > (500, 500)
    assert [int(line.split()[0]) for line in lines] == list(range(20))
    assert last == f"{sum(line.endswith('right') for line in lines)} of 20 right"
    assert not list(tmp_path.iterdir())


def test_count_and_start_choose_the_images(smoke_saves):
    arguments = ("deep_learning_pred.py", "--smoke", "--output-dir", smoke_saves[0])
    first = run_script(*arguments, "--count", 5).stdout.splitlines()
    later = run_script(*arguments, "--start", 3, "--count", 2).stdout.splitlines()
    assert first[4:6] == later[1:3]
    assert later[-1].endswith("of 2 right")


def test_photographs_are_named_with_three_classes_each(smoke_saves, tmp_path):
    Image.new("RGB", (100, 100), "white").save(tmp_path / "flat.png")
    photo = Image.new("RGB", (100, 100), "white")
    photo.paste("black", (30, 10, 70, 90))
    photo.save(tmp_path / "a.png")
    photo.save(tmp_path / "b.jpg")
    arguments = ("deep_learning_pred.py", "--smoke", "--output-dir", smoke_saves[0])
    process = run_script(*arguments, "--image", "a.png", "b.jpg", "--save", "seen.png", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    picture, *lines = process.stdout.splitlines()
    assert picture == "picture: seen.png"
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
    picture, header, *rows, last = process.stdout.splitlines()
    assert picture == f"picture: {folder / 'smoke' / 'confusion_matrix.png'}"
    assert [row.split("  ")[0] for row in rows] == list(CLASS_NAMES)
    assert sum(int(count) for row in rows for count in row.split()[-12:-2]) == 200
    assert "n = 200" in last
    everything = run_script(*arguments, "--samples", "all", "--normalize", "--save", tmp_path / "all.svg")
    assert "n = 500" in everything.stdout.splitlines()[-1]
    assert "<svg" in (tmp_path / "all.svg").read_text()


def test_a_model_of_somebody_else(smoke_saves, tmp_path):
    folder, _ = smoke_saves
    theirs = (folder / "smoke" / "fashion_conv.keras").rename(tmp_path / "theirs.keras")
    try:
        process = run_script("confusion_matrix.py", "--model", theirs, "--save", tmp_path / "x.png", cwd=tmp_path)
    finally:
        theirs.rename(folder / "smoke" / "fashion_conv.keras")
    assert process.returncode == 0, process.stderr
    assert [line.split(":")[0] for line in process.stderr.splitlines()] == ["data"]
    missing = run_script("confusion_matrix.py", "--model", tmp_path / "missing.keras")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr == f"error: {tmp_path / 'missing.keras'}: no such model file\n"


@pytest.mark.parametrize("command", [*PICTURES, "convolution_gain.py --short"])
def test_each_works_alone_from_nothing_and_then_reuses(tmp_path, command):
    arguments = (*command.split(), "--smoke", "--output-dir", tmp_path)
    first, second, retrained, other_seed = (
        run_script(*arguments, *more, cwd=tmp_path) for more in ((), (), ("--retrain",), ("--seed", 5))
    )
    for process in (first, second, retrained, other_seed):
        assert process.returncode == 0, process.stderr
    trained = "epoch 1/1"
    assert [trained in process.stdout for process in (first, second, retrained, other_seed)] == [
        True,
        False,
        True,
        True,
    ]
    assert "training: no " in first.stderr
    assert "another seed" in other_seed.stderr
    # what is printed after the training is the same for the same seed
    assert first.stdout.splitlines()[-3:] == second.stdout.splitlines()[-3:] == retrained.stdout.splitlines()[-3:]


def test_the_gain_is_the_difference_of_the_records(smoke_saves):
    folder, _ = smoke_saves
    process = run_script("convolution_gain.py", "--short", "--smoke", "--output-dir", folder)
    dense, conv = (json.loads((folder / "smoke" / f"{stem}.json").read_text()) for stem, _ in TRAINING.values())
    test, train = (100 * (conv[split]["accuracy"] - dense[split]["accuracy"]) for split in ("test", "train"))
    sentence = process.stdout.splitlines()[-1]
    assert sentence.startswith(f"One 3 x 3 convolution buys {test:.2f} points [")
    assert f"; on the training set it looks like {train:.2f} [" in sentence


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
        ("--image", "x.png", "--count", "2"),
    ],
    "confusion_matrix.py": [("--samples", "0"), ("--samples", "10001"), ("--samples", "some"), ("--save", "x.txt")],
}  # fmt: skip


@pytest.mark.fault("flags", "wrong values at the command line: exit 2 and the flag's name")
@pytest.mark.parametrize(("name", "arguments"), [(name, each) for name, all_ in WRONG_USAGE.items() for each in all_])
def test_wrong_usage_names_the_flag(name, arguments):
    process = run_script(name, *arguments)
    assert process.returncode == 2
    assert f"argument {arguments[0]}: " in process.stderr.splitlines()[-1]
    assert not process.stdout


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


@pytest.mark.fault("processes", "unknown error: its type, and with --debug its traceback")
def test_an_unknown_error_shows_its_type(tmp_path):
    process = run_script("deep_learning.py", "--smoke", "--output-dir", tmp_path, PYTHONPATH=str(tmp_path / "broken"))
    assert process.returncode == 0
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tensorflow.py").write_text("raise RuntimeError('broken on purpose')")
    process = run_script("deep_learning.py", "--smoke", "--output-dir", tmp_path, PYTHONPATH=str(tmp_path / "broken"))
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1] == "error: RuntimeError: broken on purpose (--debug shows where)"
    process = run_script(
        "deep_learning.py", "--smoke", "--debug", "--output-dir", tmp_path, PYTHONPATH=str(tmp_path / "broken")
    )
    assert "Traceback" in process.stderr


@pytest.mark.fault("processes", "SIGINT, SIGTERM or SIGKILL in the training: its backup is whole")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_stopped_training_leaves_nothing_half_done(tmp_path, number, code):
    process = subprocess.Popen(
        [sys.executable, ROOT / "deep_learning.py", "--smoke", "--epochs", "1000", "--output-dir", tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # what runs in a shell's background is born deaf to SIGINT, and its children with it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert process.stdout.readline().startswith("epoch 1/1000")
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code
    assert "Traceback" not in stderr
    (backup,) = (path for path in tmp_path.rglob("[!.]*") if path.is_file())
    assert backup.name == "fashion.backup.npz"
    assert len(json.loads(str(np.load(backup)["progress"]))["seconds"]) >= 1


@pytest.mark.fault("processes", "standard output closed early (head -1) or from the start")
def test_output_that_nobody_reads_to_the_end_is_no_traceback(tmp_path):
    command = f"{sys.executable} {ROOT / 'deep_learning.py'} --smoke --epochs 3 --output-dir {tmp_path} | head -1; "
    process = subprocess.run(
        ["bash", "-c", command + "exit ${PIPESTATUS[0]}"], capture_output=True, text=True, env=os.environ
    )
    assert process.returncode == 1
    assert process.stdout.startswith("epoch 1/3")
    assert [line.split(":")[0] for line in process.stderr.splitlines()] == ["data"]


@pytest.mark.fault("processes", "standard output closed early (head -1) or from the start")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_output_is_no_traceback(tmp_path, closed):
    command = f"{sys.executable} {ROOT / 'deep_learning.py'} --smoke --output-dir {tmp_path} {closed}"
    process = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "Traceback" not in process.stderr
    assert (tmp_path / "smoke" / "fashion.keras").is_file()


@pytest.mark.fault("disk", "picture's place cannot be written, said before the training")
def test_a_picture_that_cannot_be_written_is_known_before_the_training(tmp_path):
    (tmp_path / "file").touch()
    for name in PICTURES:
        process = run_script(name, "--smoke", "--output-dir", tmp_path, "--save", tmp_path / "file" / "x.png")
        assert process.returncode == 1
        assert process.stderr.startswith("error: cannot write")
        assert not (tmp_path / "smoke").exists()


def test_a_backend_that_is_not_to_be_had_is_no_error(smoke_saves):
    arguments = ("confusion_matrix.py", "--smoke", "--output-dir", smoke_saves[0])
    process = run_script(*arguments, MPLBACKEND="module://nowhere.to_be_found")
    assert process.returncode == 0, process.stderr
    assert "picture: " in process.stdout


def test_experiment_5_trains_what_experiments_1_and_2_train(smoke_saves, tmp_path):
    assert run_script("convolution_gain.py", "--short", "--smoke", "--output-dir", tmp_path).returncode == 0
    for stem, _ in TRAINING.values():
        ours, theirs = (
            json.loads((folder / "smoke" / f"{stem}.json").read_text()) for folder in (tmp_path, smoke_saves[0])
        )
        assert ours["weights_sha256"] == theirs["weights_sha256"]


def test_experiment_5_does_not_pass_over_a_bad_folder(smoke_saves):
    arguments = ("convolution_gain.py", "--short", "--smoke", "--output-dir", smoke_saves[0], "--data-dir", "/nowhere")
    process = run_script(*arguments)
    assert (process.returncode, process.stdout) == (1, "")


@pytest.mark.fault("training", "learning rate that diverges: said, nothing saved")
def test_a_training_that_diverges_saves_nothing(tmp_path):
    process = run_script("deep_learning.py", "--smoke", "--learning-rate", "1e30", "--output-dir", tmp_path)
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith("error: training diverged")
    assert not process.stdout
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
