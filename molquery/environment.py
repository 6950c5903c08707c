"""The installation: versions of libraries, which FAISS it is, processors and threads."""

from __future__ import annotations

import os
import platform
from importlib import metadata

from molquery import __version__, genes, index, schema

#: All of them install the module `faiss`, so that no two can be there at once.
FAISS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs", "faiss-gpu-cu12", "faiss-gpu-cu11")
LIBRARIES = (
    "pylance", "lancedb", "pyarrow", "numpy", "scipy", "polars", "safetensors", "h5py", "anndata",
)  # fmt: skip
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def environment() -> dict[str, str]:
    """What an answer may depend on beside the database, as text."""
    facts = {
        "molquery": __version__,
        "on-disk format": str(schema.FORMAT_VERSION),
        "gene table": genes.table_version(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "faiss": ", ".join(f"{name} {version(name)}" for name in faiss()) or "not installed",
        "GPUs that faiss can use": str(gpus()),
        "torch": version("torch") or "not installed",
    }
    facts |= {name: version(name) or "not installed" for name in LIBRARIES}
    affinity = getattr(os, "sched_getaffinity", None)
    facts["processors"] = str(len(affinity(0)) if affinity else os.cpu_count())
    return facts | {name: os.environ[name] for name in _THREADS if name in os.environ}


def faiss() -> list[str]:
    """The FAISS distributions that are installed: one, if all is well."""
    return [name for name in FAISS if version(name)]


def gpus() -> int:
    """The number of GPUs that FAISS can use; 0 without FAISS."""
    try:
        return index.gpus()
    except ImportError:
        return 0


def version(distribution: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
