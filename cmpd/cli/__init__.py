"""The commands: `cmpd` for the operators of the CA, `cmpc` for end entities."""
