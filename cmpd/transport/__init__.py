"""The transports by name. A new one is a file here and a row in this table.

"tcp" and "http" speak TLS too (TcpServer and CmpHttpServer with `tls`), "tcp" listens on Unix domain sockets as well.
"""

from typing import Final

from cmpd.transport.http import CmpHttpServer
from cmpd.transport.spool import Spool
from cmpd.transport.tcp import TcpServer

TRANSPORTS: Final = {"tcp": TcpServer, "http": CmpHttpServer, "spool": Spool}
