"""What a run can say of its own learning while it learns: angles of updates and of feedback, collapse of the embedding.

Each measurement costs one more step of backpropagation on the same batch, and its singular values; a run asks for one
every `diagnostics` steps.
"""

import copy
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .. import measures
from ..rules.dtp import reconstruction_errors
from ..rules.feedback import Feedback, plain
from ..rules.gradient import Backpropagation
from ..rules.site import Batch, Site


def backpropagated(site: Site, batch: Batch) -> dict[str, Tensor]:
    """The gradients that backpropagation would give the site's weights at this batch, by the weights' names."""
    twin = plain(copy.deepcopy(site))
    twin.zero_grad(set_to_none=True)
    again = replace(batch)
    with _draws_kept(site):
        for _ in Backpropagation().phases(twin, again):
            batch.ranks.send(twin.named_parameters())()
    return {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}


def _draws_kept(site: Site) -> AbstractContextManager[None]:
    """Afterwards torch's generators, which dropout draws from, are where they were: a run learns the same, watched or not."""
    return torch.random.fork_rng(devices={p.device for p in site.parameters() if p.device.type == "cuda"})


def measure(site: Site, batch: Batch, gradients: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Any]:
    """One measurement of one site.

    `gradients` are the rule's, `expected` backpropagation's, by the weights' names; batch.views the embeddings. Angles
    in degrees; a ratio is the norm of feedback over that of the forward weights.
    """
    row: dict[str, Any] = {"angle_to_bp": {}, "feedback_angle": {}, "feedback_ratio": {}}
    for name, gradient in gradients.items():
        if name in expected:  # inverses, of which backpropagation has none, are not
            row["angle_to_bp"][name] = round(measures.angle(gradient, expected[name]), 4)
    for name, part in site.named_modules():
        if isinstance(part, Feedback):
            weight: Tensor = part.weight.detach()
            feedback = part.downward()
            row["feedback_angle"][name] = round(measures.angle(feedback, weight), 4)
            row["feedback_ratio"][name] = round(measures.norm_ratio(feedback, weight), 6)
    if len(site.inverses):
        with _draws_kept(site):
            twin = copy.deepcopy(site)  # whose running statistics may move
            row["reconstruction"] = [round(e, 6) for e in reconstruction_errors(twin, batch.inputs)]
    z = batch.views[0].flatten(1).float()
    row["embedding_std"] = round(measures.embedding_std(z), 6)
    # A feature map's singular values would cost more than the step; numbers that are not finite have none.
    if z.shape[1] <= 1024 and bool(z.isfinite().all()):
        row["rank_me"] = round(measures.rank_me(z), 4)
        row["participation_ratio"] = round(measures.participation_ratio(z), 4)
    return {name: value for name, value in row.items() if value != {}}


def snapshot(site: Site) -> dict[str, Tensor]:
    """Copies of the gradients that a rule has just filled."""
    return {name: p.grad.detach().clone() for name, p in site.named_parameters() if p.grad is not None}
