"""Index recipes (TOML files): see README.md here."""
