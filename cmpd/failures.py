"""What goes wrong again and again, and is tried again and again: said once, and waited for longer and longer.

Each cause is logged once until a try goes well, a foreseen one (CmpdError) as a line and any other with its traceback.
The first pause is short, for what mends itself; the longest one is a minute, so that nobody has to restart the server
after mending the rest.
"""

import logging
from typing import Final

from cmpd.env import Env
from cmpd.errors import CmpdError

_MAX_PAUSE: Final = 60.0
_MAX_CAUSES: Final = 100


class Failures:
    """Says each cause once, and how long to wait before the next try: 1, 2, 4 ... 60 seconds."""

    def __init__(self, env: Env, text: str, log: logging.Logger) -> None:
        """`text`: with %s, the cause."""
        self._env = env
        self._text = text
        self._log = log
        self._causes: set[str] = set()
        self._count = 0
        self._last = 0.0

    def add(self, error: Exception) -> None:
        """Another try has failed."""
        self._count += 1
        self._last = self._env.now()
        cause = f"{type(error).__name__}: {error}"
        if cause in self._causes or len(self._causes) >= _MAX_CAUSES:
            return
        self._causes.add(cause)
        is_expected = isinstance(error, CmpdError)
        self._log.error(self._text, error if is_expected else cause, exc_info=None if is_expected else error)

    def clear(self) -> None:
        """A try has gone well."""
        self._count = 0
        self._causes.clear()

    def pause(self) -> float:
        """Seconds until the next try, 0 = now."""
        if self._count == 0:
            return 0.0
        whole = min(2.0 ** min(self._count - 1, 10), _MAX_PAUSE)
        left = self._last + whole - self._env.now()
        return left if 0 < left <= whole else 0.0  # more: the clock was set back
