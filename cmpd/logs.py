"""The log: one line an event on standard error, as text or JSON.

Lines that are written in one turn of the event loop leave in one system call at the end of the turn: the answers of a
group commit come together, and so do their lines. Without a loop, and from WARNING upwards, a line leaves at once.
"""

import asyncio
import json
import logging
import sys
import time
from functools import lru_cache
from typing import TextIO

from cmpd.config import LogConfig


def set_up(config: LogConfig) -> None:
    """Log to standard error, as configured."""
    handler = TurnHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if config.json_lines else TextFormatter())
    # Nobody reads where in the code a line comes from, nor its thread and process; finding that out is half of its
    # cost. The switches are those of the logging HOWTO, section Optimization.
    logging._srcfile = None
    logging.logThreads = logging.logMultiprocessing = logging.logProcesses = False
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.level.upper())


class TurnHandler(logging.Handler):
    """Writes the lines of one turn of the event loop together."""

    def __init__(self, stream: TextIO) -> None:
        """`stream`: where lines go."""
        super().__init__()
        self._stream = stream
        self._lines: list[str] = []
        self.lost = 0  # lines that could not be written

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line until the end of the turn, or write it with those before it."""
        try:
            self._lines.append(self.format(record))
        except Exception:
            self.handleError(record)
            return
        if record.levelno >= logging.WARNING:
            self.flush()
        elif len(self._lines) == 1:  # otherwise a flush is on its way
            try:
                asyncio.get_running_loop().call_soon(self.flush)
            except RuntimeError:  # no loop in this thread
                self.flush()

    def flush(self) -> None:
        """Write what is kept."""
        self.acquire()
        try:
            lines, self._lines = self._lines, []
            if lines:
                self._stream.write("\n".join(lines) + "\n")
                self._stream.flush()
        except (OSError, ValueError):  # nobody reads the log, or its disk is full: that must not stop the work
            self.lost += len(lines)
        finally:
            self.release()


@lru_cache(maxsize=8)
def _utc(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))


class TextFormatter(logging.Formatter):
    """Time, level, logger and message; control characters of the message are escaped, so that a line is a line."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback follows on lines of its own."""
        text = f"{_utc(int(record.created))} {record.levelname} {record.name} {_one_line(record.getMessage())}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        entry = {
            "time": _utc(int(record.created)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def _one_line(message: str) -> str:
    return message if message.isprintable() else message.encode("unicode_escape").decode("ascii")
