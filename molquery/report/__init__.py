"""Self-contained HTML reports: numbers from `query`, figures from `figures`, pages from `pages`."""
