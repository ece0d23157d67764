"""The README's numbers are those of the committed records."""

import json
import re
import shutil
from statistics import fmean

import pytest
from conftest import ROOT, run_script

import convolution_gain
import deep_learning
import deep_learning_conv
import sample_efficiency
import shift_robustness
from lab.recipe import Recipe
from lab.statistics import mean_interval
from lab.study import Key, Run

README = (ROOT / "README.md").read_text(encoding="utf-8")
PROSE = " ".join(README.split())  # wherever its lines are broken
RECORDS = json.loads((ROOT / "results" / "precision.json").read_text())


def accuracies(model, precision, split):
    """Return accuracies in percent, by seed in order."""
    runs = [run for run in RECORDS if run["model"] == model and run["recipe"]["precision"] == precision]
    assert [run["seed"] for run in runs] == list(range(5))
    return [100 * run[split]["accuracy"] for run in runs]


def difference(ours, theirs):
    """Return the mean of the paired differences with its interval, as the README writes it."""
    mean, low, high = mean_interval([a - b for a, b in zip(ours, theirs, strict=True)])
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def said_of_the_published_runs(script, folder):
    """Return an experiment's tables and sentence, which must be those in results/."""
    process = run_script(f"{script}.py", "--from-results", "--save", folder / f"{script}.png")
    assert process.returncode == 0, process.stderr
    assert "incomplete" not in process.stderr
    text = re.sub("^picture: .*\n", "", process.stdout, flags=re.M)
    assert text == (ROOT / "results" / f"{script}.md").read_text()
    return text


@pytest.fixture(scope="module")
def gain(tmp_path_factory):
    return said_of_the_published_runs("convolution_gain", tmp_path_factory.mktemp("figures"))


def test_the_gain_is_that_of_the_published_runs(gain):
    accuracies, _, differences, by_class, calibration, sentence = gain.strip().split("\n\n")
    for part in (accuracies, differences, sentence):
        assert part in README
    shirts = re.search(r"\| Shirt +\| +\+(\S+) \[\+(\S+), \+(\S+)\]", by_class).groups()
    assert "Conv finds {} points [{}, {}] more of them".format(*shirts) in PROSE
    dense, conv = re.findall(r"^\| (?:dense|conv) +\| +(\S+)", calibration, re.M)
    assert f"calibration error is {conv}, that of dense {dense}." in PROSE


def test_the_docstrings(gain):
    for name, script in (("dense", deep_learning), ("conv", deep_learning_conv)):
        mean = re.search(rf"^\| {name} +\| +\S+ \| (\S+) ±", gain, re.M).group(1)
        assert f"{mean}% on average of 10 seeds" in script.__doc__
    test, train = (
        " ".join(re.search(rf"{words} (\S+)(?: points)? (\[.*?\])", gain).groups()) for words in ("buys", "like")
    )
    assert f"On the test set {test}, " in convolution_gain.__doc__
    assert f"on the training set {train} (" in convolution_gain.__doc__


def test_the_efficiency_is_that_of_the_published_runs(tmp_path):
    table, sentence = said_of_the_published_runs("sample_efficiency", tmp_path).strip().split("\n\n")
    assert f"> {sentence}\n" in README
    assert table in README
    rows = {row[0].strip(): row[1:] for row in (line.split("|")[1:-1] for line in table.splitlines())}
    ahead, behind = (re.findall(r"\d+\.\d\d", rows[n][4]) for n in ("30,000", "10,000"))
    assert re.findall(r"\d+\.\d\d", sample_efficiency.__doc__) == [*ahead, behind[0], *behind[:0:-1]]
    assert f"dense is as good on {rows['10,000'][5].strip()} times as many." in PROSE
    runs = [Run.from_file(path) for path in (ROOT / "results" / "sample_efficiency").iterdir()]
    by_heart = {
        name: fmean(100 * run.record["train"]["accuracy"] for run in runs if run.key.variant == f"{name}-10000")
        for name in ("conv", "dense")
    }
    assert (
        "right about {conv:.2f}% of those that it was trained on, dense about {dense:.2f}%".format(**by_heart) in PROSE
    )


def test_the_robustness_is_that_of_the_published_runs(tmp_path):
    table, sentence = said_of_the_published_runs("shift_robustness", tmp_path).strip().split("\n\n")
    assert f"> {sentence}\n" in README
    claimed = re.findall(r"\d+\.\d\d", shift_robustness.__doc__)
    blurred = re.search(r"(\S+) \[(\S+), (\S+)\] \(blur", sentence).groups()
    said = re.findall(r"\d+\.\d\d", sentence)
    assert claimed == [*said[3:6], *said[:3], *blurred]
    rows = {row[0].strip(): row[1:] for row in (line.split("|")[1:-1] for line in table.splitlines())}

    def same(variant, pixels):
        return re.sub(" ± \\S+", "", rows[f"shift, pixels: {pixels}"][3 + ("dense", "conv").index(variant)].strip())

    for answer in (
        f"the same answer for {same('conv', 2)} percent of the images and directions, dense for {same('dense', 2)};",
        f"by four, for {same('conv', 4)} and {same('dense', 4)};",
        f"six pixels, their accuracies differ by {rows['shift, pixels: 6'][2].strip()}",
        f"at 5 degrees it shrinks to {rows['rotation, degrees: 5'][2].strip()}",
    ):
        assert answer in PROSE
    ahead = [float(rows[f"shift, pixels: {pixels}"][2].split()[0]) for pixels in range(7)]
    assert sorted(ahead[:3]) == ahead[:3]
    assert sorted(ahead[2:], reverse=True) == ahead[2:]


@pytest.mark.parametrize(("script", "seeds"), [(convolution_gain, 10), (sample_efficiency, 5), (shift_robustness, 5)])
def test_no_published_run_was_dropped(script, seeds):
    keys = [Run.from_file(path).key for path in (ROOT / "results" / script.__name__).iterdir()]
    assert sorted(keys) == sorted(Key(name, seed, Recipe()) for name in script.VARIANTS for seed in range(seeds))


def test_the_same_run_in_another_experiment_gives_the_same_weights():
    weights = {}
    for path in (ROOT / "results").glob("*/*.npz"):
        run = Run.from_file(path)
        weights.setdefault(run.key, set()).add(run.record["weights_sha256"])
    assert {len(each) for each in weights.values()} == {1}
    assert len(weights) < len(list((ROOT / "results").glob("*/*.npz")))


def test_the_benchmark():
    from benchmarks import run

    result = json.loads((ROOT / "results" / "benchmark.json").read_text())
    assert len(run.rounds_of(result, name=run.OURS, model="conv", precision="float32")) >= 5
    table = run.table(result)
    assert table + "\n" == (ROOT / "results" / "benchmark.md").read_text()
    for part in table.split("\n\n"):
        if "bfloat16" not in part and "growth" not in part:
            assert part in README


def test_what_bfloat16_costs():
    for model in ("dense", "conv"):
        assert difference(accuracies(model, "bfloat16", "test"), accuracies(model, "float32", "test")) in PROSE


def test_the_table_of_faults():
    summary, *rows = (ROOT / "results" / "faults.md").read_text().splitlines()
    counts = [[int(cell.replace(",", "")) for cell in row.split("|")[3:5]] for row in rows[3:]]
    cases, lost = (sum(column) for column in zip(*counts, strict=True))
    assert f"[the table of faults](results/faults.md): {cases:,} cases, {lost:,} lost." in PROSE
    assert f": {cases:,} cases in " in summary
    assert f" minutes, {lost:,} lost; " in summary


def test_every_link_into_the_repository_leads_somewhere():
    for target in re.findall(r"\]\((?!http|#)([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_experiment_to_write_oneself(tmp_path):
    (script,) = re.findall(r"```python\n(.*?)```", README, re.S)
    (tmp_path / "kernel_size.py").write_text(script, encoding="utf-8")
    shutil.copytree(ROOT / "lab", tmp_path / "lab")
    arguments = ("--smoke", "--seeds", 2, "--variants", "kernel-1", "kernel-3")
    process = run_script(tmp_path / "kernel_size.py", *arguments, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    *_, one, three = process.stdout.splitlines()
    assert re.fullmatch(r"\| 1 x 1  \| +\d\d\.\d\d ± .*\|", one)
    assert re.fullmatch(r"\| 3 x 3  \| +\d\d\.\d\d ± .*\|", three)
    assert (tmp_path / "saves" / "smoke" / "kernel_size.png").is_file()
    assert len(list((tmp_path / "saves" / "smoke" / "kernel_size").iterdir())) == 4
