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
import random
import re
import sys
import sysconfig
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

import numpy as np

STANDARD_LIBRARY, PLUMBING = Path(sysconfig.get_path("stdlib")).resolve(), Path(__file__).resolve().parent
PROJECT = PLUMBING.parents[1]
LEVELS = ("debug", "info", "warning", "error")
MESSAGES = {"print", *(f"{name}.{level}" for name in ("logger", "logging") for level in LEVELS)}
HARMLESS = {"len", "round", "str", "repr", "sum", "min", "max", "join"}  # what a message may call
NOT_COUNTED = ("annotation", "returns", "type_comment", "kind", "ctx")  # fields of syntax trees
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


def code_digest(*functions, without=()):
    """Return the SHA-256 of functions' code and of all that they use: functions, classes and constants of this project.

    Code is compared as syntax trees. Comments, docstrings, annotations and messages that are printed, logged or raised
    do not count; nor do lab/plumbing and the functions `without`; an installed package counts by its version. What code
    reads at run time, such as files or environment variables, is not seen.
    """
    key = tuple(map(id, functions)), tuple(map(id, without))
    if key not in _digests:
        _digests[key] = _compute_digest(functions, without), functions, without  # kept, so that no id is used again
    return _digests[key][0]


_digests = {}


def _compute_digest(functions, without):
    parts, queue = [], list(functions)
    seen = {id(value): number for number, value in enumerate(without)}
    for value in queue:  # it grows meanwhile, and keeps the values, so that ids are unique
        if id(value) in seen:
            parts.append(f"number {seen[id(value)]}")
            continue
        description, uses = _describe(value)
        parts.append([*description, len(uses)])
        if uses:
            seen[id(value)] = len(seen)
            queue += uses
    return digest(json.dumps(parts))


def _describe(value):
    """Return what describes a value by itself, a list of JSON types, and the values that it uses, a list."""
    is_code = isinstance(value, (FunctionType, type))
    if isinstance(value, logging.Logger) or value is os.environ:
        return [type(value).__name__], []
    if isinstance(value, ModuleType):  # passed on as a whole
        names = [name for name in sorted(vars(value)) if not name.startswith("__")] if _is_ours(value) else []
        return [value.__name__, _version(value.__name__)], [vars(value)[name] for name in names]
    if is_code and not _is_ours(value):
        wrapped = getattr(value, "__wrapped__", None)  # by a decorator
        return [value.__module__, value.__qualname__, _version(value.__module__)], [wrapped] if wrapped else []
    if isinstance(value, FunctionType):
        return _describe_function(value)
    if is_code:
        return _describe_class(value)
    with contextlib.suppress(Exception):  # Keras' symbolic tensors have no values
        array = value.__array__()
        return ([], [array.tolist()]) if array.dtype == object else ([arrays_digest([array])], [])
    if hasattr(value, "__func__"):  # a method
        return [], [value.__func__, getattr(value, "__self__", None)]
    if isinstance(value, functools.partial):
        return [], [value.func, value.args, value.keywords]
    if isinstance(value, Mapping):
        return [], [type(value), getattr(value, "default_factory", None), *value.items()]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [], [type(value), *(sorted(value, key=stable_repr) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, (np.random.Generator, np.random.RandomState)):
        generator = getattr(value, "bit_generator", None)
        return [], [type(value), generator.state if generator else value.get_state(legacy=False)]
    if isinstance(value, random.Random):
        return [], [type(value), value.getstate()]
    return _describe_object(value)


def _describe_object(value):
    """Return `_describe` of an object of any other class."""
    ours = _is_ours(type(value))
    if hasattr(value, "__wrapped__") and not ours:  # by functools.cache or tf.function
        return [], [type(value), value.__wrapped__]
    if hasattr(value, "get_config") and not ours:  # one of Keras' objects
        with contextlib.suppress(Exception):  # those of a user's class within it
            return [], [type(value), _without_counted_names(value.get_config())]
    if ours or hasattr(value, "__dict__"):
        state = {}
        for each in type(value).__mro__ if ours else ():
            slots = vars(each).get("__slots__", ())
            for name in [slots] if isinstance(slots, str) else slots:
                name = f"_{each.__name__.lstrip('_')}{name}" if name.startswith("__") else name
                if hasattr(value, name):
                    state[name] = getattr(value, name)
        return [], [type(value), state | getattr(value, "__dict__", {})]
    module = getattr(value, "__module__", None) if callable(value) else None  # of a function in C
    return [stable_repr(value), str(module)], []


def stable_repr(value):
    """Return `repr` of a value, the same in every process and folder."""
    if isinstance(value, (set, frozenset)):
        return str(sorted(map(stable_repr, value)))
    return re.sub(r" at 0x[0-9A-Fa-f]+", "", repr(value).replace(str(PROJECT), "."))


def _without_counted_names(config):
    """Return the configuration of a Keras object without the names that Keras counts up, such as dense_1."""
    names = {}

    def collect(each):
        if isinstance(each, dict):
            if "trainable" in each or each is config:
                names.setdefault(each.get("name"), f"name {len(names)}")
            each = list(each.values())
        for item in each if isinstance(each, (list, tuple)) else ():
            collect(item)

    def replace(each):
        if isinstance(each, dict):
            return {key: replace(item) for key, item in each.items()}
        if isinstance(each, (list, tuple)):
            return [replace(item) for item in each]
        return names.get(each, each) if isinstance(each, str) else each

    collect(config)
    return replace(config)


def _describe_function(value):
    """Return `_describe` of a function of this project."""
    trees = _trees(value)
    uses = [value.__defaults__, value.__kwdefaults__, vars(value)]
    for cell in value.__closure__ or ():
        with contextlib.suppress(ValueError):  # empty
            uses.append(cell.cell_contents)
    if len(trees) != 1:  # several lambdas on one line, or the source has changed meanwhile
        uses.append(_code_constants(value.__code__))
    return ["function", _normalize(trees)], uses + _globals_used(trees, value.__globals__, value.__code__)


def _describe_class(value):
    """Return `_describe` of a class of this project."""
    trees, uses = _trees(value), [value.__bases__]
    for name, each in vars(value).items():  # closures, and what is set outside of the class
        wrapped = [each, *(getattr(each, name, None) for name in ("__func__", "fget", "fset", "func"))]
        uses += [function for function in wrapped if isinstance(function, FunctionType) and _is_ours(function)]
        if isinstance(each, PLAIN) and not (name.startswith("_") and name.endswith("_")):
            uses.append([name, each])
    if not trees:  # made by a function: a namedtuple, an Enum
        uses += [getattr(value, "_fields", None), dict(getattr(value, "__members__", {}))]
    return [type(value).__name__, _normalize(trees)], uses + _globals_used(trees, vars(sys.modules[value.__module__]))


def _code_constants(code):
    """Return the instructions, names and constants of code, and of functions within it."""
    constants = [_code_constants(each) if isinstance(each, CodeType) else each for each in code.co_consts]
    return [code.co_code, code.co_names, constants]


def _globals_used(trees, namespace, code=None):
    """Return the values of the global names in syntax trees; of our modules, those of the attributes.

    Args: trees of a function or class; its globals; the function's code
    """
    nodes = [node for tree in trees for node in _walk(tree)]
    names = set(map(_name, nodes)) - {None}
    names |= {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    if code:  # no local names
        names = names & _names_used(code) if trees else _names_used(code)
    bases = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    passed_on = {_name(node) for node in nodes if id(node) not in bases}
    modules, found = _imported(nodes, namespace.get("__package__") or "")
    found += [module for module, name in modules if name in passed_on]
    scopes = [namespace, *(vars(module) for module, _ in modules)]
    for scope in scopes:  # it grows meanwhile
        for name in sorted(names & scope.keys()):
            each = scope[name]
            is_module = isinstance(each, ModuleType) and _is_ours(each)
            if not is_module or name in passed_on:
                found.append(each)
            if is_module and all(vars(each) is not known for known in scopes):
                scopes.append(vars(each))
    return found


def _names_used(code):
    """Return the names of globals, attributes and imports that code uses, in functions within it as well."""
    return set(code.co_names).union(*(_names_used(each) for each in code.co_consts if isinstance(each, CodeType)))


def _imported(nodes, package):
    """Return what import statements import: (module, name) of this project's, and the versions of other packages."""
    names, modules, versions = [], [], []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [(alias.name, alias.asname or alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            # what is imported may be a module
            names += [(origin, ""), *((f"{origin}.{alias.name}", alias.asname or alias.name) for alias in node.names)]
    for name, bound in names:
        spec = importlib.util.find_spec(name.partition(".")[0])
        if spec and any(map(_is_our_file, [spec.origin, *(spec.submodule_search_locations or ())])):
            with contextlib.suppress(ImportError):  # not a module, or an optional one
                modules.append((importlib.import_module(name), bound))
        else:
            versions.append(_version(name))
    return modules, versions


_distributions = functools.cache(packages_distributions)


@functools.cache
def _version(module):
    """Return the versions of the installed packages that a module is from; None if `provenance.versions` has them."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top in ("tensorflow", "keras", "numpy", "PIL", "lab"):
        return None
    found = []
    for name in sorted({top, *_distributions().get(top, [])}):
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return found


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
        return [_normalize(each) for each in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    return [type(node).__name__, *([name, _normalize(value)] for name, value in _fields(node))]


def _name(node):
    """Return the name that a node of a syntax tree uses, global or of an attribute; None if it is neither."""
    return getattr(node, "id", None) or getattr(node, "attr", None)


def _walk(node):
    """Yield the nodes of a syntax tree that count."""
    yield node
    for _, value in _fields(node):
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, ast.AST):
                yield from _walk(each)


def _fields(node):
    """Return the names and values of a node's fields, without annotations, messages and docstrings."""
    if isinstance(node, ast.Raise):
        return []
    fields = {name: value for name, value in ast.iter_fields(node) if name not in NOT_COUNTED}
    for name, value in fields.items():
        if isinstance(value, list):
            fields[name] = [each for each in value if not _is_message(each)]
    return [(name, value) for name, value in fields.items() if value not in (None, [])]


def _is_message(node):
    """Say whether a statement is a docstring, or prints or logs and does nothing else."""
    value = node.value if isinstance(node, ast.Expr) else None
    if not isinstance(value, ast.Call):
        return isinstance(value, ast.Constant)
    acts = (ast.Call, ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom)
    within = [each for each in ast.walk(value) if isinstance(each, acts) and each is not value]
    calls = [each.func for each in within if isinstance(each, ast.Call)]
    harmless = all(_name(each) in HARMLESS for each in calls)
    return harmless and len(calls) == len(within) and ast.unparse(value.func) in MESSAGES
