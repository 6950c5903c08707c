"""Cut files: cut points and what they belong to, as TOML that a person can read and keep.

A cut file fixes the strata of one cohort so that they can be applied unchanged to another. It holds
the genes of its signatures, so nothing else is needed to use it.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from molquery.errors import FileFormatError, InputError, printable
from molquery.files import write_bytes
from molquery.records import Signature
from molquery.stratify import Cut, Rule

#: Version of the file format.
FORMAT = 1


@dataclass(frozen=True, slots=True)
class SignatureCut:
    """The cut points of one signature.

    Attributes:
        genes: those of the signature that the scores were made of, sorted.
    """

    signature: Signature
    genes: tuple[str, ...]
    cut: Cut


@dataclass(frozen=True, slots=True)
class CutFile:
    """Everything that must be the same for a score to fall into the same stratum again.

    Attributes:
        space_id: of the shared space that the scores were predicted in.
        prediction: what predicted the scores; scoring: how profiles were scored.
        by: `slide` or `patient`; slides: how the slides of a patient were joined; weight: the
            column of weights, or ''.
        signatures: in the order in which they were asked for.
        rules: that join the signatures, none where each stands for itself.
        min_confidence: under which a stratum is called uncertain.
        reference: hash of the means and spreads of the signatures' genes over the profiles: the
            scores are in their units.
        made: for people: database, table versions, filter, molquery's version.
    """

    space_id: str
    prediction: str
    scoring: str
    by: str
    slides: str
    weight: str
    signatures: tuple[SignatureCut, ...]
    rules: tuple[Rule, ...]
    min_confidence: float
    reference: str
    made: Mapping[str, Any] = field(default_factory=dict)


def write_cuts(cuts: CutFile, target: Path, *, overwrite: bool = False) -> None:
    """Write a cut file, whole or not at all.

    Raises:
        OutputError: `target` exists and `overwrite` is false, or it cannot be written.
    """
    write_bytes(target, to_toml(cuts).encode(), overwrite=overwrite)


def to_toml(cuts: CutFile) -> str:
    """The text of a cut file."""
    lines = [
        "# Cut points fitted by `molquery stratify`. To apply them unchanged to another cohort:",
        "#   molquery stratify --cuts THIS_FILE",
        *_pairs({
            "format": FORMAT, "space_id": cuts.space_id, "prediction": cuts.prediction,
            "scoring": cuts.scoring, "by": cuts.by,
            "slides": cuts.slides, "weight": cuts.weight, "min_confidence": cuts.min_confidence,
            "reference": cuts.reference,
        }),
        "", "[made]", *_pairs(cuts.made),
    ]  # fmt: skip
    for one in cuts.signatures:
        weights = list(one.signature.weights.values())
        lines += ["", "[[signature]]", *_pairs({
            "name": one.signature.name, "sha256": one.signature.sha256,
            "genes": list(one.signature.genes),
            **({} if set(weights) == {1.0} else {"weights": weights}),
            "genes_found": list(one.genes), "method": one.cut.method, "scope": one.cut.scope,
            "labels": list(one.cut.labels), "remarks": list(one.cut.remarks),
        })]  # fmt: skip
        lines += ["[signature.points]", *_pairs({k: list(v) for k, v in one.cut.points.items()})]
    for rule in cuts.rules:
        lines += ["", "[[rule]]", *_pairs({
            "label": rule.label, "conditions": [list(c) for c in rule.conditions]
        })]  # fmt: skip
    return "\n".join(lines) + "\n"


def read_cuts(path: Path) -> CutFile:
    """The cut file at `path`.

    Raises:
        InputError: it cannot be read.
        FileFormatError: it is no cut file, of a newer format, or its genes are not those of its
            hash.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(
            f"cannot read the cut file {path}", found=error.strerror,
            hint="write one with molquery stratify --save-cuts FILE",
        ) from error  # fmt: skip
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _bad(path, printable(str(error))) from error
    if document.get("format") != FORMAT:
        raise _bad(path, f"format {printable(str(document.get('format')))}, not {FORMAT}")
    try:
        signatures = tuple(_signature(path, entry) for entry in document["signature"])
        return CutFile(
            space_id=str(document["space_id"]),
            prediction=str(document["prediction"]),
            scoring=str(document["scoring"]),
            by=str(document["by"]),
            slides=str(document["slides"]),
            weight=str(document["weight"]),
            signatures=signatures,
            rules=tuple(
                Rule(str(r["label"]), tuple((str(a), str(b)) for a, b in r["conditions"]))
                for r in document.get("rule", [])
            ),
            min_confidence=float(document["min_confidence"]),
            reference=str(document["reference"]),
            made=document.get("made", {}),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _bad(path, f"{type(error).__name__} {printable(str(error))}") from error


def reference_hash(genes: Sequence[str], means: Sequence[float], spreads: Sequence[float]) -> str:
    """A hash of what the scores are relative to, to 6 digits; the order of the genes is free."""
    rows = sorted(f"{g} {m:.5e} {s:.5e}" for g, m, s in zip(genes, means, spreads, strict=True))
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _signature(path: Path, entry: Mapping[str, Any]) -> SignatureCut:
    genes = [str(g) for g in entry["genes"]]
    weights = [float(w) for w in entry.get("weights", [1.0] * len(genes))]
    signature = Signature(
        str(entry["name"]), dict(zip(genes, weights, strict=True)), source=f"{path.name}"
    )
    if signature.sha256 != entry["sha256"]:
        raise _bad(path, f"the genes of {signature.name} are not those of its sha256")
    cut = Cut(
        str(entry["method"]), entry["scope"], entry["points"], entry["labels"],
        entry.get("remarks", ()),
    )  # fmt: skip
    steps = {len(points) + 1 for points in cut.points.values()}
    rising = all(list(p) == sorted(set(p)) for p in cut.points.values())
    if cut.scope not in ("pooled", "cohort") or steps != {len(cut.labels)} or not rising:
        raise _bad(path, f"points and labels of {signature.name} do not fit together")
    return SignatureCut(signature, tuple(str(g) for g in entry["genes_found"]), cut)


def _bad(path: Path, found: str) -> FileFormatError:
    return FileFormatError(
        f"{path} is not a cut file that can be used", found=found,
        hint="write one with molquery stratify --save-cuts FILE",
    )  # fmt: skip


def _pairs(values: Mapping[str, Any]) -> list[str]:
    return [f"{_key(str(key))} = {_value(value)}" for key, value in values.items()]


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key, re.ASCII) else _value(key)


def _value(value: Any) -> str:
    """A value as TOML; its strings are written as JSON writes them, which TOML reads."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(_pairs(value)) + "}"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
