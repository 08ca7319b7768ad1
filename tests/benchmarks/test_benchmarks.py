"""The commands that time, on tiny sizes: they run with and without peers, and end with JSON."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from benchmarks import timing
from benchmarks.timing import interleaved, parse_shape

PEERS = ("accelerated_scan", "envpool", "minGRU_pytorch", "transformers")
SCAN = [
    *("--quick", "--shapes", "2x8x4", "--accuracy-shape", "1x32x4"),
    *("--lengths", "4", "16", "--width", "4"),
]
TRAIN = ["--quick", "--shapes", "2x4", "--dim", "8", "--num-layers", "1"]


def run(checkout, command, *flags, peers=False):
    hidden = () if peers else PEERS
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({hidden!r}))\n"
        f"from benchmarks.{command} import main; main({[*map(str, flags)]!r})"
    )
    return subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=False
    )


def report(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_scan_measures_every_backend_without_peers(checkout, tmp_path):
    from minrnn.scan import backends

    done = run(checkout, "scan", *SCAN, "--json", tmp_path / "scan.json")
    found = report(done)
    assert json.loads((tmp_path / "scan.json").read_text()) == found
    names = {row["name"] for row in found["speed"] if row["gates"] == "mingru"}
    assert names == {"Python loop", *(f"minrnn, {name}" for name in backends())}
    assert "pip install mingru-pytorch" in done.stdout
    assert all(row["ms"] > 0 and row["times_floor"] > 0 for row in found["speed"])
    assert all(max(row["output"], row["gradient"]) < 1e-6 for row in found["accuracy"])
    assert {row["name"].split(",")[0] for row in found["layers"]} > {"minrnn.MinGRU", "nn.GRU"}
    ours = [row for row in found["saved"] if row["name"].startswith("minrnn")]
    assert all(row["bytes_per_element"] <= 4 for row in ours)


def test_scan_takes_the_parts_asked_for(checkout):
    found = report(run(checkout, "scan", *SCAN, "--parts", "saved", "--no-peers"))
    assert "saved" in found
    assert "speed" not in found


def test_train_step_measures_ours_without_the_peer(checkout):
    done = run(checkout, "train_step", *TRAIN)
    found = report(done)
    assert "pip install transformers" in done.stdout
    assert len(found["steps"]) == 6
    assert not found["aims"]


@pytest.mark.parametrize(
    ("command", "flags", "peer", "name"),
    [
        ("scan", SCAN, "minGRU_pytorch", "mingru-pytorch"),
        ("scan", SCAN, "accelerated_scan", "accelerated-scan, ref"),
        ("train_step", TRAIN, "transformers", "DT, sdpa, float32"),
    ],
)
def test_an_installed_peer_is_measured(checkout, command, flags, peer, name):
    pytest.importorskip(peer)
    found = report(run(checkout, command, *flags, peers=True))
    rows = found["speed"] if command == "scan" else found["steps"]
    assert name in {row["name"] for row in rows}


def test_backbones_costs_are_measured_and_drawn(checkout, tmp_path):
    flags = ["--quick", "--backbones", "mingru", "gru", "--lengths", "16", "--times", "2", "5"]
    done = run(checkout, "backbones", *flags, "--plot", tmp_path / "costs.png")
    found = report(done)
    assert (tmp_path / "costs.png").read_bytes()[1:4] == b"PNG"
    sizes = {row["name"]: row["parameters"] for row in found["sizes"]}
    assert sizes["gru"] == pytest.approx(sizes["mingru"], rel=0.1)
    assert len(found["training"]) == 2
    assert all(row["kept_bytes_per_step"] > 0 for row in found["training"])
    assert [row["time"] for row in found["acting"] if row["name"] == "gru"] == [2, 5, 2]


def test_the_widths_give_every_backbone_as_many_parameters():
    from benchmarks.backbones import WIDTHS, build
    from minrnn.cells import __all__ as cells

    sizes = {name: sum(p.numel() for p in build(name).parameters()) for name in WIDTHS}
    assert len(sizes) == len(cells)
    for name, size in sizes.items():
        assert size == pytest.approx(sizes["mingru"], rel=0.1), name


def test_scores_of_backbones_are_those_of_their_runs(checkout, tmp_path):
    row = {"target": 3000.0, "mean": 2800.0, "score": 87.0, "std": 1.0}
    folder = tmp_path / "gru-seed1"
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps({"results": {"last": [row]}}))
    flags = ["--no-run", "--no-time", "--out", tmp_path, "--env", "minrnn/hopper/expert-v0"]
    code = "envs.sources.load = lambda _: types.SimpleNamespace(returns=numpy.array([1.0, 4000.0]))"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import numpy, types, envs.sources\n{code}\n"
            f"from benchmarks.backbone_scores import main; main({[*map(str, flags)]!r})",
        ],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    found = report(done)
    assert [(r["name"], r["seed"], r["score"]) for r in found["runs"]] == [("gru", 1, 87.0)]
    assert found["runs"][0]["calibration_error"] == pytest.approx(0.05)
    assert "| gru | 104 |" in done.stdout


def test_the_profile_names_operators(checkout):
    found = report(run(checkout, "train_step", *TRAIN, "--profile"))
    for rows in found["profile"].values():
        assert any(row["name"].startswith("aten::") for row in rows)


def test_a_wrong_shape_is_one_line(checkout):
    done = run(checkout, "scan", "--shapes", "2x8")
    assert done.returncode == 1
    assert done.stderr.strip() == "error: '2x8' is not a shape: write BxTxD in numbers"


def test_parse_shape_reads_numbers():
    assert parse_shape("64x60x256", "B x T x D") == (64, 60, 256)


def test_slow_cases_take_fewer_calls_and_none_fewer_than_three(monkeypatch):
    monkeypatch.setattr(timing, "_clock", lambda case: case())
    cases = {"fast": lambda: (1e-4, 1e-4), "slow": lambda: (0.06, 0.06)}
    found = interleaved(cases, 0.08, "test")
    assert found["slow"].calls == 3
    assert found["fast"].calls == 100
    assert found["slow"].low == found["slow"].ms == found["slow"].high == pytest.approx(60)


def test_time_without_a_core_is_told_apart():
    found = interleaved({"asleep": lambda: time.sleep(0.01)}, 0.01, "test")
    assert found["asleep"].waited > 0.9


MEMORY = ["--quick", "--copying.length", "12", "--copying.test-lengths", "12", "--copying.dim", "8"]
MEMORY += ["--parity.length", "5", "--parity.test-lengths", "5", "9", "--parity.dim", "8"]


def test_memory_tasks_are_learnt_once(checkout, tmp_path, capsys):
    from benchmarks.memory_tasks import main

    folder, figure = tmp_path / "runs", tmp_path / "figure.png"
    flags = [*MEMORY, "--out", str(folder), "--models", "minGRU"]
    first = report(run(checkout, "memory_tasks", *flags, "--figure", figure))
    assert {row["task"] for row in first["runs"]} == {"copying", "parity"}
    assert {row["layers"] for row in first["runs"]} == {1, 2, 3}
    assert len(list(folder.iterdir())) == len(first["runs"])
    assert figure.stat().st_size > 10_000
    main(flags)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == first  # its seconds, too
    with pytest.raises(SystemExit, match="give another --out"):
        main([*flags, "--copying.conv", "4"])


def test_memory_tasks_ask_for_what_was_shown():
    from benchmarks.memory_data import Parity, SelectiveCopying

    generator = torch.Generator().manual_seed(0)
    tokens, answers = SelectiveCopying(tokens=3).sample(50, 7, generator)
    shown = tokens[:, :7]
    assert (shown[shown > 0].reshape(50, 3) == answers).all()
    assert (tokens[:, 7:] == 15).all()
    assert set(answers.unique().tolist()) <= set(range(1, 15))
    bits, parities = Parity().sample(50, 9, generator)
    assert (parities[:, 8] == bits.sum(1) % 2).all()
    assert (parities[:, 0] == bits[:, 0]).all()


def test_data_measures_loads_and_batches_without_peers(checkout, tmp_path):
    flags = ["--quick", "--steps", "20000", "--lengths", "5", "--seconds", "0.1", "--no-peers"]
    found = report(run(checkout, "data", *flags, "--folder", tmp_path))
    names = [row["name"] for row in found["loads"]]
    assert len(names) == 5
    assert all(name.startswith("minrnn") for name in names)
    assert all(row["seconds"] > 0 and row["first_batch"] > 0 for row in found["loads"])
    assert all(row["rate"] > 0 for row in found["sampling"])
    assert list(tmp_path.iterdir()) == []


def test_peers_load_the_data_that_we_load(tmp_path, monkeypatch):
    from benchmarks import data_files, data_peers
    from envs.sources import d4rl, minari

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    data_files.write_minari(tmp_path, "bench/a-v0", 3, 40)
    data_files.write_d4rl(tmp_path / "a.hdf5", 60, 40)
    ours = minari.read("bench/a-v0")
    theirs = data_peers.minari_episodes("bench/a-v0")
    assert ours.lengths.tolist() == [len(episode) for episode in theirs] == [40] * 3
    for i, episode in enumerate(theirs):
        np.testing.assert_array_equal(ours.episode(i).obs, episode.observations.astype("f4"))
    ours = d4rl.read_file(tmp_path / "a.hdf5", name="a", env=data_files.ENV_ID)
    theirs = data_peers.step_by_step(tmp_path / "a.hdf5")
    assert ours.num_episodes == len(theirs) == 60
    for name, label in (("obs", "observations"), ("action", "actions"), ("reward", "rewards")):
        stacked = np.concatenate([episode[label] for episode in theirs])
        np.testing.assert_array_equal(getattr(ours, name), stacked)
    to_go = np.concatenate([episode["returns"] for episode in theirs])
    np.testing.assert_allclose(ours.returns_to_go(), to_go, rtol=1e-4, atol=1e-4)
    batch = next(data_peers.windows(theirs, 10, 8))
    assert [tuple(part.shape) for part in batch] == [
        *((8, 10, 17), (8, 10, 6), (8, 10), (8, 10), (8, 10))
    ]


def test_acting_measures_steps_and_closed_loops(checkout):
    small = ["--quick", "--dim", "16", "--num-layers", "1", "--episodes", "2", "--batches", "1"]
    parts = ["--parts", "steps", "late", "loops", "--engines", "eager"]
    done = run(checkout, "acting", *small, *parts)
    found = report(done)
    assert [(s["engine"], s["tokens"]) for s in found["steps"]] == [
        ("eager", "fused"),
        ("eager", "interleaved"),
    ]
    assert "left out: transformers" in done.stdout
    assert found["late"]["ratio"] > 0
    for world in ("Hopper-v5", "HalfCheetah-v5"):
        loop = found["loops"][world]
        assert loop["steps"] == 2000
        assert 0 < loop["physics_share"] < 1
        assert 0 < loop["rate"] < 1
        assert f"{world}: 2 episodes" in done.stdout
    assert found["processes"] is None
    aims = {row["aim"]: row for row in found["aims"]}
    assert "one environment, fused tokens, µs <=" in aims
    assert "times as fast as Decision Transformer" not in aims


def test_acting_times_envpool_where_it_is_installed(checkout):
    flags = ["--quick", "--dim", "16", "--num-layers", "1", "--parts", "pool"]
    done = run(checkout, "acting", *flags)
    assert report(done)["pool"] is None
    assert "left out: envpool" in done.stdout
    pytest.importorskip("envpool")
    found = report(run(checkout, "acting", *flags, peers=True))["pool"]
    assert [*found] == ["gymnasium", "envpool, 1 thread(s)", "envpool, 2 thread(s)"]
    assert {row["steps"] for row in found.values()} == {6000}
    assert all(row["seconds"] > 0 for row in found.values())


def test_carry_window_compares_what_is_there(checkout, tmp_path):
    folder = tmp_path / "a-b-v0"
    for name in ("mingru", "attention"):
        (folder / f"{name}-seed0").mkdir(parents=True)
        results = json.dumps({"results": {"last": [{"target": 1.0, "mean": 1.0}]}})
        (folder / f"{name}-seed0" / "results.json").write_text(results)
    for way, means in (("carried", (90.0, 40.0)), ("window-of-5", (80.0, 50.0))):
        row = {"score_interval_95": [1.0, 2.0]}
        rows = [
            {**row, "target": target, "mean": mean, "score": mean / 2}
            for target, mean in zip((100.0, 50.0), means, strict=True)
        ]
        (folder / way).mkdir()
        report = {"results": {"mingru last": rows, "attention last": rows[::-1]}}
        (folder / way / "report.json").write_text(json.dumps(report))
    flags = ["--envs", "a/b-v0", "--backbones", "mingru", "attention", "--seeds", "0"]
    done = run(checkout, "carry_window", *flags, "--windows", "5", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    cells = "45.0 (1.0 to 2.0) | 40.0 (1.0 to 2.0) | 10.0% | 10.0%"
    assert [line for line in done.stdout.splitlines() if line.startswith("| a/b")] == [
        f"| a/b-v0 | mingru | {cells} |",
        f"| a/b-v0 | attention | {cells} |",
    ]
