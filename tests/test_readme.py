"""What README, docs and docstrings say is what the committed records say. Sentences are free to change."""

import ast
import importlib
import json
import re
import runpy
from functools import cache

import numpy as np
import pytest
from conftest import ROOT
from scipy import stats

import convolution_gain
import training_length
from lab.analysis import compare
from lab.analysis.statistics import crossed_estimate, wilson_interval
from lab.study import runs as study
from lab.study.published import read_records
from lab.study.runs import RunKey
from lab.training.data import DataSet

TABLES = runpy.run_path(str(ROOT / "docs" / "tables.py"))
PAGES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in TABLES["pages"]()}
STUDIES = ("convolution_gain", "training_length", "why_it_helps", "sample_efficiency", "robustness", "what_filters_see")
NOT_IN_RESULTS = {  # number: why it is in no record
    "8.6": "plan: pixels of a kernel within the image",
    "5.9": "plan: pixels of a kernel within the image",
    **dict.fromkeys(("0.8645", "0.8577", "0.8711", "0.3860", "3.33"), "README: what `make` printed on 2026-11-27"),
    "0.2": "rate of Dropout",
    "3.11": "version of Python",
    "3.12": "version of Python",
    "3.13": "version of Python",
    "3.15": "version of Keras",
    "3.4": "lab session: one study of three seeds on 10,000 images, seen on 2026-11-26",
    "2.9": "lab session: its interval",
    "3.9": "lab session: its interval",
    (2.9, 3.9): "lab session: its interval",
    "0.114": "data: weight of blue in grey",
    "0.587": "data: weight of green in grey",
    "0.299": "data: weight of red in grey",
    "3.0": "plan: an interval that was corrected",
    (1.3, 3.0): "plan: an interval that was corrected",
    "6.3": "statistics: section of a book",
}


def published(name):
    return read_records(ROOT / "results" / name)


@cache
def gain_runs():
    """Return the published runs of experiment 5."""
    records = [record for record in published("convolution_gain") if record["data_set"] == DataSet().name]
    return study.published_runs("convolution_gain.py", [*map(RunKey.from_record, records)], DataSet())


@pytest.mark.parametrize("name", STUDIES)
def test_the_published_tables_are_those_of_all_runs_and_no_others(name, tmp_path, monkeypatch, capsys, caplog):
    asked, published_runs = set(), study.published_runs

    def note_plan(script, plan, data_set):
        asked.update((data_set.name, key) for key in plan)
        return published_runs(script, plan, data_set)

    monkeypatch.setattr(study, "published_runs", note_plan)
    importlib.import_module(name).main(["--from-results", "--save", str(tmp_path / f"{name}.png")])
    assert capsys.readouterr().out == (ROOT / "results" / f"{name}.md").read_text()
    assert re.search("first committed in|made by", caplog.text)
    done = {(record["data_set"], RunKey.from_record(record)) for record in published(name)}
    assert done == asked
    assert "incomplete" not in caplog.text


def test_the_records_are_compact():
    assert sum(path.stat().st_size for path in (ROOT / "results").rglob("*") if path.is_file()) < 14e6


def test_a_run_done_again_in_its_experiment_or_in_another_gives_the_same_weights():
    weights, count = {}, 0
    for name in STUDIES:
        for record in published(name):
            key, count = (record["data_set"], RunKey.from_record(record)), count + 1
            weights.setdefault(key, set()).add(record["weights_sha256"])
    assert {len(each) for each in weights.values()} == {1}
    assert len(weights) < count


def test_the_chain_adds_up_and_the_check_is_compatible_with_zero():
    runs = gain_runs()
    found = compare.estimates(runs, convolution_gain.COMPARISONS)
    steps = [found[name][0].mean for name in convolution_gain.FAMILIES["chain"]]
    assert sum(steps) == pytest.approx(found[convolution_gain.CONTROLLED][0].mean)
    check = found["(dense, shuffled) - dense"][0]
    assert check.low < 0 < check.high


@pytest.mark.parametrize("name", [*convolution_gain.FAMILIES["headline"], training_length.FAIR])
def test_the_crossed_interval_covers_with_the_variances_of_the_study(name):
    """The published differences decide how much seeds, images and the rest vary in what is drawn."""
    runs = gain_runs()
    if name == training_length.FAIR:
        keys = map(RunKey.from_record, published("training_length"))
        plan = [key for key in keys if key.variant in ("dense", "conv") and key.recipe.cosine_decay]
        runs = study.published_runs("training_length.py", plan, DataSet())
    weights = {**training_length.COMPARISONS, **convolution_gain.COMPARISONS}[name].items()
    values = sum(100.0 * weight * compare.is_correct(runs, variant) for variant, weight in weights)
    seeds, images = values.shape
    ms_seed, ms_image = images * values.mean(axis=1).var(ddof=1), seeds * values.mean(axis=0).var(ddof=1)
    rest = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()
    ms_rest = (rest**2).sum() / ((seeds - 1) * (images - 1))
    by_seed, by_image = (max(0, each - ms_rest) / n for each, n in ((ms_seed, images), (ms_image, seeds)))
    n, rng, covered = 500, np.random.default_rng(0), 0  # images; fewer are faster, with the same ratio of variances
    for _ in range(1_000):
        drawn = rng.normal(0, np.sqrt(by_seed * images / n), (seeds, 1)) + rng.normal(0, np.sqrt(by_image), n)
        _, low, high, _ = crossed_estimate(drawn + rng.normal(0, np.sqrt(ms_rest), (seeds, n)))
        covered += low <= 0 <= high
    assert stats.binomtest(covered, 1_000, 0.95).pvalue > 0.001


def test_the_tables_in_the_pages_are_those_of_the_results():
    for name, text in PAGES.items():
        assert TABLES["insert_tables"](text) == text, name


def decimals(text):
    """Return the numbers with decimals in a text, and its intervals as pairs; addresses and versions are left out.

    An interval is the same pair for a difference in either direction.
    """
    text = re.sub(r"\]\([^)]*\)|arXiv\s+[\d.]+|https?://\S+|doi:\S+", "", text)
    pairs = [tuple(map(float, each)) for each in re.findall(r"\[([+-]?\d+\.\d+),\s+([+-]?\d+\.\d+)\]", text)]
    numbers = set(re.findall(r"(?<![\w.])\d[\d,]*\.\d+(?![\w.]*\d)", text))
    return numbers | {max((low, high), (-high, -low)) for low, high in pairs}


def test_every_number_is_in_a_record():
    known = {
        number
        for path in [*(ROOT / "results").glob("[!R]*.md"), ROOT / "results" / "benchmark.json"]
        for number in decimals(path.read_text(encoding="utf-8"))
    }
    for record in published("convolution_gain"):
        accuracy, n = record["test_accuracy"], record["test_images"]
        interval = wilson_interval(round(accuracy * n), n)
        known |= {f"{number:.4f}" for number in (accuracy, record["test_loss"], *interval)}
    texts = PAGES | {
        path.name: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        for path in [*ROOT.glob("*.py"), *ROOT.glob("lab/*/*.py"), *ROOT.glob("examples/*.py")]
    }
    # records that are in the history only; pilots without records
    sections = r"## (?:[^\n]*\(withdrawn\)|Experiments 6 and 7).*?(?=\n## )"
    texts["docs/plan.md"] = re.sub(sections, "", texts["docs/plan.md"], flags=re.S)
    unknown = {name: decimals(text) - known - NOT_IN_RESULTS.keys() for name, text in texts.items()}
    assert {name: numbers for name, numbers in unknown.items() if numbers} == {}


def test_the_benchmark():
    from benchmarks import run

    result = json.loads((ROOT / "results" / "benchmark.json").read_text())
    assert len(run.rounds_of(result["contest"], name=run.OURS, model="conv", precision="float32")) >= 5
    assert run.table(result) + "\n" == (ROOT / "results" / "benchmark.md").read_text()


def test_the_numbers_of_lines_are_right():
    rooms = dict(re.findall(r"^\| `(lab/\w+/)` \|.*\| ([\d,]+) \|$", PAGES["README.md"], re.M))
    assert rooms.keys() == {f"lab/{path.name}/" for path in (ROOT / "lab").iterdir() if any(path.glob("*.py"))}
    for room, n in rooms.items():
        assert int(n.replace(",", "")) == sum(len(path.read_text().splitlines()) for path in ROOT.glob(f"{room}*.py"))
    scripts = [len(path.read_text().splitlines()) for path in ROOT.glob("*.py")]
    assert f"| {min(scripts)} to {max(scripts)} |" in PAGES["README.md"]


def test_the_answer_and_its_causes_are_drawn_from_the_runs(tmp_path):
    figure = runpy.run_path(str(ROOT / "docs" / "answer.py"))["main"](tmp_path / "answer.png")
    table = (ROOT / "results" / "training_length.md").read_text()
    fair = re.search(rf"{training_length.FAIR} +\| \+([\d.]+) ", table)[1]
    _, gain, *causes = (ax.get_title() for part in figure.subfigs for ax in part.axes)
    assert gain == f"The convolution buys {fair} points"
    table = (ROOT / "results" / "why_it_helps.md").read_text()
    farther = re.search(r"dilation 8 - dilation 1 +\| +([+-][\d.]+) ", table)[1]
    assert causes[0].endswith(f" {farther} points")
    least, most = (re.search(rf"conv - local, moved by up to {n} pixels +\| +([+-][\d.]+) ", table)[1] for n in (0, 4))
    assert causes[2] == f"Sharing buys {least} points,\nwhere garments move {most}"
    assert len(causes) == 3
    assert (tmp_path / "answer.png").stat().st_size > 50_000


def test_every_link_into_the_repository_leads_somewhere():
    for name, text in PAGES.items():
        for target, heading in re.findall(r"\]\((?!http|#)([^)#]+)#?([^)]*)\)", text):
            page = (ROOT / name).parent.joinpath(target)
            assert page.exists(), target
            if heading:
                found = re.search(rf"^#+ {heading.replace('-', ' ')}$", page.read_text(encoding="utf-8"), re.M | re.I)
                assert found, f"{target}#{heading}"
