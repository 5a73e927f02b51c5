"""Where a server is, as text (a URL, or HOST:PORT), and what speaks to it: one row per scheme.

aiohttp takes as long to import as all the rest, so it is only for who asks for it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cmpd.client.base import ConnectionLimits, Exchange, OnWait
from cmpd.client.connection import Connection, UnixConnection
from cmpd.client.errors import ClientError
from cmpd.client.files import FileExchange
from cmpd.client.tls import TlsOptions

DEFAULT_PORT: Final = 829

_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_LOCAL: Final = re.compile(r"(file|unix):(.*)", re.DOTALL)
_NAME: Final = re.compile(r"[^\s/@:?#\[\]\\]+")
_ADDRESS: Final = re.compile(r"[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?")


@dataclass(frozen=True, slots=True)
class Server:
    """`host` and `port`; `path`: of a URL, or of a directory or socket."""

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def has_tls(self) -> bool:
        """Whether it is spoken to over TLS."""
        return _SCHEMES[self.scheme].tls


_Open = Callable[[Server, TlsOptions, ConnectionLimits, OnWait | None], Exchange]


@dataclass(frozen=True, slots=True)
class _Scheme:
    """`wanted`: what the text looks like. `port`: default, 0 = there is none. `path`: default, None = has none."""

    wanted: str
    open: _Open
    port: int = 0
    path: str | None = None
    tls: bool = False


def read_server(text: str) -> Server:
    """A server from its text; ClientError says what is wanted."""
    if found := _LOCAL.fullmatch(text):
        return _read_local(text, found[1], found[2])
    if found := _URL.fullmatch(text):
        scheme, rest = found[1].lower(), found[2]
    else:
        scheme, rest = "tcp", text
    row = _SCHEMES.get(scheme)
    if row is None or scheme in _PATHS:
        raise ClientError(f"server: want {_all_wanted()}; have {text!r}")
    authority, slash, path = rest.partition("/")
    host, port = _host_and_port(authority, row.port)
    plain = path.isascii() and path.isprintable() and " " not in path and "#" not in path
    if not host.isprintable() or not host or not 0 < port < 65536 or (row.path is None and path) or not plain:
        raise ClientError(f"server: want {row.wanted}, have {text!r}")
    return Server(scheme, host, port, (slash + path if path else row.path) or "")


def open_server(
    server: Server, tls: TlsOptions, limits: ConnectionLimits | None = None, on_wait: OnWait | None = None
) -> Exchange:
    """What speaks to it; to be made on the event loop. ClientError or OSError if the files for TLS cannot be used."""
    return _SCHEMES[server.scheme].open(server, tls, limits or ConnectionLimits(), on_wait)


def _read_local(text: str, scheme: str, rest: str) -> Server:
    if rest.startswith("//"):
        authority, slash, path = rest[2:].partition("/")
        rest = slash + path if authority in ("", "localhost") else ""
    if not rest or not rest.isprintable():
        raise ClientError(f"server: want {_SCHEMES[scheme].wanted}, have {text!r}")
    return Server(scheme, path=rest)


def _host_and_port(text: str, default: int) -> tuple[str, int]:
    """HOST, HOST:PORT, [IPv6], [IPv6]:PORT or IPv6; ("", 0) if it is none of them."""
    port = ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")) or not _ADDRESS.fullmatch(host):
            return "", 0
        colon, port = rest[:1], rest[1:]
    elif text.count(":") > 1:
        host, colon = text if _ADDRESS.fullmatch(text) else "", ""
    else:
        host, colon, port = text.partition(":")
        host = host if _NAME.fullmatch(host) else ""
    if not colon:
        return host, default
    return host, int(port) if re.fullmatch(r"[0-9]{1,5}", port) else 0


# --- the schemes -----------------------------------------------------------------------------------------------------


def _tcp(server: Server, tls: TlsOptions, limits: ConnectionLimits, on_wait: OnWait | None) -> Exchange:
    return Connection(server.host, server.port, limits=limits, on_wait=on_wait)


def _tls(server: Server, tls: TlsOptions, limits: ConnectionLimits, on_wait: OnWait | None) -> Exchange:
    return Connection(server.host, server.port, limits=limits, tls=tls.context(), tls_host=tls.host, on_wait=on_wait)


def _http(server: Server, tls: TlsOptions, limits: ConnectionLimits, on_wait: OnWait | None) -> Exchange:
    from yarl import URL

    from cmpd.client.http import HttpConnection

    row = _SCHEMES[server.scheme]
    try:
        host = f"[{server.host}]" if ":" in server.host else server.host.encode("idna").decode()
        port = "" if server.port == row.port else f":{server.port}"
        url = URL(f"{server.scheme}://{host}{port}{server.path}", encoded=True)
    except ValueError as error:
        raise ClientError(f"server: want {row.wanted}: {error}") from None
    context = tls.context() if server.has_tls else None
    return HttpConnection(url, limits=limits, tls=context, tls_host=tls.host)


def _file(server: Server, tls: TlsOptions, limits: ConnectionLimits, on_wait: OnWait | None) -> Exchange:
    return FileExchange(Path(server.path), limits=limits)


def _unix(server: Server, tls: TlsOptions, limits: ConnectionLimits, on_wait: OnWait | None) -> Exchange:
    return UnixConnection(Path(server.path), limits=limits, on_wait=on_wait)


WELL_KNOWN_PATH: Final = "/.well-known/cmp"
"""RFC 9811 section 3.4."""

_SCHEMES: Final[dict[str, _Scheme]] = {
    "tcp": _Scheme(f"HOST[:PORT] or tcp://HOST[:PORT] (default port {DEFAULT_PORT})", _tcp, DEFAULT_PORT),
    "tls": _Scheme("tls://HOST:PORT", _tls, tls=True),
    "http": _Scheme("http://HOST[:PORT][/PATH]", _http, 80, WELL_KNOWN_PATH),
    "https": _Scheme("https://HOST[:PORT][/PATH]", _http, 443, WELL_KNOWN_PATH, tls=True),
    "file": _Scheme("file:DIRECTORY", _file),
    "unix": _Scheme("unix:SOCKET", _unix),
}
_PATHS: Final = frozenset({"file", "unix"})


def _all_wanted() -> str:
    *most, last = (row.wanted for row in _SCHEMES.values())
    return f"{', '.join(most)} or {last}"
