"""Files into the database: what is accepted, refused, skipped, renamed, joined and reported."""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from pyarrow import parquet

from molquery import synth
from molquery.database import Database, list_to_matrix
from molquery.errors import (
    ColumnError,
    DuplicateIdError,
    InputError,
    MismatchError,
    VectorError,
)
from molquery.genesets import collections
from molquery.ingest import current_symbols, ingest_metadata, ingest_profiles, ingest_slides
from molquery.predict import PATIENT_SCHEME
from molquery.query.engine import Engine
from molquery.query.search import search
from molquery.readers import Options
from molquery.records import IngestReport, MetadataReport
from molquery.schema import COHORT, PROFILES, SITE, SLIDES, shared_column
from molquery.space import need_space

ENCODER = "toy-encoder"


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database.create(tmp_path / "a.mq")


def normal(n: int, d: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def slides(
    database: Database, ids: Sequence[str], vectors: Any, *, encoder: str = ENCODER,
    kind: str | None = None, skip_invalid: bool = False, **columns: Any,
) -> IngestReport:  # fmt: skip
    path = database.path.parent / "slides_in.parquet"
    table = {"slide_id": list(ids), **columns, "features": [list(map(float, v)) for v in vectors]}
    parquet.write_table(pa.table(table), path)
    return ingest_slides(
        database, [path], options=Options(), encoder=encoder, kind=kind, skip_invalid=skip_invalid
    )


def profiles(
    database: Database, ids: Sequence[str], genes: Sequence[str], values: Any, *,
    scale: str = "log2", skip_invalid: bool = False, **columns: Any,
) -> IngestReport:  # fmt: skip
    path = database.path.parent / "profiles_in.parquet"
    matrix = np.asarray(values, dtype=np.float64)
    table = {"profile_id": list(ids), **columns} | {g: matrix[:, j] for j, g in enumerate(genes)}
    parquet.write_table(pa.table(table), path)
    return ingest_profiles(
        database,
        [path],
        options=Options(genes_in="columns"),
        scale=scale,
        skip_invalid=skip_invalid,
    )


def metadata(database: Database, on: str, **columns: Any) -> MetadataReport:
    path = database.path.parent / "metadata_in.parquet"
    parquet.write_table(pa.table(columns), path)
    return ingest_metadata(database, [path], on=on)


def numbers(report: IngestReport) -> tuple[int, int, int]:
    return report.inserted, report.updated, report.unchanged


def column(database: Database, spec: Any, name: str) -> list[Any]:
    return list(database.read(spec, [name])[name].to_pylist())


GENES = ("CD8A", "CXCL9", "EPCAM", "KRT5", "MKI67", "TP53")


# The same again ----------------------------------------------------------------------------------


def test_the_same_files_twice_change_nothing(database: Database, files: synth.Files) -> None:
    for _ in range(2):
        first = ingest_slides(database, [files.slides], options=Options(), encoder=ENCODER)
        second = ingest_profiles(database, [files.profiles], options=Options(), scale="log2")
    assert first.inserted == first.updated == second.inserted == second.updated == 0
    assert (first.unchanged, second.unchanged) == (
        database.count(SLIDES),
        database.count(PROFILES),
    )


def test_another_vector_or_another_cohort_is_an_update(database: Database) -> None:
    v = normal(3, 4)
    assert numbers(slides(database, "abc", v, cohort=["X", "X", "X"])) == (3, 0, 0)
    v[1] += 1
    assert numbers(slides(database, "abc", v, cohort=["X", "X", "X"])) == (0, 1, 2)
    assert numbers(slides(database, "abc", v, cohort=["X", "X", "Y"])) == (0, 1, 2)
    assert column(database, SLIDES, "cohort") == ["X", "X", "Y"]
    np.testing.assert_array_equal(database.matrix(SLIDES, SLIDES.vector), v)


def test_metadata_joined_later_do_not_make_the_same_slides_new(database: Database) -> None:
    v = normal(3, 4)
    slides(database, "abc", v)
    metadata(database, "slide_id", slide_id=["a", "b", "c"], cohort=["X", "X", "Y"], age=[1, 2, 3])
    assert numbers(slides(database, "abc", v)) == (0, 0, 3)
    assert column(database, SLIDES, "age") == [1, 2, 3]
    assert column(database, SLIDES, "cohort") == ["X", "X", "Y"]


def test_a_corrected_vector_keeps_joined_metadata(database: Database) -> None:
    v = normal(2, 4)
    slides(database, "ab", v)
    metadata(database, "slide_id", slide_id=["a", "b"], cohort=["X", "Y"], site=["1", "2"],
             age=[1, 2])  # fmt: skip
    assert numbers(slides(database, "ab", v + 1)) == (0, 2, 0)
    assert column(database, SLIDES, "age") == [1, 2]
    assert column(database, SLIDES, "cohort") == ["X", "Y"]
    assert column(database, SLIDES, "site") == ["1", "2"]


# Vectors -----------------------------------------------------------------------------------------


def bad_vectors() -> npt.NDArray[np.float32]:
    v = normal(6, 4)
    v[1, 2], v[2, 0], v[3] = np.nan, np.inf, 0.0
    v[4] = np.nan
    return v


def test_an_embedding_must_be_finite_and_not_zero(database: Database) -> None:
    with pytest.raises(VectorError) as caught:
        slides(database, "abcdef", bad_vectors())
    text = str(caught.value)
    assert "4 of 6" in text
    assert "2 with NaN values: b, e" in text
    assert "1 with infinite values: c" in text
    assert "1 with all zeros: d" in text
    assert not database.has(SLIDES)


def test_skip_invalid_reports_what_it_left_out(database: Database) -> None:
    report = slides(database, "abcdef", bad_vectors(), skip_invalid=True)
    assert numbers(report) == (2, 0, 0)
    assert report.skipped == {
        "NaN values": ("b", "e"), "infinite values": ("c",), "all zeros": ("d",)
    }  # fmt: skip
    assert column(database, SLIDES, "slide_id") == ["a", "f"]
    np.testing.assert_array_equal(database.matrix(SLIDES, SLIDES.vector), bad_vectors()[[0, 5]])


def test_features_may_miss_values_but_not_all_of_them(database: Database) -> None:
    v = bad_vectors()
    report = slides(database, "abcdef", v, kind="features", skip_invalid=True)
    assert report.skipped == {
        "nothing but NaN": ("e",), "infinite values": ("c",), "all zeros": ("d",)
    }  # fmt: skip
    assert any("1 missing feature values in 1 slides" in note for note in report.notes)
    np.testing.assert_array_equal(database.matrix(SLIDES, SLIDES.vector), v[[0, 1, 5]])


def test_known_feature_encoders_allow_missing_values(database: Database) -> None:
    v = normal(2, 4)
    v[0, 0] = np.nan
    assert numbers(slides(database, "ab", v, encoder="pathai-hif")) == (2, 0, 0)
    assert database.facts(SLIDES)["kind"] == "features"


def test_profiles_may_miss_genes_but_not_all_of_them(database: Database) -> None:
    values = np.abs(normal(4, 6)) + 1
    values[0, 1], values[2] = np.nan, np.nan
    with pytest.raises(VectorError, match="1 with nothing but NaN: c"):
        profiles(database, "abcd", GENES, values)
    report = profiles(database, "abcd", GENES, values, skip_invalid=True)
    assert report.skipped == {"nothing but NaN": ("c",)}
    np.testing.assert_array_equal(
        database.matrix(PROFILES, PROFILES.vector), values[[0, 1, 3]].astype(np.float32)
    )


# What one database holds -------------------------------------------------------------------------


def test_another_dimension_is_refused_with_both_named(database: Database) -> None:
    slides(database, "ab", normal(2, 4))
    with pytest.raises(MismatchError, match=r"dim 5 in the file; 4 in the database"):
        slides(database, "cd", normal(2, 5))
    assert database.count(SLIDES) == 2


def test_another_encoder_is_refused_with_both_named(database: Database) -> None:
    slides(database, "ab", normal(2, 4))
    with pytest.raises(MismatchError, match="encoder other in the file; toy-encoder in the"):
        slides(database, "cd", normal(2, 4), encoder="other")
    assert database.count(SLIDES) == 2


def test_another_scale_is_refused(database: Database) -> None:
    values = np.abs(normal(3, 6)) + 1
    profiles(database, "abc", GENES, values)
    with pytest.raises(MismatchError, match="scale zscore in the file; log2 in the database"):
        profiles(database, "def", GENES, normal(3, 6), scale="zscore")
    assert database.count(PROFILES) == 3


def test_slides_without_an_encoder_ask_for_one(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    parquet.write_table(pa.table({"slide_id": ["a"], "features": [[1.0, 2.0]]}), path)
    with pytest.raises(MismatchError, match="--encoder"):
        ingest_slides(database, [path], options=Options())


def test_duplicate_ids_are_named(database: Database) -> None:
    with pytest.raises(DuplicateIdError, match="2 slide ids appear more than once") as caught:
        slides(database, "abcab", normal(5, 4))
    assert "a, b" in str(caught.value)
    with pytest.raises(DuplicateIdError, match="profile ids"):
        profiles(database, "aab", GENES, np.ones((3, 6)))
    assert not database.has(SLIDES)
    assert not database.has(PROFILES)


# Scales, against what the words mean -------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "stored", "transform"),
    [
        ("log2", "log2", lambda x: x),
        ("ln", "log2", lambda x: np.log2(np.exp(x))),
        ("log10", "log2", lambda x: np.log2(10.0**x)),
        ("tpm", "log2-tpm", lambda x: np.log2(x + 1)),
        ("fpkm", "log2-fpkm", lambda x: np.log2(x + 1)),
        ("counts", "log2-cp10k", lambda x: np.log2(x / x.sum(axis=1, keepdims=True) * 1e4 + 1)),
    ],
)
def test_scales(database: Database, scale: str, stored: str, transform: Any) -> None:
    x = np.random.default_rng(0).uniform(0.5, 12, (4, 6)).astype(np.float32).astype(np.float64)
    report = profiles(database, "abcd", GENES, x, scale=scale)
    assert report.facts["scale"] == stored
    np.testing.assert_allclose(database.matrix(PROFILES, PROFILES.vector), transform(x), rtol=1e-5)


def test_values_that_contradict_their_scale_are_refused(database: Database) -> None:
    with pytest.raises(InputError, match="negative"):
        profiles(database, "ab", GENES, normal(2, 6))
    with pytest.raises(InputError, match="too large to be logarithms"):
        profiles(database, "ab", GENES, np.full((2, 6), 5000.0))
    assert not database.has(PROFILES)


# Genes -------------------------------------------------------------------------------------------


def test_old_names_and_ensembl_ids_become_current_symbols(database: Database) -> None:
    names = ("CTGF", "ENSG00000153563.16", "EPCAM", "NOT_A_GENE")
    report = profiles(database, "ab", names, [[1, 2, 3, 4], [5, 6, 7, 9]])
    assert database.facts(PROFILES)["genes"] == ["CCN2", "CD8A", "EPCAM", "NOT_A_GENE"]
    assert any("CTGF -> CCN2" in note for note in report.notes)
    assert any("NOT_A_GENE" in note for note in report.notes)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_current_name_wins_over_a_renamed_column(order: tuple[int, int]) -> None:
    names = ["CTGF", "CCN2"]
    values = np.array([[9.0, 1.0], [9.0, 2.0]], dtype=np.float32)  # the old name is higher
    genes, kept, notes = current_symbols([names[i] for i in order], values[:, order])
    assert genes == ["CCN2"]
    np.testing.assert_array_equal(kept, values[:, [1]])
    assert any("duplicates" in note for note in notes)


def test_of_two_columns_of_one_name_the_higher_mean_wins() -> None:
    values = np.array([[1, 3, np.nan], [1, 3, 4]], dtype=np.float32)
    genes, kept, _ = current_symbols(["CD8A", "CD8A", "CD8A"], values)
    assert genes == ["CD8A"]
    np.testing.assert_array_equal(kept, values[:, [2]])


def test_a_later_file_is_put_onto_the_panel(database: Database) -> None:
    x = np.arange(12, dtype=np.float32).reshape(2, 6) + 1
    profiles(database, "ab", GENES, x)
    order = [5, 3, 1, 0]  # other order, two genes fewer, one more
    report = profiles(
        database, "cd", [*(GENES[i] for i in order), "PTEN"],
        np.column_stack([x[:, order], [8, 9]]),
    )  # fmt: skip
    expected = np.full((2, 6), np.nan, dtype=np.float32)
    expected[:, order] = x[:, order]
    held = database.matrix(PROFILES, PROFILES.vector)
    np.testing.assert_array_equal(held, np.vstack([x, expected]))
    assert any("2 genes of the database's panel are missing" in note for note in report.notes)
    assert any("1 genes outside the panel" in note for note in report.notes)


def test_a_panel_that_hardly_overlaps_is_refused(database: Database) -> None:
    profiles(database, "ab", GENES, np.ones((2, 6)) + normal(2, 6) ** 2)
    with pytest.raises(MismatchError, match="holds only 2 of the 6 genes"):
        profiles(database, "cd", (*GENES[:2], "PTEN", "BRCA1"), np.ones((2, 4)))
    assert database.count(PROFILES) == 2


# Whose is it -------------------------------------------------------------------------------------


def test_tcga_barcodes_fill_patient_and_site(database: Database) -> None:
    ids = ["TCGA-AB-1234-01Z-00-DX1", "tcga-cd-9999-01", "OTHER-1"]
    report = slides(database, ids, normal(3, 4))
    held = database.read(SLIDES, ["slide_id", "patient_id", "site"]).to_pylist()
    assert {row["slide_id"]: (row["patient_id"], row["site"]) for row in held} == {
        ids[0]: ("TCGA-AB-1234", "AB"), ids[1]: ("TCGA-CD-9999", "CD"), ids[2]: ("OTHER-1", None)
    }  # fmt: skip
    assert any("1 slides name no patient" in note for note in report.notes)


def test_a_given_patient_is_not_overruled_by_a_barcode(database: Database) -> None:
    slides(database, ["TCGA-AB-1234-01Z"], normal(1, 4), patient_id=["me"], site=["here"])
    assert column(database, SLIDES, "patient_id") == ["me"]
    assert column(database, SLIDES, "site") == ["here"]


# Metadata ----------------------------------------------------------------------------------------


def test_the_metadata_report_counts_matches_on_both_sides(database: Database) -> None:
    slides(database, "abcd", normal(4, 4), patient_id=["p1", "p1", "p2", "p3"])
    profiles(database, "xy", GENES, np.ones((2, 6)) + normal(2, 6) ** 2, patient_id=["p1", "p9"])
    report = metadata(
        database, "patient_id", patient_id=["p1", "p2", "p7", "p8"], age=[11, 12, 17, 18]
    )
    assert report.columns == ("age",)
    assert report.matched == {"slides": (3, 4), "profiles": (1, 2)}
    assert (report.n_unmatched_file, report.unmatched_file) == (2, ("p7", "p8"))
    assert (report.n_unmatched_database, report.unmatched_database) == (2, ("p3", "p9"))
    assert column(database, SLIDES, "age") == [11, 11, 12, None]
    assert column(database, PROFILES, "age") == [11, None]


def test_recognised_columns_fill_gaps_and_overrule_nothing(database: Database) -> None:
    slides(database, "abc", normal(3, 4), cohort=["X", None, None])
    report = metadata(
        database,
        "slide_id",
        slide_id=["a", "b", "c"],
        cohort=["Y", "Y", None],
        note=["1", "2", "3"],
    )
    assert column(database, SLIDES, "cohort") == ["X", "Y", None]
    assert any("cohort differs for 1 slides" in note for note in report.notes)
    again = metadata(database, "slide_id", slide_id=["a"], note=["new"])
    assert again.matched == {"slides": (1, 3)}
    assert column(database, SLIDES, "note") == ["new", "2", "3"]


def test_patients_can_be_named_by_metadata(database: Database) -> None:
    """Slides without a patient count as their own until a table says whose they are."""
    slides(database, "abc", normal(3, 4))
    metadata(database, "slide_id", slide_id=["a", "b"], patient_id=["p1", "p1"])
    assert column(database, SLIDES, "patient_id") == ["p1", "p1", "c"]


def test_metadata_that_match_nothing_show_both_sides(database: Database) -> None:
    slides(database, "ab", normal(2, 4))
    with pytest.raises(InputError, match="in the file q1, q2; in the database a, b"):
        metadata(database, "slide_id", slide_id=["q1", "q2"], age=[1, 2])
    with pytest.raises(ColumnError, match="slide_id, age"):
        metadata(database, "patient_id", slide_id=["a"], age=[1])
    with pytest.raises(DuplicateIdError, match="a"):
        metadata(database, "slide_id", slide_id=["a", "a"], age=[1, 2])
    assert "age" not in database.metadata_columns(SLIDES)


# After align -------------------------------------------------------------------------------------


def test_new_slides_are_projected_and_found(aligned_copy: Path, archive: synth.Archive) -> None:
    database = Database.open(aligned_copy)
    sick = np.argsort(-archive.activity[archive.slide_patient, 0])[:3]
    # The slides of a new patient: those of the patient in whom the pathway is most active.
    strong = archive.embeddings[sick[0]] * 1.05
    report = slides(
        database, ["NEW-1"], [strong], patient_id=["NEW"],
        cohort=[str(archive.cohorts[archive.slide_patient[sick[0]]])],
        site=["S00"],
    )  # fmt: skip
    assert numbers(report) == (1, 0, 0)
    space = need_space(database)
    shared = database.matrix(SLIDES, shared_column(space.space_id))
    ids = column(database, SLIDES, "slide_id")
    at = ids.index("NEW-1")
    cohort = column(database, SLIDES, "cohort")[at]
    raw = database.matrix(SLIDES, SLIDES.vector)
    expected = space.project_slides(raw[[at]], [cohort], ["S00"])
    np.testing.assert_allclose(shared[[at]], expected, atol=1e-6)
    assert np.isfinite(shared).all()

    engine = Engine(database)
    ranking = search(engine, collections.find(next(iter(archive.gene_sets))), k=10, null=0)
    hits = {row["slide_id"]: row["basis"] for row in ranking.hits.to_pylist()}
    assert hits.get("NEW-1") == "projected"


def test_new_profiles_are_projected_and_become_reference(
    aligned_copy: Path, archive: synth.Archive
) -> None:
    database = Database.open(aligned_copy)
    before = Engine(database).operators[PATIENT_SCHEME].n_reference
    profiles(database, ["NEW-R"], archive.genes, archive.expression[:1], patient_id=["NEW"])
    space = need_space(database)
    shared = database.matrix(PROFILES, shared_column(space.space_id))
    assert np.isfinite(shared).all()
    engine = Engine(database)
    assert engine.operators[PATIENT_SCHEME].n_reference == before + 1 == len(shared)


def test_a_cohort_and_site_filled_after_align_projects_the_slide_anew(
    aligned_copy: Path, archive: synth.Archive, tmp_path: Path
) -> None:
    database = Database.open(aligned_copy)
    late = {"slide_id": ["LATE-0001"], "features": [archive.embeddings[0].tolist()]}
    parquet.write_table(pa.table(late), tmp_path / "late.parquet")
    ingest_slides(database, [tmp_path / "late.parquet"], options=Options(), encoder="toy-encoder")
    first = database.read(SLIDES, [COHORT, SITE]).slice(0, 1).to_pylist()[0]
    cohort, site = first[COHORT], first[SITE]
    named = pa.table({"slide_id": ["LATE-0001"], "cohort": [cohort], "site": [site]})
    parquet.write_table(named, tmp_path / "named.parquet")
    ingest_metadata(database, [tmp_path / "named.parquet"], on="slide_id")
    space = need_space(database)
    table = database.read(SLIDES, [SLIDES.key, COHORT, SITE, SLIDES.vector])
    at = table[SLIDES.key].to_pylist().index("LATE-0001")
    assert table[COHORT][at].as_py() == cohort
    stored = database.matrix(SLIDES, shared_column(space.space_id))
    assert table[SITE][at].as_py() == site
    cohorts, sites = table[COHORT].to_pylist(), table[SITE].to_pylist()
    expected = space.project_slides(list_to_matrix(table[SLIDES.vector]), cohorts, sites)
    np.testing.assert_allclose(stored, expected, atol=1e-6)


# Names and types of metadata columns ------------------------------------------------------------

AWKWARD = {
    "diagnosis.age": pa.array([61, None]),
    "_rowid": pa.array(["x", "y"]),
    "`quoted`": pa.array(["x", "y"]),
    "cost": pa.array([Decimal("1.50"), None]),
    "mutations": pa.array([["TP53", "KRAS"], None]),
    "embedding": pa.array(["mine", "mine"]),
    "sampled": pa.array([date(2020, 1, 2), None]),
}
STORED = {
    "diagnosis_age": [61, None],
    "rowid": ["x", "y"],
    "_quoted_": ["x", "y"],
    "cost": [1.5, None],
    "mutations": ['["TP53", "KRAS"]', None],
    "sampled": [date(2020, 1, 2), None],
}


@pytest.mark.parametrize("joined", [True, False])
def test_columns_that_a_table_cannot_hold_as_they_are(database: Database, joined: bool) -> None:
    """Lance takes dots for paths, and a table with a column called _rowid for damaged."""
    if joined:
        slides(database, "ab", normal(2, 4))
        notes = metadata(database, "slide_id", slide_id=["a", "b"], **AWKWARD).notes
    else:
        notes = slides(database, "ab", normal(2, 4), **AWKWARD).notes
    assert {c: column(database, SLIDES, c) for c in STORED} == STORED
    assert set(STORED) == set(database.metadata_columns(SLIDES)) - {
        "slide_id", "patient_id", "cohort", "site"
    }  # fmt: skip
    said = "; ".join(notes)
    assert "diagnosis.age -> diagnosis_age, _rowid -> rowid" in said
    assert "cost (decimal128(3, 2)), mutations (list<element: string>)" in said
    assert "left out, since molquery keeps these names: embedding" in said
    with pytest.raises(ColumnError, match=r"one name(?s:.*)a_b"):
        metadata(database, "slide_id", slide_id=["a", "b"], **{"a.b": [1, 2], "a_b": [1, 2]})


def test_clinical_tables_of_the_gdc(database: Database, tmp_path: Path) -> None:
    slides(database, ["TCGA-AA-0001-01Z-00-DX1", "TCGA-AA-0002-01Z-00-DX1"], normal(2, 4))
    (tmp_path / "clinical.tsv").write_text(
        "cases.case_id\tcases.submitter_id\tdemographic.days_to_death\n"
        "0a\tTCGA-AA-0001\t'--\n1b\tTCGA-AA-0002\t365\n"
    )
    report = ingest_metadata(database, [tmp_path / "clinical.tsv"])
    assert report.matched == {"slides": (2, 2)}
    assert column(database, SLIDES, "demographic_days_to_death") == [None, 365]


# More than fits in memory ------------------------------------------------------------------------


@pytest.fixture
def streaming(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files count as large, so that they are written while they are read."""
    monkeypatch.setattr("molquery.ingest.HELD_BYTES", 1 << 15)
    monkeypatch.setattr("molquery.readers.streams.LARGE", 1 << 10)
    monkeypatch.setattr("molquery.readers.streams.ROWS", 300)
    monkeypatch.setattr("molquery.database.appender.FILE_BYTES", 1 << 15)


def many(path: Path, ids: list[str], vectors: np.ndarray, **more: list[object]) -> Path:
    flat = pa.array(vectors.astype(np.float32).reshape(-1))
    lists = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    table = pa.table({"slide_id": ids, **more, "vector": lists})
    if path.suffix == ".parquet":
        parquet.write_table(table, path)
    elif path.suffix == ".arrow":
        with pa.ipc.new_file(path, table.schema) as file:
            file.write_table(table, max_chunksize=700)
    else:
        np.save(path, vectors.astype(np.float32))
        path.with_suffix(".txt").write_text("\n".join(ids))
    return path


def held(database: Database) -> dict[str, list[float]]:
    table = database.read(SLIDES, [SLIDES.key, SLIDES.vector])
    return dict(zip(*(table[c].to_pylist() for c in table.column_names), strict=True))


@pytest.mark.parametrize("name", ["s.parquet", "s.arrow", "s.npy"])
@pytest.mark.usefixtures("streaming")
def test_what_is_streamed_is_what_is_read_whole(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids = [f"S{i:05d}" for i in rng.permutation(2_000)]
    vectors = rng.normal(size=(2_000, 12)).astype(np.float32)
    file = many(tmp_path / name, ids, vectors)
    database = Database.create(tmp_path / "db")
    told: list[tuple[int, int]] = []
    report = ingest_slides(
        database, [file], options=Options(), encoder="e",
        progress=lambda _, done, total: told.append((done, total)),
    )  # fmt: skip
    assert (report.inserted, report.updated, report.unchanged) == (2_000, 0, 0)
    assert (300, 2_000) in told
    assert (2_000, 2_000) in told
    assert held(database) == dict(zip(ids, vectors.tolist(), strict=True))
    assert len(database.manifest()["tables"]["slides"]["files"]) > 3, "in several files"
    again = ingest_slides(database, [file], options=Options(), encoder="e")
    assert (again.inserted, again.updated, again.unchanged) == (0, 0, 2_000)
    assert database.manifest()["version"] == 1


@pytest.mark.usefixtures("streaming")
def test_new_changed_and_known_slides_of_a_stream_are_told_apart(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(1_500, 12)).astype(np.float32)
    ids = [f"S{i}" for i in range(1_500)]
    ages: list[object] = list(range(1_500))
    database = Database.create(tmp_path / "db")
    first = many(tmp_path / "a.parquet", ids[:1_000], vectors[:1_000], age=ages[:1_000])
    ingest_slides(database, [first], options=Options(), encoder="e")
    vectors[10:20] += 1
    second = many(tmp_path / "b.parquet", ids, vectors, age=ages)
    report = ingest_slides(database, [second], options=Options(), encoder="e")
    assert (report.inserted, report.updated, report.unchanged) == (500, 10, 990)
    assert database.manifest()["details"] == "500 slides inserted, 10 updated"
    assert held(database) == dict(zip(ids, vectors.tolist(), strict=True))
    table = database.read(SLIDES, ["slide_id", "age"]).to_pydict()
    assert dict(zip(table["slide_id"], table["age"], strict=True)) == dict(
        zip(ids, ages, strict=True)
    )


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.usefixtures("streaming")
def test_a_stream_that_fails_at_its_end_leaves_nothing(exists: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    ids = [f"S{i}" for i in range(2_000)]
    vectors = rng.normal(size=(2_000, 12)).astype(np.float32)
    database = Database.create(tmp_path / "db")
    if exists:
        file = many(tmp_path / "a.parquet", [f"T{i}" for i in range(900)], vectors[:900])
        ingest_slides(database, [file], options=Options(), encoder="e")
    before = tree(tmp_path / "db")
    vectors[-1, 3] = np.nan
    bad = many(tmp_path / "b.parquet", ids, vectors)
    with pytest.raises(VectorError, match="S1999"):
        ingest_slides(database, [bad], options=Options(), encoder="e")
    assert tree(tmp_path / "db") == before
    vectors[-1, 3] = 0
    twice = many(tmp_path / "c.arrow", [*ids[:-1], "S0"], vectors)
    with pytest.raises(DuplicateIdError, match="more than once"):
        ingest_slides(database, [twice], options=Options(), encoder="e")
    assert tree(tmp_path / "db") == before
    other = many(tmp_path / "d.parquet", ["X"], vectors[:1], surprise=["x"])
    good = many(tmp_path / "b.parquet", ids, vectors)
    with pytest.raises(ColumnError, match="surprise"):
        ingest_slides(database, [good, other], options=Options(), encoder="e")
    assert tree(tmp_path / "db") == before


def tree(root: Path) -> dict[str, bytes]:
    files = (p for p in root.rglob("*") if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(root)): p.read_bytes() for p in files}
