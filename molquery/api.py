"""The Python API: `molquery.open(path)` gives a `Database` that answers.

The same library functions serve the command line. Nothing here prints. What a question needs is
imported when it is asked.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from molquery import database as storage
from molquery.genesets import collections
from molquery.genesets.inline import parse_genes
from molquery.query.engine import Engine
from molquery.records import Signature

if TYPE_CHECKING:
    from molquery.query import cohort, retrieve, search, strata
    from molquery.query.evaluation import Evaluation, Settings
    from molquery.query.summary import Summary


class Database:
    """An archive that can be asked.

    Example:
        >>> import molquery
        >>> db = molquery.open("archive.mq")                              # doctest: +SKIP
        >>> db.search("HALLMARK_HYPOXIA", k=5).to_polars()                # doctest: +SKIP
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.storage = storage.Database.open(path)
        self._engine: Engine | None = None

    @property
    def path(self) -> Path:
        """The directory of the database."""
        return self.storage.path

    @property
    def engine(self) -> Engine:
        """The query engine for the database as it is now; made anew when it has changed.

        Raises:
            NotReadyError: slides, profiles or the space are missing.
        """
        if self._engine is None or not self._engine.is_current():
            self._engine = Engine(self.storage)
        return self._engine

    def search(self, signature: str | Signature, **options: Any) -> search.Ranking:
        """Slides ranked by a signature; options as in `molquery.query.search.search`.

        Args:
            signature: a `Signature`, the name of a shipped gene set, or `FILE.gmt#NAME`.
        """
        from molquery.query import search

        return search.search(self.engine, as_signature(signature), **options)

    def retrieve(self, query: str, *, to: str, **options: Any) -> retrieve.Neighbours:
        """The nearest slides or profiles; options as in `molquery.query.retrieve.retrieve`."""
        from molquery.query import retrieve

        return retrieve.retrieve(self.engine, query, to=to, **options)

    def score(self, signatures: Sequence[str | Signature], **options: Any) -> cohort.Scores:
        """Every slide's score for many signatures; options as in `molquery.query.cohort.score`."""
        from molquery.query import cohort

        return cohort.score(self.engine, [as_signature(s) for s in signatures], **options)

    def stratify(self, *signatures: str | Signature, **options: Any) -> strata.Strata:
        """Strata by one or more signatures; options as in `query.strata.stratify_cohort`."""
        from molquery.query import strata

        return strata.stratify_cohort(self.engine, [as_signature(s) for s in signatures], **options)

    def summary(self) -> Summary:
        """Held-out retrieval and predictability of the current space, from what is stored."""
        from molquery.query.summary import held_out_summary

        return held_out_summary(self.engine)

    def evaluate(self, settings: Settings | None = None, **options: Any) -> Evaluation:
        """The whole evaluation, with intervals and baselines; takes minutes.

        Options as in `molquery.query.tasks.plan`: labels, time, event, a file of tasks.
        """
        from molquery.query.evaluation import evaluate
        from molquery.query.tasks import plan

        return evaluate(self.engine, settings, plan(self.engine, **options))


def open_database(path: str | os.PathLike[str]) -> Database:
    """The database at `path`, ready to be asked.

    Raises:
        DatabaseError: there is none, or it cannot be read; nothing is created.
    """
    return Database(path)


def as_signature(signature: str | Signature) -> Signature:
    """A signature from its name, its file, or itself; text with commas is a list of genes."""
    if isinstance(signature, Signature):
        return signature
    return parse_genes(signature) if "," in signature else collections.find(signature)
