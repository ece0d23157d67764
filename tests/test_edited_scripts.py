"""A script that is edited after a process, such as a notebook's kernel, has imported it."""

import importlib

import pytest

from lab.guard.errors import LabError
from lab.study.provenance import require_unedited

SCRIPT = '''"""A script."""
def build_model():
    """Return a model."""
    return 128
def train(options):
    return build_model()
'''


@pytest.mark.parametrize(
    ("old", "new", "edited"),
    [("128", "64", True), ("    return build_model()", "    return 0", True), ("A script", "My script", False)],
)
def test_what_was_imported_is_not_taken_for_what_is_in_the_file(tmp_path, monkeypatch, old, new, edited):
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / f"script_{old.strip().replace(' ', '_').strip('()')}.py"  # a name of its own: modules stay
    path.write_text(SCRIPT)
    train = importlib.import_module(path.stem).train
    require_unedited(train)
    path.write_text(SCRIPT.replace(old, new))
    if edited:
        with pytest.raises(LabError, match=f"{path.name} was edited after it was imported"):
            require_unedited(train)
    else:
        require_unedited(train)
