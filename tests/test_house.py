"""Rules of the house that no tool has: where asyncio may be, what the core may import, how long a file may be."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cmpd"
LONGEST_FILE = 450
LONGEST_FUNCTION = 60

# The shell: what may know event loops, sockets and databases. Everything else is core.
SHELL = {
    "__init__",
    "__main__",
    "bootstrap",
    "cli",
    "client",
    "daemon",
    "doors",
    "install",
    "logs",
    "notify",
    "ocsp_signer",
    "crl_files",
    "publisher",
    "publishing",
    "signing",
    "store",
    "threads",
    "transport",
}
# Below the core, and free of event loops already because nothing in the core may reach one.
PLUGGABLE = {"signing", "store", "transport"}

FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in FILES]


def top(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """The dotted names that a file imports; `from a import b` counts as a.b."""
    for node in ast.walk(ast.parse(path.read_text(), path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules_of_core_contract() -> set[str]:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    [core] = [entry for entry in config["tool"]["importlinter"]["contracts"] if entry["id"] == "core"]
    return set(core["source_modules"])


def test_the_import_contract_of_the_core_names_every_module_that_is_not_shell() -> None:
    core = {f"cmpd.{top(path)}" for path in FILES} - {f"cmpd.{name}" for name in SHELL}
    assert modules_of_core_contract() == core


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_the_core_imports_only_the_promise_of_an_exchangeable_part(path: Path) -> None:
    if top(path) in SHELL:
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "cmpd" and len(parts) > 1 and parts[1] in PLUGGABLE:
            assert parts[2] == "base", f"imports {name}"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_the_clock_and_random_octets_come_from_env_alone(path: Path) -> None:
    asked = {
        ast.unparse(node)
        for node in ast.walk(ast.parse(path.read_text(), path))
        if isinstance(node, ast.Attribute)
        and ast.unparse(node) in {"time.time", "datetime.now", "datetime.utcnow", "os.urandom", "datetime.datetime.now"}
    }
    imported = {name for name in imports(path) if name.split(".")[0] in {"random", "secrets"} or name == "time.time"}
    assert path.name == "env.py" or not asked | imported


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_file_tells_its_strategy_and_stays_short(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text, path)
    assert ast.get_docstring(tree), "a file starts with what it is for"
    assert text.count("\n") <= LONGEST_FILE or top(path) == "asn1"  # definitions are as long as the RFC's
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < LONGEST_FUNCTION, node.name


def test_the_rules_look_at_the_package() -> None:
    assert {"message", "asn1", "protection", "wire"} <= {top(path) for path in FILES}
