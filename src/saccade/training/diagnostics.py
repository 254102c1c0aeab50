"""What a run can say of its own learning while it learns: angles of updates and of feedback, collapse of the embedding.

Each measurement costs one more step of backpropagation on the same batch, and its singular values; a run asks for one
every `diagnostics` steps.
"""

import copy
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
    again = Batch(batch.inputs.detach(), batch.labels, batch.grid, batch.seed, batch.step, batch.ranks)
    for _ in Backpropagation().phases(twin, again):
        batch.ranks.send(twin.named_parameters())()
    return {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}


def measure(site: Site, batch: Batch, gradients: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Any]:
    """One measurement of one site.

    `gradients` are the rule's, `expected` backpropagation's, by the weights' names; batch.views the embeddings. Angles
    in degrees; a ratio is the norm of feedback over that of the forward weights.
    """
    row: dict[str, Any] = {"angle_to_bp": {}, "feedback_angle": {}, "feedback_ratio": {}}
    for name, gradient in gradients.items():
        if name in expected and not name.startswith("inverses."):
            row["angle_to_bp"][name] = round(measures.angle(gradient, expected[name]), 4)
    for name, part in site.named_modules():
        if isinstance(part, Feedback):
            weight: Tensor = part.weight.detach()
            feedback = part.feedback.detach() * weight.sign() if part.signs else part.feedback.detach()
            row["feedback_angle"][name] = round(measures.angle(feedback, weight), 4)
            row["feedback_ratio"][name] = round(measures.norm_ratio(feedback, weight), 6)
    if len(site.inverses):
        row["reconstruction"] = [round(e, 6) for e in reconstruction_errors(site, batch.inputs)]
    z = batch.views[0].flatten(1).float()
    row["embedding_std"] = round(float(measures.embedding_std(z)), 6)
    # A feature map's singular values would cost more than the step; numbers that are not finite have none.
    if z.shape[1] <= 1024 and bool(z.isfinite().all()):
        row["rank_me"] = round(float(measures.rank_me(z)), 4)
        row["participation_ratio"] = round(float(measures.participation_ratio(z)), 4)
    return {name: value for name, value in row.items() if value != {}}


def snapshot(site: Site) -> dict[str, Tensor]:
    """Copies of the gradients that a rule has just filled."""
    return {name: p.grad.detach().clone() for name, p in site.named_parameters() if isinstance(p.grad, torch.Tensor)}
