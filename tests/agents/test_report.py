"""Statistics of several runs, and a report as JSON, text, figures and one HTML page."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from tests_support import tiny_model

from agents import evaluation, html, plots, publish, report
from agents.evaluation import Result
from agents.runs import Checkpoint
from agents.sweep import Line
from envs import score


def result(target=3.0, returns=(1.0, 2.0, 3.0, 4.0), **more):
    values = np.asarray(returns, np.float64)
    return Result(target, values, np.arange(1, len(values) + 1), **more)


HOPPER = score.protocol(data="a/b-v0", env_id="Hopper-v5", targets=[1], episodes=4, seeds=[0])


def line(tmp_path, name="last", **more):
    facts = {"data": "a/<b>-v0", "env_id": "Hopper-v5", "env_kwargs": {}}
    member = Checkpoint("last", tmp_path / "run-a", tiny_model(), facts, {"seed": 3})
    results = [result(1.0, **more), result(3.0, **more)]
    protocol = score.protocol(
        data="a/<b>-v0", env_id="Hopper-v5", targets=[1, 3], episodes=4, seeds=[10]
    )
    protocol |= {"runs": ["run-a"]}
    return Line(name, "", (member,), None, results, protocol, np.array([0.0, 2.0, 5.0]))


def test_pooled_runs_lie_end_to_end():
    success = np.array([True, False, True, True])
    one, two = result(success=success), result(returns=(5.0, 6.0, 7.0, 8.0), success=~success)
    pooled = evaluation.pool([one, two])
    assert pooled.num_runs == 2
    assert pooled.returns.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert pooled.by_run(pooled.returns)[1].tolist() == [5, 6, 7, 8]
    assert pooled.success_rate == 0.5
    assert pooled.terminated is None


def test_an_interval_over_runs_is_as_wide_as_their_difference():
    # Two runs whose episodes are all alike: what differs is the run.
    pooled = evaluation.pool([result(returns=[0.0] * 50), result(returns=[10.0] * 50)])
    assert pooled.interval() == (0.0, 10.0)
    alone = result(returns=[0.0, 10.0] * 50)
    low, high = alone.interval()
    assert 3 < low < 5 < high < 7
    success = np.repeat([True, False], 50)
    both = evaluation.pool([result(success=success[:4]), result(success=success[-4:])])
    assert both.success_interval() == (0.0, 1.0)


def test_row_statistics_are_those_of_single_rows():
    values = np.random.default_rng(0).normal(size=(5, 11))
    assert score.row_iqms(values) == pytest.approx([score.iqm(row) for row in values])
    low, high = score.nested_interval(values[0], score.row_means)
    expected = score.bootstrap_interval(values[0], np.mean)
    assert (low, high) == pytest.approx(expected, abs=0.1)
    with pytest.raises(ValueError, match="no scores"):
        score.nested_interval([])


def test_a_row_has_raw_and_normalised_statistics_and_every_episode():
    row = report.row(result(), HOPPER)
    assert (row["mean"], row["iqm"], row["min"], row["max"]) == (2.5, 2.5, 1.0, 4.0)
    assert row["score"] == pytest.approx(score.normalized(2.5, "Hopper-v5"))
    low, high = row["score_interval_95"]
    assert low < row["score"] < high
    assert row["returns"] == [1, 2, 3, 4]
    assert row["lengths"] == [1, 2, 3, 4]
    unknown = {"reference_min": None, "reference_max": None}
    assert report.row(result(), unknown)["score_iqm_interval_95"] is None
    pooled = evaluation.pool([result(), result(returns=[5.0, 6.0, 7.0, 8.0])])
    assert report.row(pooled, HOPPER)["mean_of_each_run"] == [2.5, 6.5]


def test_protocols_are_merged_where_they_agree():
    merged = report.merge({"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}})
    assert merged == {"x": 1, "y": {"a": 2, "b": 3}}
    assert "y  a=2, b=3" in score.protocol_text(merged)


def test_best_median_and_worst():
    assert report.best_median_worst([5.0, 1.0, 9.0, 7.0]) == {"best": 2, "median": 0, "worst": 1}
    assert report.best_median_worst([4.0]) == {"best": 0, "median": 0, "worst": 0}


def test_small_returns_are_written_finer():
    assert report.number_format([0.25, 1.0])(0.25) == "0.25"
    assert report.number_format([0.25, -1000.0])(0.25) == "0.2"


class Page(HTMLParser):
    """Note what a page links to, and whether its elements are closed in order."""

    VOID = ("meta", "link", "img", "source")

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
    rows = [{"update": u, "train/loss": 1 / u, "eval/return_asked_3": u} for u in (1, 2, 3)]
    text = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "run-a" / "metrics.jsonl").write_text(text)
    entries = publish.publish(
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


def test_a_page_has_its_videos():
    video = html.Video("best", 3.0, "run-a", 12, 4.5, 100, b"mp4", b"jpeg")
    entries = {"protocol": {"runs": ["run-a"], "seeds": [10]}, "results": {}}
    page = Page(html.page("title", entries, {}, {"last": [video]}))
    assert page.tags.count("video") == 1
    assert "best: return 4.5, 100 steps; run-a, seed 12" in page.words


def draw(tmp_path, theme=plots.LIGHT):
    lines = [line(tmp_path)]
    seconds = {"carry": np.full(50, 1e-4), "window": np.full(50, 1e-3)}
    drawn = publish.figures(lines, seconds)
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


def test_settings_of_several_data_sets_have_figures_of_their_own(tmp_path):
    one, two = line(tmp_path), line(tmp_path, "other")
    two.members[0].facts["data"] = "c/d-v0"
    assert set(publish.figures([one, two], {})) == {
        "calibration-1",
        "calibration-2",
        "returns-1",
        "returns-2",
    }


def test_curves_have_the_mean_over_the_updates_of_all_runs():
    short = [{"update": u, "eval/return_asked_3": 2.0 * u, "train/loss": 1.0} for u in (1, 2)]
    long = [{"update": u, "eval/return_asked_3": 4.0 * u, "train/loss": 1.0} for u in (1, 2, 3)]
    figure = plots.curves({"a": [short, long], "b": [[]]}, 9.0, "t")
    thick = [drawn for drawn in figure.axes[1].get_lines() if drawn.get_linewidth() > 1]
    (mean,) = thick
    assert mean.get_xdata().tolist() == [1, 2]
    assert mean.get_ydata().tolist() == [3.0, 6.0]
