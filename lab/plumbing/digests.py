"""Digests of texts, arrays and code. Code is followed through every function, class and constant of this project."""

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
import re
import sys
import sysconfig
from collections.abc import Mapping
from importlib.metadata import packages_distributions, version
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

import numpy as np

STANDARD_LIBRARY, PLUMBING = Path(sysconfig.get_path("stdlib")).resolve(), Path(__file__).resolve().parent
PROJECT = PLUMBING.parents[1]
LEVELS = ("debug", "info", "warning", "error")
MESSAGES = {"print", *(f"{name}.{level}" for name in ("logger", "logging") for level in LEVELS)}
HARMLESS = {"len", "round", "str", "repr", "sum", "min", "max", "join"}  # what a message may call
PLAIN = (bool, int, float, complex, str, bytes, tuple, list, dict, set, frozenset, np.ndarray, np.generic)


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
def code_digest(*functions, without=()):
    """Return the SHA-256 of functions' code and of all that they use: functions, classes and constants of this project.

    Code is compared as syntax trees. Comments, docstrings, annotations and messages that are printed, logged or raised
    do not count; nor do lab/plumbing and the functions `without`; an installed package counts by its version. What code
    reads at run time, such as files or environment variables, is not seen.
    """
    parts, queue = [], list(functions)
    seen = {id(value): (number, value) for number, value in enumerate(without)}  # values kept, so that ids are unique
    for value in queue:  # it grows meanwhile
        if id(value) in seen:
            parts.append(f"number {seen[id(value)][0]}")
            continue
        description, uses = _describe(value)
        parts.append([*description, len(uses)])
        if uses:
            seen[id(value)] = len(seen), value
            queue += uses
    return digest(json.dumps(parts))


def _describe(value):
    """Return what describes a value by itself, a list of JSON types, and the values that it uses, a list."""
    is_code = isinstance(value, (FunctionType, type))
    if isinstance(value, logging.Logger):
        return [value.name], []
    if isinstance(value, ModuleType):  # passed on as a whole
        names = [name for name in sorted(vars(value)) if not name.startswith("__")] if _is_ours(value) else []
        return [value.__name__, _version(value.__name__)], [vars(value)[name] for name in names]
    if is_code and not _is_ours(value):
        wrapped = getattr(value, "__wrapped__", None)  # by a decorator
        return [value.__module__, value.__qualname__, _version(value.__module__)], [wrapped] if wrapped else []
    if is_code:
        return _describe_definition(value)
    with contextlib.suppress(Exception):  # Keras' symbolic tensors have no values
        array = value.__array__()
        return ([], [array.tolist()]) if array.dtype == object else ([arrays_digest([array])], [])
    if hasattr(value, "__func__"):  # a method
        return [], [value.__func__, getattr(value, "__self__", None)]
    if isinstance(value, functools.partial):
        return [], [value.func, value.args, value.keywords]
    if isinstance(value, (Mapping, list, tuple, set, frozenset)) and value is not os.environ:
        items = value.items() if isinstance(value, Mapping) else value
        return [], [type(value), *(sorted(items, key=_text) if isinstance(value, (set, frozenset)) else items)]
    ours = _is_ours(type(value))
    if hasattr(value, "__wrapped__") and not ours:  # by functools.cache or tf.function
        return [], [type(value), value.__wrapped__]
    if hasattr(value, "get_config") and not ours:  # one of Keras' objects
        with contextlib.suppress(Exception):  # those of a user's class within it
            return [], [type(value), value.get_config() | {"name": None}]  # Keras counts names up
    if value is not os.environ and (ours or hasattr(value, "__dict__")):
        slots = [name for each in type(value).__mro__ for name in getattr(each, "__slots__", ()) if ours]
        state = {name: getattr(value, name) for name in slots if hasattr(value, name)}
        return [], [type(value), state | getattr(value, "__dict__", {})]
    module = getattr(value, "__module__", None) if callable(value) else None  # of a function in C
    return ["environ" if value is os.environ else _text(value), str(module)], []


def _text(value):
    """Return `repr` of a value, the same in every process and folder."""
    return re.sub(r" at 0x[0-9A-Fa-f]+", "", repr(value).replace(str(PROJECT), "."))


def _describe_definition(value):
    """Return `_describe` of a function or class of this project."""
    trees = _trees(value)
    if isinstance(value, type):
        attributes = {  # which may be set outside of the class
            name: each
            for name, each in vars(value).items()
            if (isinstance(each, FunctionType) and _is_ours(each))
            or (isinstance(each, PLAIN) and not name.startswith("_"))
        }
        uses = [value.__bases__, attributes]
        if not trees:  # made by a function: a namedtuple, an Enum
            uses += [getattr(value, "_fields", None), dict(getattr(value, "__members__", {}))]
    else:
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        uses = [value.__defaults__, value.__kwdefaults__, vars(value), cells]
        if len(trees) != 1:  # several lambdas on one line, or the source has changed meanwhile
            uses.append(_code_constants(value.__code__))
    return [type(value).__name__, _normalize(trees)], uses + _globals_used(value, trees)


def _code_constants(code):
    """Return the instructions, names and constants of code, and of functions within it."""
    constants = [_code_constants(each) if isinstance(each, CodeType) else each for each in code.co_consts]
    return [code.co_code, code.co_names, constants]


def _globals_used(value, trees):
    """Return the values of the global names that a function or class uses; of our modules, those of the attributes."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    if isinstance(value, type):
        namespace = vars(sys.modules[value.__module__])
        names = {getattr(node, "id", None) or getattr(node, "attr", None) for node in nodes} - {None}
        names |= {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    else:
        namespace, names = value.__globals__, _names_used(value.__code__)
    of_attributes = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    passed_on = {node.id for node in nodes if isinstance(node, ast.Name) and id(node) not in of_attributes}
    modules, found = _imported(nodes, namespace.get("__package__") or "")
    scopes = [namespace, *map(vars, modules)]
    for scope in scopes:  # it grows meanwhile
        for name in sorted(names & scope.keys()):
            each = scope[name]
            if not (isinstance(each, ModuleType) and _is_ours(each)):
                found.append(each)
            elif all(vars(each) is not known for known in scopes):
                scopes.append(vars(each))
            if isinstance(each, ModuleType) and scope is namespace and name in passed_on:
                found.append(each)
    return found


def _imported(nodes, package):
    """Return the modules of this project that import statements name, and the versions of other packages: lists."""
    names, modules, versions = [], [], []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names += [origin, *(f"{origin}.{alias.name}" for alias in node.names)]  # it may be a module
    for name in names:
        spec = importlib.util.find_spec(name.partition(".")[0])
        if spec and any(map(_is_our_file, [spec.origin, *(spec.submodule_search_locations or ())])):
            with contextlib.suppress(ImportError):  # not a module, or an optional one
                modules.append(importlib.import_module(name))
        else:
            versions.append(_version(name))
    return modules, versions


@functools.cache
def _version(module):
    """Return the versions of the installed packages that a module is from; None if `provenance.versions` has them."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top in ("tensorflow", "keras", "numpy", "PIL", "lab"):
        return None
    return [f"{name} {version(name)}" for name in packages_distributions().get(top, [])]


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
    if not name:
        return False
    path = Path(name).resolve()
    installed = path.is_relative_to(STANDARD_LIBRARY) or {"site-packages", "dist-packages"}.intersection(path.parts)
    return not installed and not path.is_relative_to(PLUMBING) and (path.exists() or bool(linecache.getlines(name)))


def _trees(value):
    """Return the syntax trees in which a function or class is defined.

    Several for lambdas on one line and for a class that is defined twice; none for a class that a function made.
    """
    if isinstance(value, type):
        nodes = ast.walk(_parse(inspect.getfile(value)))
        return [node for node in nodes if isinstance(node, ast.ClassDef) and node.name == value.__name__]
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
    """Say whether a statement is a docstring, or prints or logs and does nothing else."""
    value = node.value if isinstance(node, ast.Expr) else None
    if not isinstance(value, ast.Call):
        return isinstance(value, ast.Constant)
    acts = (ast.Call, ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom)
    within = [each for each in ast.walk(value) if isinstance(each, acts) and each is not value]
    calls = [each.func for each in within if isinstance(each, ast.Call)]
    harmless = all((getattr(each, "id", None) or getattr(each, "attr", None)) in HARMLESS for each in calls)
    return harmless and len(calls) == len(within) and ast.unparse(value.func) in MESSAGES
