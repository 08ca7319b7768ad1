from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import minari as minari_package
import numpy as np
import pytest

from envs.data.trajectories import Episode
from envs.errors import UserError
from envs.sources import minari
from envs.sources.download import http as download_module
from envs.sources.download import hub as hub_module
from envs.sources.minari.remote import download, list_remote
from tests.support.hub import ORGANISATION, Hub
from tests.support.loopback import Answer, Fault, running
from tests.support.toys import register

ROOT = Path(__file__).parents[3]
ID, SMALL, ALONE = "toy/walk/medium-v0", "toy/walk/medium-v1", "alone-v3"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three data sets as a hub has them; ID is of 4 MB, so that there is a middle."""
    folder = tmp_path_factory.mktemp("served")
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(folder))
        for dataset_id, steps in ((ID, 25_000), (SMALL, 50), (ALONE, 50)):
            episodes = [
                Episode(
                    rng.normal(size=(steps + 1, 3)),
                    rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
                    rng.normal(size=steps),
                    terminated=True,
                )
                for _ in range(4)
            ]
            minari.write(dataset_id, episodes, env=register(), description="a test's")
    return folder


@pytest.fixture
def hub(served: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running(Hub(served)) as server:
        assert isinstance(server, Hub)
        monkeypatch.setenv("HF_ENDPOINT", server.url())
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setenv("HF_HOME", str(Path.cwd() / "none"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.delenv("MINARI_REMOTE", raising=False)
        monkeypatch.setattr(download_module, "_PAUSES", (0.01, 0.01, 0.01))
        yield server


@pytest.fixture
def own(hub: Hub, tmp_path: Path) -> Path:
    """A copy of what the hub serves, to be changed."""
    hub.root = Path(shutil.copytree(hub.root, tmp_path / "own"))
    return hub.root


def child(code: str) -> subprocess.Popen[str]:
    """Run code in another process, which heeds Ctrl-C even where this one was told not to."""
    head = (
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from envs.sources.minari.remote import download\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", head + code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def assert_same(made: Path, served: Path, dataset_id: str) -> None:
    files = [
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (made / dataset_id, served / dataset_id)
    ]
    assert files[0] == files[1]


def test_the_remote_is_listed(hub: Hub) -> None:
    assert list_remote() == [ALONE, ID, SMALL]


@pytest.mark.parametrize("dataset_id", [ID, ALONE])
def test_a_data_set_is_downloaded_once(hub: Hub, minari_folder: Path, dataset_id: str) -> None:
    download(dataset_id, progress=False)
    assert_same(minari_folder, hub.root, dataset_id)
    requests = len(hub.log)
    download(dataset_id, progress=False)
    assert len(hub.log) == requests
    assert minari.list_ids() == [dataset_id]
    assert list(minari_package.list_local_datasets()) == [dataset_id]
    assert minari_package.load_dataset(dataset_id).total_episodes == 4
    assert not list(minari_folder.glob(".download-*"))


def test_minari_itself_finds_the_same_on_this_hub(
    hub: Hub, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("huggingface_hub")
    shutil.rmtree(own / ALONE)  # Minari 0.5.4 stumbles over one without a namespace
    assert list_remote() == [ID, SMALL]
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "theirs"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    process = child(
        "import minari\n"
        "print(sorted(minari.list_remote_datasets()))\n"
        f"minari.download_dataset({SMALL!r})\n"
    )
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert str([ID, SMALL]) in output
    for kind in ("data/metadata.json", "data/main_data.hdf5"):
        theirs = tmp_path / "theirs" / SMALL / kind
        assert theirs.read_bytes() == (hub.root / SMALL / kind).read_bytes()


def part_of(folder: Path) -> Path:
    return folder / f".download-{ID.replace('/', '.')}" / "data" / ".main_data.hdf5.part"


def kill_in_mid_file(hub: Hub, folder: Path, how: signal.Signals = signal.SIGKILL) -> int:
    """End a process that has at least one of four MB, and return how many bytes it left."""
    hub.pause = 0.03
    process = child(f"download({ID!r}, progress=False)")
    until, part = time.monotonic() + 300, part_of(folder)
    while not part.is_file() or part.stat().st_size < 1 << 20:
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    process.send_signal(how)
    process.communicate(timeout=300)
    assert process.returncode == -how
    hub.pause = 0.0
    return part.stat().st_size


def test_after_a_kill_in_mid_file_only_the_rest_is_sent(hub: Hub, minari_folder: Path) -> None:
    hub.tags = False  # the checksum is enough to go on
    left = kill_in_mid_file(hub, minari_folder)
    assert not minari.exists(ID)
    assert minari.list_ids() == []
    assert minari_package.list_local_datasets() == {}
    hub.log.clear()
    download(ID, progress=False)
    assert_same(minari_folder, hub.root, ID)
    size = (hub.root / ID / "data" / "main_data.hdf5").stat().st_size
    assert 1 << 20 <= left < size
    assert hub.sent("/cdn/") == [size - left]


def test_ctrl_c_ends_it_at_once_and_keeps_what_has_come(hub: Hub, minari_folder: Path) -> None:
    left = kill_in_mid_file(hub, minari_folder, signal.SIGINT)
    size = (hub.root / ID / "data" / "main_data.hdf5").stat().st_size
    assert left < size
    hub.log.clear()
    download(ID, progress=False)
    assert hub.sent("/cdn/") == [size - left]


def test_a_data_set_that_changed_after_a_kill_is_downloaded_anew(
    hub: Hub, own: Path, minari_folder: Path
) -> None:
    kill_in_mid_file(hub, minari_folder)
    shutil.copy(own / SMALL / "data" / "main_data.hdf5", own / ID / "data" / "main_data.hdf5")
    download(ID, progress=False)
    assert_same(minari_folder, own, ID)


def test_a_process_killed_before_the_name_left_all_that_is_needed(
    hub: Hub, minari_folder: Path
) -> None:
    process = child(
        f"import os\nos.rename = lambda *_: os.kill(os.getpid(), 9)\ndownload({ID!r})\n"
    )
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    assert minari.list_ids() == []
    assert minari_package.list_local_datasets() == {}
    hub.log.clear()
    download(ID, progress=False)
    assert_same(minari_folder, hub.root, ID)
    assert [request.path.split("?")[0] for request in hub.log] == [
        f"/api/datasets/{ORGANISATION}/toy"
    ]


def test_of_two_processes_one_downloads(hub: Hub, minari_folder: Path) -> None:
    hub.pause = 0.01
    both = [child(f"download({ID!r}, progress=False)") for _ in range(2)]
    outputs = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert_same(minari_folder, hub.root, ID)
    assert len(hub.sent("/cdn/")) == 1


@pytest.mark.parametrize("path", ["/api/", "/cdn/"])
def test_errors_of_the_hub_pass(hub: Hub, minari_folder: Path, path: str) -> None:
    hub.faults = [Fault(path, times=2, status=500)]
    download(SMALL, progress=False)
    assert_same(minari_folder, hub.root, SMALL)


@pytest.mark.parametrize("path", ["/api/", "/cdn/"])
def test_a_hub_that_answers_500_is_named(hub: Hub, path: str) -> None:
    hub.faults = [Fault(path, status=500)]
    with pytest.raises(UserError, match=rf"{SMALL} cannot be downloaded: .*HTTP 500") as caught:
        download(SMALL, progress=False)
    assert "\n" not in str(caught.value)
    assert not minari.exists(SMALL)
    hub.faults = [Fault(status=500)]
    with pytest.raises(UserError, match="the list of data sets cannot be downloaded"):
        list_remote()


@pytest.mark.parametrize("path", ["/api/", "namespace_metadata", "/cdn/"])
def test_a_hub_that_goes_silent_ends_in_time(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(hub_module, "STALL_S", 0.2)
    hub.faults = [Fault(path, stall=0)]
    with pytest.raises(UserError, match=r"silent for 0\.2 s"):
        list_remote() if path == "namespace_metadata" else download(SMALL, progress=False)


def test_a_truncated_file_is_noticed(hub: Hub, minari_folder: Path) -> None:
    hub.faults, hub.ranges = [Fault("/cdn/", cut=1000)], False
    with pytest.raises(
        UserError, match=r"it ended after 1000 of \d+ bytes.*download will be resumed"
    ):
        download(SMALL, progress=False)
    assert minari.list_ids() == []
    hub.faults = []
    download(SMALL, progress=False)
    assert_same(minari_folder, hub.root, SMALL)


def test_a_file_with_another_content_than_the_hub_says_is_refused(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module.HubFile, "version", "0" * 40)
    with pytest.raises(UserError, match="does not have the checksum 000000000000 of the hub"):
        download(SMALL, progress=False)
    assert not minari.exists(SMALL)


@pytest.mark.usefixtures("nothing_is_collected")
@pytest.mark.parametrize("broken", ["metadata", "deep", "table", "data", "episodes", "missing"])
def test_what_is_no_data_set_is_refused_and_cleared(
    hub: Hub, own: Path, minari_folder: Path, broken: str
) -> None:
    hub.checksums = False
    metadata, data = (own / SMALL / "data" / name for name in ("metadata.json", "main_data.hdf5"))
    if broken == "metadata":
        metadata.write_text("{")
    elif broken == "deep":
        metadata.write_text("[" * 200_000)
    elif broken == "table":
        metadata.write_text("[]")
    elif broken == "data":
        data.write_bytes(data.read_bytes()[:3000])
    elif broken == "episodes":
        metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"total_episodes": 5}))
    else:
        data.unlink()
    with pytest.raises(UserError, match=f"{SMALL} on .* cannot be read as a data set"):
        download(SMALL, progress=False)
    assert [path.name for path in minari_folder.iterdir()] == [".lock-toy.walk.medium-v1"]


def test_a_data_set_of_many_files_is_downloaded(hub: Hub, own: Path, minari_folder: Path) -> None:
    data = own / "toy" / "arrow-v0" / "data"
    for episode in range(20):
        (data / str(episode)).mkdir(parents=True)
        (data / str(episode) / "part-0.arrow").write_bytes(os.urandom(1000))
    about = {"data_format": "arrow", "total_episodes": 20}
    (data / "metadata.json").write_text(json.dumps(about))
    hub.faults = [Fault("/cdn/toy/arrow-v0/data/7/", times=1, status=503)]
    download("toy/arrow-v0", progress=True)
    assert_same(minari_folder, own, "toy/arrow-v0")
    shutil.rmtree(data / "19")
    (minari_folder / "toy" / "arrow-v0").rename(minari_folder / ".download-toy.arrow-v0")
    with pytest.raises(UserError, match="19 episodes of 20"):
        download("toy/arrow-v0", progress=False)


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("toy/walk/medium-v7", r"did you mean toy/walk/medium-v1 or toy/walk/medium-v0\?"),
        ("toys/walk_medium-v0", r"did you mean toy/walk/medium-v1 or toy/walk/medium-v0\?"),
        ("quite/another-v0", "`minari list remote` shows all"),
    ],
)
def test_an_unknown_id_has_near_matches_and_leaves_no_trace(
    hub: Hub, minari_folder: Path, given: str, near: str
) -> None:
    with pytest.raises(UserError, match=rf"{given} is neither on this disk nor on .*{near}"):
        download(given, progress=False)
    assert not minari_folder.exists()


def test_a_malformed_id_asks_nobody(hub: Hub) -> None:
    with pytest.raises(UserError, match="is not a Minari id"):
        download("../secrets-v0", progress=False)
    assert hub.log == []


def test_no_network_says_what_to_do(
    hub: Hub, minari_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(UserError) as caught:
            download(SMALL, progress=False)
    assert "cannot be reached (Connection refused)" in str(caught.value)
    assert "resumed" not in str(caught.value)  # nothing has come
    assert f"run `minari download {SMALL}` on another machine" in str(caught.value)
    assert str(minari_folder / SMALL) in str(caught.value)


@pytest.mark.parametrize("remote", ["gcp://minari-datasets", "https://example.org", "hf://", "x"])
def test_another_kind_of_remote_is_refused(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, remote: str
) -> None:
    monkeypatch.setenv("MINARI_REMOTE", remote)
    with pytest.raises(UserError, match=rf"MINARI_REMOTE={remote} .*hf://ORGANISATION"):
        download(SMALL, progress=False)


def test_an_answer_without_files_is_recognised(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    for answer in ([], {"sha": "a"}, {"siblings": ["a"]}, {"siblings": {}}):
        monkeypatch.setattr(hub_module.Hub, "read_json", lambda *_, answer=answer: answer)
        with pytest.raises(UserError, match="does not say what is in toy"):
            download(SMALL, progress=False)


def test_a_login_page_instead_of_an_answer_is_recognised(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.faults = [Fault("/api/", status=203)]
    with pytest.raises(UserError, match="something other than JSON; check that the network"):
        download(SMALL, progress=False)


@pytest.mark.usefixtures("nothing_is_collected")
def test_an_answer_that_nests_without_end_is_recognised(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "answer", lambda _: Answer(b"[" * 200_000))
    with pytest.raises(UserError, match="something other than JSON"):
        download(SMALL, progress=False)


@pytest.mark.parametrize("sizes", [True, False])
def test_an_answer_without_end_is_not_taken(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, sizes: bool
) -> None:
    hub.sizes = sizes
    monkeypatch.setattr(hub_module, "LARGEST_ANSWER", 1000)
    monkeypatch.setattr(hub, "answer", lambda _: Answer(b"[" * 2000))
    with pytest.raises(UserError, match="sends more than 1,000 bytes"):
        download(SMALL, progress=False)


@pytest.mark.parametrize("stored", [False, True])
def test_a_token_goes_to_the_hub_alone(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    if stored:
        (tmp_path / "token").write_text("hf_secret\n")
        monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    else:
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
    download(SMALL, progress=False)
    for request in hub.log:
        expected = None if request.path.startswith("/cdn/") else "Bearer hf_secret"
        assert request.headers.get("Authorization") == expected


def test_a_hub_cannot_write_outside_of_the_folder(
    hub: Hub, minari_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "_files", lambda *_: ["walk/medium-v1/data/../../../../../evil.hdf5"])
    monkeypatch.setattr(hub, "_sibling", lambda _, file: {"rfilename": file})
    with pytest.raises(UserError, match=r"evil\.hdf5; do not use it"):
        download(SMALL, progress=False)


def test_a_folder_in_the_way_is_named(hub: Hub, minari_folder: Path) -> None:
    (minari_folder / SMALL / "video").mkdir(parents=True)
    with pytest.raises(UserError, match="exists already"):
        download(SMALL, progress=False)


def test_a_folder_that_cannot_be_written_is_named(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "file"))
    with pytest.raises(UserError, match="point MINARI_DATASETS_PATH to a folder"):
        download(SMALL, progress=False)
    assert hub.sent("/cdn/") == []


def test_a_lack_of_space_is_said(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(UserError, match=r"cannot write .* \(No space left on device\)"):
        download(SMALL, progress=False)
