"""cmpc: get, renew and revoke certificates by CMP, and ask for their status; for devices and people.

    cmpc ir --server 127.0.0.1:829 --ref X --secret-file secret.txt --subject CN=device1 --out-dir device1

Exit code: 0 done, 1 the server or the network said no, 2 the arguments or the files cannot be used; `cmpc status` has
more of them.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Final

from cmpd.cli.cmpc_arguments import parser as _parser
from cmpd.cli.cmpc_enrol import enrol
from cmpd.cli.cmpc_revoke import passphrase, revoke
from cmpd.cli.cmpc_session import UsageError, complain
from cmpd.cli.cmpc_status import status
from cmpd.client.errors import ClientError, CmpClientError, TransportError, VerificationError
from cmpd.env import Env

_RUN: Final[dict[str, Callable[[argparse.Namespace, Env], int]]] = {
    "ir": enrol,
    "cr": enrol,
    "kur": enrol,
    "p10cr": enrol,
    "rr": revoke,
    "suspend": revoke,
    "resume": revoke,
    "revpassphrase": passphrase,
    "status": status,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run cmpc; returns the exit code."""
    args = _parser().parse_args(argv)
    level = logging.DEBUG if args.verbose else logging.WARNING
    logging.basicConfig(level=level, format="cmpc: %(message)s", stream=sys.stderr)
    try:
        return _RUN[args.command](args, Env())
    except OSError as error:
        complain(f"{error.filename or getattr(args, 'server', 'OCSP')}: {error.strerror or error}")
        return 2
    except (CmpClientError, TransportError, VerificationError) as error:
        complain(error, unprotected=getattr(args, "unprotected", False))
        return 1
    except (UsageError, ClientError, ValueError) as error:
        complain(error)
        return 2
    except KeyboardInterrupt as stopped:
        complain(*stopped.args or ("stopped by the user; a new key that was written can be used again (--new-key)",))
        return 1


if __name__ == "__main__":
    sys.exit(main())
