"""The outside world as two functions: the clock and the source of random octets.

Only this file may ask the operating system for either. Everything else is handed an Env, so that a test can hand in
a clock and a counter and get the same octets every time.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Env:
    """`now()` gives Unix time in seconds (float, UTC); `random(n)` gives n octets fit for keys and nonces."""

    now: Callable[[], float] = time.time
    random: Callable[[int], bytes] = os.urandom
