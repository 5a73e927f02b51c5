"""A CA that `cmpd init` made, fresh for each test, and the command on it."""

import asyncio
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cmpd.asn1 import names
from cmpd.changes import (
    AddCertificate,
    AddIntent,
    OpenTransaction,
)
from cmpd.cli.cmpd import main
from cmpd.records import (
    CertificateState,
    Entity,
    EntityKind,
    Intent,
    TransactionRecord,
    TransactionState,
)
from cmpd.signing import file as signing_file
from cmpd.signing.file import read_certificates
from cmpd.store import open_store, sealing

SERIALS = [bytes.fromhex(text) for text in ("4100", "00F1", "42AB")]


@dataclass
class Result:
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pristine") / "ca"
    with pytest.MonkeyPatch.context() as patch:
        cheap(patch)
        assert main(["init", "--dir", str(directory), "--subject", "/O=Test/CN=Test CA"]) == 0
    return directory


def cheap(patch: pytest.MonkeyPatch) -> None:
    """What guessing a passphrase costs is tested elsewhere; here it would only cost time."""
    patch.setattr(signing_file, "_ITERATIONS", 1000)
    patch.setitem(sealing.SCRYPT, "n", 16)


@pytest.fixture(autouse=True)
def cheap_derivations() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        cheap(patch)
        yield


@pytest.fixture
def ca(pristine: Path, tmp_path: Path) -> Path:
    """The directory of a CA; its configuration is cmpd.toml."""
    return Path(shutil.copytree(pristine, tmp_path / "ca"))


@pytest.fixture
def run(ca: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command, words as arguments, with --config of the CA at the end unless it is `init`."""

    def run(*words: object) -> Result:
        argv = [str(word) for word in words]
        capsys.readouterr()
        try:
            code = main(argv if argv[0] == "init" else [*argv, "--config", str(ca / "cmpd.toml")])
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def issued(ca: Path) -> Path:
    """Three certificates in the database; the last one is intended and was never signed."""

    async def fill() -> None:
        der = read_certificates(ca / "cmp.pem")[0]
        store = await open_store(ca / "cmpd.db", serving=False)
        entity = await store.add_entity(Entity(0, "pump", EntityKind.SECRET, sealed_secret=b"x"))
        for number, serial in enumerate(SERIALS):
            transaction = TransactionRecord(
                serial, TransactionState.PROCESSING, "secret:pump", entity.id, "ir", 1_800_000_000
            )
            text = f"CN=pump-{number}"
            intent = Intent(
                serial, serial, 0, entity.id, "default", names.encode_name(text), text, bytes(32), 1_800_000_000,
                1_900_000_000, b"tbs", 1_800_000_000,
            )  # fmt: skip
            unit = [OpenTransaction(transaction), AddIntent(intent)]
            await store.write(unit)
            if number < 2:
                await store.write([AddCertificate(serial, der, CertificateState.CONFIRMED, 1_800_000_000)])
        await store.close()

    asyncio.run(fill())
    return ca
