"""What causes a rerun and what does not: each change is made in a copy of the project, and what decides a run compared.

The copy is in a folder whose name is that of a package, below `site-packages`; one process does all changes.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, copy_project, run_script

import lab.study.provenance

# an experiment of a user, whose files import each other
FILES = {
    "mine.py": '''"""My experiment."""
import numpy as np
from lab.study import command_line
from lab.study.runs import Variant
from measures import count
from models import make_build_model
from selections import select_some, shift_all

EVERY = 2
VARIANTS = {"mine": Variant("a label", make_build_model(8), shift_all, select_some(EVERY), count, {"units": 8})}

def plot(ax):
    ax.set_title("a title")

if __name__ == "__main__":
    options = command_line.parse(command_line.study_parser(__doc__, VARIANTS, seeds=1), None)
    (run,) = command_line.study_runs(__file__, options).values()
    print(run.arrays["count"])
''',
    "models.py": '''"""Models."""
def start(shape, dtype=None):
    from keras import ops
    return ops.full(shape, 0.5)

def make_build_model(units):
    def build_model():
        """Return a model."""
        from keras import Input, Sequential, layers
        hidden = [layers.Flatten(), layers.Dense(units, kernel_initializer=start), layers.Dropout(0.2)]
        return Sequential([Input((28, 28)), *hidden, layers.Dense(10), layers.Softmax()])
    return build_model
''',
    "selections.py": '''"""Selections."""
def select_some(every):
    def select(train_split, test_split, seed):
        return train_split.at(slice(0, None, every)), test_split
    return select

def shift_all(images, seed):
    return images + 1
''',
    "measures.py": '''"""Measures."""
from collections import defaultdict
from typing import ClassVar
import deeper.constants

class Settings:
    factor: ClassVar = 1

def helper():
    return 1

def count(model, split, prepare):
    """Return a number."""
    # a comment
    found = defaultdict(int)
    print(found["key"])
    return {"count": len(split.labels) * Settings.factor * globals()["helper"]() * deeper.FACTOR * deeper.constants.TWO}
''',
    "deeper/__init__.py": "from .factors import FACTOR\n",
    "deeper/factors.py": "FACTOR = 1\n",
    "deeper/constants.py": "TWO = 2\n",
    # of own parts of a model and of a measurement, which the script makes with values of its own
    "parts.py": '''import functools
import keras
import numpy as np
from lab.changes.convolution_gain import shuffle_pixels
from lab.study.runs import Variant
from pieces import Measure, Scale, bend, double, make_count

def build_model():
    hidden = [keras.layers.Flatten(), keras.layers.Dense(4, activation=bend), Scale(3), keras.layers.Lambda(double)]
    return keras.Sequential([keras.Input((28, 28)), *hidden, keras.layers.Dense(10), keras.layers.Softmax()])

VARIANTS = {
    "own": Variant("own layers", build_model),
    "closure": Variant("closure", Variant, collect=make_count(3)),
    "partial": Variant("partial", Variant, collect=functools.partial(make_count, 3)),
    "object": Variant("object", Variant, collect=Measure(3)),
}
''',
    "pieces.py": '''import keras
class Scale(keras.layers.Layer):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor
    def call(self, inputs):
        return inputs * self.factor

def bend(x):
    return keras.ops.abs(x)

double = lambda x: x * 2

def make_count(n):
    return lambda model, split, prepare: {"n": n}

class Measure:
    def __init__(self, n):
        self.n = n
    def __call__(self, model, split, prepare):
        return {"n": self.n}
''',
}
DESCRIBE = '''"""Reads changes, a list of [file, before, after], and prints what decides each run after each of them."""
import json, sys
from pathlib import Path
import numpy as np
from lab.study import command_line, provenance, runs
from lab.training.data import Split
from lab.training.recipe import Recipe
from lab.training.startup import start_tensorflow

start_tensorflow()
here, split = Path.cwd(), Split(np.arange(20 * 784).astype(np.uint8).reshape(20, 28, 28), np.arange(20, dtype=np.uint8) % 10)
describe_model = provenance.describe_model
provenance.describe_model = lambda build_model, *given: ("", []) if build_model is runs.Variant else describe_model(build_model, *given)

def describe_all():
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "/").parent in (here, here / "deeper"):
            if module.__name__ != "__main__":
                del sys.modules[name]
    found = {}
    for name in ("convolution_gain.dense", "convolution_gain.dense-shuffled", "robustness.dense", "mine.mine",
                 "parts.own", "parts.closure", "parts.partial", "parts.object"):
        script, variant = name.split(".")
        variant = runs.load_variants(here / f"{script}.py")[variant]
        found[name] = runs.describe_run(here / f"{script}.py", variant, runs.RunKey(name, 3, Recipe()), [split, split])
    import deep_learning
    options = command_line.parse(command_line.figure_parser("A script."), ["--smoke"])
    return {**found, "deep_learning": command_line._describe_training(deep_learning.train, options)}

described = [describe_all()]
for file, before, after in json.load(sys.stdin):
    path, text = here / file, (here / file).read_text() if (here / file).exists() else ""
    assert before in text, (file, before)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text.replace(before, after) if before else after)
    described.append(describe_all())
    path.write_text(text)
    if not text:
        path.unlink()
print(json.dumps(described))
'''
OURS = ("convolution_gain.dense", "convolution_gain.dense-shuffled", "robustness.dense", "deep_learning")
PARTS = ("parts.own", "parts.closure", "parts.partial", "parts.object")
RUNS = (*OURS, "mine.mine", *PARTS)
EVERY_RUN = dict.fromkeys(RUNS, ["training_code"])
MEASURE = {"mine.mine": ["changes_code"]}
NONE = {}
# change: (file, what is replaced, by what, the runs that are done again, each with what is said to have changed)
CHANGES = {
    "type of an exception": ("lab/training/startup.py", "raise LabError(", "raise ValueError(", EVERY_RUN),
    "threads": ("lab/training/startup.py", "_start(threads or 2)", "_start(threads or 3)", EVERY_RUN),
    "floatx": ("lab/training/startup.py", 'set_floatx("float32")', 'set_floatx("float64")', EVERY_RUN),
    "determinism": ("lab/training/startup.py", "enable_op_determinism()", "list_logical_devices()", EVERY_RUN),
    "learning rate": ("lab/training/recipe.py", "Adam(learning_rate=", "Adam(beta_1=0.8, learning_rate=", EVERY_RUN),
    "scaling": ("lab/training/data.py", "scaled /= 255", "scaled /= 128", EVERY_RUN),
    "new file of training": ("lab/training/more.py", "", "MORE = 1", EVERY_RUN),
    "docstring of training": ("lab/training/recipe.py", '"""Compile a model', '"""Prepare a model', NONE),
    "comment in training": ("lab/training/loop.py", "\nimport math\n", "\n# a comment\nimport math\n", NONE),
    "statistics": ("lab/analysis/statistics.py", "LEVEL = 0.05", "LEVEL = 0.01", NONE),
    "guard": ("lab/guard/files.py", "import uuid", "import uuid\n\nMORE = 1", NONE),
    "study": ("lab/study/records.py", "import json", "import json\n\nMORE = 1", NONE),
    "shuffle": (
        *("lab/changes/convolution_gain.py", "default_rng(seed)", "default_rng(seed + 1)"),
        # the pixels of this one are shuffled; the others use the module only
        {"convolution_gain.dense-shuffled": ["images_sha256", "changes_code"]},
    ),
    "corruption": (
        *("lab/changes/robustness.py", "CORRUPTIONS = {", 'CORRUPTIONS = {"none": Corruption(shift, (0,), 0),'),
        {"robustness.dense": ["changes_code"]},
    ),
    "table of experiment 5": ("convolution_gain.py", "SEEDS, FEWER_SEEDS = 10,", "SEEDS, FEWER_SEEDS = 11,", NONE),
    "size of dense": (
        *("deep_learning.py", "layers.Dense(128", "layers.Dense(100"),
        {**dict.fromkeys(OURS[:3], ["model_sha256"]), "deep_learning": ["script"]},
    ),
    "optimizer of a script": (
        *("deep_learning.py", "keras.optimizers.Adam(", "keras.optimizers.SGD("),
        {"deep_learning": ["script"]},
    ),
    "docstring of a script": ("deep_learning.py", '"""Experiment 1', '"""The first experiment', NONE),
    "version of Keras": ("keras-99.dist-info/METADATA", "", "Name: keras\nVersion: 99", dict.fromkeys(RUNS, ["keras"])),
    "version of Pillow": (
        *("pillow-99.dist-info/METADATA", "", "Name: pillow\nVersion: 99"),
        {"robustness.dense": ["packages"]},
    ),
    "units in a closure": ("mine.py", "make_build_model(8)", "make_build_model(9)", {"mine.mine": ["model_sha256"]}),
    "initializer": ("models.py", "0.5", "0.6", {"mine.mine": ["model_sha256"]}),
    "dropout": ("models.py", "Dropout(0.2)", "Dropout(0.3)", {"mine.mine": ["model_sha256"]}),
    "docstring of a model": ("models.py", "Return a model.", "Return it.", NONE),
    "transform": ("selections.py", "+ 1", "+ 2", {"mine.mine": ["images_sha256", "changes_code"]}),
    "constant of a selection": ("mine.py", "EVERY = 2", "EVERY = 3", {"mine.mine": ["images_sha256"]}),
    "class variable": ("measures.py", "ClassVar = 1", "ClassVar = 2", MEASURE),
    "print that changes a mapping": ("measures.py", 'print(found["key"])', 'print(found.get("key"))', MEASURE),
    "function found by name": ("measures.py", "return 1", "return 2", MEASURE),
    "module that is imported": ("deeper/constants.py", "TWO = 2", "TWO = 3", MEASURE),
    "package that is imported": ("deeper/__init__.py", "FACTOR\n", "FACTOR\nFACTOR += 1\n", MEASURE),
    "relative import": ("deeper/factors.py", "FACTOR = 1", "FACTOR = 2", MEASURE),
    "docstring of a measurement": ("measures.py", "Return a number.", "Return it.", NONE),
    "comment in a measurement": ("measures.py", "# a comment", "# another\n    # comment", NONE),
    "label": ("mine.py", '"a label"', '"another label"', NONE),
    "settings for a table": ("mine.py", '{"units": 8}', '{"units": "eight"}', NONE),
    "title of a figure": ("mine.py", '"a title"', '"another title"', NONE),
    "own layer": ("pieces.py", "inputs * self", "inputs / self", {"parts.own": ["model_code"]}),
    "own activation": ("pieces.py", "ops.abs", "ops.tanh", {"parts.own": ["model_code"]}),
    "own lambda": ("pieces.py", "x * 2", "x * 3", {"parts.own": ["model_code"]}),
    "argument of an own layer": ("parts.py", "Scale(3)", "Scale(4)", {"parts.own": ["model_sha256", "model_code"]}),
    "constant of a measuring closure": ("parts.py", "collect=make_count(3)", "collect=make_count(4)", {}),
    "constant of a measuring partial": ("parts.py", "partial(make_count, 3)", "partial(make_count, 4)", {}),
    "constant of a measuring object": ("parts.py", "Measure(3)", "Measure(4)", {}),
}
SCRIPT_COUNTS = {"parts.own": ["model_code"], **dict.fromkeys(PARTS[1:], ["changes_code"])}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """Return a copy of the project with the user's experiments and the program that describes them."""
    folder = copy_project(tmp_path_factory.mktemp("copy") / "site-packages" / "keras")
    for name, text in {**FILES, "describe.py": DESCRIBE}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def describe(folder, changes, **environment):
    """Return what decides each run, {run: parts}, before any change and after each of them."""
    process = subprocess.run(
        [sys.executable, "describe.py"],
        cwd=folder,
        env={**os.environ, **environment},
        input=json.dumps(changes),
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.fixture(scope="module")
def described(copy):
    before, *after = describe(copy, [change[:3] for change in CHANGES.values()])
    return before, dict(zip(CHANGES, after, strict=True))


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_reruns_what_it_decides_and_nothing_else(change, described):
    before, after = described[0], described[1][change]
    differ = {run: [part for part in before[run] if before[run][part] != after[run][part]] for run in RUNS}
    assert {run: parts for run, parts in differ.items() if parts} == CHANGES[change][3]
