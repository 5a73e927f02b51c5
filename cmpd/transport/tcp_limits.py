"""What peers of a raw TCP door may use."""

from dataclasses import dataclass

from cmpd.wire.tcpmsg import Decoder


@dataclass(frozen=True, slots=True)
class TcpLimits:
    """What peers may use. Octets and seconds; `max_message_octets` is the largest Length of a frame.

    `partial_frame_seconds`: from the first octet of a frame to its last. `idle_seconds`: without a frame or an answer.
    `send_seconds`: from an octet's being written to its leaving for the peer. `max_in_flight`: requests per connection.
    `rfc2510`, `transport_polling`: see FrameRules.
    """

    max_message_octets: int = 262_144
    partial_frame_seconds: float = 30
    idle_seconds: float = 3600
    max_connections: int = 10_000
    max_connections_per_address: int = 1024
    max_in_flight: int = 32
    write_high_water: int = 262_144
    send_seconds: float = 60
    rfc2510: bool = True
    transport_polling: bool = True

    def __post_init__(self) -> None:
        Decoder(self.max_message_octets)  # has the rule for this one
        for name in ("max_connections", "max_connections_per_address", "max_in_flight", "write_high_water"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: want 1 or more, have {getattr(self, name)}")
        for name in ("partial_frame_seconds", "idle_seconds", "send_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: want more than 0, have {getattr(self, name)}")
