"""Asked to stop: SIGTERM, SIGINT and SIGUSR1 end a run between two steps, in time and with everything saved.

The first signal lets the step in hand be finished, which is then saved. If that takes longer than `PATIENCE` (a step of
many forward passes, an evaluation, a compilation), the work in hand is given up. A second signal ends the process at
once; files are safe from that as they are from a kill.

Of several processes each tells the others at the end of a step whether it was asked, and all stop together. They always
finish the step: one that gave it up would leave the others waiting for its share.
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
    """Ends the loop. Not an Exception, so that nothing on its way takes it for an error of its own.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signals:
    """Listens for the signals while it is entered; in a thread other than the main one it hears nothing.

    Args:
        alone: Whether this process stops when it is asked; of several, it stops when all have agreed to.
    """

    def __init__(self, alone: bool = True) -> None:
        self._alone = alone
        self._received: int | None = None
        self._agreed: int | None = None
        self._at = 0.0
        self._late = False
        self._in_abandonable = False
        self._before: dict[int, _Handler] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or a shell's background job, wants it so
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Puts back what was there before. A request that came too late to end anything goes on to outer Signals."""
        if self._received is not None:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._received is not None and kind is None:
            before = self._before.get(self._received)
            if callable(before) and isinstance(getattr(before, "__self__", None), Signals):
                before(self._received, None)

    @property
    def received(self) -> int | None:
        """The signal that has come."""
        return self._received

    def agree(self, number: int | None) -> None:
        """Takes up the signal that one of several processes has told all of them of."""
        self._agreed = self._agreed or number

    def check(self) -> None:
        """Raises Stop if a signal has come: called between two steps."""
        number = self._received if self._alone else self._agreed
        if number is not None:
            raise Stop(number)

    @contextmanager
    def abandonable(self) -> Iterator[None]:
        """Work that may be given up at any point, when patience is at an end. Raises Stop then."""
        self._in_abandonable = True
        try:
            if self._late:
                self.check()
            yield
        finally:
            self._in_abandonable = False

    def _receive(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self._received is None:
            self._received, self._at = number, now
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
    """Ends the process as it stands, with the code that a shell shows for a death by this signal."""
    os._exit(128 + number)
