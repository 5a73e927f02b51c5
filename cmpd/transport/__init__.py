"""The transports by name. A new one is a file here and a row in this table."""

from typing import Final

from cmpd.transport.tcp import TcpServer

TRANSPORTS: Final = {"tcp": TcpServer}
