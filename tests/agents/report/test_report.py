"""Statistics of several runs, and a report as JSON, text, figures and one HTML page."""

from __future__ import annotations

import dataclasses
import json
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure

from agents.evaluation.checkpoints import Checkpoint
from agents.evaluation.compare import Line
from agents.evaluation.result import Result, merge_runs
from agents.evaluation.spec import EvalSpec
from agents.report import page as html
from agents.report import plots, rows, table, write
from envs.scoring import references, statistics
from envs.scoring.protocol import score_protocol
from tests.support.models import tiny_model


def result(target=3.0, returns=(1.0, 2.0, 3.0, 4.0), **more):
    values = np.asarray(returns, np.float64)
    return Result(target, values, np.arange(1, len(values) + 1), **more)


HOPPER = score_protocol(data="a/b-v0", env="Hopper-v5", targets=[1], episodes=4, seeds=[0])


def line(tmp_path, name="last", data="a/<b>-v0", setting="", own=None, **more):
    metadata = {"data": data, "env_id": "Hopper-v5", "env_kwargs": {}}
    member = Checkpoint("last", tmp_path / "run-a", tiny_model(), metadata, {"seed": 3})
    results = [result(1.0, **more), result(3.0, **more)]
    protocol = score_protocol(
        data=data, env="Hopper-v5", targets=[1, 3], episodes=4, seeds=[10], own=own
    )
    protocol |= {"runs": ["run-a"]}
    return Line(name, setting, (member,), EvalSpec(), results, protocol, np.array([0.0, 2.0, 5.0]))


LONG = ["minrnn/halfcheetah/medium-replay-v0", "minrnn/walker2d/medium-replay-v0"]


def lines_of_two_data_sets(tmp_path, **more):
    """Return lines as compare names them."""
    lines = []
    for data in LONG:
        setting = f"{data} mingru,attention,mingru"
        for name in ("best carry", "best window"):
            lines.append(line(tmp_path, f"{setting} {name}", data, setting, **more))
    return lines


def test_pooled_runs_lie_end_to_end():
    success = np.array([True, False, True, True])
    one, two = result(success=success), result(returns=(5.0, 6.0, 7.0, 8.0), success=~success)
    pooled = merge_runs([one, two])
    assert pooled.num_runs == 2
    assert pooled.returns.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert pooled.by_run(pooled.returns)[1].tolist() == [5, 6, 7, 8]
    assert pooled.success_rate == 0.5
    assert pooled.terminated is None


def test_an_interval_over_runs_is_as_wide_as_their_difference():
    # Two runs whose episodes are all alike: what differs is the run.
    pooled = merge_runs([result(returns=[0.0] * 50), result(returns=[10.0] * 50)])
    assert pooled.mean_interval == (0.0, 10.0)
    alone = result(returns=[0.0, 10.0] * 50)
    low, high = alone.mean_interval
    assert 3 < low < 5 < high < 7
    success = np.repeat([True, False], 50)
    both = merge_runs([result(success=success[:4]), result(success=success[-4:])])
    assert both.success_interval == (0.0, 1.0)


def test_row_statistics_are_those_of_single_rows():
    values = np.random.default_rng(0).normal(size=(5, 11))
    assert statistics.row_iqms(values) == pytest.approx([statistics.iqm(row) for row in values])
    assert statistics.row_means(values) == pytest.approx([row.mean() for row in values])


def test_a_row_has_raw_and_normalised_statistics_and_every_episode():
    row = rows.row(result(), HOPPER)
    assert (row["mean"], row["iqm"], row["min"], row["max"]) == (2.5, 2.5, 1.0, 4.0)
    assert row["score"] == pytest.approx(references.normalized(2.5, "Hopper-v5"))
    low, high = row["score_interval_95"]
    assert low < row["score"] < high
    assert row["returns"] == [1, 2, 3, 4]
    assert row["lengths"] == [1, 2, 3, 4]
    unknown = {"reference_min": None, "reference_max": None}
    assert rows.row(result(), unknown)["score_iqm_interval_95"] is None
    pooled = merge_runs([result(), result(returns=[5.0, 6.0, 7.0, 8.0])])
    assert rows.row(pooled, HOPPER)["mean_of_each_run"] == [2.5, 6.5]


def test_best_median_and_worst():
    assert rows.best_median_worst([5.0, 1.0, 9.0, 7.0]) == {"best": 2, "median": 0, "worst": 1}
    assert rows.best_median_worst([4.0]) == {"best": 0, "median": 0, "worst": 0}


def test_small_returns_are_written_finer():
    assert table.number_format([0.25, 1.0])(0.25) == "0.25"
    assert table.number_format([0.25, -1000.0])(0.25) == "0.2"
    assert table.number_format([2.5e-9, -1e-8])(2.5e-9) == "2.5e-09"
    assert table.number_format([0.0, 0.0])(0.0) == "0.00"


class Page(HTMLParser):
    """Note what a page links to, and whether its elements are closed in order."""

    VOID = ("meta", "link", "img", "source", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.words = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        names = ("src", "href", "srcset", "poster")
        self.links += [value for name, value in attrs if name in names]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("published")
    lines = [line(tmp_path), line(tmp_path, "best", success=np.array([True, True, False, True]))]
    (tmp_path / "run-a").mkdir()
    metrics = [{"update": u, "train/loss": 1 / u, "eval/return_asked_3": u} for u in (1, 2, 3)]
    text = "\n".join(json.dumps(row) for row in metrics)
    (tmp_path / "run-a" / "metrics.jsonl").write_text(text)
    entries = write.write_report(
        lines, tmp_path / "out", seconds={"last": np.full(9, 1e-4)}, videos={}, format="pdf"
    )
    return tmp_path / "out", entries


def test_a_report_is_json_figures_tensorboard_and_a_page(published):
    folder, entries = published
    assert json.loads((folder / "report.json").read_text()) == entries
    assert entries["step_microseconds"]["last"]["median"] == pytest.approx(100)
    for name in ("calibration", "returns", "curve", "latency"):
        assert (folder / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert len(list((folder / "tensorboard" / "report").iterdir())) == 1
    assert "over the episodes of one run" in entries["protocols"]["last"]["intervals"]


def test_the_json_has_what_figures_are_drawn_from(published):
    _, entries = published
    assert entries["data"] == {"a/<b>-v0": {"episodes": 3, "returns": [0.0, 2.0, 5.0]}}
    curve = entries["step_microseconds"]["last"]["curve"]
    assert curve["step"] == [i + 0.5 for i in range(9)]
    for name in ("10 %", "median", "90 %"):
        assert curve[name] == pytest.approx([100.0] * 9)


def test_the_json_of_large_data_has_quantiles(tmp_path):
    large = dataclasses.replace(line(tmp_path), data=np.arange(30_001.0)[::-1])
    (data,) = write.as_json([large], {}, {})["data"].values()
    assert data["episodes"] == 30_001
    assert data["returns"] == pytest.approx([3.0 * i for i in range(10_001)])


def test_figures_of_the_report_before_are_deleted_and_nothing_else(tmp_path, monkeypatch):
    def publish(names, format):
        drawn = {name: ("", lambda theme: Figure()) for name in names}
        monkeypatch.setattr(write, "figures", lambda lines, seconds: drawn)
        write.write_report([line(tmp_path)], folder, seconds={}, videos={}, format=format)

    folder = tmp_path / "out"
    publish(["returns-1", "returns-2", "latency"], "png")
    for mine in ("mine.png", "returns-3.png"):
        (folder / "figures" / mine).write_text("kept")
    write.write_results([line(tmp_path)], folder)  # before there are figures
    publish(["returns", "latency"], "png")
    kept = {"mine.png", "returns-3.png"}
    there = {path.name for path in (folder / "figures").iterdir()}
    assert there == kept | {"returns.png", "latency.png"}
    publish(["returns"], "pdf")
    there = {path.name for path in (folder / "figures").iterdir()}
    assert there == kept | {"returns.pdf"}


@pytest.mark.parametrize("content", ["", "[]", "3", '{"figures": ["../kept.png", "kept.png", 3]}'])
def test_a_report_that_is_not_ours_deletes_nothing(tmp_path, monkeypatch, content):
    folder = tmp_path / "out"
    (folder / "figures").mkdir(parents=True)
    kept = [tmp_path / "kept.png", folder / "kept.png"]
    for path in kept:
        path.write_text("")
    (folder / "report.json").write_text(content)
    monkeypatch.setattr(write, "figures", lambda lines, seconds: {})
    write.write_report([line(tmp_path)], folder, seconds={}, videos={})
    assert all(path.exists() for path in kept)


def test_the_table_fits_a_terminal_whatever_the_names(tmp_path):
    returns = (-15500.5, -11672.8, -13586.6, -13586.6)
    lines = lines_of_two_data_sets(tmp_path, returns=returns)
    printed = table.text(write.as_json(lines, {}, {}))
    assert max(map(len, printed.splitlines())) <= 100
    assert "halfcheetah mingru,attention,mingru best carry" in printed
    assert "-13586.6  [-15500.5, -11672.8]" in printed
    assert printed.count(LONG[0]) == 1  # in the protocol, once for the lines that have it
    beside = table.text(write.as_json([line(tmp_path, returns=returns)], {}, {}))
    assert "last          1.0  -13586.6  [" in beside


def test_the_page_needs_nothing_from_elsewhere(published):
    folder, _ = published
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert "script" not in page.tags
    assert len(page.links) == 1 + 2 * 4  # an icon; each figure on white and on dark
    assert all(link.startswith("data:") for link in page.links)
    words = " ".join(page.words)
    assert "a/<b>-v0" in words  # escaped, and read back
    for name in ("IQM", "success %", "run-a, 13", "reference source"):
        assert name in words


def test_every_name_is_escaped_on_the_page(tmp_path):
    evil = "<script>x</script>\"'"
    one = line(tmp_path, f"{evil} last", evil, failures={1: f"seed 11: {evil}"})
    one = dataclasses.replace(one, protocol=one.protocol | {"runs": [evil], evil: evil})
    video = html.Video(evil, 3.0, evil, 12, 1.0, 100, b"mp4", b"jpeg")
    entries = write.as_json([one, line(tmp_path, "best")], {}, {})
    figures = {"curve": (evil, b"<svg>", b"<svg>")}
    text = html.page(evil, entries, figures, {one.name: [video]})
    page = Page(text)
    assert "script" not in page.tags
    assert page.open == []
    assert " ".join(page.words).count(evil) >= 10
    assert "default-src 'none'; img-src data:; media-src data:; style-src" in text


def test_a_page_has_its_videos(tmp_path):
    video = html.Video("best", 3.0, "run-a", 12, 12345.678, 100, b"mp4", b"jpeg")
    (row,) = write.as_json([line(tmp_path, returns=[12345.678])], {}, {})["results"].values()
    entries = {"protocols": {"last": HOPPER | {"runs": ["run-a"]}}, "results": {"last": row}}
    page = Page(html.page("title", entries, {}, {"last": [video]}))
    assert page.tags.count("video") == 1
    assert "best: return 12345.7, 100 steps; run-a, seed 12" in page.words
    assert "Episodes of last, asked 3.0" in page.words


def test_a_page_says_whose_score_it_is(tmp_path):
    own = (0.0, 10.0, "its own")
    lines = [line(tmp_path, "x last", "x"), line(tmp_path, "y last", "y", own=own)]
    for shown in (lines[1:], lines):
        entries = write.as_json(shown, {}, {})
        words = " ".join(Page(html.page("title", entries, {}, {})).words)
        assert "the data set itself names" in words
        assert ("0 random, 100 expert" in words) is (len(shown) == 2)
        assert "{" not in words.split("Returns", 1)[1]
    assert "x: Score: D4RL" in " ".join(words.split())


def test_each_interval_is_computed_once_for_a_whole_report(tmp_path, monkeypatch):
    computed = []
    interval = statistics.nested_interval

    def counted(values, statistic):
        computed.append(statistic)
        return interval(values, statistic)

    monkeypatch.setattr(statistics, "nested_interval", counted)
    lines = [line(tmp_path), line(tmp_path, "best")]
    for place in (1, 2):  # after each line, as evaluate.py does
        write.write_results(lines[:place], tmp_path / "out")
    write.write_report(lines, tmp_path / "out", seconds={}, videos={})
    assert len(computed) == 2 * 2 * 2  # lines, targets, mean and IQM


@pytest.mark.parametrize("name", ["last", "horizon"])
def test_arguments_of_an_environment_that_are_called_like_a_line_stay_what_they_are(tmp_path, name):
    one = line(tmp_path, name)
    one = dataclasses.replace(one, protocol=one.protocol | {"env_kwargs": {name: 5}})
    entries = write.as_json([one], {}, {})
    assert entries["protocols"][name]["env_kwargs"] == {name: 5}
    assert f"env kwargs        {name}=5\n" in table.text(entries)
    words = Page(html.page("title", entries, {}, {})).words
    assert words[words.index("env kwargs") + 1] == f"{name}=5"


def draw(tmp_path, theme=plots.LIGHT):
    lines = [line(tmp_path)]
    seconds = {"carry": np.full(50, 1e-4), "window": np.full(50, 1e-3)}
    drawn = write.figures(lines, seconds)
    return {name: make(theme) for name, (_, make) in drawn.items()}


def test_figures_are_the_same_bytes_each_time_and_dark_on_demand(tmp_path):
    first, second = draw(tmp_path), draw(tmp_path)
    dark = draw(tmp_path, plots.DARK)
    assert set(first) == {"calibration", "returns", "latency"}  # no metrics: no curve
    for name, figure in first.items():
        light = plots.render(figure, format="svg")
        assert light == plots.render(second[name], format="svg")
        assert plots.DARK["figure.facecolor"].encode() not in light
        assert plots.DARK["figure.facecolor"].encode() in plots.render(
            dark[name], plots.DARK, "svg"
        )


def test_figures_do_without_the_data():
    results = {"last": [result(1.0), result(3.0)], "best": [result(2.0)]}
    assert len(plots.returns(results, None, "t").axes) == 3
    assert len(plots.calibration(results, None, "t").axes) == 1


def test_the_datas_histogram_is_of_shares_as_the_others_are():
    figure = plots.returns({"last": [result(1.0)]}, np.array([0.0, 2.0, 2.0, 5.0]), "t")
    (axes,) = figure.axes  # none of them with a scale of its own
    for bars in axes.containers:
        assert sum(bar.get_height() for bar in bars) == pytest.approx(1)
    assert len(axes.containers) == 2


def test_the_legend_has_the_lines_of_every_panel():
    results = {"last": [result(1.0), result(3.0)], "best": [result(3.0)]}
    (legend,) = plots.returns(results, None, "t").legends
    assert [text.get_text() for text in legend.get_texts()] == ["last", "best"]


def test_settings_of_several_data_sets_have_figures_of_their_own_that_are_legible(tmp_path):
    (tmp_path / "run-a").mkdir()
    row = {"update": 1, "train/loss": 1.0, "eval/return_asked_3": 2.0}
    (tmp_path / "run-a" / "metrics.jsonl").write_text(json.dumps(row))
    lines = lines_of_two_data_sets(tmp_path)
    drawn = write.figures(lines, {line.name: np.full(9, 1e-4) for line in lines})
    figures = {name: make(plots.LIGHT) for name, (_, make) in drawn.items()}
    assert set(figures) == {
        *("calibration-1", "returns-1", "curve-1", "calibration-2", "returns-2", "curve-2"),
        "latency",
    }
    for name, figure in figures.items():
        plots.render(figure)
        assert figure.axes[0].bbox.width > 0.4 * figure.bbox.width / (3 if "ret" in name else 1)
        for legend in figure.legends:
            box = legend.get_window_extent()
            assert 0 <= box.x0 < box.x1 <= figure.bbox.width, name
            assert LONG[0] not in " ".join(text.get_text() for text in legend.get_texts())


def test_curves_have_the_mean_over_the_updates_of_all_runs():
    short = [{"update": u, "eval/return_asked_3": 2.0 * u, "train/loss": 1.0} for u in (1, 2)]
    long = [{"update": u, "eval/return_asked_3": 4.0 * u, "train/loss": 1.0} for u in (1, 2, 3)]
    figure = plots.curves({"a": [short, long], "b": [[]]}, 9.0, "t")
    thick = [drawn for drawn in figure.axes[1].get_lines() if drawn.get_linewidth() > 1]
    (mean,) = thick
    assert mean.get_xdata().tolist() == [1, 2]
    assert mean.get_ydata().tolist() == [3.0, 6.0]
