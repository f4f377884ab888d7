"""The path that asks all studies of the archive at once."""

from __future__ import annotations

from fastapi import APIRouter

from dicom_node.service.errors import described
from dicom_node.service.models import AskedStudies, StudyHit, StudyHits
from dicom_node.service.parts import Shared
from dicom_node.service.routes_studies import model_of

router = APIRouter()


@router.post("/query", responses=described(400, 401, 413, 422))
def query(parts: Shared, asked: AskedStudies) -> StudyHits:
    """The studies that a text is found in best, and where in each. Scores compare within one answer.

    Of studies that the model in use has read. A text that means an abnormality of the dictionary finds the
    studies whose reading thinks it most probable (`by` is "findings", the score its probability); every
    other text is compared with places in the scans (`by` is "words").
    """
    now = parts.answering.now
    question = now.texts.get(asked.text)
    found = now.search.search(question, asked.k)
    return StudyHits(
        text=asked.text,
        model=model_of(now),
        searched=now.search.searched,
        by="words" if question.abnormality is None else "findings",
        hits=[
            StudyHit(
                study_instance_uid=one.study_instance_uid,
                series_instance_uid=one.series_instance_uid,
                score=one.score,
                hit=one.hit,
            )
            for one in found
        ],
    )
