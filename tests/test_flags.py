"""Every flag of every script with a few unusual values: it is accepted, or the last line says which flag is wrong.

tests/faults/test_flag_faults.py tries many more values.
"""

import pytest
from conftest import run_script
from script_flags import ALL_FLAGS, SCRIPTS, check_arguments, make_test_folder, run_main, stop_before_work

from lab.guard.errors import LabError
from lab.guard.files import atomic_write, require_writable
from lab.guard.models import load_model
from lab.guard.photographs import read_photograph
from lab.training.data import DataSet, load_data

UNUSUAL_VALUES = (
    *("", " ", "-1", "0", "1", "255", "1.5", "nan", "1e309", "9" * 4301, "None", "x.png", "x.keras", "x" * 5_000),
    *("\n", "\udcff", "tcp://h:1", "tcp://", "dense", "float32", "all", "--seed=1"),
)
LONG_NAME = "x" * 5_000


def test_every_script_is_found_with_its_flags():
    assert {"deep_learning", "confusion_matrix", "convolution_gain", "robustness", "examples.kernel_size"} <= {*SCRIPTS}
    ids = {param.id for param in ALL_FLAGS}
    assert {f"{script}--{flag}" for script in SCRIPTS for flag in ("help", "seed", "smoke", "threads")} <= ids
    assert {"deep_learning--resume", "confusion_matrix--pixel-range", "deep_learning_pred--image"} <= ids


@pytest.mark.fault("flags", "unusual value")
@pytest.mark.parametrize(("script", "action"), ALL_FLAGS)
def test_an_unusual_value_is_accepted_or_the_last_line_names_the_flag(
    script, action, tmp_path, monkeypatch, count_cases
):
    monkeypatch.chdir(tmp_path)
    flag = action.option_strings[-1]
    with stop_before_work():
        without_value, messages = run_main(script, [flag])
        assert without_value == (0 if flag == "--help" else None if action.nargs in (0, "?") else 2), messages
        # what argparse takes, in some versions of Python, for no value at all
        assert run_main(script, [f"{flag}=--"])[0] in ((None, 2) if action.nargs == "?" else (2,))
        codes = [check_arguments(script, action, [f"{flag}={value}"]) for value in UNUSUAL_VALUES]
        assert 2 in codes
        assert codes[0] == 2  # an empty value
    count_cases(2 + len(UNUSUAL_VALUES))
    assert not list(tmp_path.iterdir())


@pytest.mark.fault("flags", "unusual value")
@pytest.mark.parametrize(
    ("flag", "values"),
    [
        ("--epochs", ["0", "-1", "1.5", "x", "1e3"]),
        ("--batch-size", ["0", "60001"]),
        ("--learning-rate", ["0", "-1", "nan", "inf", "1e309", "x"]),
        ("--threads", ["0", "1025"]),
        ("--seed", ["-1", str(2**32)]),
        ("--seeds", ["0", "1001"]),
        ("--jobs", ["0"]),
        ("--precision", ["float16"]),
        ("--variants", ["alexnet"]),
        ("--cluster", ["127.0.0.1:8786", "http://127.0.0.1:8786", "tcp://host", "tcp://a b:1"]),
        ("--save", ["x.jpg", "x", "x.keras"]),
    ],
)
def test_a_value_out_of_range_is_refused(flag, values, count_cases):
    with stop_before_work():
        for value in values:
            code, messages = run_main("robustness", [f"{flag}={value}"])
            assert code == 2, value
            assert f"error: argument {flag}: " in messages.splitlines()[-1]
    count_cases(len(values))


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--batch-size", "60000"),
        ("--learning-rate", "1e-300"),
        ("--threads", "1024"),
        ("--seed", str(2**32 - 5)),
        ("--seeds", "1000"),
        ("--save", "x.PDF"),
    ],
)
def test_the_last_value_within_the_range_is_accepted(flag, value):
    with stop_before_work():
        assert run_main("robustness", [flag, value]) == (None, "")


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("deep_learning", "--retrain", "unrecognized arguments: --retrain"),
        ("sample_efficiency", "--epochs 3", "unrecognized arguments: --epochs 3"),
        ("sample_efficiency", "--train-images 100", "unrecognized arguments: --train-images 100"),
        ("confusion_matrix", "--retrain --model x.keras", "argument --retrain: not with --model"),
        ("confusion_matrix", "--pixel-range 0 255", "argument --pixel-range: only with --model"),
        ("confusion_matrix", "--both --model x.keras", "argument --both: not with --model"),
        ("deep_learning_pred", "--image x.png --count 2", "argument --image: --start and --count are for"),
        ("convolution_gain", "--short --jobs 2", "argument --short: not with --seeds, --variants, --save, --cluster"),
        ("convolution_gain", "--smoke --train-images 100", "argument --smoke: not with --train-images"),
        ("convolution_gain", "--from-results --retrain", "argument --from-results: not with --retrain"),
        ("convolution_gain", "--from-results --jobs 2", "argument --from-results: not with --jobs"),
        ("convolution_gain", "--from-results --cluster tcp://h:1", "argument --from-results: not with --cluster"),
        ("convolution_gain", "--from-results --smoke", "argument --from-results: not with --smoke"),
    ],
)
def test_flags_that_exclude_each_other_or_do_nothing_are_named(script, arguments, message):
    with stop_before_work():
        code, messages = run_main(script, arguments.split())
    assert code == 2
    assert f"error: {message}" in messages.splitlines()[-1]


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("deep_learning", ["--threads", "1", "--resume", "--save", "x.keras"]),
        ("confusion_matrix", ["--model", "x.keras", "--pixel-range", "-1", "1", "--samples", "all"]),
        ("deep_learning_pred", ["--model", "x.keras", "--start", "9980"]),
        ("convolution_gain", ["--short", "--seed", "3", "--retrain"]),
        ("robustness", ["--variants", "conv", "--seeds", "2", "--jobs", "1", "--save", "x.svg"]),
        ("sample_efficiency", ["--cluster", "tcp://127.0.0.1:8786"]),
        ("examples.kernel_size", ["--from-results"]),
    ],
)
def test_flags_that_go_together_reach_the_work(script, arguments):
    with stop_before_work():
        assert run_main(script, arguments) == (None, "")


@pytest.mark.fault("flags", "more seeds than exist")
@pytest.mark.parametrize("arguments", [["--seeds", "9" * 30], ["--seed", str(2**32 - 1), "--seeds", "2"]])
def test_seeds_are_limited(arguments):
    with stop_before_work():
        code, messages = run_main("robustness", arguments)
    assert code == 2
    assert "argument --seeds: " in messages.splitlines()[-1]


@pytest.mark.fault("flags", "unusual path to read from")
@pytest.mark.parametrize("read", [lambda path: load_data(DataSet("mnist", path)), load_model, read_photograph])
def test_an_unusual_path_to_read_from_is_refused(read, tmp_path, count_cases):
    place = make_test_folder(tmp_path)
    paths = ("file", "folder", "loop", "dangling", "file/x", "\udcff.png", LONG_NAME, "x/" * 3_000, "a\nb.keras")
    for path in paths:
        with pytest.raises(LabError):
            read(f"{place}/{path}")
    count_cases(len(paths))


@pytest.mark.fault("flags", "unusual path to write to")
@pytest.mark.parametrize("path", ["new/x.png", "\udcff.png", "dangling", "a\nb.keras"])
def test_an_unusual_path_can_be_written(path, tmp_path):
    place = make_test_folder(tmp_path)
    require_writable(place / path)
    with atomic_write(place / path) as temporary:
        temporary.write_bytes(b"x")
    assert (place / path).read_bytes() == b"x"


@pytest.mark.fault("flags", "unusual path to write to")
@pytest.mark.parametrize(
    "path",
    ["folder", "file/x", LONG_NAME, f"{LONG_NAME}/x.png", f"{'x' * 251}.png"],  # of the last, the temporary name
    ids=["a folder", "below a file", "long name", "long folder", "long temporary name"],
)
def test_a_path_that_cannot_be_written_is_refused(path, tmp_path):
    place = make_test_folder(tmp_path)
    with pytest.raises(LabError, match=r"cannot write .* make room there|is a folder; name a file"):
        require_writable(place / path)


@pytest.mark.fault("flags", "unusual value, in a process of its own")
@pytest.mark.parametrize(
    ("script", "arguments", "code", "last_line"),
    [
        ("deep_learning.py", ("--save", "a\nb\udcff.h5"), 2, "argument --save: "),
        ("deep_learning_pred.py", ("--image", "a\x1b[2J\udcff.png"), 1, "no such file"),
    ],
)
def test_a_script_says_it_in_its_last_line(tmp_path, script, arguments, code, last_line):
    process = run_script(script, *arguments, cwd=tmp_path)
    assert (process.returncode, process.stdout) == (code, "")
    last = process.stderr.splitlines()[-1]
    assert last_line in last
    assert last.isprintable()
    assert "Traceback" not in process.stderr
