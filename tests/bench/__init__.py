"""The benchmark (`make bench`): server CPU per transaction as a ratio to the cryptographic floor of the same run."""
