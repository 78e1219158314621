"""The interpreter's lock: how soon a thread gets it from another that goes on and on."""

import asyncio
import sys

# The event loop and the steps hold the lock for microseconds; what goes on for longer, such as lists that are read and
# written, is to wait for them. To hand it over more often costs a twentieth of the throughput at 32 clients; but while
# thousands of requests a second are refused, a step would wait this long each of the many times that it wants it back.
_USUALLY, _UNDER_OVERLOAD = 0.001, 0.0001  # seconds
_CALM_SECONDS = 1.0


def use_usual_interval() -> None:
    """Have threads hand the lock over as often as is usual."""
    sys.setswitchinterval(_USUALLY)


class SwitchInterval:
    """Has the lock handed over more often from a refused request on, until there has been none for a while."""

    def __init__(self) -> None:
        self._refused = self._short = False

    def shorten(self) -> None:
        """A request was refused. In a thread without an event loop it begins nothing."""
        self._refused = True
        if self._short:  # to find the loop takes a system call, an eighth of what a refusal costs
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # who asks there is one caller, and no flood
            return
        self._short = True
        sys.setswitchinterval(_UNDER_OVERLOAD)
        self._look_later(loop)

    def _look_later(self, loop: asyncio.AbstractEventLoop) -> None:
        self._refused = False
        loop.call_later(_CALM_SECONDS, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._refused:
            self._look_later(loop)
        else:
            self._short = False
            use_usual_interval()
