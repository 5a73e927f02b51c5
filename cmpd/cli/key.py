"""cmpd key: more keys for the server of a CA, each with a certificate of the CA. Works beside a running server.

The certificate is recorded before the files are there. The configuration is the operator's to change: the lines that
it wants are printed, and a server that runs takes the new key when it is started again.
"""

import argparse
import asyncio
from pathlib import Path

from cmpd.cli.entity import opened
from cmpd.cli.output import note
from cmpd.config import Config, load
from cmpd.config_values import quoted
from cmpd.env import Env
from cmpd.install import Pair, make_pair, place_pair
from cmpd.ocsp_signer import record_service_certificate


def add(args: argparse.Namespace, env: Env) -> int:
    """Run `cmpd key add`."""
    config = load(args.config)
    pair = make_pair(config, args.purpose, args.type, env)
    asyncio.run(_record(config, pair, args.purpose))
    place_pair(pair)
    note(f"certificate: {pair.certificate_path}")
    note(f"key: {pair.key_path}")
    if not pair.configured:
        base = args.config.resolve().parent
        note(f"next: add to [cmp] in {args.config} the lines that follow; then cmpd check, and restart the server")
        print(f"{args.purpose}_certificate = {quoted(_below(pair.certificate_path, base))}")
        print(f"{args.purpose}_key = {quoted(_below(pair.key_path, base))}")
    else:
        note("next: cmpd check, and restart the server")
    return 0


async def _record(config: Config, pair: Pair, purpose: str) -> None:
    async with opened(config) as store:
        await record_service_certificate(store, pair.certificate, purpose)


def _below(path: Path, base: Path) -> str:
    """How the configuration in `base` names a file."""
    return str(path.relative_to(base) if path.is_relative_to(base) else path)
