"""Every flag of every script with generated values, and paths that lead nowhere."""

import os
from pathlib import Path

import pytest
from conftest import run_script
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from script_flags import ALL_FLAGS, check_arguments, make_test_folder, stop_before_work

from lab.guard.errors import LabError
from lab.guard.files import atomic_write, require_writable
from lab.guard.models import load_model
from lab.guard.photographs import read_photograph
from lab.training.data import DataSet, load_data

EXAMPLES = 15  # of each flag; ten times as many with --soak

# what an argument of a process can hold: any bytes but 0, those that are not UTF-8 as surrogates
characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0") | st.characters(
    min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=["Cs"]
)
prefixes = ["", "+", "-", "--", " ", "0", "00", "0x", "1_", "１", "٣", "²", "1e"]
suffixes = ["", " ", "\n", "_0", ".0", "e0", "e400", "e-400", "L", "j", "%", "５"]
numbers = st.one_of(
    st.integers().map(str),
    st.floats().map(repr),
    st.integers(0, 400).map(lambda n: "9" * n),
    st.builds("{}{}{}".format, st.sampled_from(prefixes), st.integers(0, 99), st.sampled_from(suffixes)),
)
unusual_values = st.sampled_from([
    *("", " ", "-", "--", "-1", "0", "nan", "inf", "-inf", "1e309", "1e-400", "infinity", "None", "True", "all", "ALL"),
    *("%s", "%(prog)s", "{}", ".", "..", "/", "~", "//", "a/../b", "CON", "\n", "\r\n", "\x1b[2J", "\u202e", "\ufeff1"),
    *("x" * 255, "x" * 256, "x/" * 3000, "x" * 100_000, "9" * 4301, "\udcff", "\udcff.png", "a\nb.h5", "x.keras"),
    *(".keras", "x.PNG", "x.png/", "tcp://", "tcp://h:1", "tcp://h:99999999", "tls://[::1]:1", "tcp://h:1\n", "tcp://\n"),
    *("float32", "FLOAT32", "dense", "dense,conv", "-h", "--help", "--seed", "--seed=1", "@file", "'; rm x"),
])  # fmt: skip
values = st.one_of(st.text(characters, max_size=30), numbers, unusual_values)


def try_values(strategy, check, soak, factor=1):
    """Call a function with generated values; return how many."""
    tried = []

    @settings(
        max_examples=EXAMPLES * factor * (10 if soak else 1),
        deadline=None,
        database=None,
        derandomize=not soak,
        suppress_health_check=[HealthCheck.too_slow],  # on a busy machine
    )
    @given(strategy)
    def try_value(value):
        tried.append(None)
        check(value)

    try_value()
    return len(tried)


@pytest.mark.fault("flags", "unusual value")
@pytest.mark.parametrize(("script", "action"), ALL_FLAGS)
def test_any_value_is_accepted_or_the_last_line_names_the_flag(
    script, action, tmp_path, monkeypatch, soak, count_cases
):
    monkeypatch.chdir(tmp_path)
    flag = action.option_strings[-1]

    def check_value(value):
        check_arguments(script, action, [f"{flag}={value}"])
        if not value.startswith("-") and action.nargs != 0:
            check_arguments(script, action, [flag, value])

    with stop_before_work():
        count_cases(try_values(values, check_value, soak))
    assert not list(tmp_path.iterdir())


components = st.text(characters, max_size=12) | st.sampled_from([
    *("", ".", "..", "file", "folder", "loop", "dangling", "x" * 240, "x" * 249, "x" * 255, "x" * 256, "é" * 127),
    *("é" * 128, "\udcff" * 255, "x/" * 3000, "x" * 4096, "~", "$HOME", "*", "-", "\n", "\x1b[2J", " ", "\u202egnp.x"),
])  # fmt: skip
paths = st.builds(
    lambda parts, suffix: "/".join(parts) + suffix,
    st.lists(components, min_size=1, max_size=4),
    st.sampled_from(["", ".png", ".keras", ".PNG", "/", "/."]),
)


@pytest.fixture
def place(tmp_path):
    """Return a folder of what a path may lead to; four steps up are still in the test's own folder."""
    return make_test_folder(tmp_path)


def path_below(place, text):
    """Return the text as a path below the place; reject the example if it leads out of the test's own folder."""
    path = f"{place}/{text}"
    assume(os.path.normpath(path).startswith(str(place.parents[3])))
    return path


READERS = {
    "the data's folder": lambda path: load_data(DataSet("mnist", path)),
    "a model": load_model,
    "a photograph": read_photograph,
}


@pytest.mark.fault("flags", "unusual path to read from")
@pytest.mark.parametrize("what", READERS)
def test_any_path_to_read_from_is_refused_by_a_message(what, place, soak, count_cases):
    def check(text):
        path = path_below(place, text)
        with pytest.raises(LabError):
            READERS[what](path)

    count_cases(try_values(paths, check, soak, factor=8))


@pytest.mark.fault("flags", "unusual path to write to")
def test_a_path_that_seems_writable_is_writable(place, soak, count_cases):
    """What `require_writable` accepts before the work can be written after it."""

    def check(text):
        path = path_below(place, text)
        try:
            require_writable(path)
        except LabError:
            return
        with atomic_write(path) as temporary:
            temporary.write_bytes(b"x")
        Path(path).unlink()

    count_cases(try_values(paths, check, soak, factor=8))


LONG_NAME = "x" * 5_000


@pytest.mark.fault("flags", "unusual value, in a process of its own")
@pytest.mark.parametrize(
    ("script", "arguments", "code", "last_line"),
    [
        ("deep_learning.py", ("--epochs", "\udcff"), 2, "argument --epochs: invalid whole_number value"),
        ("deep_learning.py", ("--epochs", "9" * 4301), 2, "argument --epochs: invalid whole_number value"),
        ("deep_learning.py", ("--learning-rate", "1\n2"), 2, "argument --learning-rate: invalid positive_float value"),
        ("deep_learning.py", ("--save", "a\nb\udcff.h5"), 2, "argument --save: "),
        ("convolution_gain.py", ("--cluster", "tcp://a\nb"), 2, "argument --cluster: "),
        (
            "confusion_matrix.py",
            ("--model", "x", "--pixel-range", "0", "\udcff"),
            2,
            "argument --pixel-range: invalid fini",
        ),
        ("deep_learning.py", ("--smoke", "--data-dir", LONG_NAME, "--output-dir", "out"), 1, "no such folder"),
        ("deep_learning_conv.py", ("--smoke", "--output-dir", LONG_NAME), 1, "error: cannot write"),
        ("deep_learning_pred.py", ("--smoke", "--save", "x.png", "--output-dir", LONG_NAME), 1, "error: cannot write"),
        ("deep_learning_pred.py", ("--image", LONG_NAME), 1, "no such file"),
        ("deep_learning_pred.py", ("--image", "a\x1b[2J\udcff.png"), 1, "no such file"),
        ("confusion_matrix.py", ("--smoke", "--output-dir", "out", "--model", LONG_NAME), 1, "File name too long"),
        ("robustness.py", ("--smoke", "--save", f"{LONG_NAME}.png"), 1, "error: cannot write"),
    ],
)
def test_a_script_says_it_in_its_last_line_in_any_locale(tmp_path, script, arguments, code, last_line):
    ascii_only = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    process = run_script(script, *arguments, cwd=tmp_path, **ascii_only)
    assert (process.returncode, process.stdout) == (code, "")
    last = process.stderr.splitlines()[-1]
    assert last_line in last
    assert last.isprintable()
    assert "Traceback" not in process.stderr
