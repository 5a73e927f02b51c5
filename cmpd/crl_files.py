"""The CRLs as files: each is whole at any time, and survives a power cut."""

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_public_key

from cmpd.asn1 import der
from cmpd.config_status import CRL_PATH, DELTA_PATH
from cmpd.errors import CmpdError
from cmpd.signatures import is_signed

_log = logging.getLogger("cmpd.publisher")

FULL_NAME: Final = CRL_PATH[1:]
DELTA_NAME: Final = DELTA_PATH[1:]
_MAX_FILE: Final = 1 << 30


class FilesError(CmpdError):
    """A CRL could not be written to its directory; str() is one line for the operator."""


class CrlFiles:
    """The files of one CA. Every method waits for the disk, a long time perhaps: not for the event loop."""

    def __init__(self, directory: Path, public_key: bytes) -> None:
        """`public_key`: DER of the CA's, which must have signed what is read."""
        self._directory = directory
        self._public_key = public_key
        self._said = ""

    def write(self, number: int, full: bytes, delta: bytes | None) -> None:
        """Put the CRLs in place, or raise FilesError; what is there is whole in any case."""
        try:
            write_files(self._directory, number, full, delta)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise FilesError(
                f"crl: cannot write to {self._directory}: {reason}; make room there, or let the server write there"
            ) from error

    def read(self, name: str) -> bytes | None:
        """A CRL that this CA has signed, None if there is no such one."""
        path = self._directory / name
        try:
            octets = read_file(path)
            if _is_signed(octets, self._public_key):
                return octets
            reason = "it is not this CA's"
        except FileNotFoundError:  # as with every new CA
            return None
        except (OSError, ValueError, TypeError) as error:
            reason = str(error)
        if (text := f"crl: {path} is made anew ({reason})") != self._said:  # while it cannot be, once
            _log.info("%s", text)
            self._said = text
        return None

    def remove_leftovers(self) -> None:
        """Remove temporary files of a process that was killed while it wrote."""
        for name in (FULL_NAME, DELTA_NAME):
            try:
                _unlink([path for path in self._directory.glob(f".{name}.*") if path.suffix[1:].isdecimal()])
            except OSError as error:
                _log.warning("crl: cannot look at %s: %s", self._directory, error.strerror)


def _is_signed(octets: bytes, public_key: bytes) -> bool:
    """Whether a CertificateList (DER) is signed by this key. Raises ValueError if it is none."""
    crl = x509.load_der_x509_crl(octets)
    _, start, stop = der.header(octets, 0, len(octets))
    _, (_, first, _, last), _ = der.children(octets, start, stop, 3)
    return is_signed(octets[first:last], load_der_public_key(public_key), crl.signature, crl.tbs_certlist_bytes)


def read_file(path: Path) -> bytes:
    """What is in a file, a GiB at most. Raises OSError."""
    with path.open("rb") as file:
        return file.read(_MAX_FILE)


def write_files(directory: Path, number: int, full: bytes, delta: bytes | None) -> None:
    """Put the CRLs in place, each whole or not at all; makes the directory. Raises OSError.

    All octets are on the disk before the first name changes. The delta CRL comes first: with the full CRL before it
    it says all that the new full CRL says, while a new full CRL beside an older delta CRL would fit nothing.
    """
    if not directory.is_dir():
        directory.mkdir()
        directory.chmod(0o755)  # whatever the umask: CRLs are for everybody
    staged: list[tuple[Path, Path]] = []
    try:
        for name, octets in ((DELTA_NAME, delta), (FULL_NAME, full)):
            if octets is not None:
                staged.append((directory / f".{name}.{number}", directory / name))
                _write_through(staged[-1][0], octets)
        for temporary, path in staged:
            temporary.replace(path)
        if delta is None:
            (directory / DELTA_NAME).unlink(missing_ok=True)
        _sync_directory(directory)
    except OSError:
        _unlink(temporary for temporary, _ in staged)
        raise


def _write_through(path: Path, octets: bytes) -> None:
    path.unlink(missing_ok=True)
    with path.open("xb") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(octets)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:  # the next one is written all the same
            _log.warning("crl: cannot remove %s: %s", path, error.strerror)
