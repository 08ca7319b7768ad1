"""What all adapters have in common: lazy imports, an install line, options that are checked."""

import importlib
import subprocess
import sys
import warnings

import pytest

import minrnn
from minrnn.hosts import needs, stack_config

# The adapter, and what it imports.
HOSTS = {
    "cleanrl": "gymnasium",
    "d3rlpy": "d3rlpy",
    "gymnasium": "gymnasium",
    "rllib": "ray",
    "sb3": "sb3_contrib",
    "torchrl": "torchrl",
}


def is_there(name):
    """Tell whether an adapter can be imported: all that it needs is there, and not too old."""
    with warnings.catch_warnings():  # ray's own, at import
        warnings.simplefilter("ignore")
        try:
            importlib.import_module(f"minrnn.hosts.{name}")
        except ImportError:
            return False
    return True


@pytest.mark.parametrize("name", HOSTS)
def test_a_missing_host_is_told_with_the_line_that_installs_it(name, checkout):
    code = (
        f"import sys; sys.modules['{HOSTS[name]}'] = None\n"
        f"try:\n    import minrnn.hosts.{name}\n"
        "except ImportError as error:\n"
        f"    assert 'pip install \"minrnn[{name}]\"' in str(error), error\n"
        "else:\n    raise SystemExit('it was imported')\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=checkout, check=True)


@pytest.mark.parametrize("name", ["", *HOSTS])
def test_examples_in_docstrings_run(name, checkout):
    if name and not is_there(name):
        pytest.skip(f"needs {name}")
    code = (
        f"import doctest, minrnn.hosts{'.' * bool(name)}{name} as module\n"
        "result = doctest.testmod(module)\n"
        "assert result.attempted and not result.failed, result\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=checkout, check=True)


def test_every_adapter_is_listed_here_and_has_an_extra(checkout):
    files = {path.stem for path in (checkout / "minrnn" / "hosts").glob("[a-z]*.py")}
    assert files == set(HOSTS)
    project = (checkout / "pyproject.toml").read_text(encoding="utf-8")
    for name in HOSTS:
        assert f"\n{name} = [" in project, name


def test_the_library_imports_no_host(checkout):
    hosts = [*HOSTS.values(), "stable_baselines3", "tensordict"]
    code = (
        "import sys, minrnn, minrnn.hosts\n"
        f"assert not set({hosts!r}) & set(sys.modules), 'a host was imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=checkout, check=True)


def test_needs_keeps_the_reason():
    with pytest.raises(ImportError, match=r'minrnn\[sb3\]"'), needs("sb3"):
        import no_such_module_anywhere  # noqa: F401
    with pytest.raises(ZeroDivisionError), needs("sb3"):
        _ = 1 / 0


def test_options_come_as_a_config_or_a_mapping_of_its_fields():
    config = minrnn.StackConfig(dim=32, backbone="minlstm", num_layers=1)
    assert stack_config(config) is config
    assert stack_config({"dim": 32, "backbone": "minlstm", "num_layers": 1}) == config
    assert stack_config(None) == minrnn.StackConfig()
    for wrong in ("mingru", minrnn.Stack(config)):
        with pytest.raises(TypeError, match=rf"not a {type(wrong).__name__}: StackConfig\(dim"):
            stack_config(wrong)
    with pytest.raises(ValueError, match="no field 'layers'; did you mean 'num_layers'"):
        stack_config({"layers": 2})
