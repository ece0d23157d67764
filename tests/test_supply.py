"""What is installed is what the lock files name, hash by hash, and they name what the requirements ask for."""

import re
from importlib.metadata import version

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def asked_for(path):
    """Return the requirements of a file and of those that it includes."""
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    found = [Requirement(line) for line in lines if line and not line.startswith("-")]
    included = [line.removeprefix("-r ") for line in lines if line.startswith("-r ")]
    return found + [each for name in included for each in asked_for(path.parent / name)]


def locked(path):
    """Return the requirements of a lock file that this Python and platform need, and how many hashes each has."""
    blocks = re.split(r"\n(?=\S)", path.read_text().strip())
    found = [
        (Requirement(block.split(" \\\n")[0]), len(re.findall(r"--hash=sha256:[0-9a-f]{64}", block)))
        for block in blocks
    ]
    return {
        canonicalize_name(each.name): (str(each.specifier), hashes)
        for each, hashes in found
        if each.marker is None or each.marker.evaluate()
    }


@pytest.mark.parametrize(("lock", "asking"), [("runtime", "requirements.txt"), ("dev", "requirements/dev.txt")])
def test_the_lock_has_every_requirement_with_hashes(lock, asking):
    found = locked(ROOT / "requirements" / f"{lock}.lock")
    for requirement in asked_for(ROOT / asking):
        assert found[canonicalize_name(requirement.name)][0] == str(requirement.specifier)
    assert all(specifier.startswith("==") and hashes for specifier, hashes in found.values())


def test_what_is_installed_is_what_is_locked():
    for name, (specifier, _) in locked(ROOT / "requirements" / "dev.lock").items():
        assert f"=={version(name)}" == specifier, name


def test_pip_without_the_locks_gets_the_same_versions():
    assert (ROOT / "requirements.txt").read_text().startswith("-c requirements/constraints.txt\n")
    lines = (ROOT / "requirements" / "constraints.txt").read_text().splitlines()
    dev = (ROOT / "requirements" / "dev.lock").read_text()
    assert lines == [line.removesuffix(" \\") for line in dev.splitlines() if "--hash" not in line]
    runtime, everything = (locked(ROOT / "requirements" / f"{name}.lock") for name in ("runtime", "dev"))
    assert runtime.items() <= everything.items()
