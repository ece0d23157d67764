"""Every flag of every script with unusual values: it is accepted, or the last line says which flag is wrong."""

import argparse
import contextlib
import importlib
import io

import pytest
from conftest import SCRIPTS, run_script

from lab.analysis import figures
from lab.guard.errors import LabError
from lab.guard.files import atomic_write, require_writable
from lab.guard.models import load_model
from lab.guard.photographs import read_photograph
from lab.study import command_line, provenance
from lab.training.data import DataSet, load_data

LONG_NAME = "x" * 5_000
UNUSUAL_VALUES = (
    *("", " ", "-1", "0", "1", "255", "1.5", "nan", "1e309", "9" * 4301, "None", "x.png", "x.keras", LONG_NAME),
    *("\n", "\udcff", "tcp://h:1", "tcp://", "dense", "float32", "all", "--seed=1"),
)


class WorkReached(Exception):
    """The script has read its flags and would begin with its work."""


@pytest.fixture
def stop_before_work(monkeypatch):
    """Let the scripts run up to where their work begins, that is, to what all of them call first."""

    def raise_work_reached(*arguments, **more):
        raise WorkReached

    for owner, name in ((command_line, "start_tensorflow"), (figures, "path_to_save"), (command_line, "study_runs")):
        monkeypatch.setattr(owner, name, raise_work_reached)


def run_main(script, *arguments):
    """Run a script's main in `stop_before_work`; return its exit code, None if work would begin, and its last line."""
    messages = io.StringIO()
    with contextlib.redirect_stderr(messages), contextlib.redirect_stdout(io.StringIO()):
        try:
            importlib.import_module(script).main(arguments)
        except WorkReached:
            return None, messages.getvalue()
        except SystemExit as end:
            return end.code, messages.getvalue().rpartition("error: ")[2]
        except LabError as error:  # a photograph that does not exist is known before the work
            return 1, str(error)
    return pytest.fail("main has ended without reaching any work")


@pytest.mark.fault("flags", "unusual value")
@pytest.mark.parametrize("script", SCRIPTS)
def test_an_unusual_value_is_accepted_or_its_flag_named(script, stop_before_work, tmp_path, monkeypatch, count_cases):
    monkeypatch.chdir(tmp_path)
    parsers, parse_args = [], argparse.ArgumentParser.parse_args
    with monkeypatch.context() as patch:
        patch.setattr(
            argparse.ArgumentParser, "parse_args", lambda *given: parsers.append(given[0]) or parse_args(*given)
        )
        run_main(script)
    flags = {action.option_strings[-1]: action for action in parsers[0]._actions}
    assert flags.keys() >= {"--help", "--seed", "--smoke", "--threads", "--dataset", "--save"}
    for flag, action in flags.items():
        without_value, message = run_main(script, flag)
        assert without_value == (0 if flag == "--help" else None if action.nargs in (0, "?") else 2), message
        results = [run_main(script, f"{flag}={value}") for value in UNUSUAL_VALUES]
        assert results[0][0] == 2  # an empty value
        for code, message in results:
            assert code in (None, 1, 2)
            assert code != 2 or message.startswith(f"argument {'/'.join(action.option_strings)}: ")
    count_cases(len(flags) * (1 + len(UNUSUAL_VALUES)))
    assert not list(tmp_path.iterdir())


@pytest.mark.fault("flags", "unusual value")
@pytest.mark.parametrize(
    ("flag", "refused", "accepted"),
    [
        ("--epochs", ["0", "-1", "1.5", "x", "1e3"], "1"),
        ("--batch-size", ["0", "60001"], "60000"),
        ("--learning-rate", ["0", "-1", "nan", "inf", "1e309", "x"], "1e-300"),
        ("--threads", ["0", "1025"], "1024"),
        ("--seed", ["-1", str(2**32)], str(2**32 - 5)),
        ("--seeds", ["0", "1001", "9" * 30], "1000"),
        ("--jobs", ["0"], "1"),
        ("--precision", ["float16"], "bfloat16"),
        ("--variants", ["alexnet"], "conv"),
        ("--cluster", ["127.0.0.1:8786", "http://127.0.0.1:8786", "tcp://host", "tcp://a b:1"], "tls://127.0.0.1:8786"),
        ("--save", ["x.jpg", "x", "x.keras"], "x.PDF"),
    ],
)
def test_what_is_out_of_range_is_refused_and_its_end_accepted(flag, refused, accepted, stop_before_work, count_cases):
    for value in refused:
        code, message = run_main("robustness", f"{flag}={value}")
        assert code == 2, value
        assert message.startswith(f"argument {flag}: ")
    assert run_main("robustness", flag, accepted) == (None, "")
    count_cases(len(refused))


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
        ("convolution_gain", "--short --jobs 2", "argument --short: not with --jobs"),
        ("convolution_gain", "--short --seeds 2", "argument --short: not with --seeds or --variants"),
        ("convolution_gain", "--short --variants dense", "argument --short: not with --seeds or --variants"),
        ("convolution_gain", "--choose-rate --learning-rate 0.1", "argument --choose-rate: not with --learning-rate"),
        ("convolution_gain", "--smoke --train-images 100", "argument --smoke: not with --train-images"),
        ("convolution_gain", "--from-results --retrain", "argument --from-results: not with --retrain"),
        ("convolution_gain", "--from-results --jobs 2", "argument --from-results: not with --jobs"),
        ("convolution_gain", "--from-results --cluster tcp://h:1", "argument --from-results: not with --cluster"),
        ("convolution_gain", "--from-results --smoke", "argument --from-results: not with --smoke"),
        ("robustness", f"--seed {2**32 - 1} --seeds 2", "argument --seeds: 2 from 4294967295 on"),
        ("deep_learning", "--threads 1 --resume --save x.keras", None),
        ("confusion_matrix", "--model x.keras --pixel-range -1 1 --samples all", None),
        ("deep_learning_pred", "--model x.keras --start 9980", None),
        ("convolution_gain", "--short --seed 3 --retrain", None),
        ("robustness", "--variants conv --seeds 2 --jobs 1 --save x.svg", None),
        ("examples.kernel_size", "--from-results", None),
    ],
)
def test_flags_that_exclude_each_other_or_do_nothing_are_named(script, arguments, message, stop_before_work):
    code, found = run_main(script, *arguments.split())
    assert code == (2 if message else None)
    assert found.startswith(message or "")


def test_a_keras_that_is_too_old_is_one_line(monkeypatch):
    monkeypatch.setattr(provenance, "library_versions", lambda: {"keras": "3.9.2"})
    with pytest.raises(LabError, match=r"^Keras 3\.9\.2 is too old, .*: pip install -r requirements\.txt$"):
        importlib.import_module("robustness").main([])


@pytest.fixture
def place(tmp_path):
    """Return a folder of what a path may lead to."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"no data, no image, no model")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    return tmp_path


@pytest.mark.fault("flags", "unusual path to read from")
@pytest.mark.parametrize("read", [lambda path: load_data(DataSet("mnist", path)), load_model, read_photograph])
def test_an_unusual_path_to_read_from_is_refused(read, place, count_cases):
    paths = ("file", "folder", "loop", "dangling", "file/x", "\udcff.png", LONG_NAME, "x/" * 3_000, "a\nb.keras")
    for path in paths:
        with pytest.raises(LabError):
            read(f"{place}/{path}")
    count_cases(len(paths))


@pytest.mark.fault("flags", "unusual path to write to")
def test_an_unusual_path_to_write_to_is_written_or_refused_before_the_work(place, count_cases):
    written = ("new/x.png", "\udcff.png", "dangling", "a\nb.keras")
    for path in written:
        require_writable(place / path)
        with atomic_write(place / path) as temporary:
            temporary.write_bytes(b"x")
        assert (place / path).read_bytes() == b"x"
    refused = ("folder", "file/x", LONG_NAME, f"{LONG_NAME}/x.png", "x/" * 3_000, f"{'x' * 251}.png")
    for path in refused:  # of the last, the temporary name is too long
        with pytest.raises(LabError, match=r"cannot write .* make room there|is a folder; name a file"):
            require_writable(place / path)
    count_cases(len(written) + len(refused))


@pytest.mark.fault("flags", "unusual value, in a process of its own")
@pytest.mark.parametrize(
    ("script", "arguments", "code", "last_line"),
    [
        ("deep_learning.py", ("--epochs", "9" * 4301), 2, "argument --epochs: invalid whole_number value"),
        ("deep_learning.py", ("--save", "a\nb\udcff.KERAS"), 2, "argument --save: "),
        ("deep_learning_pred.py", ("--image", "a\x1b[2J\udcff.png"), 1, "no such file"),
        ("robustness.py", ("--smoke", "--save", f"{LONG_NAME}.png"), 1, "error: cannot write"),
    ],
)
def test_a_script_says_it_in_its_last_line_in_any_locale(tmp_path, script, arguments, code, last_line):
    ascii_only = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    process = run_script(script, *arguments, cwd=tmp_path, code=code, **ascii_only)
    assert process.stdout == ""
    last = process.stderr.splitlines()[-1]
    assert last_line in last
    assert last.isprintable()
    assert "Traceback" not in process.stderr


def test_a_lab_error_is_one_printable_line():
    assert str(LabError("a\nb\x1b[2J")) == "a b?[2J"
