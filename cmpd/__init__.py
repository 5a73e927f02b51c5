"""cmpd: a certificate authority daemon that speaks CMP over raw TCP on port 829."""

__version__ = "0.1.0"
