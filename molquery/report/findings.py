"""What an evaluation found, in plain sentences: for the report and for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from molquery.align.adapt import SHARE, Curve
from molquery.associate import Association
from molquery.evaluate.resample import Estimate
from molquery.figures.evaluation import short
from molquery.query.calibrate import LEVEL
from molquery.query.evaluation import Evaluation, Retrieval
from molquery.query.folds import OURS
from molquery.query.validation import (
    ContrastResult,
    GeneGroupsResult,
    LabelsResult,
    SurvivalResult,
)
from molquery.schema import COHORT

#: q under which a difference is called one.
SIGNIFICANT = 0.05
#: The effect of Cox models on the score itself.
PER_SD = "hazard ratio, score per sd"
LEVEL_TEXT = f"{100 * LEVEL:.0f} %"
_NAMED = 6
_SMALL_GALLERY = 50


def findings(found: Evaluation) -> list[str]:
    """What the evaluation found, in plain sentences, most important first; also on a terminal."""
    return [
        *_retrieval_findings(found),
        *_spectrum_findings(found),
        *_interval_findings(found),
        *_left_out_findings(found),
        *_adaptation_findings(found),
        *_validation_findings(found),
    ]


def interval(
    value: Estimate | None, *, percent: bool = False, digits: int | None = None
) -> str | None:
    """An estimate with its interval as a table shows it, such as 0.59 (0.55–0.62)."""
    if value is None or value.value is None:
        return None
    factor = 100 if percent else 1
    places = (1 if percent or abs(value.value) >= 10 else 2) if digits is None else digits

    def text(number: float) -> str:
        shown = f"{factor * number:.{places}f}"
        return shown.lstrip("-") if float(shown) == 0 else shown.replace("-", "−")

    if value.low is None or value.high is None:
        return text(value.value)
    comma = ", " if value.low < 0 else "–"
    return f"{text(value.value)} ({text(value.low)}{comma}{text(value.high)})"


def _retrieval_findings(found: Evaluation) -> list[str]:
    pooled = found.retrieval.get("patient.slide_to_profile")
    if pooled is None:
        return []
    # Of a dozen candidates everyone is among the first ten.
    few = pooled.gallery < _SMALL_GALLERY
    figure, place = ("recall1", "the first") if few else ("recall10", "among the first ten")
    text = (
        f"Retrieval: a new slide's own RNA profile is {place} of {pooled.gallery} candidates in "
        f"{_percent(pooled, figure)} of cases (random order: {_percent(pooled, figure, 'random')})"
    )
    within = found.retrieval.get("patient.slide_to_profile.within_cohort")
    if within is not None and "between cohorts" not in found.not_measured:
        text += (
            f"; among {within.gallery} candidates of its own cohort in "
            f"{_percent(within, figure)} (random: {_percent(within, figure, 'random')})"
        )
    return [text + "."]


def _spectrum_findings(found: Evaluation) -> list[str]:
    if not found.spectrum:
        return ["Gene sets: " + found.not_measured["predictability of Hallmark sets"] + "."]
    figure = figure_of(found)
    ours = found.medians[OURS]
    where = "within cohorts" if figure == "within_r" else "over all patients"
    text = (
        f"Gene programmes: over {len(found.spectrum)} Hallmark gene sets the median correlation of "
        f"predicted with measured activity {where} is {_estimate(ours[figure])}"
    )
    site = ours.get(f"site_{figure}")
    if site is not None and site.value is not None:
        text += f", and {_estimate(site)} in hospitals never seen"
    names = list(found.spectrum)
    lines = [
        f"{text}. Best: {_named(found, names[:3])}; weakest: {_named(found, names[-3:])}."
    ]  # fmt: skip
    if found.random_above is not None:
        lines.append(
            f"Specificity: {found.random_above} of {len(found.spectrum)} gene sets are predicted "
            "better than 95 % of random gene sets of the same size and expression; for the others "
            "the slide tells no more than it tells about genes in general."
        )
    simpler = {
        name: gain[figure]
        for name, gain in found.gains.items()
        if figure in gain and gain[figure].value is not None
    }
    if simpler:
        best = min(simpler, key=lambda name: simpler[name].value or 0.0)
        lines.append(
            f"Against the best simpler method here ({found.baselines[best]}), the median "
            f"correlation differs by {_estimate(simpler[best], sign=True)}"
            + ("." if simpler[best].excludes_zero else ": no clear difference.")
        )
    return lines


def _interval_findings(found: Evaluation) -> list[str]:
    own = [row for row in found.coverage if row.basis == "own"]
    if not own:
        return []
    shares = [100 * (row.coverage.value or 0) for row in own]
    text = (
        f"Uncertainty: intervals meant to hold {LEVEL_TEXT} of measured scores held "
        f"{min(shares):.1f} to {max(shares):.1f} % in the {len(own)} cohorts with RNA"
    ) if len(own) > 1 else (
        f"Uncertainty: intervals meant to hold {LEVEL_TEXT} of measured scores held "
        f"{shares[0]:.1f} %"
    )  # fmt: skip
    return [text + "."]


def _left_out_findings(found: Evaluation) -> list[str]:
    h = found.hold_out
    if h is None:
        return []
    r, r2 = ("not measured" if v is None else f"{v:.2f}" for v in (h["within_r"], h["r2"]))
    return [
        f"An unseen cohort: of {h['rule']} ({h['n_patients']} patients) no RNA was used; there the "
        f"median correlation is {r} and the median R² {r2}, and the own RNA profile is found "
        f"{h['fold10']:.1f} times as often as by chance among the first ten of {h['n_profiles']}."
    ]


def new_cohort(curve: Curve) -> str:
    """Whose patients a curve is about: the cohort, or the rule where it is not one cohort."""
    return curve.rule.removeprefix(f"{COHORT}=")


def _adaptation_findings(found: Evaluation) -> list[str]:
    if not found.adaptation:
        return []
    told = [
        f"{new_cohort(c)} {f'more than {c.points[-1].pairs}' if c.reached is None else c.reached}"
        for c in found.adaptation
    ]
    return [
        f"New cohorts: pairs needed for {100 * SHARE:.0f} % of the correlation that all pairs of "
        f"the cohort give: {', '.join(told)}."
    ]


def _validation_findings(found: Evaluation) -> list[str]:
    v = found.validation
    lines = [contrast_sentence(c) for c in v.contrasts]
    lines += [groups_sentence(g) for g in v.gene_groups]
    lines += [labels_sentence(t) for t in v.labels]
    lines += [survival_sentence(s) for s in v.survival]
    return lines


def contrast_sentence(c: ContrastResult) -> str:
    """What came of telling two groups apart."""
    text = (
        f"{c.high} against {c.low}: predicted {short(c.signature)} tells them apart with "
        f"an AUC of {_estimate(c.auc)}"
    )
    as_good = round(c.random_share * c.n_random)
    if c.random_share > SIGNIFICANT:
        return text + (
            f", but {as_good} of {c.n_random} random gene sets do so as well: this does not show "
            "that the signature is seen."
        )
    return text + (
        f"; {as_good or 'none'} of {c.n_random} random gene sets do as well, though half of them "
        f"reach {c.random_auc[1]:.2f}."
    )


def groups_sentence(g: GeneGroupsResult) -> str:
    """Whether a predicted signature follows a measured gene."""
    rising = [r.cohort for r in g.rows if is_clear(r.trend) and (r.trend.estimate or 0) > 0]
    falling = [r.cohort for r in g.rows if is_clear(r.trend) and (r.trend.estimate or 0) < 0]
    flat = [r.cohort for r in g.rows if not is_clear(r.trend)]
    parts = []
    if rising:
        parts.append(f"rises with measured {g.gene} in {', '.join(rising)}")
    if falling:
        parts.append(f"falls with it in {', '.join(falling)}")
    if flat:
        parts.append(f"no clear trend in {', '.join(flat)}")
    above = sum((r.trend.estimate or 0) > r.random_tau for r in g.rows)
    return (
        f"Predicted {short(g.signature)} {'; '.join(parts)}. The trend is steeper than that of "
        f"95 % of random gene sets in {above} of {len(g.rows)} cohorts."
    )


def labels_sentence(t: LabelsResult) -> str:
    """Whether signatures differ between labels."""
    clear = [r for r in t.rows if r.auc is not None and r.q is not None and r.q < SIGNIFICANT]
    if not clear:
        return f"Labels of {t.column}: none of {len(t.rows)} comparisons shows a difference."
    top = max(clear, key=lambda r: abs((r.auc or 0.5) - 0.5))
    way = "higher" if (top.auc or 0.5) > 0.5 else "lower"
    return (
        f"Labels of {t.column}: {len(clear)} of {len(t.rows)} comparisons show a difference "
        f"(q < {SIGNIFICANT}); the largest: predicted {short(top.signature)} is {way} in "
        f"{top.label} than in other patients of {everyone(top.cohort)} (AUC {top.auc:.2f}, "
        f"{top.n_label} patients)."
    )


def survival_sentence(s: SurvivalResult) -> str:
    """Whether predicted scores go with survival."""
    tests = [r for r in s.rows if r.test.effect == PER_SD and r.test.estimate is not None]
    clear = [r for r in tests if is_clear(r.test)]
    if not clear:
        return (
            f"Survival ({s.event}): no relation to a predicted signature was found in {len(tests)} "
            f"Cox models (q < {SIGNIFICANT})."
        )
    named = "; ".join(
        f"{short(r.signature)} in {everyone(r.test.cohort)}, "
        f"{interval(Estimate(r.test.estimate, r.test.low, r.test.high))}"
        for r in clear[:_NAMED]
    )
    more = f"; and {len(clear) - _NAMED} more" if len(clear) > _NAMED else ""
    return (
        f"Survival ({s.event}): related to the predicted score in {len(clear)} of {len(tests)} Cox "
        f"models (q < {SIGNIFICANT}). Hazard ratios per standard deviation: {named}{more}. "
        "Exploratory."
    )


def figure_of(found: Evaluation) -> str:
    """What the spectrum is about: the correlation within cohorts, or the pooled one."""
    value = found.medians[OURS]["within_r"].value if found.medians else None
    return "r" if value is None else "within_r"


def has_sites(found: Evaluation) -> bool:
    """True where there are folds by site."""
    return any(r.scheme == "site" for r in found.retrieval.values())


def held_out(found: Evaluation) -> str:
    """What was held out together, in words."""
    return "patients" if found.split_on == "patient_id" else f"{found.split_on} values"


def everyone(cohort: str) -> str:
    """A cohort in words."""
    return "all cohorts" if cohort == "all" else cohort


def is_clear(test: Association) -> bool:
    """True for a difference by q."""
    return test.q is not None and test.q < SIGNIFICANT


def _named(found: Evaluation, names: Sequence[str]) -> str:
    figure = figure_of(found)
    return ", ".join(
        f"{short(n)} {found.spectrum[n].figures[figure].value or 0:.2f}" for n in names
    )


def _percent(r: Retrieval, figure: str, method: str = OURS) -> str:
    value = r.figures[method][figure].value
    return "an unknown share" if value is None else f"{100 * value:.1f} %"


def _estimate(value: Estimate, *, sign: bool = False) -> str:
    if value.value is None:
        return "not measured"
    text = f"{value.value:+.2f}" if sign else f"{value.value:.2f}"
    if value.low is None or value.high is None:
        return text
    return f"{text} (95 % interval {value.low:.2f} to {value.high:.2f})"
