"""What is known about encoders by name: learned embeddings, or interpretable features.

The kind decides two rules. In an embedding of a neural encoder NaN is an error; in interpretable
features (cell densities, areas …) NaN means "not measured" and is imputed by the space. Features
are skewed and in raw units, so a space takes their normal scores first.
"""

from __future__ import annotations

from molquery.errors import InputError

EMBEDDING_KIND = "embedding"
FEATURES_KIND = "features"
KINDS = (EMBEDDING_KIND, FEATURES_KIND)

#: Encoders whose vectors are interpretable features, not learned embeddings.
_FEATURE_ENCODERS = {"pathai-hif", "hif", "nuclei-features", "cellprofiler", "qupath-features"}


def encoder_kind(name: str, forced: str | None = None) -> str:
    """'features' or 'embedding': what the user says, else what the encoder's name tells.

    Raises:
        InputError: `forced` is neither.
    """
    if forced is not None and forced not in KINDS:
        raise InputError(f"--kind must be one of {', '.join(KINDS)}", found=forced)
    return forced or (FEATURES_KIND if name.lower() in _FEATURE_ENCODERS else EMBEDDING_KIND)
