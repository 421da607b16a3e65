"""Signals that end long work, and those that come while it is ending."""

import signal

import pytest

from zoo.support.interrupt import sigterm_interrupts, stop_signals


def test_a_second_ctrl_c_interrupts_at_once() -> None:
    with stop_signals() as came:
        assert not came()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # torchrun and a scheduler may both send one
        assert came()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_second_sigterm_does_not_interrupt_what_the_first_began() -> None:
    before, saved = signal.getsignal(signal.SIGTERM), False
    with pytest.raises(KeyboardInterrupt), sigterm_interrupts():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            saved = True
    assert saved and signal.getsignal(signal.SIGTERM) == before
