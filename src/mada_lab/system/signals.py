"""Stop signals: SIGTERM, SIGINT and SIGUSR1 end a run between two steps, in time and with everything saved.

After the first signal the current step is finished and saved. If that takes longer than `PATIENCE` (a step of many
forward passes, an evaluation, a compilation), the current work is abandoned. A second signal ends the process at once;
files survive that as they survive a kill.

Each of several processes tells the others at the end of a step whether it has received a signal, and all stop together.
They never abandon a step: the others would wait for the missing share.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn, Self

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
PATIENCE = 5.0  # seconds: half of what a run may take to end
REPEAT = 0.5  # seconds: a terminal and a launcher often deliver one request twice

_Handler = Callable[[int, FrameType | None], Any] | int | None


class Stop(BaseException):
    """Ends the loop. It is no Exception, so that no handler of errors catches it.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signals:
    """Listens for the signals while it is entered, in the main thread only.

    Args:
        alone: Whether this process stops when it receives a signal; one of several stops when all have agreed.
    """

    def __init__(self, alone: bool = True) -> None:
        self._alone = alone
        self.received: int | None = None  #: the signal
        self._agreed: int | None = None
        self._at = 0.0
        self._late = False
        self._in_abandonable = False
        self._before: dict[int, _Handler] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # by nohup, or for a shell's background job
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Restores the handlers. A signal that came too late to stop this work is passed on to outer Signals."""
        if self.received is not None:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.received is not None and kind is None:
            before = self._before.get(self.received)
            if callable(before) and isinstance(getattr(before, "__self__", None), Signals):
                before(self.received, None)

    def agree(self, number: int | None) -> None:
        """Notes the signal that one of several processes has received, and told all of them."""
        self._agreed = self._agreed or number

    def check(self) -> None:
        """Raises Stop if a signal was received; called between two steps."""
        number = self.received if self._alone else self._agreed
        if number is not None:
            raise Stop(number)

    @contextmanager
    def abandonable(self) -> Iterator[None]:
        """A context for work that may be abandoned at any point, by a Stop, `PATIENCE` seconds after a signal."""
        self._in_abandonable = True
        try:
            if self._late:
                self.check()
            yield
        finally:
            self._in_abandonable = False

    def _receive(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._at = number, now
            name = signal.Signals(number).name
            self._tell(f"{name}: finishing the step, then saving; again to leave at once")
            self._before.setdefault(signal.SIGALRM, signal.signal(signal.SIGALRM, self._lose_patience))
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        elif now - self._at > REPEAT:
            leave(number)

    def _tell(self, text: str) -> None:
        with suppress(OSError, ValueError):  # standard error may be closed, or no file; print could meet itself here
            os.write(sys.stderr.fileno(), f"\n{text}\n".encode())

    def _lose_patience(self, *_: object) -> None:
        self._late = True
        if self._in_abandonable:
            self.check()


def leave(number: int) -> NoReturn:
    """Ends the process at once, with the exit code of a process killed by this signal."""
    os._exit(128 + number)
