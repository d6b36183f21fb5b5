"""API-Net's head in plain torch, written directly from the paper.

This is the reference for `benchmarks.head`: every pair's `[x_1, x_2]` goes through the
MLP, and pairs are mined in NumPy on the host in every step, as in public
implementations.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  torch's own abbreviation


def mine(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest image of the same class and of another, per row: `[N]`, `[N]`."""
    squares = (features**2).sum(axis=1)
    distances = squares[:, None] + squares[None, :] - 2 * features @ features.T
    same = labels[:, None] == labels[None, :]
    intra = np.where(same, distances, np.inf)
    np.fill_diagonal(intra, np.inf)
    inter = np.where(same, np.inf, distances)
    return intra.argmin(axis=1), inter.argmin(axis=1)


class TorchHead(nn.Module):
    """Mining, interaction and the loss of a batch; every image must have both partners.

    Args:
        channels: Width D of a feature.
        classes: Number of classes C.
        mutual_units: Width of the mutual MLP.
        dropout_rate: Dropout rate in the MLP and before the classifier.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        mutual_units: int = 512,
        dropout_rate: float = 0.5,
    ) -> None:
        super().__init__()
        self.hidden = nn.Linear(2 * channels, mutual_units)
        self.mutual = nn.Linear(mutual_units, channels)
        self.classifier = nn.Linear(channels, classes)
        self.dropout = nn.Dropout(dropout_rate)

    def interact(self, x1: torch.Tensor, x2: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Eq. 1 to 6: self and other features of the first, then of the second."""
        both = torch.cat([x1, x2], dim=1)
        mutual = self.mutual(self.dropout(self.hidden(both)))
        gate1, gate2 = torch.sigmoid(mutual * x1), torch.sigmoid(mutual * x2)
        return x1 + x1 * gate1, x1 + x1 * gate2, x2 + x2 * gate2, x2 + x2 * gate1

    def forward(
        self,
        features: torch.Tensor,
        labels: torch.Tensor,
        margin: float = 0.05,
        ranking_weight: float = 1.0,
    ) -> torch.Tensor:
        """The loss (Eq. 7 to 10) of features `[N, D]` and labels `[N]`."""
        intra, inter = mine(
            features.detach().cpu().numpy(), labels.detach().cpu().numpy()
        )
        partners = torch.from_numpy(np.concatenate([intra, inter])).to(features.device)
        anchors = torch.arange(len(features), device=features.device).repeat(2)
        gated = self.interact(features[anchors], features[partners])
        # First images of all pairs, then second images; all self before all other.
        stacked = torch.cat([gated[0], gated[2], gated[1], gated[3]])
        logits = self.classifier(self.dropout(stacked))
        rows = torch.cat([labels[anchors], labels[partners]])
        targets = rows.repeat(2)
        cross_entropy = F.cross_entropy(logits, targets)
        scores = torch.softmax(logits, dim=1).gather(1, targets[:, None])[:, 0]
        own, other = scores.chunk(2)
        ranking = torch.relu(other - own + margin).mean()
        return cross_entropy + ranking_weight * ranking
