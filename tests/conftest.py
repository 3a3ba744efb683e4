"""Figures that tests count (kills survived, flips refused ...) are printed in one table at the end."""
import signal

import pytest

FIGURES = pytest.StashKey[dict]()


@pytest.fixture
def tally(request):
    "tally(what, n) adds to a figure of the closing table."
    figures = request.config.stash.setdefault(FIGURES, {})
    def add(what, n=1): figures[what] = figures.get(what, 0) + n
    return add


@pytest.fixture(autouse=True)
def stop_signal_is_heard():
    "A process started in the background ignores SIGINT; tests of the stop button must not."
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def pytest_terminal_summary(terminalreporter, config):
    figures = config.stash.get(FIGURES, {})
    if not figures: return
    terminalreporter.section('faults')
    for what, n in figures.items(): terminalreporter.write_line(f'{what:60} {n:6,}')
