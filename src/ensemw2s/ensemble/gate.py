"""The gate's network: three features an expert and token in, one score out; a few dozen numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ensemw2s.ensemble.numeric import entropy_of, widest
from ensemw2s.ensemble.rule import bad_state
from ensemw2s.seeds import torch_generator, unit_hash

if TYPE_CHECKING:
    from ensemw2s.ensemble.evidence import ExpertTokens

FEATURES = 3
HIDDEN = 8
INNER_HELD_OUT = 0.25  # of the rows given, to know when to stop
STEPS, PATIENCE, RATE, DECAY = 400, 40, 0.02, 1e-3
_FLAT = 1e-6  # a feature that varies less than this on the rows it is fitted on teaches nothing


class GateNet(nn.Module):
    """g: standardised features to a score, shared by all experts. Float64; starts at 0 everywhere.

    g(f) = Σ_h outer_h tanh(bias_h + Σ_k inner_kh clamp((f_k - mean_k) / std_k, ±5))

    Args:
        mean, std: of the features on the rows it is fitted on, ``[3]``. A feature that did not vary there is ignored.
        seed: of the first layer's weights.
    """

    def __init__(self, mean: Tensor, std: Tensor, seed: int = 0) -> None:
        super().__init__()
        flat = std.double() <= _FLAT
        self.mean = nn.Parameter(mean.double(), requires_grad=False)
        self.std = nn.Parameter(std.double().masked_fill(flat, 1.0), requires_grad=False)
        inner = torch.randn(FEATURES, HIDDEN, dtype=torch.float64, generator=torch_generator(seed, "gate")) * 0.5
        self.inner = nn.Parameter(inner.masked_fill(flat[:, None], 0.0))
        self.bias = nn.Parameter(torch.zeros(HIDDEN, dtype=torch.float64))
        self.outer = nn.Parameter(torch.zeros(HIDDEN, dtype=torch.float64))

    def forward(self, features: Tensor) -> Tensor:
        """``[..., 3]`` to ``[...]``."""
        scaled = ((features.to(self.mean) - self.mean) / self.std).clamp(-5, 5)
        scores: Tensor = torch.tanh(scaled @ self.inner + self.bias) @ self.outer
        return scores

    def to_state(self) -> dict[str, Any]:
        """Plain lists."""
        return {name: value.tolist() for name, value in self.state_dict().items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> GateNet:
        """What ``to_state`` gave.

        Raises:
            ConfigError: a part is missing, has another shape, or is not all finite numbers.
        """
        net = cls(torch.zeros(FEATURES), torch.ones(FEATURES))
        parts = {}
        for name, like in net.state_dict().items():
            try:
                parts[name] = torch.tensor(state.get(name), dtype=torch.float64)
            except (TypeError, ValueError, RuntimeError) as error:
                raise bad_state("gate", f"'{name}' is no table of numbers") from error
            if parts[name].shape != like.shape or not bool(parts[name].isfinite().all()):
                raise bad_state("gate", f"'{name}' is no table of finite numbers of shape {list(like.shape)}")
        net.load_state_dict(parts)
        return net


def gate_features(log_probs: Tensor, counting: Tensor) -> Tensor:
    """Features from whole distributions.

    Args:
        log_probs: ``[expert, m, vocab]``.
        counting: bool ``[expert]``, experts whose votes are counted.

    Returns:
        float64 ``[expert, m, 3]``: entropy in nats, top log-probability, share of counting experts with its top token.
    """
    wide = log_probs.to(widest(log_probs.device))
    return token_features(entropy_of(wide), wide.amax(dim=-1), log_probs.argmax(dim=-1), counting)


def token_features(entropy: Tensor, top_log_prob: Tensor, top_id: Tensor, counting: Tensor) -> Tensor:
    """The same from what is known of every distribution, each ``[expert, m]``."""
    wide = widest(entropy.device)
    same = (top_id[:, None] == top_id[None]) & counting[None, :, None]  # [expert, other expert, m]
    share = same.sum(dim=1).to(wide) / counting.sum()
    return torch.stack([entropy.to(wide), top_log_prob.to(wide), share], dim=-1)


def fit_gate(evidence: Sequence[ExpertTokens], log_alphas: Tensor, seed: int) -> dict[str, Any]:
    """Train the gate by full-batch Adam on the mean of -log Σ_t w_t p_t(label).

    A quarter of the rows, chosen by a hash of their ids, is set aside. The state kept is the best one on them, the
    untrained gate (the weighted mean) among the candidates; where no row is left on either side, it stays untrained.

    Args:
        evidence: one table an expert, all over the same rows.
        log_alphas: float64 ``[expert]``; experts with -inf do not count.
        seed: of the first layer, and of the rows set aside.

    Returns:
        State for ``GateNet.from_state``.
    """
    counting = log_alphas.isfinite()
    tables = [table for table, counts in zip(evidence, counting.tolist(), strict=True) if counts]
    start = log_alphas[counting][:, None]
    entropy, top_log_prob, top_id, labels = (
        torch.stack([getattr(table, name) for table in tables])
        for name in ("entropy", "top_log_prob", "top_id", "log_prob")
    )
    features = token_features(entropy, top_log_prob, top_id, torch.ones(len(tables), dtype=torch.bool))
    labels = labels.double()
    flat = features.reshape(-1, FEATURES)
    net = GateNet(flat.mean(dim=0), flat.std(dim=0, correction=min(1, len(flat) - 1)), seed)
    usable = labels.amax(dim=0).isfinite()  # a label that every expert rules out is as impossible under any weights
    aside = torch.tensor([unit_hash(seed, "gate", row_id) < INNER_HELD_OUT for row_id in evidence[0].ids])
    aside = aside.repeat_interleave(evidence[0].offsets.diff())
    held_out, training = aside & usable, ~aside & usable
    if not bool(held_out.any()) or not bool(training.any()):
        return net.to_state()
    optimizer = torch.optim.Adam([net.inner, net.bias, net.outer], lr=RATE, weight_decay=DECAY)

    def loss(mask: Tensor) -> Tensor:
        weights = torch.log_softmax(start + net(features[:, mask]), dim=0)
        return -(weights + labels[:, mask]).logsumexp(dim=0).mean()

    best, kept, since = float("inf"), net.to_state(), 0
    for _ in range(STEPS):
        with torch.no_grad():
            held = float(loss(held_out))
        if held < best - 1e-9:
            best, kept, since = held, net.to_state(), 0
        else:
            since += 1
            if since > PATIENCE:
                break
        optimizer.zero_grad()
        loss(training).backward()
        optimizer.step()
    return kept
