"""What a checkpoint says of the run that made it: data, steps, hardware, limits. No figures of quality."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from training.parallel import Team

if TYPE_CHECKING:
    from training.run import Run

SYNTHETIC = "learnt from synthetic CT only; patients and scanners differ in more than was varied"


def card_of(run: Run) -> dict[str, Any]:
    """What a run's checkpoint says of the run."""
    s = run.settings
    trained_on = "synthetic CT only" if run.shards is None else f"CT of {run.shards.source}"
    return {
        "name": s.name,
        "version": s.version,
        "description": f"Research model trained on {trained_on}. Not a medical device.",
        "data": _data(run),
        "limits": [
            *([SYNTHETIC] if run.shards is None else [f"learnt from the data set {run.shards.source} alone"]),
            f"reads voxels of {run.model.config.spacing_mm:g} mm: small lesions and thin structures are "
            "missed or coarse",
            "figures of phantoms say nothing of lesions on real CT",
        ],
        "abnormalities": run.learnt,
        "steps": run.step,
        "batch": s.optimiser["batch"],
        "hours": round(run.seconds / 3600, 2),
        "hardware": _hardware(run.team, run.device),
        "losses": run.history[-1] if run.history else {},
        "earlier_stages": run.earlier,
        "text_encoder": "sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), ASCII vocabulary, frozen",
        "settings": {"data": s.data, "optimiser": s.optimiser, "loss": s.loss, "switches": s.switches},
    }


def _data(run: Run) -> dict[str, Any]:
    s = run.settings
    if run.shards is not None:
        return {
            "set": run.shards.source,
            "real_images": run.shards.real_images,
            "skipped": run.shards.skipped,
            "seed": s.data["seed"],
        }
    phantoms: dict[str, Any] = {
        "phantoms": "label maps" if run.label_maps else "procedural",
        "label_map_share": s.data["label_map_share"] if run.label_maps else 0.0,
    }
    if run.windows:  # painted by `training.stored_windows`; of which anatomy, a window does not say
        phantoms = {"phantoms": "stored windows", "windows": len(run.windows)}
    return {**phantoms, "seed": s.data["seed"], "real_images": 0}


def _hardware(team: Team, device: torch.device) -> str:
    if device.type == "cuda":
        return f"{team.size} x {torch.cuda.get_device_name(device)}"
    each = f"cpu, {torch.get_num_threads()} threads"
    return each if team.size == 1 else f"{team.size} x {each}"


__all__ = ["card_of"]
