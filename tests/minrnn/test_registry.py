"""Cells by name."""

import doctest
import importlib
import pkgutil

import pytest

import minrnn
from minrnn import MinGRU, available, build, register, registry


@pytest.fixture
def restored(monkeypatch):
    monkeypatch.setattr(registry, "_cells", dict(registry._cells))


def test_the_paper_s_cells_are_there():
    assert {"mingru", "minlstm"} <= set(available())
    assert isinstance(build("mingru", 4), MinGRU)


@pytest.mark.usefixtures("restored")
def test_anyone_can_register_a_cell():
    @register("mine")
    class Mine(MinGRU):
        pass

    assert "mine" in available()
    assert isinstance(build("mine", 4, expansion=2.0), Mine)


@pytest.mark.usefixtures("restored")
def test_a_name_is_not_given_twice():
    register("mingru")(MinGRU)  # the same again is harmless: modules get reloaded
    with pytest.raises(ValueError, match="is taken"):
        register("mingru")(lambda dim: MinGRU(dim))


@pytest.mark.usefixtures("restored")
def test_a_maker_that_takes_any_option_gets_them():
    register("loose")(lambda dim, **options: MinGRU(dim, **options))
    assert build("loose", 4, expansion=3.0).hidden == 12


def test_unknown_names_and_options_list_what_there_is():
    with pytest.raises(ValueError, match=r"no cell 'mingro'; did you mean 'mingru'\? \(there is"):
        build("mingro", 4)
    with pytest.raises(ValueError, match="no option 'dim'"):
        build("mingru", 4, dim=5)


def test_everything_exported_is_there():
    for name in minrnn.__all__:
        assert getattr(minrnn, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = minrnn.nothing


# Those of the hosts are run by tests/hosts/test_hosts.py, where their host is there.
MODULES = [
    m.name
    for m in pkgutil.walk_packages(minrnn.__path__, "minrnn.")
    if not m.name.startswith("minrnn.hosts.")
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("attention", "window", "twenty"),
        ("attention", "window", 20.5),
        ("attention", "num_heads", True),
        ("mingru", "expansion", "2"),
        ("mingru", "signed", 1),
    ],
)
def test_an_option_of_a_wrong_type_is_refused(name, option, value):
    with pytest.raises(ValueError, match=f"the option '{option}' of '{name}' is"):
        build(name, 4, **{option: value})


def test_what_may_be_none_or_an_int_is_taken():
    assert build("mingru", 4, expansion=2).hidden == 8
    assert build("attention", 4, num_heads=2, num_kv_heads=None).num_kv_heads == 2
