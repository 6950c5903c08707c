"""Learning a space: folds, models, held-out retrieval, and the space that takes effect.

The order is: choose the method on an inner split (unless it is given), fit one model per fold of
patients and per fold of sites, fit the final model on every pair, store the space, project every
slide and profile, and only then name the space in the manifest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from molquery import index, predict, rna
from molquery.align.cca import CCA, fit_cca
from molquery.align.inputs import fit_profile_input, fit_slide_input
from molquery.align.left_out import describe_left_out
from molquery.align.pairs import (
    Pairs,
    constant_columns,
    groups_where,
    load_pairs,
    normal_tissue,
)
from molquery.database import Database
from molquery.errors import InputError
from molquery.evaluate import metrics
from molquery.evaluate.held_out import mean_retrieval
from molquery.evaluate.splits import folds_by_group, holdout_by_group
from molquery.predict import PATIENT_SCHEME, SITE_SCHEME
from molquery.resume import fitting
from molquery.schema import PATIENT, PROFILES, SLIDES, shared_column
from molquery.space import (
    DEFAULT_SPACE,
    Fold,
    Head,
    Layer,
    Model,
    SharedSpace,
    manifest_entry,
    project_tables,
    save_space,
)
from molquery.threads import parallel
from molquery.vectors import Bools, Ints, Matrix, group_means, principal_components, spaced

METHODS = ("cca", "infonce")
N_FOLDS = 5
_VALIDATION = 0.2
_MAX_ANCHORS = 5000
#: Raised when the same pairs and settings give another model than before.
_FORMULA = 2
#: A smaller gain of the contrastive heads on one inner split is within what a split does by itself
#: (within-cohort r varied by 0.01 between splits of 1,647 patients), so the closed form is kept.
_WORTH = 0.01

#: Called with (stage, steps done, steps in all, what to show beside it).
Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True, slots=True)
class AlignSettings:
    """How a space is learned; printed with the space and stored in it.

    Attributes:
        method: 'cca', 'infonce', or 'auto': whichever predicts better on an inner split.
        pair_on: the column that says which slide and profile belong together.
        split_on: the column whose values are never split between training and test.
        seed: of folds, initialisation, batches, dropout and noise.
        hold_out: COLUMN=VALUE: RNA of patients with such a slide or profile is left out
            altogether, as if it had never been measured; empty for none.
    """

    method: str = "auto"
    pair_on: str = PATIENT
    split_on: str = PATIENT
    seed: int = 0
    hold_out: str = ""


@dataclass(frozen=True, slots=True)
class AlignReport:
    """What an alignment did: the stored space and how its methods compared on the inner split."""

    space: SharedSpace
    n_slides: int
    n_profiles: int
    comparison: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def align(
    database: Database,
    settings: AlignSettings | None = None,
    *,
    name: str = DEFAULT_SPACE,
    device: str = "auto",
    progress: Progress | None = None,
) -> AlignReport:
    """Learn a space from the database's pairs and make it the current one.

    Interrupted, it is taken up by the next call where it was: the same space comes out.

    Args:
        device: 'cpu', 'gpu', or 'auto' (a GPU where there is one), for the contrastive heads.

    Raises:
        SpaceError: there are no pairs, or too few.
        InputError: the method, the device or what to hold out is not known.
    """
    settings = settings or AlignSettings()
    if settings.method not in ("auto", *METHODS):
        raise InputError(
            f"{settings.method} is not an alignment method", hint=f"auto, {', '.join(METHODS)}"
        )
    check_device(device)
    view = database.pinned()
    pairs = load_pairs(view, pair_on=settings.pair_on, split_on=settings.split_on)
    if settings.hold_out:
        groups = groups_where(view, pairs, settings.hold_out)
        pairs = pairs.without(groups, settings.hold_out)
    return learn(database, view, pairs, settings, name=name, device=device, progress=progress)


def learn(
    database: Database,
    view: Database,
    pairs: Pairs,
    settings: AlignSettings,
    *,
    name: str = DEFAULT_SPACE,
    device: str = "auto",
    progress: Progress | None = None,
    facts: Mapping[str, Any] | None = None,
) -> AlignReport:
    """As `align`, from pairs that were chosen already; `facts` are stored beside its own.

    `view` is the database as it was when the pairs were read.
    """
    tell = progress or (lambda stage, done, total, text: None)
    kind = database.facts(SLIDES)["kind"]
    notes = [*normal_tissue(pairs), *constant_columns(pairs)]
    if embeddings := rna.held(database):
        notes.append(
            f"learned from the expression; the {embeddings.encoder} embeddings of the profiles are "
            "not used"
        )
    with fitting(database.path, _state(pairs, kind, settings.seed, device)) as kept:

        def fit(held: Collection[str], method: str) -> Model:
            key = (method, sorted(held))
            if (model := kept.get(*key)) is None:
                model = fit_model(
                    pairs, held, kind, method, settings.seed, device=device, tell=_epochs(tell)
                )
                kept.put(model, *key)
            return model

        comparison: dict[str, dict[str, float]] = {}
        method = settings.method
        if method == "auto":
            comparison = _compare(pairs, settings.seed, fit, tell)
            gain = comparison["infonce"]["within_r"] - comparison["cca"]["within_r"]
            method = "infonce" if gain > _WORTH else "cca"
            notes.append(f"{method} was chosen on an inner split by {settings.split_on}")
        plan = plan_folds(pairs, settings.seed, notes)

        def done(count: int) -> None:
            tell("fitting folds", count, len(plan) + 1, method)

        done(0)
        # torch has one random state for all threads: contrastive folds run one after the other.
        every_fold: list[set[str]] = [held for _, held in plan] + [set()]
        *models, final = parallel(
            lambda held: fit(held, method), every_fold, done, sequential=method != "cca"
        )
        folds = [Fold(scheme, frozenset(h), m) for (scheme, h), m in zip(plan, models, strict=True)]
        if kept.taken:
            total = len(every_fold) + len(comparison)
            notes.append(f"{kept.taken} of {total} models were there from an interrupted align")
        if device == "gpu" and method == "cca":
            notes.append("cca is a closed form in numpy: no GPU was used")

        whole = {
            **(facts or {}),
            "encoder": database.facts(SLIDES)["encoder"],
            "kind": kind,
            "slide_dim": int(pairs.slides.vectors.shape[1]),
            "n_genes": int(pairs.profiles.vectors.shape[1]),
            "dim": final.dim,
            "method": method,
            "n_pairs": len(pairs),
            "n_groups": len(np.unique(pairs.groups)),
            "settings": asdict(settings),
            "split_on": settings.split_on,
            "comparison": comparison,
            "retrieval": held_out_retrieval(pairs, folds),
        }
        if pairs.left_out:
            tell("predicting held-out", 0, 1, settings.hold_out)
            told = describe_left_out(view, pairs, final, settings.hold_out)
            whole["hold_out"] = told
            tell("predicting held-out", 1, 1, settings.hold_out)
        tell("projecting", 0, 2, "slides and profiles")
        with database.writing("align") as draft:
            draft["details"] = f"{method}, {len(pairs)} pairs"
            space = save_space(database, name, whole, final, folds)
            _activate(database, space)
        tell("projecting", 2, 2, "done")
    n_slides, n_profiles = database.count(SLIDES), database.count(PROFILES)
    return AlignReport(space, n_slides, n_profiles, comparison, tuple(notes))


def check_device(device: str) -> None:
    """Raise InputError unless a device is 'auto', 'cpu', or 'gpu' where torch has one."""
    if device == "gpu":
        import torch

        if not torch.cuda.is_available():
            raise InputError(
                "torch finds no GPU here",
                found=f"torch {torch.__version__}",
                hint="--device cpu, or a torch built for the GPU of this machine",
            )
    elif device not in ("auto", "cpu"):
        raise InputError(f"{device} is not a device", hint="auto, cpu, gpu")


def _state(pairs: Pairs, kind: str, seed: int, device: str) -> str:
    """A hash of all that a fitted model depends on beside its method and what it holds out."""
    digest = hashlib.sha256(f"{_FORMULA} {CCA()} {kind} {seed} {device}".encode())
    for side in (pairs.slides, pairs.profiles):
        digest.update(np.ascontiguousarray(side.vectors).data)
        for text in (side.ids, side.pair_keys, side.groups, side.cohorts, side.sites):
            digest.update("\n".join(text.tolist()).encode())
    digest.update(
        repr([(place, n) for place, (n, _) in sorted(pairs.places.sites.items())]).encode()
    )
    for rows in (pairs.slide, pairs.profile, pairs.unused):
        digest.update(np.ascontiguousarray(rows).data)
    return digest.hexdigest()


def _activate(database: Database, space: SharedSpace) -> None:
    """Store the projections and name the space in the manifest.

    The rows are read anew: others may have come since the pairs were read.
    """
    project_tables(database, space)
    entry = manifest_entry(database, space)
    database.update_manifest(lambda manifest: manifest["spaces"].update({space.name: entry}))
    database.drop_shared(keep=shared_column(space.space_id))
    index.remove_stale(database, {space.space_id})


def fit_model(
    pairs: Pairs,
    held: Collection[str],
    kind: str,
    method: str,
    seed: int,
    *,
    device: str = "auto",
    tell: Callable[[int, int, float, float], None] | None = None,
) -> Model:
    """One model from every pair and profile but those of the groups held out.

    Profiles without slides inform the expression side too, unless their group is held out.
    """
    train = ~pairs.of_groups(held)
    reference = ~np.isin(pairs.profiles.groups, sorted(held)) & ~pairs.unused
    slide_input = fit_slide_input(pairs, train, kind)
    profile_input = fit_profile_input(pairs, reference)
    rows = pairs.slide[train]
    anchors, of_anchor = np.unique(rows, return_inverse=True)
    standard = slide_input.standardise(pairs.slides.vectors[anchors])
    cohorts, sites = (v[anchors].tolist() for v in (pairs.slides.cohorts, pairs.slides.sites))
    x_pairs = slide_input.blocks(standard, cohorts, sites)[of_anchor]
    reference_z = profile_input(pairs.profiles.vectors[reference])
    z_pairs = profile_input(pairs.profiles.vectors[pairs.profile[train]])
    # One row per patient: several slides of one profile are averaged.
    keys = pairs.slides.pair_keys[rows]
    x, z = (group_means(keys, v)[1].astype(np.float32) for v in (x_pairs, z_pairs))
    if method == "cca":
        slide_head, profile_head, _ = fit_cca(x, z, reference_z, CCA())
    else:
        slide_head, profile_head = _contrastive(
            pairs, train, x, z, reference_z, keys, seed, device, tell
        )
    model = Model(
        slide_input,
        profile_input,
        (slide_head,),
        (profile_head,),
        (1.0,),
        anchors=np.zeros((1, 1), np.float32),
    )
    few = spaced(len(anchors), _MAX_ANCHORS)
    shared = model.project_standardised(standard[few], cohorts[few], sites[few])
    return replace(model, anchors=shared)


def _contrastive(
    pairs: Pairs,
    train: Bools,
    x: Matrix,
    z: Matrix,
    reference_z: Matrix,
    keys: Any,
    seed: int,
    device: str,
    tell: Callable[[int, int, float, float], None] | None,
) -> tuple[Head, Head]:
    """InfoNCE heads on slide inputs and principal components of expression."""
    from molquery.align.infonce import InfoNCE, fit_infonce

    centre = reference_z.mean(axis=0, dtype=np.float64)
    variances, directions = principal_components(reference_z, CCA().components)
    scale = directions / np.sqrt(variances + CCA().rz)
    whiten = Layer(scale.astype(np.float32), (-(centre @ scale)).astype(np.float32))
    names, first = np.unique(keys, return_index=True)
    groups = pairs.groups[train][first]
    strata = pairs.cohorts[train][first]
    held = holdout_by_group(
        groups, fraction=0.15, seed=seed, strata=[c or None for c in strata.tolist()]
    )
    owner = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    del names
    components = (z @ whiten.weight + whiten.bias).astype(np.float32)
    slide_head, profile_head = fit_infonce(
        x, components, owner, np.flatnonzero(held), InfoNCE(), seed=seed, device=device, report=tell
    )
    return slide_head, (whiten, *profile_head)


def held_out_retrieval(pairs: Pairs, folds: list[Fold]) -> dict[str, Any]:
    """Retrieval in both directions over the folds by patient; the gallery is the fold."""
    parts: dict[str, list[metrics.Retrieval]] = {}
    for fold in folds:
        rows = np.flatnonzero(pairs.of_groups(fold.held_out))
        slides, profiles = np.unique(pairs.slide[rows]), np.unique(pairs.profile[rows])
        x = pairs.slides.project(fold.model, slides)
        r = fold.model.project_profiles(pairs.profiles.vectors[profiles])
        similarity = x @ r.T - fold.model.hubness(r)[None, :]
        positive = np.zeros(similarity.shape, dtype=bool)
        positive[
            np.searchsorted(slides, pairs.slide[rows]),
            np.searchsorted(profiles, pairs.profile[rows]),
        ] = True
        same = pairs.slides.cohorts[slides][:, None] == pairs.profiles.cohorts[profiles][None, :]
        if not (pairs.profiles.cohorts[profiles] != "").any():
            same[:] = True
        both = {
            "slide_to_profile": (similarity, positive, same),
            "profile_to_slide": ((x @ r.T).T, positive.T, same.T),
        }
        for direction, (scores, truth, allowed) in both.items():
            key = f"{fold.scheme}.{direction}"
            parts.setdefault(key, []).append(metrics.retrieval(scores, truth))
            if (truth & allowed).any():
                within = metrics.retrieval(scores, truth, allowed=allowed)
                parts.setdefault(f"{key}.within_cohort", []).append(within)
    return {key: mean_retrieval(values) for key, values in parts.items()}


def plan_folds(pairs: Pairs, seed: int, notes: list[str]) -> list[tuple[str, set[str]]]:
    """(scheme, held-out groups) of every fold; folds by site only where there are enough sites.

    A group with pairs at several sites belongs to the first of them.
    """
    groups, first = np.unique(pairs.groups, return_index=True)
    cohorts = [c or None for c in pairs.cohorts[first].tolist()]
    plan = _scheme(PATIENT_SCHEME, groups.tolist(), groups.tolist(), cohorts, seed)
    sites = pairs.sites[first].tolist()
    known = {site for site in sites if site}
    if all(sites) and len(known) >= N_FOLDS:
        held = _scheme(SITE_SCHEME, sites, groups.tolist(), cohorts, seed)
        return plan + [(scheme, fold | _others_of_sites(pairs, fold)) for scheme, fold in held]
    why = "the slides name no site" if not known else f"{len(known)} sites are known"
    if known:
        why += ", and not of every pair" if not all(sites) else f"; folds need {N_FOLDS}"
    notes.append(f"no folds by site: {why}")
    return plan


def _others_of_sites(pairs: Pairs, groups: set[str]) -> set[str]:
    """Groups that have a profile but no slide, at the sites of these groups."""
    sites = np.unique(pairs.sites[pairs.of_groups(groups)])
    mine = np.isin(pairs.profiles.sites, sites) & ~np.isin(pairs.profiles.groups, pairs.groups)
    return set(pairs.profiles.groups[mine].tolist()) - {""} - pairs.left_out


def _scheme(
    scheme: str, units: list[str], groups: list[str], cohorts: list[str | None], seed: int
) -> list[tuple[str, set[str]]]:
    """Folds of the groups in which no unit (the group itself, or its site) is split."""
    count = min(N_FOLDS, len(set(units)))
    fold = folds_by_group(units, n_folds=count, seed=seed, strata=cohorts)
    return [
        (scheme, {g for g, f in zip(groups, fold, strict=True) if f == k}) for k in range(count)
    ]


def _compare(
    pairs: Pairs, seed: int, fit: Callable[[Collection[str], str], Model], tell: Progress
) -> dict[str, dict[str, float]]:
    """Both methods on one inner split of the patients.

    Compared by the mean over genes of the within-cohort correlation between the soft-kNN prediction
    and the measured z-score of held-out patients; retrieval is shown beside it.
    """
    strata = [c or None for c in pairs.cohorts.tolist()]
    held = holdout_by_group(
        pairs.groups.tolist(), fraction=_VALIDATION, seed=seed + 1, strata=strata
    )
    out: dict[str, dict[str, float]] = {}
    for done, method in enumerate(METHODS):
        tell("choosing the method", done, len(METHODS), method)
        groups = set(pairs.groups[held].tolist())
        model = fit(groups, method)
        fold = Fold(PATIENT_SCHEME, frozenset(groups), model)
        retrieval = held_out_retrieval(pairs, [fold])
        out[method] = {
            "within_r": _gene_correlation(pairs, held, model),
            "fold10": retrieval[f"{PATIENT_SCHEME}.slide_to_profile"]["fold10"],
        }
    tell("choosing the method", len(METHODS), len(METHODS), "")
    return out


def _gene_correlation(pairs: Pairs, held: Bools, model: Model) -> float:
    test, first = np.unique(pairs.profile[held], return_index=True)
    slides: Ints = pairs.slide[held][first]
    reference = np.setdiff1d(np.flatnonzero(~pairs.unused), test)
    x = pairs.slides.project(model, slides)
    r = model.project_profiles(pairs.profiles.vectors[reference])
    z = model.profile_input(pairs.profiles.vectors)
    weights = predict.soft_weights(x, r, model.hubness(r))
    cohorts = [c or "all" for c in pairs.slides.cohorts[slides].tolist()]
    mean, _ = metrics.within_cohort_r(weights @ z[reference], z[test], cohorts, min_n=3)
    return float(np.nanmean(mean))


def _epochs(tell: Progress) -> Callable[[int, int, float, float], None]:
    def report(epoch: int, epochs: int, loss: float, recall: float) -> None:
        tell("training", epoch, epochs, f"loss {loss:.3f}  validation R@10 {recall:.3f}")

    return report
