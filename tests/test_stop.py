"""Signals end work where it says so: at once, between steps, or at the second one; and handlers are put back."""

import os
import signal
import threading

import pytest

from cggm_med.stop import SIGNALS, Stopped, StopRequest, stopped_by_signals


@pytest.fixture(autouse=True)
def handlers_are_put_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_work_that_can_be_done_again_stops_at_once(number):
    with pytest.raises(Stopped) as stopped, stopped_by_signals():
        signal.raise_signal(number)
        pytest.fail("it went on")
    assert (stopped.value.number, stopped.value.saved, stopped.value.exit_code) == (number, None, 128 + number)


def test_the_first_signal_asks_and_the_second_ends(capfd):
    with StopRequest() as request:
        assert request.number is None
        signal.raise_signal(signal.SIGINT)
        assert request.number == signal.SIGINT
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGTERM)
    assert capfd.readouterr().err.strip() == "stopping after the step that is under way; again to stop at once"


def test_a_part_that_may_be_abandoned_is_and_only_while_it_lasts(capfd):
    with StopRequest() as request:
        with pytest.raises(Stopped), request.at_once():
            signal.raise_signal(signal.SIGTERM)
            pytest.fail("it went on")
        with pytest.raises(Stopped), request.at_once():
            pytest.fail("it was begun after a signal had come")
    with StopRequest() as request:
        with request.at_once():
            pass
        signal.raise_signal(signal.SIGTERM)
        assert request.number == signal.SIGTERM


def test_a_process_that_inherits_the_handler_ignores_the_signal():
    with StopRequest() as request:
        child = os.fork()
        if child == 0:
            signal.raise_signal(signal.SIGTERM)
            os._exit(0 if request.number is None else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_in_another_thread_nothing_is_installed():
    seen = []

    def work():
        with stopped_by_signals(), StopRequest():
            seen.extend(signal.getsignal(number) for number in SIGNALS)

    before = [signal.getsignal(number) for number in SIGNALS]
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == before
