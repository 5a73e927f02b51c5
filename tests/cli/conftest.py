"""A CA that `cmpd init` made, fresh for each test, and the command on it."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cmpd.cli.cmpd import main
from cmpd.signing import file as signing_file
from cmpd.store import sealing


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
