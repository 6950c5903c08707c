"""Outcome columns: every known coding is recognised and stated, every doubtful one is refused."""

import math

import numpy as np
import pytest

from molquery.errors import ColumnError, InputError
from molquery.outcomes import events, survival, times, variable

CODINGS = {
    "cbioportal": ["0:LIVING", "1:DECEASED"],
    "cbioportal dfs": ["0:DiseaseFree", "1:Recurred/Progressed"],
    "words": ["Alive", "Dead"],
    "more words": ["living", "DECEASED"],
    "truth": [False, True],
    "text truth": ["FALSE", "TRUE"],
    "yes": ["no", "Yes"],
    "0/1": [0, 1],
    "floats": [0.0, 1.0],
    "text numbers": ["0", "1.0"],
    "1/2": [1, 2],
}


@pytest.mark.parametrize("name", CODINGS)
def test_codings_are_recognised_and_stated(name):
    no, yes = CODINGS[name]
    read = events([yes, no, None, yes, math.nan, "[Not Available]"], "os_status")
    assert read.event.tolist() == [True, False, False, True, False, False]
    assert read.known.tolist() == [True, True, False, True, False, False]
    assert "is an event (2)" in read.coding
    assert "is censored (1)" in read.coding
    assert ("R's survival" in read.coding) == (name == "1/2")


@pytest.mark.parametrize(
    ("values", "column"),
    [
        ([0, 1, 2], "os_event"),
        (["A", "B"], "os_event"),
        (["Alive", "Dead", "Lost"], "vital_status"),
        ([0, 1], "alive"),
        ([True, False], "is_censored"),
        ([0, 1], "event_free"),
        (["0:DECEASED", "1:LIVING"], "OS_STATUS"),
        ([0, 2], "os_event"),
    ],
)
def test_a_doubtful_coding_is_an_error_that_says_what_to_type(values, column):
    with pytest.raises(InputError, match="--event-is") as refused:
        events(values, column)
    # it names no value: whoever takes a wrong one at its word gets the inverse hazard ratio
    assert refused.value.hint.endswith("--event-is VALUE")


@pytest.mark.parametrize("column", ["os_event", "overall_survival_status", "event_survival"])
def test_usual_names_are_not_taken_for_reversed_ones(column):
    assert events([0, 1], column).event.tolist() == [False, True]


def test_event_is_says_it():
    read = events([0, 1, 2, None], "code", event_is=["2"])
    assert read.event.tolist() == [False, False, True, False]
    assert "--event-is" in read.coding
    assert events([1, 2], "code", event_is=["1"]).event.tolist() == [True, False]
    words = events(["Progressed ", "stable", "PROGRESSED"], "x", event_is=["progressed"])
    assert words.event.tolist() == [True, False, True]
    assert events([0, 1], "alive", event_is=["0"]).event.tolist() == [True, False]
    with pytest.raises(InputError, match="never is 3"):
        events([0, 1, 2], "code", event_is=["3"])


@pytest.mark.parametrize("values", [[0, 0, None], [1, 1], ["Alive"], [None, "NA"], [2, 2]])
def test_one_class_is_refused(values):
    with pytest.raises(InputError):
        events(values, "os_event")


def test_times_and_units():
    numbers, unit = times([1, None, "3.5", "NA", 0], "os_days")
    assert unit == "days"
    np.testing.assert_array_equal(numbers, [1, np.nan, 3.5, np.nan, 0])
    units = {"OS_MONTHS": "months", "survivalMonths": "months", "os_time": "", "monthly": "",
             "days_to_death": "days", "dfs.years": "years"}  # fmt: skip
    assert {name: times([1], name)[1] for name in units} == units


def test_bad_times():
    with pytest.raises(InputError, match="2 times in os_days are negative"):
        times([1, -1, -30], "os_days")
    with pytest.raises(InputError, match="infinite"):
        times([1, math.inf], "os_days")
    with pytest.raises(ColumnError, match="no numbers"):
        times([1, "soon"], "os_days")
    with pytest.raises(InputError, match="no time"):
        times([None, "NA"], "os_days")


def test_survival_counts_what_is_left_out():
    read = survival([1, 2, None, 4], [1, 0, 1, None], time_name="os_days", event_name="os_event")
    assert read.known.tolist() == [True, True, False, False]
    assert any("2 of 4 rows have no os_days or no os_event" in note for note in read.notes)
    assert any("time in days" in note for note in read.notes)
    with pytest.raises(InputError, match="all"):  # the only events have no time
        survival([1, None], [0, 1], time_name="t", event_name="os_event")


def test_variables_are_told_apart():
    age = variable([50, 61.5, None, 70], "age")
    assert age.kind == "continuous"
    assert "continuous, 50 to 70; 1 missing" in age.told
    mutated = variable([0.0, 1.0, 1.0, math.nan], "mut_TP53")
    assert (mutated.kind, mutated.levels) == ("categorical", ("0", "1"))
    assert "0 1, 1 2; 1 missing" in mutated.told
    sex = variable(["Male", "Female", "unknown"], "sex")
    assert sex.levels == ("Female", "Male")
    assert sex.known.tolist() == [True, True, False]
    grade = variable([1, 2, 3, 10], "grade", kind="categorical")
    assert grade.levels == ("1", "2", "3", "10")
    assert variable([True, False], "smoker").levels == ("false", "true")


def test_variables_that_say_nothing():
    with pytest.raises(InputError, match="one value only"):
        variable(["a", "a", None], "x")
    with pytest.raises(InputError, match="no values"):
        variable([None, ""], "x")
    with pytest.raises(InputError, match="too many"):
        variable([f"id{i}" for i in range(30)], "x")
    with pytest.raises(ColumnError, match="no numbers"):
        variable(["a", "b"], "x", kind="continuous")
