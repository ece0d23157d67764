"""Every flag of every script with texts that nobody means: it works, or the last line says which flag is wrong.

The scripts and their flags are found by looking, so that a new one is covered as soon as it is there.
"""

import contextlib
import importlib
import io
import os
from pathlib import Path

import pytest
from conftest import ROOT, run_script
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import deep_learning
from lab import LabError, cli, photo, replacing, require_writable, store, study
from lab.data import load_splits
from lab.recipe import SMOKE

SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))
EXAMPLES = 15  # of each flag; ten times as many with --soak

# what an argument of a process can hold: any bytes but 0, those that are no UTF-8 as surrogates
signs = st.characters(exclude_categories=["Cs"], exclude_characters="\0") | st.characters(
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
oddities = st.sampled_from([
    *("", " ", "-", "--", "-1", "0", "nan", "inf", "-inf", "1e309", "1e-400", "infinity", "None", "True", "all", "ALL"),
    *("%s", "%(prog)s", "{}", ".", "..", "/", "~", "//", "a/../b", "CON", "\n", "\r\n", "\x1b[2J", "\u202e", "\ufeff1"),
    *("x" * 255, "x" * 256, "x/" * 3000, "x" * 100_000, "9" * 4301, "\udcff", "\udcff.png", "a\nb.h5", "x.keras"),
    *(".keras", "x.PNG", "x.png/", "tcp://", "tcp://h:1", "tcp://h:99999999", "tls://[::1]:1", "tcp://h:1\n", "tcp://\n"),
    *("float32", "FLOAT32", "dense", "dense,conv", "-h", "--help", "--seed", "--seed=1", "@file", "'; rm x"),
])  # fmt: skip
values = st.one_of(st.text(signs, max_size=30), numbers, oddities)


class Reached(Exception):
    """The script has read its flags and would begin with its work."""


def reach(*arguments, **more):
    raise Reached


@contextlib.contextmanager
def no_work():
    """Let the scripts run up to where their work begins, that is, to what all of them ask for first."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("save_path", "run_of", "study_runs"):
            patch.setattr(cli, name, reach)
        patch.setattr("convolution_gain.load_splits", reach)
        yield


def flags_of(script):
    """Return a script's flags as they are, whichever way it makes its parser."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "parse", lambda flags, argv: reach(found.append(flags)))
        with pytest.raises(Reached):
            importlib.import_module(script).main([])
    return [action for action in found[0]._actions if action.option_strings]


def run_main(script, arguments):
    """Run a script's main as its user would; return its exit code, None where work would begin, and its words."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            importlib.import_module(script).main(arguments)
        except Reached:
            return None, said.getvalue()
        except SystemExit as end:
            return end.code, said.getvalue()
        except LabError as error:  # a photograph that is not there is known before the work
            return 1, str(error)
    return pytest.fail("main has gone on without reaching any work")


ALL_FLAGS = [
    pytest.param(script, action, id=f"{script}{action.option_strings[-1]}")
    for script in SCRIPTS
    for action in flags_of(script)
]


def try_values(strategy, check, soak, factor=1):
    """Call check with values; return how many."""
    tried = []

    @settings(
        max_examples=EXAMPLES * factor * (10 if soak else 1),
        deadline=None,
        database=None,
        derandomize=not soak,
        suppress_health_check=[HealthCheck.too_slow],  # on a busy machine
    )
    @given(strategy)
    def each(value):
        tried.append(None)
        check(value)

    each()
    return len(tried)


@pytest.mark.fault("flags", "flag with a text that nobody means")
@pytest.mark.parametrize(("script", "action"), ALL_FLAGS)
def test_a_text_is_taken_or_the_last_line_names_the_flag(script, action, tmp_path, monkeypatch, soak, count_cases):
    monkeypatch.chdir(tmp_path)
    flag = action.option_strings[-1]

    def check(arguments):
        code, said = run_main(script, arguments)
        assert code in (None, 1, 2), (arguments, said)
        if code == 2:
            assert f"error: argument {'/'.join(action.option_strings)}: " in said.splitlines()[-1]

    def check_value(value):
        check([f"{flag}={value}"])
        if not value.startswith("-") and action.nargs != 0:
            check([flag, value])

    with no_work():
        bare, said = run_main(script, [flag])
        assert bare == (0 if flag == "--help" else None if action.nargs in (0, "?") else 2), said
        # what argparse takes, in some versions of Python, for no value at all
        assert run_main(script, [f"{flag}=--"])[0] in ((None, 2) if action.nargs == "?" else (2,))
        count_cases(2 + try_values(values, check_value, soak))
    assert not list(tmp_path.iterdir())


@pytest.mark.fault("flags", "more seeds than there are, or than anybody can wait for")
@pytest.mark.parametrize("script", ["convolution_gain", "sample_efficiency", "shift_robustness"])
@pytest.mark.parametrize("arguments", [["--seeds", "9" * 30], ["--seed", str(2**32 - 1), "--seeds", "2"]])
def test_seeds_end_where_seeds_end(script, arguments):
    with no_work():
        code, said = run_main(script, arguments)
    assert code == 2
    assert "argument --seeds: " in said.splitlines()[-1]


components = st.text(signs, max_size=12) | st.sampled_from([
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
    """Make a folder of what a path may lead to, so deep that four steps up are still in the test's own; return it."""
    place = tmp_path / "1" / "2" / "3" / "4"
    (place / "folder").mkdir(parents=True)
    (place / "file").write_bytes(b"no data, no picture, no model")
    (place / "loop").symlink_to(place / "loop")
    (place / "dangling").symlink_to(place / "nowhere")
    return place


def within(place, text):
    """Return the text as a path below the place, or None where it would leave the test's own folder."""
    path = f"{place}/{text}"
    return path if os.path.normpath(path).startswith(str(place.parents[3])) else None


READERS = {
    "the data's folder": lambda path: load_splits(data_dir=path),
    "a model": store.load_model,
    "a photograph": photo.read_photo,
}


@pytest.mark.fault("flags", "path that nobody means, to read from")
@pytest.mark.parametrize("what", READERS)
def test_a_path_to_read_from_is_refused_in_words(what, place, soak, count_cases):
    def check(text):
        path = within(place, text)
        assume(path)
        with pytest.raises(LabError):
            READERS[what](path)

    count_cases(try_values(paths, check, soak, factor=8))


@pytest.mark.fault("flags", "path that nobody means, to write to")
def test_a_path_that_seems_writable_is(place, soak, count_cases):
    """What `require_writable` lets pass before the work can be written after it."""

    def check(text):
        path = within(place, text)
        assume(path)
        try:
            require_writable(path)
        except LabError:
            return
        with replacing(path) as partial:
            partial.write_bytes(b"x")
        Path(path).unlink()

    count_cases(try_values(paths, check, soak, factor=8))


LONG = "x" * 5000


@pytest.mark.fault("flags", "path that nobody means, to write to")
@pytest.mark.parametrize(
    "work",
    [
        lambda folder: store.saved_or_trained(deep_learning.build_model, f"{folder}/x.keras", SMOKE, 0),
        lambda folder: study.run_study("shift_robustness", [study.Key("dense", 0, SMOKE)], folder),
    ],
    ids=["model", "study"],
)
def test_a_folder_that_cannot_be_is_known_before_the_work(work, tmp_path):
    with pytest.raises(LabError, match="cannot write .*File name too long"):
        work(f"{tmp_path}/{LONG}")


@pytest.mark.fault("flags", "text that nobody means, in a process of its own")
@pytest.mark.parametrize(
    ("script", "arguments", "code", "last"),
    [
        ("deep_learning.py", ("--epochs", "\udcff"), 2, "argument --epochs: invalid whole_number value"),
        ("deep_learning.py", ("--epochs", "9" * 4301), 2, "argument --epochs: invalid whole_number value"),
        ("deep_learning.py", ("--learning-rate", "1\n2"), 2, "argument --learning-rate: invalid positive_float value"),
        ("deep_learning.py", ("--save", "a\nb\udcff.h5"), 2, "argument --save: "),
        ("convolution_gain.py", ("--cluster", "tcp://a\nb"), 2, "argument --cluster: "),
        ("deep_learning.py", ("--smoke", "--data-dir", LONG, "--output-dir", "out"), 1, "File name too long"),
        ("deep_learning_conv.py", ("--smoke", "--output-dir", LONG), 1, "error: cannot write"),
        ("deep_learning_pred.py", ("--image", LONG), 1, "no such file"),
        ("deep_learning_pred.py", ("--image", "a\x1b[2J\udcff.png"), 1, "no such file"),
        ("confusion_matrix.py", ("--smoke", "--output-dir", "out", "--model", LONG), 1, "no such model file"),
        ("shift_robustness.py", ("--smoke", "--save", f"{LONG}.png"), 1, "error: cannot write"),
    ],
)
def test_a_program_says_it_in_its_last_line(tmp_path, script, arguments, code, last):
    ascii_only = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    process = run_script(script, *arguments, cwd=tmp_path, **ascii_only)
    assert (process.returncode, process.stdout) == (code, "")
    final = process.stderr.splitlines()[-1]
    assert last in final
    assert final.isprintable()
    assert "Traceback" not in process.stderr
