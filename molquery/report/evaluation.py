"""The report of an evaluation: one HTML page that a clinician can read, with every figure in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from molquery.align.adapt import SHARE
from molquery.associate import Association
from molquery.errors import printable
from molquery.evaluate.resample import Estimate
from molquery.figures import evaluation as figures
from molquery.figures import style
from molquery.figures.evaluation import short
from molquery.pages import Page
from molquery.query.calibrate import FALSE_ALARM, LEVEL
from molquery.query.evaluation import Evaluation, Retrieval
from molquery.query.folds import OURS
from molquery.query.methods import METHODS
from molquery.query.validation import GeneGroupsResult, LabelsResult, SurvivalResult
from molquery.report.findings import (
    LEVEL_TEXT,
    PER_SD,
    SIGNIFICANT,
    contrast_sentence,
    everyone,
    figure_of,
    findings,
    groups_sentence,
    has_sites,
    held_out,
    interval,
    is_clear,
    labels_sentence,
    new_cohort,
    survival_sentence,
)

_DIRECTIONS = {
    "slide_to_profile": "Slide asks for its RNA",
    "profile_to_slide": "RNA asks for its slide",
}
_FIGURES = {
    "within_r": "r within cohorts",
    "r2": "R²",
    "r": "r",
    "site_within_r": "r within, hospitals held out",
    "site_r2": "R², hospitals held out",
}


_LABELS_SHOWN = 40


def page(found: Evaluation) -> Page:
    """The whole report."""
    data = found.data
    out = Page(
        "How far can predictions from these slides be trusted?",
        f"{data['slides']} slides, {data['profiles']} RNA profiles, "
        f"{data['patients_with_both']} patients with both",
    )
    out.text(
        "molquery predicts the activity of gene programmes from H&E slides. This report compares "
        "such predictions with measured RNA in patients whose slides and RNA the model has never "
        f"seen ({held_out(found)} held out"
        + (", and, as a harder test, all patients of a hospital held out together). "
           if has_sites(found) else "). ")
        + "It is for research use only."
    )  # fmt: skip
    out.section("In short")
    out.points(findings(found))
    _terms(out)
    _data(out, found)
    _retrieval(out, found)
    _spectrum(out, found)
    _against(out, found)
    _uncertainty(out, found)
    _validation(out, found)
    _space(out, found)
    _curve(out, found)
    _adaptation(out, found)
    _ending(out, found)
    _tables(out, found)
    return out


def _terms(out: Page) -> None:
    out.section("How to read the numbers", minor=True)
    out.points([
        "Correlation (r): 0 is no relation of predicted with measured, 1 a perfect one. Within "
        "cohorts means inside one tumour type at a time: over all tumour types together, part of "
        "any correlation only says which tissue a slide shows.",
        "R²: the share of the measured variation that the prediction explains; below 0 it is "
        "worse than always guessing the mean.",
        "AUC: the probability that a patient of one group scores above a patient of the other; "
        "0.5 is chance.",
        "Brackets hold 95 % intervals, from drawing patients anew. p is two-sided; q is p after "
        "correction for all tests of a table.",
    ])  # fmt: skip


def _data(out: Page, found: Evaluation) -> None:
    out.section("What was measured")
    out.table(
        ["cohort", "slides", "patients", "RNA profiles", "patients with both"],
        [
            [name, c["slides"], c["patients"], c["profiles"], c["pairs"]]
            for name, c in found.data["cohorts"].items()
        ],
    )


def _retrieval(out: Page, found: Evaluation) -> None:
    out.section("Finding the right partner")
    if not found.retrieval:
        out.text("Not measured.")
        return
    out.text(
        "A slide (or RNA profile) of a held-out patient ranks all candidates of the other kind; "
        "the question is where its own partner stands. Every method answers for the same patients "
        "among the same candidates."
    )
    labels = {OURS: "molquery", **dict(reversed(list(found.baselines.items())))}
    out.points([
        "plain CCA: linear alignment without the space's cohort terms and hubness correction",
        "ridge regression: expression components predicted from slide features, and compared",
        "nearest raw slides: the mean profile of the 50 training slides most like the slide",
        "cohort alone: nothing but the tumour type is known; random order: nothing at all",
    ])  # fmt: skip
    panels = []
    for direction, words in _DIRECTIONS.items():
        for scope, told in (("", "all cohorts"), (".within_cohort", "own cohort")):
            patient = found.retrieval.get(f"patient.{direction}{scope}")
            site = found.retrieval.get(f"site.{direction}{scope}")
            if patient is not None:
                panels.append((
                    f"{words}, {told}: {patient.gallery} candidates",
                    {m: f["recall10"] for m, f in patient.figures.items()},
                    {} if site is None else {m: f["recall10"] for m, f in site.figures.items()},
                ))  # fmt: skip
    out.figure(
        style.svg(figures.retrieval(panels, labels)),
        "How often the own partner is among the first ten candidates. Random order is what chance "
        "gives; cohort alone is what knowing the tumour type gives.",
    )
    for key in ("patient.slide_to_profile", "patient.slide_to_profile.within_cohort"):
        r = found.retrieval.get(key)
        if r is not None and (r.scope == "pooled" or "between cohorts" not in found.not_measured):
            _retrieval_table(out, found, r, labels)


def _retrieval_table(out: Page, found: Evaluation, r: Retrieval, labels: Mapping[str, str]) -> None:
    out.table(
        ["method", "R@1, %", "R@5, %", "R@10, %", "median rank", "fold@10 over random",
         "molquery less this, fold@10"],
        [
            [labels[m], *(_percent(f[k].value) for k in ("recall1", "recall5")),
             interval(f["recall10"], percent=True), interval(f["median_rank"]),
             interval(f["fold10"]),
             interval(r.gains[m]["fold10"]) if m in r.gains else ""]
            for m, f in ((m, r.figures[m]) for m in labels)
        ],
        caption=f"{_DIRECTIONS[r.direction]}, {_scope(r.scope)}: {r.n_queries} queries, "
        f"{r.gallery} candidates, {held_out(found)} held out",
    )  # fmt: skip


def _spectrum(out: Page, found: Evaluation) -> None:
    out.section("Which gene programmes can be seen")
    if not found.spectrum:
        out.text(found.not_measured["predictability of Hallmark sets"])
        return
    figure = figure_of(found)
    where = "within cohorts" if figure == "within_r" else "over all patients"
    rows = []
    for name, q in found.spectrum.items():
        band = None if q.random is None else (q.random.low, q.random.high)
        rows.append((name, q.figures[figure], q.figures.get(f"site_{figure}"), band))
    out.figure(
        style.svg(figures.spectrum(rows, f"correlation of predicted with measured, {where}")),
        "Every Hallmark gene set, most predictable first. Grey: random gene sets of the same size "
        "and mean expression; a set inside the grey is predicted no better than genes in general. "
        "All numbers are in the tables at the end.",
    )


def _against(out: Page, found: Evaluation) -> None:
    if not found.medians:
        return
    out.section("Against simpler methods")
    out.text(
        "Medians over the gene sets. Every method is fitted on the same patients and judged on the "
        "same others; the lower table is the difference in the same drawings of patients, so an "
        "interval above 0 means that molquery is better."
    )
    shown = [f for f in _FIGURES if f in found.medians[OURS]]
    labels = {OURS: "molquery", **found.baselines}
    for source, caption, digits in (
        (found.medians, "Median over gene sets", 2),
        (found.gains, "molquery less the other method", 3),
    ):
        out.table(
            ["method", *(_FIGURES[f] for f in shown)],
            [
                [labels[m], *(interval(values.get(f), digits=digits) for f in shown)]
                for m, values in source.items()
            ],
            caption=caption,
        )
    if found.methods is not None:
        out.section("Ways to turn a signature into a score", minor=True)
        out.text(found.methods.reason[0].upper() + found.methods.reason[1:] + ".")
        out.table(
            ["method", "r within cohorts", "R²", "r", "r within, hospitals held out",
             "R², hospitals held out"],
            [[row.method, row.within_r, row.r2, row.r, row.site_within_r, row.site_r2]
             for row in found.methods.rows],
            caption=f"Medians over {found.methods.n_sets} gene sets, {found.methods.n_pairs} "
            "patients",
        )  # fmt: skip
        out.points(f"{name}: {METHODS[name]}" for name in METHODS)


def _uncertainty(out: Page, found: Evaluation) -> None:
    if not (found.coverage or found.domain):
        return
    out.section("Is the stated uncertainty right?")
    if found.coverage:
        out.text(
            f"A score comes with an interval that should hold the measured score of {LEVEL_TEXT} "
            "of new patients. Here every patient's intervals were made from other patients; those "
            "of the lower marks from other cohorts alone, as for a cohort without any RNA."
        )
        rows = [(_figure_text(r.cohort), r.basis, r.coverage) for r in found.coverage]
        out.figure(
            style.svg(figures.coverage(rows, LEVEL)),
            f"Measured coverage; the grey band is {LEVEL_TEXT} ± 2 %.",
        )
        out.table(
            ["cohort", "intervals from", "patients", "coverage, %", "lowest set, %",
             "highest set, %", "half width, sd"],
            [[r.cohort, "own cohort" if r.basis == "own" else "other cohorts", r.n_patients,
              interval(r.coverage, percent=True), f"{100 * r.lowest:.1f}",
              f"{100 * r.highest:.1f}", f"{r.half_width:.2f}"] for r in found.coverage],
            caption="Means over the gene sets, the lowest and the highest gene set, and half the "
            "median width in standard deviations of the measured score in the cohort",
        )  # fmt: skip
        if any(r.half_width > 1 for r in found.coverage if r.basis == "own"):
            out.text(
                "Intervals wider than a standard deviation to each side say that a single "
                "patient's score is a rough estimate: groups of patients can be told apart far "
                "better than individuals."
            )
        weak = min((r.lowest for r in found.coverage if r.basis == "left out"), default=1.0)
        if weak < LEVEL - 0.1:
            out.caution(
                "In a cohort without RNA coverage holds on average over gene sets but not for "
                f"every one: it fell to {100 * weak:.0f} % for one of them."
            )
    if found.domain:
        out.section("Slides unlike those that the model learned from", minor=True)
        out.table(
            ["cohort", "slides", "flagged, %", "what it means"],
            [[r.cohort, r.n_slides, interval(r.flagged, percent=True),
              "false alarms" if r.basis == "held out" else "a cohort without RNA"]
             for r in found.domain],
            caption=f"The warning is set to at most {100 * FALSE_ALARM:.0f} % false alarms",
        )  # fmt: skip


def _validation(out: Page, found: Evaluation) -> None:
    v = found.validation
    if not (v.contrasts or v.gene_groups or v.labels or v.survival):
        return
    out.section("Do predicted scores mean what they say?")
    if v.contrasts:
        out.section("Two groups told apart by a signature", minor=True)
        for c in v.contrasts:
            out.text(contrast_sentence(c))
            for note in c.notes:
                out.caution(note[0].upper() + note[1:] + ".")
        curves = [
            (_figure_text(f"{c.high} / {c.low}: AUC {c.auc.value or 0:.2f}"), *c.curve)
            for c in v.contrasts
        ]
        out.figure(style.svg(figures.roc(curves)), "ROC curve of the predicted signature.")
        for c in v.contrasts:
            out.facts({
                "groups": f"{c.high} ({c.n_high} patients) against {c.low} ({c.n_low})",
                "signature": f"{c.signature}, {c.n_genes} genes",
                "AUC, predicted": interval(c.auc, digits=3),
                **({} if c.told_auc is None else
                   {"AUC, predicted by models told the cohort": interval(c.told_auc, digits=3)}),
                "AUC, measured RNA": interval(c.measured_auc, digits=3),
                "AUC, random gene sets (5, 50, 95 %)": ", ".join(f"{a:.3f}" for a in c.random_auc),
            })  # fmt: skip
        if any(c.told_auc is not None for c in v.contrasts):
            out.text(
                "The models of this comparison were not told which of the two cohorts a slide is "
                "of. The scores of a search do know it, so that they tell cohorts apart is no "
                "evidence."
            )
    for g in v.gene_groups:
        _gene_groups(out, g)
    for t in v.labels:
        _labels(out, t)
    for s in v.survival:
        _survival(out, s)


def _gene_groups(out: Page, g: GeneGroupsResult) -> None:
    out.section(f"Predicted {short(g.signature)} by measured {g.gene}", minor=True)
    out.text(groups_sentence(g))
    if g.dropped:
        out.text(f"{g.gene} is one of the set's genes and was taken out of it here.", "soft")
    boxes = [(_figure_text(r.cohort), r.quartiles) for r in g.rows]
    out.figure(
        style.svg(figures.groups(boxes, _figure_text(g.gene), "predicted score, sd of the cohort")),
        f"Patients of each cohort in three groups by measured {g.gene}. Boxes: quartiles and "
        "median; whiskers: 5 to 95 %.",
    )
    out.table(
        ["cohort", "patients", "trend, tau-b", "random sets reach (95 %)", "high less low, sd",
         "p", "q"],
        [[r.cohort, sum(r.trend.n.values()), _effect(r.trend), r.random_tau,
          interval(r.difference), r.trend.p, r.trend.q] for r in g.rows],
    )  # fmt: skip
    if g.notes:
        out.points(g.notes)


def _labels(out: Page, t: LabelsResult) -> None:
    out.section(f"Labels of {t.column}", minor=True)
    out.text(labels_sentence(t))
    rows = list(dict.fromkeys((r.cohort, r.label, r.n_label) for r in t.rows))
    columns = list(dict.fromkeys(r.signature for r in t.rows))
    auc = np.full((len(rows), len(columns)), np.nan)
    clear = np.zeros(auc.shape, dtype=bool)
    for r in t.rows:
        i, j = rows.index((r.cohort, r.label, r.n_label)), columns.index(r.signature)
        auc[i, j] = np.nan if r.auc is None else r.auc
        clear[i, j] = r.q is not None and r.q < SIGNIFICANT
    names = [_figure_text(f"{cohort}: {printable(label, 42)} ({n})") for cohort, label, n in rows]
    few = slice(0, _LABELS_SHOWN)
    title = f"AUC of each label against all others of its cohort; bold: q < {SIGNIFICANT}"
    more = f" The first {_LABELS_SHOWN} of {len(rows)} rows." if len(rows) > _LABELS_SHOWN else ""
    out.figure(
        style.svg(figures.labels(names[few], columns, auc[few], clear[few], title)),
        "Above 0.5 the predicted score is higher in the label than in the others, below it is "
        "lower; in brackets the patients with the label." + more,
    )
    if t.notes:
        out.points(t.notes)


def _survival(out: Page, s: SurvivalResult) -> None:
    out.section(f"Survival: {s.event} over {s.time}", minor=True)
    out.text(survival_sentence(s))
    panels: dict[str, list[tuple[str, float, float, float, bool]]] = {}
    for r in s.rows:
        t = r.test
        if t.effect != PER_SD or t.estimate is None:
            continue
        low, high = t.low or t.estimate, t.high or t.estimate
        name = _figure_text(everyone(t.cohort))
        panels.setdefault(r.signature, []).append((name, t.estimate, low, high, is_clear(t)))
    if panels:
        out.figure(
            style.svg(figures.forest(list(panels.items()), "hazard ratio per sd of the score")),
            "Hazard ratio per standard deviation of the predicted score, with 95 % intervals. "
            "Right of 1: patients with higher scores have the event earlier. "
            f"Filled: q < {SIGNIFICANT}.",
        )
    out.points(s.notes)


def _space(out: Page, found: Evaluation) -> None:
    if not found.geometry:
        return
    out.section("How the shared space lies")
    out.text(
        "Hubs are profiles that are near to many slides for no reason; they spoil retrieval. "
        "molquery takes each profile's hubness off its similarity. The modality gap is the "
        "distance between the mean slide and the mean profile (0: none, 2: opposite)."
    )
    names = {
        "skewness_before": "hubness (skewness of 10-occurrence), cosine",
        "skewness_after": "hubness, corrected",
        "never_before": "profiles that are nobody's neighbour, share, cosine",
        "never_after": "the same, corrected",
        "largest_before": "queries that the largest hub answers, share, cosine",
        "largest_after": "the same, corrected",
        "modality_gap": "modality gap",
        "cosine_pairs": "mean cosine of pairs",
        "cosine_others": "mean cosine of others",
    }
    schemes = list(found.geometry)
    out.table(
        ["", *("hospitals held out" if s == "site" else f"{held_out(found)} held out"
               for s in schemes)],
        [[text, *(_three(found.geometry[s].get(name)) for s in schemes)]
         for name, text in names.items()],
    )  # fmt: skip


def _curve(out: Page, found: Evaluation) -> None:
    if not found.learning_curve:
        return
    out.section("Would more patients help?")
    points = [(p.n_patients, p.r2, p.within_r) for p in found.learning_curve]
    out.figure(
        style.svg(figures.learning_curve(points)),
        "Medians over the gene sets, for models that learned from fewer patients and were judged "
        "on the same held-out ones.",
    )
    out.table(["patients learned from", "median R²", "median r within cohorts"], points)


def _adaptation(out: Page, found: Evaluation) -> None:
    if not found.adaptation:
        return
    out.section("How many patients of a new cohort are needed?")
    out.text(
        "Models that learned from the other cohorts and from some patients of this one, judged on "
        "others of its patients. Without any pair only the order of the slides carries over, not "
        "the level of their scores: R² is then about 0 or below."
    )
    out.figure(
        style.svg(figures.adaptation([
            (_figure_text(new_cohort(c)),
             [(str(p.pairs), p.within_r, p.within_r_sd) for p in c.points], c.full.within_r)
            for c in found.adaptation
        ], SHARE)),
        "Correlation of predicted with measured in the cohort, median over gene sets: mean over "
        f"{found.adaptation[0].seeds} draws of patients, and the standard deviation between them. "
        f"Black: with all pairs of the cohort; dashed: {100 * SHARE:.0f} % of that.",
    )  # fmt: skip
    names = list(dict.fromkeys(p.pairs for c in found.adaptation for p in c.points))
    out.table(
        ["cohort left out", "figure", *(f"{n} pairs" for n in names), "all pairs",
         f"pairs to {100 * SHARE:.0f} % of r"],
        [
            [new_cohort(c) if figure == "within_r" else "", text,
             *(_two(getattr({p.pairs: p for p in c.points}.get(n), figure, None)) for n in names),
             _two(getattr(c.full, figure)),
             ("more" if c.reached is None else str(c.reached)) if figure == "within_r" else ""]
            for c in found.adaptation
            for figure, text in (("within_r", "r"), ("r2", "R²"), ("fold10", "fold@10"))
        ],
        caption="Medians over gene sets; fold@10: slide to RNA, over chance",
    )  # fmt: skip


def _tables(out: Page, found: Evaluation) -> None:
    """The long tables, for those who look a number up."""
    out.section("All numbers")
    out.table(
        ["held out", "who asks", "candidates", "R@1, %", "R@5, %", "R@10, %", "median rank",
         "fold@10"],
        [
            ["hospitals" if r.scheme == "site" else held_out(found),
             "slide" if r.direction == "slide_to_profile" else "RNA",
             f"{r.gallery}, {_scope(r.scope)}",
             *(interval(r.figures[OURS][k], percent=True)
               for k in ("recall1", "recall5", "recall10")),
             interval(r.figures[OURS]["median_rank"]), interval(r.figures[OURS]["fold10"])]
            for r in found.retrieval.values()
        ],
        caption="Retrieval by molquery",
    )  # fmt: skip
    by_cohort = [
        ["hospitals" if r.scheme == "site" else held_out(found),
         "slide" if r.direction == "slide_to_profile" else "RNA", _scope(r.scope), cohort,
         interval(f["recall10"], percent=True), interval(f["fold10"])]
        for r in found.retrieval.values() for cohort, f in r.by_cohort.items()
    ]  # fmt: skip
    if by_cohort:
        out.table(
            ["held out", "who asks", "candidates", "cohort that asks", "R@10, %", "fold@10"],
            by_cohort, caption="Retrieval by cohort",
        )  # fmt: skip
    if found.spectrum:
        _spectrum_tables(out, found)
    for t in found.validation.labels:
        out.table(
            ["cohort", "label", "patients", "others", "signature", "AUC", "p", "q"],
            [[r.cohort, r.label, r.n_label, r.n_rest, short(r.signature),
              interval(Estimate(r.auc, r.low, r.high)), r.p, r.q] for r in t.rows],
            caption=f"Labels of {t.column} (Mann-Whitney)",
        )  # fmt: skip
    for s in found.validation.survival:
        out.table(
            ["signature", "cohort", "test", "patients", "events", "compared", "hazard ratio", "p",
             "q", "note"],
            [[short(r.signature), everyone(r.test.cohort), r.test.test,
              sum(r.test.n.values()), sum(r.test.events.values()),
              (r.test.effect or "").removeprefix("hazard ratio, "), _effect(r.test),
              r.test.p, r.test.q, r.test.note] for r in s.rows],
            caption=f"Survival ({s.event} over {s.time}) by tertile of the predicted score, cut "
            "within every cohort",
        )  # fmt: skip


def _spectrum_tables(out: Page, found: Evaluation) -> None:
    site = has_sites(found)
    out.table(
        ["gene set", "genes", "r within cohorts", *(["hospitals held out"] if site else []), "R²",
         "rank r", "specificity", "random as good, %"],
        [
            [short(name), q.n_genes, interval(q.figures["within_r"]),
             *([interval(q.figures.get("site_within_r"))] if site else []),
             interval(q.figures["r2"]), _two(q.spearman),
             *((_two(q.random.specificity), f"{100 * q.random.share:.0f}")
               if q.random else (None, None))]
            for name, q in found.spectrum.items()
        ],
        caption="Gene sets. Rank r is Spearman's; specificity: r within cohorts less the mean of "
        "random gene sets",
    )  # fmt: skip
    cohorts = list(next(iter(found.spectrum.values())).by_cohort)
    if len(cohorts) > 1:
        out.table(
            ["gene set", *cohorts],
            [[short(name), *(interval(q.by_cohort.get(c)) for c in cohorts)]
             for name, q in found.spectrum.items()],
            caption="Gene sets: correlation of predicted with measured in every cohort",
        )  # fmt: skip


def _ending(out: Page, found: Evaluation) -> None:
    out.section("What was not measured")
    if found.not_measured:
        out.table(["what", "why"], found.not_measured.items())
    else:
        out.text("Everything that this report can hold was measured.")
    out.section("How this was made")
    p, s = found.provenance, found.settings
    out.facts({
        "database": p.database,
        "molquery": p.molquery,
        "space": f"{p.space} {p.space_id[:12]} ({found.data['method']})",
        "slide encoder": found.data["encoder"],
        "table versions": ", ".join(f"{k} {v}" for k, v in p.table_versions.items()),
        "scores": f"{p.parameters['scoring']} over {found.data['profiles']} profiles, "
                  f"{found.data['genes']} genes",
        "intervals": f"{s.resamples} resamples of patients, seed {s.seed}",
        "random gene sets": f"{s.random_sets} for each gene set, seed {s.seed}",
    })  # fmt: skip


def _scope(scope: str) -> str:
    return "own cohort" if scope == "within_cohort" else "all cohorts"


def _effect(test: Association) -> str | None:
    return (
        interval(Estimate(test.estimate, test.low, test.high)) if test.estimate is not None else ""
    )


def _figure_text(text: Any) -> str:
    """Text that matplotlib shows as it is: a dollar sign would begin a formula."""
    return printable(str(text), 80).replace("$", r"\$")


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.1f}"


def _three(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}".replace("-", "−")


def _two(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}".replace("-", "−")
