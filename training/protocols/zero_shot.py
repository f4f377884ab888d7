"""Zero-shot classification protocols: CT-CLIP's, RadFinder's and fVLM's prompts on CT-RATE and Rad-ChestCT.

Beside the protocol's own form stands, as a row of its own, what the model's trained findings say of the
labels that its dictionary has. Scores and figures are `classification`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from core_model.anatomy import organ
from training.datasets.sample import Record, UnusableSampleError
from training.protocols.classification import (
    DEVELOPMENT,
    TEST,
    Classification,
    Scored,
    merge_calcification,
    prompt_vectors,
    softmax_scores,
)
from training.protocols.curves import Figures, Floats, Rule
from training.protocols.encoder import Encoder
from training.protocols.outcome import Items, Measured, PublicProtocol, Row, Run
from training.protocols.pictures import roc
from training.protocols.published import (
    CT_RATE_LABELS,
    FVLM_ORGANS,
    MERGED_LABELS,
    OWN_FINDINGS,
    Prompts,
)
from training.protocols.selection import Variant, by_name

NO_LABELS = "labels are missing"
VOLUME, ORGANS, OWN = "volume", "organs", "own_findings"
FORMS = {
    VOLUME: "volume",
    ORGANS: "organs",
    OWN: "own findings (not the protocol)",
}
SHOWN = ("auroc", "f1_weighted", "accuracy", "balanced_accuracy", "precision", "sensitivity", "specificity")
_FORMS_SAID = {
    VOLUME: "prompts against the whole volume",
    ORGANS: "prompts against the embedding of the label's organ, for items that show it",
    OWN: "probability of the model's trained finding, for the labels that its dictionary has",
}
CHOSEN = {
    TEST: "test thresholds (optimistic)",
    DEVELOPMENT: "development thresholds",
}
# What RadFinder draws intervals of, by item.
BY_ITEM = (
    f"{VOLUME}/macro/auroc",
    *(f"{VOLUME}/macro/{TEST}/{key}" for key in ("precision", "f1_weighted", "balanced_accuracy")),
)


@dataclass(frozen=True, kw_only=True)
class ZeroShot(PublicProtocol):
    """A classification protocol; further attributes as `PublicProtocol`.

    Attributes
    ----------
    labels: that are prompted.
    prompts, rule: published.
    variant: of CT-RATE; None for Rad-ChestCT.
    judged: labels that are judged; all that are prompted unless given.
    learned_scale: whether the softmax takes the model's learned scale (CT-CLIP, HLIP) or bare cosines
        (RadFinder).
    on_organs: whether prompts are also compared with the embedding of the label's organ (fVLM).
    item_intervals: whether the published interval draws items (RadFinder).
    """

    labels: tuple[str, ...]
    prompts: Prompts
    rule: Rule
    variant: Variant | None = None
    judged: tuple[str, ...] = ()
    learned_scale: bool = True
    on_organs: bool = False
    item_intervals: bool = False
    develops: bool = True

    def select(self, records: Sequence[Record]) -> list[Record]:
        """The variant's records of CT-RATE's validation split; all of Rad-ChestCT.

        Raises
        ------
        ValueError: if the labels were mapped otherwise.
        """
        if self.variant is None:
            mapped = {r.notes.get("label_mapping", "") for r in records} - {self.mapping}
            if mapped:
                raise ValueError(
                    f"labels were mapped by {', '.join(sorted(mapped))!r}; open the set with {self.mapping!r}"
                )
            return by_name(records)
        return self.variant.choose([r for r in records if r.split == "validation"])

    def check(self, record: Record) -> None:
        """A record needs every label that is judged."""
        missing = [x for x in self._judged if x not in record.labels]
        if missing:
            raise UnusableSampleError(NO_LABELS, f"{len(missing)} of {len(self._judged)}")

    @property
    def _judged(self) -> tuple[str, ...]:
        return self.judged or self.labels

    def measure(self, run: Run) -> Measured:
        """Score the test items in every form, with thresholds of development patients where there are any."""
        items, development = run.items(), run.development()
        forms = self.scored(items, run.encoder, self._truth(items))
        held_out: dict[str, dict[str, float]] = {}
        if development is not None:
            truth = self._development_truth(development)
            scored = self.scored(development, run.encoder, truth)
            held_out = {form: one.thresholds(self.rule) for form, one in scored.items()}
        judged = {form: Classification(one, self.rule, held_out.get(form)) for form, one in forms.items()}

        def figures(weights: Floats) -> Figures:
            return {
                f"{form}/{name}": value
                for form, one in judged.items()
                for name, value in one.figures(weights).items()
            }

        return Measured(
            figures=figures,
            patients=items.patients,
            rows=tuple(_rows(tuple(judged), bool(held_out))),
            facts=self._facts(judged, held_out, items, development),
            pictures={f"roc_{form}": _picture(form, one) for form, one in forms.items()},
            details=tuple(
                Row(f"{FORMS[form]}: AUROC of {name}", f"{form}/{name}/auroc")
                for form, one in judged.items()
                for name in one.scored.labels
            ),
            by_item=BY_ITEM if self.item_intervals else (),
        )

    def scored(
        self, items: Items, encoder: Encoder, truth: Mapping[str, npt.NDArray[np.bool_]]
    ) -> dict[str, Scored]:
        """The scores in every form.

        Parameters
        ----------
        truth: judged label -> (N,).
        """
        judged = tuple(truth)
        present, absent = prompt_vectors(self.labels, self.prompts, encoder.prompts)
        scale = encoder.volume_scale if self.learned_scale else 1.0
        volumes = items.volumes
        scores = {VOLUME: softmax_scores(volumes @ present.T, volumes @ absent.T, scale)}
        if self.on_organs:
            scores[ORGANS] = self._on_organs(items, encoder)
        found = {
            form: Scored(judged, merge_calcification(one, self.labels, judged), _stack(truth, judged))
            for form, one in scores.items()
        }
        own = tuple(x for x in judged if x in OWN_FINDINGS)
        table = np.array(
            [
                [e.findings.get(OWN_FINDINGS[x], np.nan) for x in CT_RATE_LABELS if x in OWN_FINDINGS]
                for e in items.embeddings
            ]
        ).reshape(len(items.embeddings), -1)
        # A checkpoint that was trained on none of them (vanilla CLIP) has no such row.
        if not np.isnan(table).all():
            columns = tuple(x for x in CT_RATE_LABELS if x in OWN_FINDINGS)
            found[OWN] = Scored(own, merge_calcification(table, columns, own), _stack(truth, own))
        return found

    def _on_organs(self, items: Items, encoder: Encoder) -> Floats:
        """(N, L): NaN where the label's organ is not in view."""
        present, absent = prompt_vectors(self.labels, self.prompts, encoder.sentences)
        rows = [organ(FVLM_ORGANS[x]).label - 1 for x in self.labels]
        features = items.organs[:, rows]  # (N, L, E)
        scores = softmax_scores((features * present).sum(2), (features * absent).sum(2), encoder.organ_scale)
        return np.where(np.abs(features).max(2) > 0, scores, np.nan)

    def _truth(self, items: Items) -> dict[str, npt.NDArray[np.bool_]]:
        return {x: np.array([r.labels[x] for r in items.records]) for x in self._judged}

    def _development_truth(self, items: Items) -> dict[str, npt.NDArray[np.bool_]]:
        """Labels of CT-RATE for the labels that are judged; merged calcification is either."""
        truth = {x: np.array([r.labels[x] for r in items.records]) for x in self.labels}
        if self._judged == MERGED_LABELS:
            truth["Arterial wall calcification"] |= truth["Coronary artery wall calcification"]
        return {x: truth[x] for x in self._judged}

    def _facts(
        self,
        judged: Mapping[str, Classification],
        held_out: Mapping[str, Mapping[str, float]],
        items: Items,
        development: Items | None,
    ) -> dict[str, Any]:
        main = judged[VOLUME]
        facts: dict[str, Any] = {
            "labels": list(main.scored.labels),
            "labels with positives and negatives": len(main.judged()),
            "positives": dict(zip(main.scored.labels, main.scored.truth.sum(0).tolist(), strict=True)),
            "label mapping": self.mapping or "none",
            "prompts": self.prompts.described(),
            "score": "softmax over the similarities with the text for and the text against, "
            + ("scaled as learned" if self.learned_scale else "unscaled"),
            "duplicates": "every scan is an item" if self.variant is None else self.variant.rule,
            "forms": {FORMS[form]: _FORMS_SAID[form] for form in judged},
            "threshold rule": self.rule.name,
            "test thresholds": {form: one.scored.thresholds(self.rule) for form, one in judged.items()},
        }
        if development is not None:
            facts["development"] = {
                "patients": len(set(development.patients)),
                "studies": len(development.records),
                "split": "train patients of CT-RATE, by hash of the patient (RadFinder's list of 1301 of "
                "20000 is not at hand); the first reconstruction of each study",
            }
            facts["development thresholds"] = {form: dict(one) for form, one in held_out.items()}
        if ORGANS in judged:
            answered = ~np.isnan(judged[ORGANS].scored.scores)
            facts["items whose organ is in view"] = dict(
                zip(main.scored.labels, answered.sum(0).tolist(), strict=True)
            )
        if OWN in judged:
            facts["labels of own findings"] = list(judged[OWN].scored.labels)
        return facts


def _rows(forms: Sequence[str], developed: bool) -> list[Row]:
    rows = []
    for form in forms:
        rows.append(Row(f"{FORMS[form]}: AUROC", f"{form}/macro/auroc"))
        for choice in (TEST, DEVELOPMENT) if developed else (TEST,):
            rows += [
                Row(
                    f"{FORMS[form]}, {CHOSEN[choice]}: {key.replace('_', ' ')}",
                    f"{form}/macro/{choice}/{key}",
                )
                for key in SHOWN
                if key != "auroc"
            ]
    return rows


def _stack(truth: Mapping[str, npt.NDArray[np.bool_]], labels: Sequence[str]) -> npt.NDArray[np.bool_]:
    return np.stack([truth[x] for x in labels], axis=1)


def _picture(form: str, scored: Scored) -> Callable[[Any], None]:
    return partial(roc, scored=scored, title=_FORMS_SAID[form])
