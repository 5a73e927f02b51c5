"""A CMP client over tcp-messages: one long-lived connection, many transactions (see flows.Client)."""
