"""molquery: ask an archive of H&E slides a molecular question."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("molquery")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.1.0"
