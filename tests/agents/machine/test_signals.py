"""Signals are noted, and break off what can be done again."""

import os
import signal

import pytest

from agents.machine.signals import Stop, Stopped


def test_a_second_ctrl_c_ends_at_once_and_an_echo_of_the_first_does_not(monkeypatch):
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
        monkeypatch.setattr(Stop, "_SAME", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_what_can_be_played_again_is_broken_off():
    with Stop() as stop, pytest.raises(Stopped), stop.at_once():
        os.kill(os.getpid(), signal.SIGTERM)
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped), stop.at_once():
            pytest.fail("went on")
