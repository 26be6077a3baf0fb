"""Signals that ask a process to stop, noted until it has saved what it did."""

from __future__ import annotations

import signal
import threading
import traceback


class StopSignals:
    """Notes SIGTERM and Ctrl-C while it is open; a second Ctrl-C interrupts as usual.

    One that nobody has ``heeded``, as when it comes in the last test, is delivered again at the end, also if the training ends
    with an error: whatever would come next, as the next run of a sweep, shall not begin.

    Only the main thread can listen, and only a run with a checkpoint has something to gain from it.
    """

    def __init__(self, listen: bool):
        self.received: int | None = None
        self.heeded = False
        self._listen = listen and threading.current_thread() is threading.main_thread()
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if self._listen:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind, error, trace) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.received is not None and not self.heeded:
            if error is not None:  # the signal may be the end
                traceback.print_exception(kind, error, trace)
            signal.raise_signal(self.received)

    def _note(self, number, frame) -> None:
        if self.received is not None and number == signal.SIGINT:
            self.heeded = True
            raise KeyboardInterrupt
        self.received = number
