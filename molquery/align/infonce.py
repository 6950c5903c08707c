"""Contrastive heads: symmetric InfoNCE between slides and profiles, trained with torch.

The loss is the one of CLIP (Radford et al. 2021, arXiv 2103.00020). For unit vectors u_i of slides
and v_j of profiles, with a learned temperature t (1 / t clamped at 100),

    L = 1/2 mean_i [ -log softmax_j(u_i.v_j / t)_i  -log softmax_j(v_i.u_j / t)_i ]

Several slides of one patient share a positive, so other pairs of the same group are masked out of
the negatives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from molquery.space import Head, Layer
from molquery.vectors import Ints, Matrix

EpochReport = Callable[[int, int, float, float], None]


@dataclass(frozen=True, slots=True)
class InfoNCE:
    """Settings of the contrastive training.

    Attributes:
        hidden: width of the hidden layer; 0 gives linear heads.
        noise: standard deviation of the Gaussian noise added to the standardised inputs.
        patience: epochs without a better validation R@10 before training stops.
    """

    dim: int = 128
    hidden: int = 256
    epochs: int = 60
    batch: int = 256
    rate: float = 2e-3
    weight_decay: float = 0.1
    dropout: float = 0.4
    noise: float = 0.3
    patience: int = 8


def _mlp(inputs: int, settings: InfoNCE) -> nn.Sequential:
    if settings.hidden == 0:
        return nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(inputs, settings.dim))
    return nn.Sequential(
        nn.Dropout(settings.dropout),
        nn.Linear(inputs, settings.hidden),
        nn.GELU(),
        nn.Dropout(settings.dropout),
        nn.Linear(settings.hidden, settings.dim),
    )


def fit_infonce(
    x: Matrix,
    z: Matrix,
    groups: Ints,
    validation: Ints,
    settings: InfoNCE,
    *,
    seed: int,
    device: str = "auto",
    report: EpochReport | None = None,
) -> tuple[Head, Head]:
    """Heads of slides and profiles, from the epoch with the best validation R@10.

    Args:
        x: (n_pairs, p) slide inputs.
        z: (n_pairs, q) profile inputs of the same pairs.
        groups: (n_pairs,) patient of each pair, as integers.
        validation: positions of the pairs that are not trained on but decide when to stop.
        seed: of initialisation, batches, dropout and noise.
        device: 'cpu', or 'auto' and 'gpu': the GPU where there is one.
        report: called after each epoch with (epoch, epochs, loss, validation R@10).
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    use_gpu = device != "cpu" and torch.cuda.is_available()
    place = torch.device("cuda" if use_gpu else "cpu")
    slides, profiles = torch.from_numpy(x).to(place), torch.from_numpy(z).to(place)
    owner = torch.from_numpy(groups).to(place)
    train = torch.from_numpy(np.setdiff1d(np.arange(len(x)), validation))
    held = torch.from_numpy(validation).to(place)
    slide_net, profile_net = (_mlp(d, settings).to(place) for d in (x.shape[1], z.shape[1]))
    log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07), device=place))
    weights = [*slide_net.parameters(), *profile_net.parameters()]
    optimiser = torch.optim.AdamW(
        [
            {"params": weights, "weight_decay": settings.weight_decay},
            {"params": [log_scale], "weight_decay": 0.0},
        ],
        lr=settings.rate,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.epochs)
    best, best_state, since = -1.0, None, 0
    for epoch in range(settings.epochs):
        slide_net.train(), profile_net.train()
        order = train[torch.randperm(len(train), generator=generator)].to(place)
        total = 0.0
        for batch in torch.split(order, settings.batch):
            if len(batch) < 2:
                continue
            u = functional.normalize(slide_net(_noisy(slides[batch], settings.noise)), dim=1)
            v = functional.normalize(profile_net(_noisy(profiles[batch], settings.noise)), dim=1)
            logits = log_scale.exp().clamp(max=100.0) * u @ v.T
            same = owner[batch][:, None] == owner[batch][None, :]
            same.fill_diagonal_(False)
            logits = logits.masked_fill(same, float("-inf"))
            target = torch.arange(len(batch), device=place)
            loss = functional.cross_entropy(logits, target) / 2
            loss = loss + functional.cross_entropy(logits.T, target) / 2
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += float(loss.detach()) * len(batch)
        schedule.step()
        slide_net.eval(), profile_net.eval()
        with torch.no_grad():
            recall = _recall(slide_net(slides[held]), profile_net(profiles[held]), owner[held])
        if report:
            report(epoch + 1, settings.epochs, total / max(1, len(train)), recall)
        if recall > best:
            best, since = recall, 0
            best_state = (_head(slide_net), _head(profile_net))
        else:
            since += 1
            if since >= settings.patience:
                break
    assert best_state is not None
    return best_state


def _noisy(values: torch.Tensor, noise: float) -> torch.Tensor:
    return values + noise * torch.randn_like(values)


def _recall(u: torch.Tensor, v: torch.Tensor, owner: torch.Tensor) -> float:
    """Share of slides with a profile of their own patient among the nearest tenth, at most 10."""
    similarity = functional.normalize(u, dim=1) @ functional.normalize(v, dim=1).T
    top = similarity.topk(min(10, len(v)), dim=1).indices
    return float((owner[top] == owner[:, None]).any(dim=1).float().mean())


def _head(net: nn.Sequential) -> Head:
    """The network's affine layers as numpy; a GELU follows each but the last."""
    linear = [m for m in net if isinstance(m, nn.Linear)]
    return tuple(
        Layer(
            layer.weight.detach().cpu().numpy().T.copy(),
            layer.bias.detach().cpu().numpy().copy(),
            gelu=i + 1 < len(linear),
        )
        for i, layer in enumerate(linear)
    )
