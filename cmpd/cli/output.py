"""How the commands show things: text for people in columns, JSON for scripts; times in UTC, serial numbers in hex."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cmpd.errors import ConfigError


def time_text(when: int | None) -> str | None:
    """Unix time as 2026-01-31T12:00:00Z; None stays None."""
    return None if when is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))


def serial_text(serial: bytes) -> str:
    """The contents octets of a serial number as hex, as OpenSSL writes it: without a leading zero octet."""
    text = serial.hex().upper()
    return text[2:] if text.startswith("00") and len(text) > 2 else text


def serial_octets(text: str) -> bytes:
    """The contents octets of the serial number that hex digits mean, with or without 0x and colons; ValueError."""
    digits = text.removeprefix("0x").removeprefix("0X").replace(":", "")
    if not digits or len(digits) > 42 or not all(digit in "0123456789abcdefABCDEF" for digit in digits):
        raise ValueError(f"want a serial number in hex, have {text!r}")
    value = int(digits, 16)
    return value.to_bytes(value.bit_length() // 8 + 1, "big")


def print_json(value: Any) -> None:
    """Write JSON that people can read as well."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write columns; None shows as "-"."""
    texts = [list(heads), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in texts) for i in range(len(heads))]
    for row in texts:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def print_fields(fields: Mapping[str, object]) -> None:
    """Write one "name: value" a line."""
    width = max(map(len, fields)) + 1
    for name, value in fields.items():
        print(f"{name + ':':<{width}} {_cell(value)}")


def write_octets(octets: bytes, out: Path | None, what: str) -> None:
    """Write to the file `out` and say so (`what` it is), or to standard output. ConfigError if the file cannot be."""
    if out is None:
        sys.stdout.buffer.write(octets)
        sys.stdout.buffer.flush()
        return
    try:
        out.write_bytes(octets)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written: {error.strerror}") from error
    note(f"{out}: {what}")


def note(text: str) -> None:
    """Write a remark for people to standard error."""
    print(text, file=sys.stderr)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "-"
    return "-" if value is None or value == "" else str(value)
