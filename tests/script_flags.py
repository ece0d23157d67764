"""The scripts and their flags, found by looking, so that a new one is covered as soon as it exists."""

import contextlib
import importlib
import io

import pytest
from conftest import ROOT

from lab.analysis import figures
from lab.guard.errors import LabError
from lab.study import command_line

SCRIPTS = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder in (ROOT, ROOT / "examples")
    for path in sorted(folder.glob("*.py"))
]


class WorkReached(Exception):
    """The script has read its flags and would begin with its work."""


def _raise_work_reached(*arguments, **more):
    raise WorkReached


@contextlib.contextmanager
def stop_before_work():
    """Let the scripts run up to where their work begins, that is, to what all of them call first."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (command_line, "start_tensorflow"),
            (figures, "path_to_save"),
            (command_line, "study_runs"),
        ):
            patch.setattr(owner, name, _raise_work_reached)
        yield


def find_flags(script):
    """Return the actions of a script's parser, however it makes it."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command_line.flags, "parse_flags", lambda flags, argv: _raise_work_reached(found.append(flags)))
        with pytest.raises(WorkReached):
            importlib.import_module(script).main([])
    return [action for action in found[0]._actions if action.option_strings]


ALL_FLAGS = [
    pytest.param(script, action, id=f"{script}{action.option_strings[-1]}")
    for script in SCRIPTS
    for action in find_flags(script)
]


def run_main(script, arguments):
    """Run a script's main in `stop_before_work`; return its exit code, None if work would begin, and its messages."""
    messages = io.StringIO()
    with contextlib.redirect_stderr(messages), contextlib.redirect_stdout(io.StringIO()):
        try:
            importlib.import_module(script).main(arguments)
        except WorkReached:
            return None, messages.getvalue()
        except SystemExit as end:
            return end.code, messages.getvalue()
        except LabError as error:  # a photograph that does not exist is known before the work
            return 1, str(error)
    return pytest.fail("main has ended without reaching any work")


def check_arguments(script, action, arguments):
    """Run a script's main with a flag; check that it is accepted, or that the last line names the flag."""
    code, messages = run_main(script, arguments)
    assert code in (None, 1, 2), (arguments, messages)
    if code == 2:
        assert f"error: argument {'/'.join(action.option_strings)}: " in messages.splitlines()[-1]
    return code


def make_test_folder(folder):
    """Make a folder of what a path may lead to, so deep that four steps up are within `folder`; return it."""
    place = folder / "1" / "2" / "3" / "4"
    (place / "folder").mkdir(parents=True)
    (place / "file").write_bytes(b"no data, no image, no model")
    (place / "loop").symlink_to(place / "loop")
    (place / "dangling").symlink_to(place / "nowhere")
    return place
