"""What decides a run's numbers, as digests of code, model and images; and by which commit, where and when it was made.

Code counts as whole files, compared as syntax trees without docstrings: all of lab/training for every run; the module
in lab/changes, or wherever else a function or class that takes part is defined, for the runs it takes part in.
"""

import ast
import contextlib
import functools
import hashlib
import importlib.util
import inspect
import json
import platform
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from lab.guard.errors import LabError

ROOT = Path(__file__).resolve().parents[2]
TRAINING, CHANGES = ROOT / "lab" / "training", ROOT / "lab" / "changes"
LIBRARIES = ("tensorflow", "keras", "numpy")  # that every training uses


def text_digest(text):
    """Return the SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def arrays_digest(arrays):
    """Return the SHA-256 of arrays in order, of their dtypes, shapes and values."""
    sha256 = hashlib.sha256()
    for array in arrays:
        sha256.update(f"{array.dtype.str}{array.shape}".encode())
        sha256.update(np.ascontiguousarray(array))
    return sha256.hexdigest()


def training_code():
    """Return the digest of the code that decides the numbers of every run, lab/training."""
    return code_digest(sorted(TRAINING.glob("*.py")))


def code_digest(files):
    """Return the SHA-256 of the syntax trees of Python files, of the same in every folder; "" without any."""
    trees = [[path.name, _tree_digest(path.read_bytes())] for path in files]
    return text_digest(json.dumps(trees)) if trees else ""


@functools.cache  # by what is in the file now: each run of a plan asks again
def _tree_digest(content):
    return text_digest(json.dumps(_plain(_parse(content))))


def _parse(content):
    """Return the syntax tree of a file's content without docstrings."""
    tree = ast.parse(content)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node, clean=False):
            del node.body[0]
        elif isinstance(node, ast.JoinedStr):  # Python 3.12 adds empty texts to some
            node.values = [each for each in node.values if not isinstance(each, ast.Constant) or each.value]
    return tree


def _plain(node):
    """Return a syntax tree in JSON types, the same in all versions of Python: they differ in their empty fields."""
    if isinstance(node, ast.AST):
        fields = [(name, value) for name, value in ast.iter_fields(node) if value not in (None, [])]
        return [type(node).__name__, *([name, _plain(value)] for name, value in fields)]
    return [_plain(each) for each in node] if isinstance(node, list) else repr(node)


def own_files(values, files=()):
    """Return the files that define these functions, classes and objects, these files, and what they import, in order.

    Not those of lab/training, which count for every run, of the rest of lab/, which decides no number, and of installed
    packages, which count by their version.
    """
    found, queue = set(), [Path(path).resolve() for path in (*files, *map(_defining_file, values)) if path]
    for path in queue:  # it grows meanwhile
        if _is_own(path) and path not in found:
            if not path.is_file():
                raise LabError(f"{path}: what takes part in a training must be defined in a file")
            found.add(path)
            names, beside = _imported(path)
            queue += [*beside, *(file for name in names for file in _own_files_of(name))]
    return sorted(found, key=lambda path: (path.name, path))


def _defining_file(value):
    """Return the file of a function, of a partial's or a decorated one, of a class, or of an object's; None for C."""
    while isinstance(value, functools.partial):
        value = value.func
    value = inspect.unwrap(value)
    defined = value if inspect.isroutine(value) or inspect.isclass(value) else type(value)
    with contextlib.suppress(TypeError, OSError):
        return inspect.getfile(defined)


def require_unedited(function):
    """Make sure that a function's file still has the code that this process has imported, which a notebook keeps.

    Raises: LabError, a function of the file was edited.
    """
    path = inspect.getfile(function)
    now = [compile(Path(path).read_bytes(), path, "exec", dont_inherit=True)]
    for code in now:  # it grows meanwhile, by functions within functions
        now += filter(inspect.iscode, code.co_consts)
    imported = [each.__code__ for each in function.__globals__.values() if inspect.isfunction(each)]
    if any(code.co_filename == path and code not in now for code in imported):
        raise LabError(f"{path} was edited after it was imported; start a new process, in a notebook: a new kernel")


def is_top_level(value):
    """Return whether a value is a function or class that its module has under its name: its file says all about it.

    A closure, a partial or an object is made with values that may be in another file.
    """
    module, name = sys.modules.get(getattr(value, "__module__", None)), getattr(value, "__qualname__", "")
    return getattr(module, name, None) is value


def _is_own(path):
    if path.is_relative_to(ROOT / "lab"):
        return path.is_relative_to(CHANGES)
    return not any(path.is_relative_to(folder) for folder in _package_folders())


@functools.cache
def _package_folders():
    """Return the folders that packages are installed in, whatever their names are, and Python's own library."""
    folders = [Path(folder).resolve() for folder in sys.path]
    installed = [folder for folder in folders if folder != ROOT and any(folder.glob("*.dist-info"))]
    return [Path(sysconfig.get_path("stdlib")).resolve(), *installed]


def _imported(path):
    """Return the names of what a Python file imports, `module.name`, and what files its relative imports may mean."""
    names, beside = set(), []
    for node in ast.walk(_parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            beside += path.parents[node.level - 1].rglob("*.py")
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names, beside


def _own_files_of(name):
    """Return the file of the own module that a name is imported from; of an own package, all files."""
    if name.startswith("lab."):
        return CHANGES.glob(f"{name.split('.')[2]}.py") if name.startswith("lab.changes.") else []
    spec = importlib.util.find_spec(name.partition(".")[0])
    if spec and spec.submodule_search_locations:
        folders = [Path(folder).resolve() for folder in spec.submodule_search_locations]
        return [path for folder in filter(_is_own, folders) for path in folder.rglob("*.py")]
    return [Path(spec.origin).resolve()] if spec and spec.has_location else []


def package_versions(files):
    """Return the versions of the packages that own files import, but for those that every training uses, as text."""
    from importlib.metadata import version  # here and below, because --help need not wait for it

    names = {name.partition(".")[0] for path in files for name in _imported(path)[0]} - sys.stdlib_module_names
    packages = {package for name in names - {"lab", *LIBRARIES} for package in _distributions().get(name, [])}
    return ", ".join(f"{package.lower()} {version(package)}" for package in sorted(packages, key=str.lower))


@functools.cache  # 0.2 s
def _distributions():
    from importlib.metadata import packages_distributions

    return packages_distributions()


def library_versions():
    """Return the versions of the libraries that every training uses, by name."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


@functools.cache
def describe_model(build_model, precision):
    """Return the digest of an untrained model's configuration and initial weights, and its parts that are not Keras'.

    The weights are those of seed 0, so that a model is built once, not once for each seed; the seed counts by itself.
    Initializers count through these weights. `precision`, which lab.training.startup has set, decides the dtypes.
    """
    import keras

    from lab.training.recipe import initialize_model

    with ThreadPoolExecutor(1) as thread:  # of its own: there, the names that Keras makes up for layers start from one
        model = thread.submit(initialize_model, build_model, 0).result()
    layers = list(model._flatten_layers())  # also those of wrapped models
    parts = [value for layer in layers for name, value in vars(layer).items() if not name.endswith("_initializer")]
    parts = [*layers, *filter(callable, parts)]
    try:
        configuration = keras.saving.serialize_keras_object(model)
    except (TypeError, ValueError, NotImplementedError):  # Keras cannot save it; the function that builds it counts
        configuration = [(weight.path, weight.shape) for weight in model.weights]
        parts.append(build_model)
    text = json.dumps(configuration, sort_keys=True, default=str)
    # a lambda's code would depend on its folder and line; its file counts
    configuration = json.loads(text, object_hook=lambda each: each if each.get("class_name") != "__lambda__" else None)
    digest = text_digest(json.dumps(configuration, sort_keys=True) + arrays_digest(model.get_weights()))
    return digest, [part for part in parts if own_files([part])]


def checkout_state():
    """Return the commit of the project's checkout and whether anything in it differs from that; "" and None without."""

    def git(*arguments):
        # UTF-8 is what git writes, also where Python expects another encoding, as on Windows
        streams = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "encoding": "utf-8", "errors": "replace"}
        return subprocess.check_output(["git", "-C", str(ROOT), *arguments], timeout=30, **streams).strip()

    with contextlib.suppress(OSError, subprocess.SubprocessError):
        if Path(git("rev-parse", "--show-toplevel")).resolve() == ROOT:
            return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    return {"commit": "", "dirty": None}


def environment():
    """Return the hardware and the Python that a time or a last bit may depend on, and the time of day."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return {
        "python": platform.python_version(),
        "processor": _processor(),
        "gpus": ", ".join(tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _processor():
    """Return the processor's name; Python's own function does not know it on Linux."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def differing_parts(before, now):
    """Return the names of the parts in which two dicts differ."""
    return [name for name in dict.fromkeys([*now, *before]) if before.get(name) != now.get(name)]
