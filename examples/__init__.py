"""Example data that ship with molquery."""
