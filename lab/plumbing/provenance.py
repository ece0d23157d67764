"""What decides a training's result: a saved model or a finished run is reused only if all of it is the same.

That is the model's configuration, the very images, the library versions, and the code, followed through every function,
class and constant of this project that it uses. Dependencies are never declared by hand.
"""

import ast
import contextlib
import functools
import hashlib
import importlib.util
import inspect
import json
import linecache
import logging
import os
import platform
import sys
import sysconfig
import textwrap
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

import numpy as np

STANDARD_LIBRARY, PLUMBING = Path(sysconfig.get_path("stdlib")).resolve(), Path(__file__).resolve().parent


def describe_training(initialize_model, build_model, train, recipe, seed, images):
    """Return all that decides a finished training on a given processor, by part, as a dict of JSON types.

    Args: function of `build_model`, the recipe and a seed that returns a Keras model; the functions that build and
        train it; dataclass of the training's values; seed; digest of the images and labels, of JSON types
    """
    model = _model_digest(initialize_model, build_model, recipe)
    code = describe_code(build_model, train)
    return {"recipe": asdict(recipe), "seed": seed, **code, "model": model, "images": images, "versions": versions()}


def describe_code(build_model, train):
    """Return the digests of the code that builds a model, and of all other code that decides its training."""
    return {"training code": code_digest(train, without=(build_model,)), "model code": code_digest(build_model)}


def differing_parts(before, now):
    """Return the names of the parts in which two dicts differ; the fields of a part that is itself a dict by name."""
    names = []
    for name in dict.fromkeys([*now, *before]):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict) and old != new:
            names.append(f"{name} ({', '.join(differing_parts(old, new))})")
        elif old != new:
            names.append(name)
    return names


def digest(text):
    """Return the SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def arrays_digest(arrays):
    """Return the SHA-256 of arrays in order, of their dtypes, shapes and values."""
    sha256 = hashlib.sha256()
    for array in arrays:
        sha256.update(f"{array.dtype.str}{array.shape}".encode())
        sha256.update(np.ascontiguousarray(array))
    return sha256.hexdigest()


@functools.cache
def _model_digest(initialize_model, build_model, recipe):
    """Return the SHA-256 of a model's configuration."""
    with ThreadPoolExecutor(1) as thread:  # of its own: there, the names that Keras makes up for layers start from one
        model = thread.submit(initialize_model, build_model, recipe, 0).result()
    import keras

    return digest(json.dumps(keras.saving.serialize_keras_object(model), sort_keys=True, default=repr))


@functools.cache
def code_digest(*functions, without=()):
    """Return the SHA-256 of functions' code and of all that they use: functions, classes and constants of this project.

    Code is compared as syntax trees. Comments, docstrings, annotations and messages that are printed, logged or raised
    do not count; nor do installed packages, lab/plumbing, or the functions `without`. What code reads at run time, such
    as files or environment variables, is not seen.
    """
    parts, seen, queue = [], {id(value): value for value in without}, list(functions)
    for value in queue:  # it grows meanwhile
        trees, uses = None, []
        if isinstance(value, np.ndarray):
            parts.append(arrays_digest([value]))
        elif isinstance(value, (FunctionType, type)) and not _is_ours(value):
            parts.append(value.__qualname__)
            queue.append(getattr(value, "__wrapped__", None))  # by a decorator
        elif isinstance(value, (ModuleType, logging.Logger)):
            parts.append(value.__name__ if isinstance(value, ModuleType) else value.name)
        elif id(value) in seen:
            parts.append("described before")
        elif isinstance(value, (FunctionType, type)):
            trees = _trees(value)
            uses = [getattr(value, name, None) for name in ("__bases__", "__defaults__", "__kwdefaults__")]
            uses += [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
            uses += _globals_used(value, trees)
            if len(trees) != 1:  # several lambdas on one line, or the source has changed meanwhile
                code = value.__code__
                uses += [code.co_code, *(each for each in code.co_consts if not isinstance(each, CodeType))]
        elif hasattr(value, "__func__"):  # a method
            uses = [value.__func__, getattr(value, "__self__", None)]
        elif isinstance(value, functools.partial):
            uses = [value.func, value.args, value.keywords]
        elif isinstance(value, (Mapping, list, tuple, set, frozenset)):
            items = value.items() if isinstance(value, Mapping) else value
            uses = [type(value), *(sorted(items, key=repr) if isinstance(value, (set, frozenset)) else items)]
        elif hasattr(value, "__dict__"):
            uses = [type(value), vars(value)]
        else:
            parts.append(repr(value))
        if uses:
            seen[id(value)] = value
            parts.append([type(value).__name__, _normalize(trees), len(uses)])
            queue += uses
    return digest(json.dumps(parts))


def _globals_used(value, trees):
    """Return the values of the global names that a function or class uses; of our modules, those of the attributes."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    if isinstance(value, type):
        namespace = vars(sys.modules[value.__module__])
        names = {getattr(node, "id", None) or getattr(node, "attr", "") for node in nodes}
    else:
        namespace, names = value.__globals__, _names_used(value.__code__)
    imported = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    specs = [(name, importlib.util.find_spec(name.partition(".")[0])) for name in imported]
    values = [importlib.import_module(name) for name, spec in specs if spec and _is_our_file(spec.origin)]
    values += [namespace[name] for name in sorted(names) if name in namespace]
    modules = [value for value in values if isinstance(value, ModuleType) and _is_ours(value)]
    return values + [vars(module)[name] for module in modules for name in sorted(names) if name in vars(module)]


def _names_used(code):
    """Return the names of globals, attributes and imports that code uses, in functions within it as well."""
    return set(code.co_names).union(*(_names_used(each) for each in code.co_consts if isinstance(each, CodeType)))


def _is_ours(value):
    """Say whether a function, class or module has source code that is neither an installed package's nor plumbing."""
    try:
        return _is_our_file(inspect.getfile(value))
    except (TypeError, OSError):  # built in
        return False


@functools.cache
def _is_our_file(name):
    path = Path(name or "").resolve()
    installed = path.is_relative_to(STANDARD_LIBRARY) or {"site-packages", "dist-packages"}.intersection(path.parts)
    return not installed and not path.is_relative_to(PLUMBING) and bool(linecache.getlines(name or ""))


def _trees(value):
    """Return the syntax trees in which a function or a class is defined; several only for lambdas on one line."""
    if isinstance(value, type):
        return ast.parse(textwrap.dedent(inspect.getsource(value))).body
    name, first_line = value.__code__.co_name, value.__code__.co_firstlineno
    return [
        node
        for node in ast.walk(_parse(value.__code__.co_filename))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        and getattr(node, "name", "<lambda>") == name
        and min(each.lineno for each in (node, *getattr(node, "decorator_list", ()))) == first_line
    ]


@functools.cache
def _parse(path):
    return ast.parse("".join(linecache.getlines(path)))


def _normalize(node):
    """Return a syntax tree in JSON types, the same in all versions of Python, without what decides no number."""
    if isinstance(node, list):
        return [_normalize(each) for each in node if not _is_message(each)]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [] if isinstance(node, ast.Raise) else ast.iter_fields(node)
    left_out = ("annotation", "returns", "type_comment", "kind", "ctx")
    kept = [[name, _normalize(value)] for name, value in fields if name not in left_out and value not in (None, [])]
    return [type(node).__name__, *kept]


def _is_message(node):
    """Say whether a statement is a docstring, a print or a log message."""
    value = node.value if isinstance(node, ast.Expr) else None
    called = ast.unparse(value.func).partition(".")[0] if isinstance(value, ast.Call) else ""
    return isinstance(value, ast.Constant) or called in ("print", "logger", "logging")


def versions():
    """Return the versions of the libraries that decide a run's numbers; those that are installed."""
    found = {}
    for package in ("tensorflow", "keras", "numpy", "pillow"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def environment():
    """Return the versions and the hardware that a time or a last bit may depend on."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return {
        "python": platform.python_version(),
        **versions(),
        "processor": _processor(),
        "threads": tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count(),
        "gpus": [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus],
    }


def _processor():
    """Return the processor's name; Python's own function does not know it on Linux."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
