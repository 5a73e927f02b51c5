"""Where signing keys live: one file per kind of place. Today there is one, an encrypted file."""
