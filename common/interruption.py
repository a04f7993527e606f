"""Stopping a training between two steps: SIGINT and SIGTERM, once, in every process alike."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch

from common.distributed import World

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """The user, or the machine's scheduler, wants the training to stop.

    Args:
        signal_number: which signal said so.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_status = 128 + signal_number


class Interruption:
    """While it is entered, SIGINT and SIGTERM wait for the end of the step, or of the block.

    A second signal of the same kind does what it always does, so nobody is locked in.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.received = 0  # number of the signal
        self._immediate = False
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        self._earlier = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def is_requested(self) -> bool:
        """Tell whether any of the processes has received a signal.

        Every process asks after the same steps, so that all stop after the same one.
        """
        if self.world.size > 1:
            self.received = int(self.world.maximum(torch.tensor(self.received)))
        return self.received > 0

    def check(self) -> None:
        """Raise `Interrupted` if a signal was received."""
        if self.received:
            raise Interrupted(self.received)

    @contextlib.contextmanager
    def immediately(self) -> Iterator[None]:
        """Raise `Interrupted` at once in this block, for work that leaves nothing half-done."""
        self.check()
        self._immediate = True
        try:
            yield
        finally:
            self._immediate = False

    def _receive(self, number: int, _: FrameType | None) -> None:
        self.received = number
        signal.signal(number, self._earlier[number])
        if self._immediate:
            raise Interrupted(number)
