"""TensorBoard has the hyper-parameters and final scores of a run, in the run's own event file."""

from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from agents.loggers.base import Start
from agents.loggers.run_log import RunLog
from agents.loggers.tensorboard import TensorBoard
from configs import Config, OptimConfig

CONFIG = Config(optim=OptimConfig(lr=0.25), seed=3)


def test_the_hparams_tab_has_settings_and_scores(tmp_path):
    scores = {"last/return_asked_7": 6.5, "best/return_asked_7": float("nan")}
    with RunLog(tmp_path, CONFIG) as log:
        log.metrics(1, "train", {"loss": 1.0})
        log.scores(scores)
    assert [path.is_file() for path in (tmp_path / "tensorboard").iterdir()] == [True]
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = {
        tag: HParamsPluginData.FromString(content)
        for tag, content in board.PluginTagToContent(metadata.PLUGIN_NAME).items()
    }
    experiment = found[metadata.EXPERIMENT_TAG].experiment
    started = found[metadata.SESSION_START_INFO_TAG].session_start_info
    assert found[metadata.SESSION_END_INFO_TAG].session_end_info.status == 1  # success
    assert [info.name.tag for info in experiment.metric_infos] == list(scores)
    assert {info.name for info in experiment.hparam_infos} == set(started.hparams)
    assert started.hparams["optim.lr"].number_value == 0.25
    assert started.hparams["seed"].number_value == 3
    assert started.hparams["model.backbone"].string_value == "mingru"
    assert started.hparams["model.prev_action"].string_value == "False"
    assert "run_dir" not in started.hparams
    assert [e.value for e in board.Scalars("last/return_asked_7")] == [6.5]
    assert len(board.Scalars("best/return_asked_7")) == 1


def test_scores_come_once_after_a_kill(tmp_path):
    with RunLog(tmp_path, CONFIG) as log:
        log.metrics(1, "train", {"loss": 1.0})
        position = log.position()
        log.scores({"last/return_asked_7": 6.5})
    with RunLog(tmp_path, CONFIG, 1, position) as log:
        log.scores({"last/return_asked_7": 6.5})
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert len(board.Scalars("last/return_asked_7")) == 1


def test_figures_of_a_later_report_replace_those_of_the_one_before(tmp_path):
    for name in ("curve", "returns"):
        board = TensorBoard(Start(tmp_path, {}), name="tensorboard/report")
        board.figure(name, Figure())
        board.close()
    found = EventAccumulator(str(tmp_path / "tensorboard" / "report")).Reload()
    assert found.Tags()["images"] == ["returns"]
