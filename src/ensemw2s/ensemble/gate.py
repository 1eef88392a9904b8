"""The gate's network: three features an expert and token in, one score out; a few dozen numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ensemw2s.seeds import torch_generator, unit_hash

if TYPE_CHECKING:
    from ensemw2s.ensemble.evidence import ExpertTokens

FEATURES = 3
HIDDEN = 8
INNER_HELD_OUT = 0.25  # of the rows given, to know when to stop
STEPS, PATIENCE, RATE, DECAY = 400, 40, 0.02, 1e-3


class GateNet(nn.Module):
    """g: standardised features to a score, shared by all experts. Float64; starts at 0 everywhere.

    Args:
        mean, std: of the features on the rows it is fitted on.
        seed: of the first layer's weights.
    """

    def __init__(self, mean: Tensor, std: Tensor, seed: int = 0) -> None:
        super().__init__()
        self.mean = nn.Parameter(mean.double(), requires_grad=False)
        self.std = nn.Parameter(std.double(), requires_grad=False)
        self.inner = nn.Parameter(
            torch.randn(FEATURES, HIDDEN, dtype=torch.float64, generator=torch_generator(seed, "gate")) * 0.5
        )
        self.bias = nn.Parameter(torch.zeros(HIDDEN, dtype=torch.float64))
        self.outer = nn.Parameter(torch.zeros(HIDDEN, dtype=torch.float64))

    def forward(self, features: Tensor) -> Tensor:
        """``[..., 3]`` to ``[...]``."""
        scaled = ((features.double() - self.mean) / self.std).clamp(-5, 5)
        scores: Tensor = torch.tanh(scaled @ self.inner + self.bias) @ self.outer
        return scores

    def to_state(self) -> dict[str, Any]:
        """Plain lists."""
        return {name: value.tolist() for name, value in self.state_dict().items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> GateNet:
        """What ``to_state`` gave."""
        net = cls(torch.zeros(FEATURES), torch.ones(FEATURES))
        names = net.state_dict()
        net.load_state_dict({name: torch.tensor(state[name], dtype=torch.float64) for name in names})
        return net


def gate_features(log_probs: Tensor, counting: Tensor) -> Tensor:
    """Features from whole distributions.

    Args:
        log_probs: ``[expert, m, vocab]``.
        counting: bool ``[expert]``, experts whose votes are counted.

    Returns:
        float64 ``[expert, m, 3]``: entropy in nats, top log-probability, share of counting experts with its top token.
    """
    wide = log_probs.double()
    entropy = -(wide.exp() * wide.clamp(min=-1e300)).sum(dim=-1)
    top = wide.max(dim=-1)
    return _features(entropy, top.values, log_probs.argmax(dim=-1), counting)


def _features(entropy: Tensor, top_log_prob: Tensor, top_id: Tensor, counting: Tensor) -> Tensor:
    same = (top_id[:, None] == top_id[None]).double() * counting.double()[None, :, None]
    share = same.sum(dim=1) / counting.double().sum()
    return torch.stack([entropy.double(), top_log_prob.double(), share], dim=-1)


def fit_gate(evidence: Sequence[ExpertTokens], log_alphas: Tensor, seed: int) -> dict[str, Any]:
    """Train the gate by full-batch Adam on -log Σ_t w_t p_t(label), stopping on a quarter of the rows set aside by "
    "hash.

    The state kept is the best one on those rows, the untrained gate (the weighted mean) among the candidates.
    """
    parts = [
        torch.stack([getattr(table, name) for table in evidence]) for name in ("entropy", "top_log_prob", "top_id")
    ]
    counting = log_alphas.isfinite()
    features = _features(parts[0], parts[1], parts[2], counting)
    labels = torch.stack([table.log_prob for table in evidence]).double()
    flat = features[counting].reshape(-1, FEATURES)
    net = GateNet(flat.mean(dim=0), flat.std(dim=0).clamp(min=1e-6), seed)
    aside = torch.tensor([unit_hash(seed, "gate", row_id) < INNER_HELD_OUT for row_id in evidence[0].ids])
    aside = aside.repeat_interleave(evidence[0].offsets.diff())
    if not bool(aside.any()) or bool(aside.all()):  # too few rows to set any aside: stay with the mean
        return net.to_state()
    optimizer = torch.optim.Adam([net.inner, net.bias, net.outer], lr=RATE, weight_decay=DECAY)

    def loss(mask: Tensor) -> Tensor:
        weights = torch.log_softmax(log_alphas[:, None] + net(features[:, mask]), dim=0)
        return -(weights + labels[:, mask]).clamp(min=-1e300).logsumexp(dim=0).mean()

    best, kept, since = float("inf"), net.to_state(), 0
    for _ in range(STEPS):
        with torch.no_grad():
            held = float(loss(aside))
        if held < best - 1e-9:
            best, kept, since = held, net.to_state(), 0
        else:
            since += 1
            if since > PATIENCE:
                break
        optimizer.zero_grad()
        loss(~aside).backward()
        optimizer.step()
    return kept
