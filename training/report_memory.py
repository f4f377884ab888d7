"""Report-volume alignment (RadFinder's SigLIP) for small batches: a memory of earlier pairs.

SigLIP learns from the pairs that do not belong together; two scans per step have one. The
memory keeps the embeddings of the last scans, without gradient, as further partners (our
choice; RadFinder accumulates 4096 pairs). It is part of a run's state.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


class ReportMemory:
    """The last volumes and reports, oldest first.

    Parameters
    ----------
    size: pairs that are kept at most.

    Raises
    ------
    ValueError: if `size` is not positive.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"size is {size}; a memory keeps at least one pair")
        self.size = size
        self._kept: dict[str, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self._kept["volume"]) if self._kept else 0

    def loss(
        self,
        volume: torch.Tensor,
        report: torch.Tensor,
        findings: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor,
        *,
        correct: bool,
    ) -> torch.Tensor:
        """SigLIP of a batch against itself and the memory, in both directions; then remembers it.

        Parameters
        ----------
        volume, report: (B, E) unit length, row i belongs to row i.
        findings: (B, A) what each report says.
        correct: reports that say exactly the same count as each other's (false-negative
            correction); else only a volume's own does.

        Returns
        -------
        Sum over the pairs by the number of volumes, as SigLIP.
        """
        volumes, reports, said = volume, report, findings
        if self._kept:
            kept = {k: v.to(volume.device) for k, v in self._kept.items()}
            volumes = torch.cat([volume, kept["volume"]])
            reports = torch.cat([report, kept["report"]])
            said = torch.cat([findings, kept["findings"]])
        n = len(volume)
        right = torch.eye(n, len(said), dtype=torch.bool, device=volume.device)  # (B, B + M)
        if correct:
            right = right | (findings[:, None] == said[None]).all(-1)
        loss = self._pairs(volume @ reports.T * scale + bias, right)
        if len(said) > n:
            loss = loss + self._pairs(report @ volumes[n:].T * scale + bias, right[:, n:])
        parts = {"volume": volumes, "report": reports, "findings": said}
        # New pairs come first in these; the memory is ordered by age.
        aged = {k: torch.cat([v[n:], v[:n]])[-self.size :].detach().clone() for k, v in parts.items()}
        self._kept = aged
        return loss / n

    @staticmethod
    def _pairs(logits: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return -F.logsigmoid(torch.where(right, logits, -logits).float()).sum()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """For the run's state file."""
        return dict(self._kept)

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """What `state_dict` gave."""
        self._kept = dict(state)
