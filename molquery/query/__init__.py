"""Questions to a database: search by signature, score, and retrieve across modalities."""
