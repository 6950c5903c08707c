"""cBioPortal studies, read back by the rules that the portal documents for its validator.

`check` is written from https://docs.cbioportal.org/file-formats and from what the portal's
validator reports; each rule is broken once, to see that it would be noticed.
"""

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from conftest import SEEN
from hypothesis import given
from hypothesis import strategies as st

from molquery.errors import ColumnError, InputError, OutputError
from molquery.export import cbioportal
from molquery.export.cbioportal import Study, attribute, escape, sample_id, unescape, write

META = {  # file -> required fields besides the study's id
    "meta_study.txt": {"type_of_cancer", "name", "description"},
    "meta_clinical_patient.txt": {"genetic_alteration_type", "datatype", "data_filename"},
    "meta_clinical_sample.txt": {"genetic_alteration_type", "datatype", "data_filename"},
    "meta_gsva_scores.txt": {
        "genetic_alteration_type", "datatype", "stable_id", "source_stable_id", "profile_name",
        "profile_description", "data_filename", "show_profile_in_analysis_tab",
        "geneset_def_version",
    },
    "meta_gsva_pvalues.txt": {
        "genetic_alteration_type", "datatype", "stable_id", "source_stable_id", "profile_name",
        "profile_description", "data_filename", "geneset_def_version",
    },
    "meta_expression.txt": {
        "genetic_alteration_type", "datatype", "stable_id", "show_profile_in_analysis_tab",
        "profile_name", "profile_description", "data_filename",
    },
    "meta_expression_zscores.txt": {
        "genetic_alteration_type", "datatype", "stable_id", "source_stable_id",
        "show_profile_in_analysis_tab", "profile_name", "profile_description", "data_filename",
    },
}  # fmt: skip
OPTIONAL = {"add_global_case_list", "citation", "pmid", "groups"}
KINDS = {
    ("CLINICAL", "PATIENT_ATTRIBUTES"), ("CLINICAL", "SAMPLE_ATTRIBUTES"),
    ("MRNA_EXPRESSION", "CONTINUOUS", "rna_seq_mrna"),
    ("MRNA_EXPRESSION", "Z-SCORE", "rna_seq_mrna_median_Zscores"),
    ("GENESET_SCORE", "GSVA-SCORE", "gsva_scores"), ("GENESET_SCORE", "P-VALUE", "gsva_pvalues"),
}  # fmt: skip
CATEGORIES = {
    "all_cases_in_study", "all_cases_with_mrna_rnaseq_data", "all_cases_with_gsva_data", "other"
}  # fmt: skip
NULL = {"", "na", "n/a", "not applicable", "not available", "null", "nan", "[not available]"}
LEVEL = {"OS_STATUS": "patient", "OS_MONTHS": "patient", "SAMPLE_CLASS": "sample"}
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
ALLOWED = re.compile(r"[A-Za-z0-9._-]+")


def check(folder):
    """What the portal would refuse in a study directory, in words."""
    found = []
    metas = {p.name: pairs(p) for p in folder.iterdir() if re.search(r"(\b|_)meta(\b|_)", p.name)}
    study = metas.get("meta_study.txt", {}).get("cancer_study_identifier", "")
    if not re.fullmatch(r"[a-z0-9_]+", study):
        found.append("study id")
    for name, required in META.items():
        if name not in metas:
            found.append(f"{name} is missing")
            continue
        fields = metas[name]
        if fields.get("cancer_study_identifier") != study:
            found.append(f"{name}: another study")
        if not required <= set(fields):
            found.append(f"{name}: no {required - set(fields)}")
        if extra := set(fields) - required - OPTIONAL - {"cancer_study_identifier"}:
            found.append(f"{name}: unknown {extra}")
        if "data_filename" in fields and not (folder / fields["data_filename"]).is_file():
            found.append(f"{name}: no data file")
        kind = tuple(fields[k] for k in ("genetic_alteration_type", "datatype", "stable_id")
                     if k in fields)  # fmt: skip
        if kind and kind not in KINDS:
            found.append(f"{name}: {kind}")
    if unknown := set(metas) - set(META):
        found.append(f"unknown meta files {unknown}")
    samples, patients = clinical(folder, found)
    expression = matrix(folder, "data_expression.txt", "Hugo_Symbol", samples, found)
    z = matrix(folder, "data_expression_zscores.txt", "Hugo_Symbol", samples, found)
    scores = matrix(folder, "data_gsva_scores.txt", "geneset_id", samples, found)
    p = matrix(folder, "data_gsva_pvalues.txt", "geneset_id", samples, found)
    if (scores["columns"], scores["rows"]) != (p["columns"], p["rows"]):
        found.append("scores and p-values are not alike")
    if (expression["columns"], expression["rows"]) != (z["columns"], z["rows"]):
        found.append("expression and z-scores are not alike")
    if not (np.abs(scores["values"]) <= 1).all():
        found.append("a score is not between -1 and 1")
    if not ((p["values"] > 0) & (p["values"] <= 1)).all():
        found.append("a p-value is not above 0 and at most 1")
    for name in scores["rows"]:
        if name != name.upper() or not ALLOWED.fullmatch(name):
            found.append(f"gene set id {name}")
    for name, source in (("gsva_scores", "rna_seq_mrna"), ("gsva_pvalues", "gsva_scores"),
                         ("expression_zscores", "rna_seq_mrna")):  # fmt: skip
        if metas.get(f"meta_{name}.txt", {}).get("source_stable_id") != source:
            found.append(f"{name}: source_stable_id")
    case_lists(folder, study, samples, found)
    return found, {"samples": samples, "patients": patients, "scores": scores, "p": p,
                   "expression": expression, "z": z, "meta": metas}  # fmt: skip


def pairs(path):
    lines = path.read_text("utf-8").splitlines()
    return dict(line.split(": ", 1) if ": " in line else (line, "") for line in lines)


def clinical(folder, found):
    tables = {}
    for level in ("sample", "patient"):
        lines = (folder / f"data_clinical_{level}.txt").read_text("utf-8").split("\n")
        lines.pop()
        head, names = [line.split("\t") for line in lines[:4]], lines[4].split("\t")
        if not all(line.startswith("#") for line in lines[:4]) or lines[4].startswith("#"):
            found.append(f"{level}: definitions")
        if any(len(cells) != len(names) for cells in head):
            found.append(f"{level}: widths of the definitions")
        kinds = [cell.lstrip("#") for cell in head[2]]
        for row in head:
            if any(cell.lstrip("#").strip().lower() in NULL for cell in row):
                found.append(f"{level}: an empty definition")
        if not set(kinds) <= {"STRING", "NUMBER", "BOOLEAN"}:
            found.append(f"{level}: datatypes")
        if not all(cell.lstrip("#").isdigit() for cell in head[3]):
            found.append(f"{level}: priorities")
        for name in names:
            if name != name.upper() or len(set(names)) < len(names):
                found.append(f"{level}: attribute {name}")
            if name in ("MUTATION_COUNT", "FRACTION_GENOME_ALTERED"):
                found.append(f"{level}: {name} is banned")
            if LEVEL.get(name, level) != level:
                found.append(f"{level}: {name} belongs elsewhere")
        rows = [dict(zip(names, line.split("\t"), strict=True)) for line in lines[5:]]
        for row in rows:
            for (name, value), kind in zip(row.items(), kinds, strict=True):
                cell(level, name, value.strip(), kind, found)
        tables[level] = (names, rows)
    samples = {row["SAMPLE_ID"]: row for row in tables["sample"][1]}
    patients = {row["PATIENT_ID"]: row for row in tables["patient"][1]}
    if len(samples) < len(tables["sample"][1]) or len(patients) < len(tables["patient"][1]):
        found.append("an id stands twice")
    if any(len(s) > 63 for s in samples):
        found.append("a sample id is too long")
    if {row["PATIENT_ID"] for row in samples.values()} != set(patients):
        found.append("patients of samples and of the patient file differ")
    both = set(tables["sample"][0]) & set(tables["patient"][0]) - {"PATIENT_ID"}
    if both:
        found.append(f"{both} at both levels")
    return samples, patients


def cell(level, name, value, kind, found):
    if name in ("PATIENT_ID", "SAMPLE_ID") and (
        not ALLOWED.fullmatch(value) or value.lower() in NULL
    ):
        found.append(f"{level}: id {value}")
    if value.lower() in NULL:
        return
    if kind == "NUMBER" and not re.fullmatch(r"[<>]?-?\d+(\.\d+)?([eE][+-]?\d+)?", value):
        found.append(f"{level}: {name} {value}")
    if kind == "BOOLEAN" and value not in ("TRUE", "FALSE"):
        found.append(f"{level}: {name} {value}")
    parts = value.split("-")
    if "date" not in name.lower() and len(parts) == 2 and not re.search("[,.:;]", value) and any(
        part.lower() in MONTHS for part in parts
    ):  # fmt: skip
        found.append(f"{level}: {value} looks like a date")
    if name == "OS_STATUS" and value not in ("0:LIVING", "1:DECEASED"):
        found.append(f"OS_STATUS {value}")
    if name.endswith("_STATUS") and value.split(":")[0] not in ("0", "1"):
        found.append(f"{name} {value}")


def matrix(folder, file, first, samples, found):
    lines = [line.split("\t") for line in (folder / file).read_text("utf-8").splitlines()]
    columns, rows = lines[0][1:], [line[0] for line in lines[1:]]
    if lines[0][0] != first:
        found.append(f"{file}: first column")
    if not set(columns) <= set(samples) or len(set(columns)) < len(columns):
        found.append(f"{file}: samples")
    if len(set(rows)) < len(rows):
        found.append(f"{file}: a row stands twice")
    if any(len(line) != len(lines[0]) for line in lines):
        found.append(f"{file}: width")
    values = np.array([[np.nan if v == "NA" else float(v) for v in line[1:]] for line in lines[1:]])
    return {"columns": columns, "rows": rows, "values": values.reshape(len(rows), len(columns))}


def case_lists(folder, study, samples, found):
    ids = set()
    for path in (folder / "case_lists").iterdir():
        fields = pairs(path)
        listed = fields["case_list_ids"].split("\t")
        ids.add(fields["stable_id"])
        if not fields["stable_id"].startswith(f"{study}_"):
            found.append(f"{path.name}: stable_id")
        if fields["case_list_category"] not in CATEGORIES:
            found.append(f"{path.name}: category")
        if not set(listed) <= set(samples) or len(set(listed)) < len(listed):
            found.append(f"{path.name}: ids")
        if not {"case_list_name", "case_list_description", "cancer_study_identifier"} <= set(
            fields
        ):
            found.append(f"{path.name}: fields")
    if f"{study}_all" not in ids:
        found.append("no case list of all samples")


# Ids ----------------------------------------------------------------------------------------------


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_escaped_ids_are_allowed_and_come_back(identifier):
    text = escape(identifier)
    assert unescape(text) == identifier
    assert ALLOWED.fullmatch(text)
    assert text.lower() not in NULL
    assert len(sample_id(identifier)) <= 63


@given(st.sets(st.text("aA_x4F1 é-", min_size=1, max_size=6), min_size=2, max_size=30))
def test_different_ids_stay_different(identifiers):
    assert len({escape(i) for i in identifiers}) == len(identifiers)


@pytest.mark.parametrize(
    ("identifier", "text"),
    [
        ("TCGA-05-4244", "TCGA-05-4244"), ("B4_10x14-HE", "B4_10x14-HE"), ("P 1", "P_x201"),
        ("a_x41", "a_x5Fx41"), ("ä", "_xC3_xA4"), ("Jan-99", "Jan_x2D99"), ("NA", "_x4EA"),
        ("12-DEC", "12_x2DDEC"),
    ],
)  # fmt: skip
def test_escapes_by_hand(identifier, text):
    assert escape(identifier) == text


def test_long_sample_ids_are_cut_and_stay_apart():
    long = [f"{'x' * 80}{i}" for i in range(50)]
    cut = {sample_id(i) for i in long}
    assert len(cut) == 50
    assert all(len(i) == 63 for i in cut)


def test_attributes():
    assert attribute("score") == "SCORE"
    assert attribute("T-cell 2.1") == "T_CELL_2_1"
    assert attribute("1st") == "M_1ST"
    assert attribute("patient_id") == "M_PATIENT_ID"


# Studies ------------------------------------------------------------------------------------------


def study(**changes):
    rng = np.random.default_rng(0)
    slides = ["s 1", "NA", "x" * 70, "S-4"]
    table = pa.table({
        "sample_id": [*slides, "r1"],
        "patient_id": ["P/1", "P/1", "Jan-99", "P2", "P2"],
        "score": pa.array([0.5, -1.2, np.nan, None, 1e-9]),
        "good": [True, False, None, True, True],
        "visit": ["May-07", "tab\there", "", "line\nbreak", "plain"],
    })  # fmt: skip
    whole = Study(
        study_id="toy_1", name="Toy", description="two\nlines", cancer_type="mixed",
        samples=table, patients=pa.table({"patient_id": ["P/1", "Jan-99", "P2"],
                                          "OS_STATUS": ["1:DECEASED", None, "0:LIVING"],
                                          "OS_MONTHS": [1.5, None, 20.0]}),
        gene_sets=("Set a", "SET_B"), scored=tuple(slides),
        scores=np.array([[2.5, -1.0, 0.3, -0.2], [1.0, 0.5, -0.5, 0.2]]),
        p_values=rng.uniform(0.001, 1, (2, 4)),
        gene_set_version="v1", genes=("MKI67",), measured=("r1",),
        expression=np.array([[np.nan]]), z=np.array([[0.25]]),
    )  # fmt: skip
    return replace(whole, **changes)


def test_a_study_passes_and_holds_what_it_was_given(tmp_path):
    given_ = study()
    changed = write(given_, {"k": 1}, tmp_path / "toy")
    found, read = check(tmp_path / "toy")
    assert found == []
    divisor = np.abs(given_.scores).max()
    ratio = given_.scores / read["scores"]["values"]
    assert ratio == pytest.approx(np.full((2, 4), ratio[0, 0]), rel=1e-4)  # one number for all
    assert divisor <= ratio[0, 0] < divisor * 1.1
    assert (
        f"divided by {ratio[0, 0]:.2g}"[:14]
        in (read["meta"]["meta_gsva_scores.txt"]["profile_description"])
    )
    np.testing.assert_allclose(read["p"]["values"], given_.p_values, rtol=1e-5)
    assert read["scores"]["rows"] == ["SET_X20A", "SET_B"]
    assert [unescape(p) for p in read["patients"]] == ["P/1", "Jan-99", "P2"]
    assert read["patients"]["P2"]["OS_MONTHS"] == "20"
    assert [row["SCORE"] for row in read["samples"].values()] == [
        "0.5",
        "-1.2",
        "NA",
        "NA",
        "1e-09",
    ]
    assert read["samples"]["S-4"]["VISIT"] == "line break"
    assert read["samples"]["s_x201"]["VISIT"] == "May - 07"
    listed = (tmp_path / "toy" / cbioportal.IDS).read_text("utf-8").splitlines()
    assert [tuple(line.split("\t")) for line in listed[1:]] == changed
    assert ("sample", "s 1", "s_x201") in changed
    assert ("gene set", "Set a", "SET_X20A") in changed
    assert json.loads((tmp_path / "toy" / cbioportal.PROVENANCE).read_text("utf-8"))["k"] == 1


def test_ids_that_would_break_a_table_are_quoted_in_the_list(tmp_path):
    odd = 'P\t2 "x"\n'
    owners = pa.array(["P/1", "P/1", "Jan-99", odd, odd])
    samples = study().samples.set_column(1, "patient_id", owners)
    patients = study().patients.set_column(0, "patient_id", pa.array(["P/1", "Jan-99", odd]))
    changed = write(study(samples=samples, patients=patients), {}, tmp_path / "toy")
    found, read = check(tmp_path / "toy")
    assert found == []
    assert odd in [unescape(p) for p in read["patients"]]
    with (tmp_path / "toy" / cbioportal.IDS).open(encoding="utf-8", newline="") as stream:
        assert [tuple(r) for r in csv.reader(stream, delimiter="\t")][1:] == changed
    assert ("patient", odd, escape(odd)) in changed


def test_scores_within_bounds_are_written_as_they_are(tmp_path):
    scores = np.array([[0.25, -1.0, 1.0, 0.0], [0.1, 0.2, 0.3, 0.4]])
    write(study(scores=scores), {}, tmp_path / "toy")
    found, read = check(tmp_path / "toy")
    assert found == []
    np.testing.assert_allclose(read["scores"]["values"], scores)


BREAKS = {
    "data_gsva_scores.txt": [
        ("\nSET_B\t", "\nSET_B\t1", "not between"), ("SET_B", "set_b", "gene set id|alike"),
    ],
    "data_gsva_pvalues.txt": [("\t0.", "\t-0.", "above 0"), ("S-4", "S-5", "samples|alike")],
    "data_clinical_sample.txt": [
        ("#STRING", "#TEXT", "datatypes"), ("SCORE", "score", "attribute"),
        ("\t0.5\t", "\thigh\t", "SCORE high"), ("\tTRUE\t", "\tyes\t", "GOOD yes"),
        ("May - 07", "May-07", "date"), ("#1", "#x", "priorities"), ("s_x201", "s 1", "id s 1"),
        ("VISIT", "MUTATION_COUNT", "banned"), ("VISIT", "OS_STATUS", "elsewhere|OS_STATUS"),
        ("\nS-4\t", "\nr1\t", "twice"), ("#sample id\t", "#sample id\t\t", "widths|empty"),
    ],
    "data_clinical_patient.txt": [
        ("1:DECEASED", "dead", "OS_STATUS dead"), ("\nP2\t", "\nP3\t", "differ"),
    ],
    "data_expression.txt": [("Hugo_Symbol", "Gene", "first column"), ("r1", "r2", "samples|alike")],
    "meta_study.txt": [("toy_1", "Toy-1", "study id|another study")],
    "meta_gsva_scores.txt": [
        ("rna_seq_mrna", "mrna", "source_stable_id"), ("gsva_scores\n", "gsva\n", "GSVA-SCORE"),
        ("geneset_def_version: v1\n", "", "no .*geneset_def_version"),
    ],
    "meta_expression_zscores.txt": [("Z-SCORE", "LOG", "LOG")],
    "case_lists/cases_all.txt": [("toy_1_all", "toy_1_x", "all samples"), ("S-4", "S-9", "ids"),
                                 ("all_cases_in_study", "everything", "category")],
}  # fmt: skip


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [(file, *change) for file, changes in BREAKS.items() for change in changes],
)
def test_the_check_notices_what_is_broken(tmp_path, file, old, new, said):
    write(study(), {}, tmp_path / "toy")
    path = tmp_path / "toy" / file
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    found, _ = check(tmp_path / "toy")
    assert re.search(said, "; ".join(found)), found


def test_studies_that_cannot_be(tmp_path):
    for changes, error, said in (
        ({"study_id": "Toy-1"}, InputError, "cannot be the id"),
        ({"gene_sets": ("A", "a")}, InputError, "two gene sets"),
        ({"samples": study().samples.append_column("Score", pa.array([1.0] * 5))}, ColumnError,
         "one clinical attribute"),
    ):  # fmt: skip
        with pytest.raises(error, match=said):
            write(study(**changes), {}, tmp_path / "toy")
        assert list(tmp_path.iterdir()) == []


def test_nothing_but_an_earlier_study_is_replaced(tmp_path):
    target = tmp_path / "toy"
    write(study(), {"first": True}, target)
    (target / "more.txt").write_text("x", encoding="utf-8")
    with pytest.raises(OutputError, match="exists already"):
        write(study(), {}, target)
    write(study(study_id="other"), {}, target, overwrite=True)
    assert not (target / "more.txt").exists()
    assert check(target)[0] == []
    assert [p.name for p in tmp_path.iterdir()] == ["toy"]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("x", encoding="utf-8")
    for path in (mine, mine / "thesis.txt"):
        with pytest.raises(OutputError, match="not written by molquery"):
            write(study(), {}, path, overwrite=True)
    assert (mine / "thesis.txt").read_text("utf-8") == "x"


def test_a_study_that_fails_half_way_leaves_nothing(tmp_path, monkeypatch):
    write(study(), {"first": True}, tmp_path / "toy")
    before = {p.name: p.read_bytes() for p in (tmp_path / "toy").glob("*.txt")}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cbioportal, "_case_lists", full)
    for target in (tmp_path / "new", tmp_path / "toy"):
        with pytest.raises(OutputError, match=r"cannot write(.|\n)*No space left"):
            write(study(), {}, target, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["toy"]
    assert {p.name: p.read_bytes() for p in (tmp_path / "toy").glob("*.txt")} == before


def test_the_commands_write_studies(cli, aligned, engine, files, tmp_path):
    target = tmp_path / "Toy study"
    result = cli("--db", aligned, "stratify", "--geneset", SEEN[0], "--by", "patient",
                 "--format", "cbioportal", "-o", target)  # fmt: skip
    assert result.code == 0, result.err
    found, read = check(target)
    assert found == []
    assert read["meta"]["meta_study.txt"]["cancer_study_identifier"] == "toy_study"
    assert set(read["scores"]["columns"]) == set(engine.slide_ids.tolist())
    row = next(iter(read["patients"].values()))
    assert row["HE_STRATUM"] in ("low", "mid", "high")
    assert 0 <= float(row["HE_CONFIDENCE"]) <= 1
    _, measured = engine.reference.score_one(
        __import__("molquery").genesets.collections.find(SEEN[0])
    )
    expected = engine.predict(measured)[:, 0]
    assert np.corrcoef(read["scores"]["values"][0], expected)[0, 1] == pytest.approx(1)
    slides = tmp_path / "slides"
    result = cli("--db", aligned, "score", files.gene_sets, "--format", "cbioportal", "-o", slides,
                 "--study-id", "mine", "--cancer-type", "brca")  # fmt: skip
    assert result.code == 0, result.err
    found, read = check(slides)
    assert found == []
    assert read["meta"]["meta_study.txt"]["type_of_cancer"] == "brca"
    assert len(read["scores"]["rows"]) == 4
    again = cli("--db", aligned, "score", files.gene_sets, "--format", "cbioportal", "-o", slides)
    assert again.code == 1
    assert "exists already" in again.err
    assert cli("--db", aligned, "score", files.gene_sets, "--format", "cbioportal").code == 1
