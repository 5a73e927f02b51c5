"""The doors of a server put together: sockets of the service manager, doors that are closed, how faults are named."""

import asyncio
import logging
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from cmpd.config import parse
from cmpd.doors import Doors
from cmpd.env import Env
from cmpd.errors import ConfigError
from cmpd.origin import Answer, Origin, UnknownReference
from cmpd.store.memory import MemoryStore
from cmpd.wire import tcpmsg

REQUEST = b"\x30\x02\x05\x00"
FILES: dict[str, Any] = {
    "ca": {"certificate": "ca.pem", "key": "ca.key"},
    "cmp": {"certificate": "cmp.pem", "key": "cmp.key"},
    "store": {"path": "cmpd.db", "secrets_key": "store.key"},
    "profile": {"default": {}},
    "local": {"enabled": False},
}


class Echo:
    """Answers each message with the name of its door."""

    async def respond(self, octets: bytes, origin: Origin) -> Answer:
        return f"{octets.hex()} at {origin.door.name}".encode()

    async def poll(self, reference: int, origin: Origin) -> Answer:
        raise UnknownReference


def doors(base: Path, **tables: Any) -> Doors:
    return Doors(parse(FILES | tables, base), Echo(), MemoryStore(), Env(), b"", ())


async def asked(place: tuple[str, int], octets: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*place)
    writer.write(octets)
    writer.write_eof()
    async with asyncio.timeout(8):
        answer = await reader.read()
    writer.close()
    return answer


HEAD = b"POST /cmp HTTP/1.0\r\nContent-Type: application/pkixcmp\r\nContent-Length: 4\r\n\r\n"
SAYS_TCP, SAYS_HTTP = (f"{REQUEST.hex()} at {name}".encode() for name in ("tcp", "http"))


async def test_sockets_of_the_service_manager_go_to_the_doors_that_name_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain, six, surplus = (socket.create_server(("127.0.0.1", 0)) for _ in range(3))
    named = socket.create_server(("::1", 0), family=socket.AF_INET6)
    one = doors(tmp_path, tcp=[{"listen": "systemd"}], http=[{"listen": "systemd:web"}])
    places = [sock.getsockname()[:2] for sock in (plain, six, named)]
    await one.start({"cmpd.socket": [plain], "other.socket": [six], "web": [named]})
    try:
        assert one.addresses == {
            "tcp": [f"127.0.0.1:{place[1]}" for place in places[:2]],
            "http": [f"[::1]:{places[2][1]}"],
        }
        for place in places[:2]:
            assert (await asked(place, tcpmsg.pki_req(REQUEST))).endswith(SAYS_TCP)
        assert (await asked(places[2], HEAD + REQUEST)).endswith(SAYS_HTTP)
    finally:
        await one.drain(5)
    assert one.addresses == {}
    assert caplog.records == []
    two = doors(tmp_path, http=[{"listen": "127.0.0.1:0"}])
    caplog.set_level(logging.WARNING, "cmpd")
    await two.start({"cmpd.socket": [surplus]})
    await two.drain(5)
    assert surplus.fileno() == -1
    assert "1 sockets called 'cmpd.socket' that no door uses" in caplog.text


@pytest.mark.parametrize(
    ("listen", "words"),
    [
        ("systemd", "http[0]: listen = 'systemd': want stream sockets (ListenStream=) from the service manager"),
        ("systemd:web", "want a socket from the service manager, have none with FileDescriptorName=web"),
    ],
)
async def test_sockets_that_cannot_be_used_are_a_mistake_of_the_configuration(
    tmp_path: Path, listen: str, words: str
) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        one = doors(tmp_path, http=[{"listen": listen}])
        with pytest.raises(ConfigError) as caught:
            await one.start({"cmpd.socket": [datagrams]})
        assert words in str(caught.value)
        await one.drain(1)


async def test_a_place_that_is_taken_is_named_with_its_table(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        one = doors(tmp_path, http=[{"listen": "127.0.0.1:0"}, {"listen": listen}])
        with pytest.raises(ConfigError) as caught:
            await one.start({})
        assert str(caught.value).startswith(f"http[1].listen = '{listen}': ")
        await one.drain(1)


async def test_a_door_that_is_not_enabled_is_closed_whatever_it_says(tmp_path: Path) -> None:
    shut = {"listen": "127.0.0.1:0", "enabled": False, "tls_certificate": "none.pem", "tls_key": "none.key"}
    one = doors(
        tmp_path,
        tcp=[shut],
        http=[shut, {"listen": "127.0.0.1:0", "bodies": ["cr"], "default_profile": "default"}],
        spool=[{"directory": "nowhere", "enabled": False}],
    )
    await one.start({})
    assert list(one.addresses) == ["http"]
    with os.scandir(tmp_path) as made:
        assert list(made) == []
    await one.drain(1)
