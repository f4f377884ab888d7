"""What frozen lesion masks say of each stored window, computed once: `training.samples.Crop.evidence`.

Prompt supervision (RadFinder) needs it at every update, and it costs more than everything else of the
language heads together. Masks, prompts and regions are the reader's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.progress import Progress
from safetensors.torch import load_file, save_file

from core_model.abnormality import abnormalities
from core_model.grounding import text_masks, top_logit
from core_model.masks import region_of
from core_model.model import SightlineModel
from core_model.volume import window
from training.samples import Crop
from training.stored_windows import digest_of, encoder_digest, load_window
from training.whole_files import whole_file

SAVE_EVERY = 16  # windows


@torch.no_grad()
def evidence_of(model: SightlineModel, texts: torch.Tensor, sample: Crop) -> torch.Tensor:
    """(A,) of one stored window.

    Parameters
    ----------
    texts: (A, width) of `TextEncoder.mean`, of each abnormality's own wordings.
    sample: of `load_window`, with its organ logits.
    """
    assert sample.features is not None
    x = window(sample.hu[None]).contiguous(memory_format=torch.channels_last_3d)
    encoded = model.encode_features(sample.features, x)
    regions = region_of(
        encoded.organ_logits[0].softmax(0), model.config.spacing_mm, (a.organ for a in abnormalities())
    )
    text = model.project_text(texts)
    masks = text_masks(encoded.dense, text.mask_weight, text.mask_bias).sigmoid()  # (1, A, D, H, W)
    values = [
        top_logit(masks[:, i : i + 1], regions[a.organ].reach[None, None])[0, 0]
        for i, a in enumerate(abnormalities())
    ]
    return torch.stack(values)


def evidence_digest(model: SightlineModel) -> str:
    """Of everything that evidence follows from."""
    drawing = [model.lesion_decoder, model.text_to_mask, model.text.bert]
    if model.kept_organ_head is not None:
        drawing.append(model.kept_organ_head)
    parts = encoder_digest(model) + digest_of(drawing)
    prompts = repr([(a.name, a.organ, a.present) for a in abnormalities()])
    return hashlib.sha256((parts + prompts).encode()).hexdigest()[:16]


def evidence_for(model: SightlineModel, files: Sequence[Path], progress: Progress) -> dict[str, torch.Tensor]:
    """Evidence of stored windows by file name; kept beside them, so that every later run has it."""
    kept = files[0].parent / "evidence"
    kept.mkdir(exist_ok=True)
    file = kept / f"{evidence_digest(model)}.safetensors"
    found = load_file(file) if file.exists() else {}
    missing = [f for f in files if f.name not in found]
    texts = torch.cat([model.text.mean(a.present) for a in abnormalities()])
    task = progress.add_task("evidence of masks", total=len(missing), note="")
    for k, one in enumerate(missing, start=1):
        found[one.name] = evidence_of(model, texts, load_window(one, fine=True).to(texts.device)).cpu()
        progress.advance(task)
        if k % SAVE_EVERY == 0 or k == len(missing):  # an interrupted run goes on from here
            with whole_file(file) as part:
                save_file(found, part)
    progress.remove_task(task)
    return found


__all__ = ["evidence_digest", "evidence_for", "evidence_of"]
