"""What causes a rerun and what does not: each change is made in a copy of the project, and what decides a run compared.

The copy is in a folder whose name is that of a package, below `site-packages`; one process does all changes.
"""

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, copy_project, read_record, run_script

from lab.guard.errors import LabError
from lab.study import command_line
from lab.study.provenance import code_digest, describe_model
from lab.study.records import Run

# an experiment of a user, whose files import each other
FILES = {
    "mine.py": '''"""My experiment."""
from keras import Input, Sequential, layers, ops
from lab.study import command_line
from lab.study.runs import Variant
from measures import count, select_some, shift_all

EVERY = 2

def start(shape, dtype=None):
    return ops.full(shape, 0.5)

def make_build_model(units):
    def build_model():
        hidden = layers.Dense(units, kernel_initializer=start)
        return Sequential([Input((28, 28)), layers.Flatten(), hidden, layers.Dense(10), layers.Softmax()])
    return build_model

VARIANTS = {"mine": Variant("a label", make_build_model(8), shift_all, select_some(EVERY), count, {"units": 8})}

if __name__ == "__main__":
    options = command_line.parse(command_line.study_parser(__doc__, VARIANTS, seeds=1), None)
    (run,) = command_line.study_runs(__file__, options).values()
    print(run.arrays["count"])
''',
    "measures.py": """
import deeper
from lab.changes.convolution_gain import shuffle_pixels

def helper():
    return 1

def select_some(every):
    return lambda train_split, test_split, seed: (train_split.at(slice(0, None, every)), test_split)

def shift_all(images, seed):
    return images + 1

def count(model, split, prepare):
    # a comment
    return {"count": len(split.labels) * globals()["helper"]() * deeper.FACTOR}
""",
    "deeper/__init__.py": "from .factors import FACTOR\n",
    "deeper/factors.py": "FACTOR = 1\n",
    # own parts of a model and of a measurement, made with values of the script
    "parts.py": """
import keras
from lab.study.runs import Variant
from pieces import Measure, Scale, bend, double, make_count

def build_model():
    hidden = [keras.layers.Flatten(), keras.layers.Dense(4, activation=bend), Scale(3), keras.layers.Lambda(double)]
    return keras.Sequential([keras.Input((28, 28)), *hidden, keras.layers.Dense(10), keras.layers.Softmax()])

VARIANTS = {
    "closure": Variant("closure", build_model, collect=make_count(3)),
    "object": Variant("object", build_model, collect=Measure(3)),
}
""",
    "pieces.py": """
import keras

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
""",
}
DESCRIBE = """
import json, shutil, sys
from pathlib import Path
import numpy as np
from lab.study import command_line, provenance, runs
from lab.training.data import Split
from lab.training.recipe import Recipe
from lab.training.startup import start_tensorflow

start_tensorflow()
here, split = Path.cwd(), Split(np.uint8(np.arange(20 * 784)).reshape(20, 28, 28), np.uint8(np.arange(20) % 10))

own = {path.stem for path in here.glob("*.py")} | {"deeper"}

def describe(names):
    for name in [name for name in sys.modules if name.split(".")[0] in own or name.startswith("lab.changes")]:
        del sys.modules[name]
    found = {}
    for script, name in (each.split(": ") for each in names):
        path = here / script
        if name == "train":
            options = command_line.parse(command_line.figure_parser("A script."), ["--smoke"])
            decided_by = command_line._describe_training(__import__(path.stem).train, options)
        else:
            variant, key = runs.load_variants(path)[name], runs.RunKey(name, 3, Recipe())
            decided_by = runs.describe_run(path, variant, key, [split, split])
        found[f"{script}: {name}"] = decided_by
    return found

runs_described, changes = json.load(sys.stdin)
described = [describe(runs_described)]
for file, before, after, names in changes:
    path, text = here / file, (here / file).read_text() if before else None
    assert not before or before in text, f"{file}: no {before!r}"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text.replace(before, after) if before else after)
    described.append(describe(names))
    if before:
        path.write_text(text)
    elif path.parent.parent == here:
        shutil.rmtree(path.parent)
    else:
        path.unlink()
print(json.dumps(described))
"""
STUDIES = ("convolution_gain.py: dense", "convolution_gain.py: dense-shuffled", "robustness.py: dense")
MINE, OURS = "mine.py: mine", (*STUDIES, "deep_learning.py: train")
OWN_PARTS = ("parts.py: closure", "parts.py: object")
EVERY_RUN = dict.fromkeys([*OURS, MINE], ["training_code"])
COUNT = {MINE: ["changes_code"]}
PARTS = dict.fromkeys(OWN_PARTS, ["changes_code", "model_code"])
# change: (file, what is replaced, or None for a new file, by what, the runs that are done again, and what differs)
CHANGES = {
    "type of an exception": ("lab/training/startup.py", "raise LabError(", "raise ValueError(", EVERY_RUN),
    "new file of training": ("lab/training/more.py", None, "MORE = 1", EVERY_RUN),
    "docstring of training": ("lab/training/recipe.py", '"""Compile a model', '"""Prepare a model', {}),
    "statistics": ("lab/analysis/statistics.py", "LEVEL = 0.05", "LEVEL = 0.01", {}),
    "shuffle": (
        *("lab/changes/convolution_gain.py", "default_rng(seed)", "default_rng(seed + 1)"),
        {STUDIES[1]: ["images_sha256", "changes_code"], **COUNT},
    ),
    "corruption": (
        *("lab/changes/robustness.py", "CORRUPTIONS = {", 'CORRUPTIONS = {"none": Corruption(shift, (0,), 0),'),
        {STUDIES[2]: ["changes_code"]},
    ),
    "seeds of a study": ("convolution_gain.py", "SEEDS, FEWER_SEEDS = 10,", "SEEDS, FEWER_SEEDS = 11,", {}),
    "size of dense": (
        *("deep_learning.py", "layers.Dense(128", "layers.Dense(100"),
        {**dict.fromkeys(STUDIES, ["model_sha256"]), "deep_learning.py: train": ["script"]},
    ),
    "Keras": (
        *("keras-99.dist-info/METADATA", None, "Name: keras\nVersion: 99"),
        dict.fromkeys([*OURS, MINE], ["keras"]),
    ),
    "Pillow": ("pillow-99.dist-info/METADATA", None, "Name: pillow\nVersion: 99", {STUDIES[2]: ["packages"]}),
    "units in a closure": ("mine.py", "make_build_model(8)", "make_build_model(9)", {MINE: ["model_sha256"]}),
    "initializer": ("mine.py", "0.5", "0.6", {MINE: ["model_sha256"]}),
    "transform": ("measures.py", "+ 1", "+ 2", {MINE: ["images_sha256", "changes_code"]}),
    "constant of a selection": ("mine.py", "EVERY = 2", "EVERY = 3", {MINE: ["images_sha256"]}),
    "function found by name": ("measures.py", "return 1", "return 2", COUNT),
    "module that is imported": ("deeper/factors.py", "FACTOR = 1", "FACTOR = 2", COUNT),
    "comment in a measurement": ("measures.py", "# a comment", "# another\n    # comment", {}),
    "label": ("mine.py", '"a label"', '"another label"', {}),
    "own layer": ("pieces.py", "inputs * self", "inputs / self", PARTS),
    "argument of an own layer": (  # the script that makes it counts, too, also for what measures
        *("parts.py", "Scale(3)", "Scale(4)"),
        dict.fromkeys(OWN_PARTS, ["model_sha256", "changes_code", "model_code"]),
    ),
}


def write_files(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


def concerned(file):
    """Return the runs to describe after a change of a file."""
    if file in ("parts.py", "pieces.py"):
        return OWN_PARTS
    return [MINE] if file in FILES else [*OURS, MINE]


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """Return what decides each run, {run: parts}, before any change, and {change: the same} after each."""
    folder = copy_project(tmp_path_factory.mktemp("copy") / "site-packages" / "keras")
    write_files(folder, {**FILES, "describe.py": DESCRIBE})
    changes = [(*change[:3], concerned(change[0])) for change in CHANGES.values()]
    streams = {"input": json.dumps([[*OURS, MINE, *OWN_PARTS], changes]), "capture_output": True, "text": True}
    process = subprocess.run([sys.executable, "describe.py"], cwd=folder, **streams)
    assert process.returncode == 0, process.stderr
    before, *after = json.loads(process.stdout)
    return before, dict(zip(CHANGES, after, strict=True))


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_reruns_what_it_decides_and_nothing_else(change, described):
    before, after = described[0], described[1][change]
    differing = {run: [part for part in after[run] if before[run][part] != after[run][part]] for run in after}
    assert {run: parts for run, parts in differing.items() if parts} == CHANGES[change][3]


def test_an_own_layer_of_a_model_in_a_wrapper_counts():
    import keras

    class Twice(keras.layers.Layer):
        def call(self, inputs):
            return 2 * inputs

    def build_model():
        wrapped = keras.layers.TimeDistributed(keras.Sequential([Twice()]))
        return keras.Sequential([keras.Input((28, 28)), wrapped, keras.layers.Flatten()])

    assert [type(part) for part in describe_model(build_model, "float32")[1]] == [Twice]


def test_another_folder_and_other_processes_find_the_same(described, tmp_path):
    write_files(tmp_path, FILES)
    arguments = ("--smoke", "--seed", 3, "--output-dir", tmp_path)
    process = run_script(str(tmp_path / "mine.py"), *arguments, cwd=tmp_path.parent, PYTHONPATH=str(ROOT))
    assert process.stdout == "500\n"
    (path,) = (tmp_path / "smoke" / "mine").glob("*.npz")
    record, before = Run.from_file(path).record, described[0][MINE]
    assert {part for part in before if record[part] != before[part]} == {"epochs", "images_sha256"}


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_every_python_finds_the_same(version):
    candidates = [*Path.home().glob(f".pyenv/versions/{version}.*/bin/python"), shutil.which(f"python{version}")]
    interpreter = next(filter(None, candidates), None)
    if not interpreter:
        pytest.skip(f"no Python {version} here")
    program = """import sys, types
from pathlib import Path
sys.modules["numpy"] = types.ModuleType("numpy")  # not needed, and perhaps not there
from lab.study.provenance import code_digest
print(code_digest(sorted(Path("lab").rglob("*.py"))))"""
    process = subprocess.run([interpreter, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert process.stdout.strip() == code_digest(sorted((ROOT / "lab").rglob("*.py"))), process.stderr


def test_an_optimizer_typed_into_a_script_is_what_trains_and_is_not_compared_with_another(smoke_saves, tmp_path):
    folder = copy_project(tmp_path)
    shutil.copytree(smoke_saves[0] / "smoke", folder / "saves" / "smoke")
    script, typed = (folder / "deep_learning.py").read_text(), "SGD(learning_rate=0.01, momentum=0.9)"
    (folder / "deep_learning.py").write_text(script.replace("Adam(learning_rate=options.learning_rate)", typed))
    process = run_script(str(folder / "convolution_gain.py"), "--short", "--smoke", cwd=folder, code=1)
    saved = folder / "saves" / "smoke" / "deep_learning.keras"
    assert f"training: {saved} is from a training with different script\n" in process.stderr
    optimizer = read_record(folder / "saves")["optimizer"]
    assert (optimizer["class_name"], optimizer["momentum"]) == ("SGD", 0.9)
    assert optimizer["learning_rate"] == pytest.approx(0.01)
    message = "error: dense and conv were trained with different optimizer; there is no fair comparison"
    assert process.stderr.splitlines()[-1] == message


# a script that is edited after a process, such as a notebook's kernel, has imported it
SCRIPT = '''"""A script."""
def make_build_model(units):
    def build_model():
        """Return a model."""
        return units + 128
    return build_model

build_model = make_build_model(0)
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

    def begin():
        command_line.parse_arguments(train, ["--smoke", "--output-dir", str(tmp_path / "saves")])

    begin()
    path.write_text(SCRIPT.replace(old, new))
    if edited:
        with pytest.raises(LabError, match=f"{path.name} was edited after it was imported"):
            begin()
    else:
        begin()
