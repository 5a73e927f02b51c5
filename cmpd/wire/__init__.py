"""Octets to transport frames and back, without I/O."""
