"""What the digest of code sees: changes of a small experiment and of what it uses."""

import importlib
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

import deep_learning
from lab import fast, recipe, statistics
from lab.plumbing import digests
from lab.study.digests import code_digest
from lab.training.startup import start_tensorflow

start_tensorflow()


def make_function(value):
    def function():
        return value

    return function


class Holder:
    """A class whose method uses a constant."""

    def __init__(self, value):
        self.value = value

    def method(self):
        return self.value + OFFSET


OFFSET = 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (make_function(1), make_function(2)),
        (make_function([1, 2]), make_function([2, 1])),
        (make_function({"a": (1, 2)}), make_function({"a": (1, 3)})),
        (make_function({1, 2}), make_function({1, 3})),
        (make_function(np.zeros(3)), make_function(np.ones(3))),
        (make_function(make_function(1)), make_function(make_function(2))),
        (Holder(1).method, Holder(2).method),
        (lambda: 1, lambda: 2),
        (lambda x=1: x, lambda x=2: x),
        (make_function(statistics.mean_interval), make_function(statistics.wilson_interval)),
    ],
)
def test_the_digest_of_code_sees_values(first, second):
    assert code_digest(first) != code_digest(second)
    digests._digests.clear()
    digest = code_digest(first)
    digests._digests.clear()
    assert code_digest(first) == digest


def test_the_digest_of_code_follows_calls_and_methods(monkeypatch):
    holder, other = Holder(1), make_function(1)
    before = {
        code_digest(recipe.train),
        code_digest(deep_learning.train),
        code_digest(holder.method),
        code_digest(other),
    }
    assert len(before) == 4
    monkeypatch.setattr(fast, "DROPOUT_VALUES", 5_000)
    monkeypatch.setitem(globals(), "OFFSET", 2)
    digests._digests.clear()
    changed = {code_digest(recipe.train), code_digest(deep_learning.train), code_digest(holder.method)}
    assert not before & changed
    assert code_digest(other) in before
    digests._digests.clear()


@pytest.fixture
def digest_of(tmp_path, monkeypatch):
    """Return a function that returns the digest of `train` in files of a new folder, {name: text}, and its result."""

    def digest_of(files):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        before = set(sys.modules)
        with monkeypatch.context() as context:
            context.syspath_prepend(folder)
            main = next(name for name in files if name.endswith("main.py"))
            module = importlib.import_module(main.removesuffix(".py").replace("/", "."))
            digests._digests.clear()
            found = code_digest(module.train), module.train()
        for name in set(sys.modules) - before:
            if str(folder) in str(getattr(sys.modules[name], "__file__", None) or sys.modules[name].__dict__):
                del sys.modules[name]
        return found

    return digest_of


RATE = "def rate(): return 1"
# how a change reaches the experiment: (its files, what is replaced, by what)
SEEN = {
    "import in a function": (
        {"main.py": "def train():\n import helper\n return helper.rate()", "helper.py": RATE},
        "return 1",
        "return 2",
    ),
    "import as": (
        {"main.py": "def train():\n import helper as h\n return h.rate()", "helper.py": RATE},
        "return 1",
        "return 2",
    ),
    "module of a package": (
        {
            "main.py": "import kit.helper\ndef train(): return kit.helper.rate()",
            "kit/__init__.py": "",
            "kit/helper.py": RATE,
        },
        "return 1",
        "return 2",
    ),
    "import from an empty package": (
        {
            "main.py": "def train():\n from kit import helper\n return helper.rate()",
            "kit/__init__.py": "",
            "kit/helper.py": RATE,
        },
        "return 1",
        "return 2",
    ),
    "import from a folder": (
        {"main.py": "def train():\n from kit.helper import rate\n return rate()", "kit/helper.py": RATE},
        "return 1",
        "return 2",
    ),
    "relative import": (
        {
            "kit/main.py": "def train():\n from .helper import rate as r\n return r()",
            "kit/__init__.py": "",
            "kit/helper.py": RATE,
        },
        "return 1",
        "return 2",
    ),
    "import in a method": (
        {
            "main.py": "class A:\n def f(self):\n  from helper import rate as r\n  return r()\n"
            "def train(): return A().f()",
            "helper.py": RATE,
        },
        "return 1",
        "return 2",
    ),
    "module that is passed on": (
        {
            "main.py": "import config\ndef use(c): return c.RATE\ndef train(): return use(config)",
            "config.py": "RATE = 1",
        },
        "RATE = 1",
        "RATE = 2",
    ),
    "module as a default": (
        {"main.py": "import config\ndef train(c=config): return c.RATE", "config.py": "RATE = 1"},
        "RATE = 1",
        "RATE = 2",
    ),
    "print that does more": ({"main.py": "def train():\n x = [1, 2]\n print(len(x))\n return x"}, "len(x)", "x.pop()"),
    "assignment in a print": ({"main.py": "def train():\n x = 1\n print(x)\n return x"}, "print(x)", "print(x := 2)"),
    "the second of two": (
        {"main.py": "def a(): return 1\ndef b(): return 2\nUSED = (a, b, a)\ndef train(): return [f() for f in USED]"},
        "(a, b, a)",
        "(a, b, b)",
    ),
    "lambdas on one line": (
        {
            "main.py": "import numpy as np\nT = {1: lambda x: np.min(x), 2: lambda x: np.max(x)}\n"
            "USED = T[1]\ndef train(): return USED([1, 2])"
        },
        "T[1]",
        "T[2]",
    ),
    "class that is defined twice": (
        {"main.py": "if 0:\n class A: rate = 0\nelse:\n class A: rate = 1\ndef train(): return A.rate"},
        "rate = 1",
        "rate = 2",
    ),
    "attribute of a class": (
        {"main.py": "class A: rate = 0\nA.rate = 1\ndef train(): return A.rate"},
        "A.rate = 1",
        "A.rate = 2",
    ),
    "attribute of a function": (
        {"main.py": "def f(): pass\nf.rate = 1\ndef train(): return f.rate"},
        "rate = 1",
        "rate = 2",
    ),
    "method of a class with slots": (
        {
            "main.py": "from dataclasses import dataclass\n@dataclass(slots=True)\nclass A:\n x: int\n"
            " def f(self): return self.x + 1\nUSED = A(1)\ndef train(): return USED.f()"
        },
        "+ 1",
        "+ 2",
    ),
    "value with slots": (
        {
            "main.py": "class A:\n __slots__ = ('x',)\n def __init__(self, x): self.x = x\n"
            "USED = A(1)\ndef train(): return USED.x"
        },
        "A(1)",
        "A(2)",
    ),
    "namedtuple": (
        {
            "main.py": "from collections import namedtuple\nA = namedtuple('A', 'x y')\n"
            "def train(): return A(1, 2)._asdict()"
        },
        "'x y'",
        "'y x'",
    ),
    "function of the same name": ({"main.py": "from math import log\ndef train(): return log(2)"}, "math", "cmath"),
    "seed of a generator": (
        {"main.py": "import numpy as np\nRNG = np.random.default_rng(0)\ndef train(): return RNG.bit_generator.state"},
        "(0)",
        "(1)",
    ),
    "default of a mapping": (
        {
            "main.py": "from collections import defaultdict\nUSED = defaultdict(lambda: 1)\n"
            "def train(): return USED['x']"
        },
        "lambda: 1",
        "lambda: 2",
    ),
    "closure of a static method": (
        {
            "main.py": "def make(x):\n class A:\n  @staticmethod\n  def f(): return x\n return A\nUSED = make(1)\n"
            "def train(): return USED.f()"
        },
        "make(1)",
        "make(2)",
    ),
    "private attribute": (
        {"main.py": "def make(x):\n class A: _sd = x\n return A\nUSED = make(1)\ndef train(): return USED._sd"},
        "make(1)",
        "make(2)",
    ),
    "module that is imported and passed on": (
        {
            "main.py": "def use(c): return c.RATE\ndef train():\n import config as c\n return use(c)",
            "config.py": "RATE = 1",
        },
        "RATE = 1",
        "RATE = 2",
    ),
    "callable dataclass": (
        {
            "main.py": "from dataclasses import dataclass\n@dataclass\nclass A:\n x: int\n"
            " def __call__(self): return self.x\ntrain = A(1)"
        },
        "A(1)",
        "A(2)",
    ),
    "layer of a Keras container": (
        {
            "main.py": "import keras\nUSED = keras.Sequential([keras.layers.Rescaling(1)])\n"
            "def train(): return USED.layers[0].scale"
        },
        "Rescaling(1)",
        "Rescaling(2)",
    ),
    "scalar of NumPy": (
        {"main.py": "import numpy as np\nRATE = np.float32(1)\ndef train(): return RATE"},
        "(1)",
        "(2)",
    ),
    "Keras' objects": (
        {"main.py": "import keras\nUSED = keras.layers.Rescaling(1)\ndef train(): return USED.scale"},
        "Rescaling(1)",
        "Rescaling(2)",
    ),
}


@pytest.mark.parametrize("way", SEEN)
def test_the_digest_sees_a_change(way, digest_of):
    files, before, after = SEEN[way]
    changed = {name: text.replace(before, after) for name, text in files.items()}
    assert changed != files
    (digest, result), (digest_after, result_after) = digest_of(files), digest_of(changed)
    assert str(result) != str(result_after)
    assert digest != digest_after
    assert digest_of(files) == (digest, result)


# what is the same in every process and folder, and can be described: an experiment's file
STABLE = {
    "generator of random numbers": "import numpy as np\nRNG = np.random.default_rng(0)\ndef train(): RNG",
    "function of random numbers": "from random import random\ndef train(): random",
    "Keras' augmentation": "import keras\nUSED = keras.layers.RandomTranslation(0.1, 0.1)\ndef train(): USED",
    "Keras' optimizer": "import keras\nUSED = keras.optimizers.Adam(0.1)\ndef train(): USED",
    "environment variables": "from os import environ\ndef train(): environ",
    "enumeration made by a function": "from enum import Enum\nA = Enum('A', 'x y')\ndef train(): A.x",
    "optional import": "def train():\n try:\n  from kit.missing import x\n except ImportError:\n  pass",
    "text in the first column": "class A:\n def f(self): return '''\nx'''\ndef train(): A",
    "compiled function": "import tensorflow as tf\n@tf.function\ndef f(): return 1\ndef train(): f",
    "symbolic tensor": "import keras\nUSED = keras.Input((2,), name='x')\ndef train(): USED",
    "Keras' container": "import keras\nUSED = keras.Sequential([keras.layers.RandomFlip()])\ndef train(): USED",
    "set of sets": "USED = {frozenset('ab'), frozenset('cd'), 'e', 'f'}\ndef train(): USED",
    "set of functions": "def a(): pass\ndef b(): pass\nUSED = {a, b}\ndef train(): USED",
    "recursion": "def train(n=1): return n and train(n - 1)",
}


@pytest.mark.parametrize("what", STABLE)
def test_the_digest_is_the_same_after_a_comment_and_in_another_environment(what, digest_of, monkeypatch):
    first = digest_of({"main.py": STABLE[what]})
    monkeypatch.setenv("A_NEW_VARIABLE", "1")
    assert digest_of({"main.py": f"# a comment\n\n{STABLE[what]}"}) == first


def test_the_digest_is_the_same_in_every_process_and_folder(tmp_path):
    printed = set()
    for n in "12":
        folder = tmp_path / n
        folder.mkdir()
        code = f"from lab.study.digests import code_digest\nimport sys\nsys.path.insert(0, {str(folder)!r})\n"
        for number, text in enumerate(STABLE.values()):
            (folder / f"part{number}.py").write_text(text)
            code += f"import part{number}\nprint(code_digest(part{number}.train))\n"
        environment = {**os.environ, "PYTHONHASHSEED": n}
        process = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert process.returncode == 0, process.stderr
        printed.add(process.stdout)
    assert len(printed) == 1
