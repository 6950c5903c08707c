"""Data files that ship with molquery: gene table and gene-set collections."""
