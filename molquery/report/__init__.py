"""Reports: self-contained pages, one module for each kind."""
