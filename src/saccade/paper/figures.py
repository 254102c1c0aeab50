"""The paper's figures that need no runs: sheets of pictures and their views, and schematics of the model and its learning."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .. import draws
from ..config.grammar import parse_call
from ..config.run import TrainConfig
from ..data import ImageSet
from ..errors import InputError
from ..evaluation.corruptions import deformed
from ..files import make_folder, write_whole
from ..report.figures import picture
from ..report.page import Block, Picture, Section, Svg, write_page
from ..report.schematic import pairs, schematic
from ..views import parse
from ..views.sheet import arranged, deformation_sheet, sheet
from .scales import CIFAR, MNIST, ROBUST, STL, Scale, strengths, with_letters

Load = Callable[[str], ImageSet]
_ROWS = 8
_SHEET = ("encoder_set", "views")


@dataclass(frozen=True)
class PaperFigure:
    """A figure without runs: its caption, at which scales it can be had, what makes its blocks, by file name, and the
    options of a scale that those depend on."""

    name: str
    caption: str
    scales: dict[str, Scale]
    make: Callable[[Scale, Load], dict[str, Picture | Svg]]
    reads: tuple[str, ...]


def _pictures(images: ImageSet) -> Tensor:
    return images.batch(torch.arange(min(_ROWS, len(images)))).cpu()


def _views(scale: Scale, load: Load) -> dict[str, Picture | Svg]:
    images = _pictures(load(scale.sets[0]))
    made = sheet(images, parse(scale.views, scale.size), 0, _ROWS, 8)
    return {"figure1": _sheet(made, f"Pictures of {scale.sets[0]}, and views of each: {scale.views}.")}


def _alone(scale: Scale, load: Load) -> dict[str, Picture | Svg]:
    images, policy = _pictures(load(scale.sets[0])), parse(scale.views, scale.size)
    if not policy.steps:
        raise InputError(f"The views {scale.views} deform nothing; figure2 takes a list of deformations.")
    what = ", ".join(step.name for step in policy.steps)
    return {"figure2": _sheet(deformation_sheet(images, policy, 0, _ROWS), f"Each deformation alone: {what}.")}


def _deformed(scale: Scale, load: Load) -> dict[str, Picture | Svg]:
    images = load(scale.sets[2]).take(0, _ROWS)
    views = scale.test_views or "none"
    policies = strengths(views) or {views: views}
    columns = [deformed(images, views).batch(torch.arange(len(images))).float() / 255 for views in policies.values()]
    caption = (
        f"Test pictures, and the same under {parse_call(views).name} of strength {', '.join(policies)}, as classifiers are "
        f"tested on them; Table 3's scores are under {views}."
        if strengths(views)
        else f"Test pictures, and the same under {views}, as classifiers are tested on them."
    )
    return {"figure9": _sheet(arranged(_pictures(images), columns), caption)}


def _supplement(scale: Scale, load: Load) -> dict[str, Picture | Svg]:
    digits = MNIST[scale.name.partition(",")[0]]
    sets = {"encoder_set": digits.sets[0], "test_set": digits.sets[2]} | with_letters(digits, load)
    parts = (
        ("table1", scale.sets[0], scale.views),
        ("table4", sets["encoder_set"], digits.views),
        ("table4-test", sets["test_set"], digits.test_views or "none"),
    )
    return {
        f"supplement-b-{name}": _sheet(
            sheet(_pictures(load(spec)), parse(views), 0, _ROWS, 8),
            f"Pictures of {spec}, deformed: {views}.",
        )
        for name, spec, views in parts
    }


def _sheet(made: Tensor, caption: str) -> Picture:
    return Picture(picture(made), caption)


def _noise(scale: Scale) -> ImageSet:
    """Pictures of the network's size. Blank ones would give no activity, and so no errors to be drawn."""
    shape = {"emnist": (1, 28, 28), "vgg6": (3, 64, 64)}.get(scale.network, (3, 32, 32))
    generator = draws.generator(0, "schematic")
    return ImageSet(torch.randint(0, 256, (8, *shape), dtype=torch.uint8, generator=generator))


def _model(scale: Scale, load: Load) -> dict[str, Picture | Svg]:
    config = TrainConfig(network=scale.network, views=scale.views, loss="hinge(negatives=1, block=true)", batch=4)
    caption = "The model with one negative and the gradient block, end to end, drawn from what a step of it does."
    held = (
        "Which embeddings its loss holds against each other, six pictures in two lists of views: A's, which are remembered, each "
        "against its own picture's and the next one's in B. Only B gets an error."
    )
    return {
        "figure3": Svg(schematic(config, images=_noise(scale)), caption),
        "figure3-pairs": Svg(pairs(config.loss), held),
    }


def _layerwise(scale: Scale, load: Load) -> dict[str, Picture | Svg]:
    made: dict[str, Picture | Svg] = {}
    for schedule, rule, said in (
        ("gll", "bp", "Greedy learning while its third layer learns, by backpropagation"),
        ("rll", "rf", "Randomized learning at a step that has drawn the third layer, by random feedback"),
    ):
        config = TrainConfig(
            network=scale.network, views=scale.views, loss="hinge(negatives=1)", schedule=schedule, rule=rule, batch=4
        )
        caption = f"{said}, drawn from what a step of it does: one hidden layer, and a head, at a time."
        made[f"figure4-{schedule}"] = Svg(schematic(config, site=2, images=_noise(scale)), caption)
    return made


FIGURES: dict[str, PaperFigure] = {
    figure.name: figure
    for figure in (
        PaperFigure(
            "figure1", "Views of pictures, as learning has them", {**CIFAR, "paper": STL["paper"]}, _views, _SHEET
        ),
        PaperFigure("figure2", "Each deformation alone", {**CIFAR, "paper": STL["paper"]}, _alone, _SHEET),
        PaperFigure("figure3", "The model", CIFAR, _model, ("views",)),
        PaperFigure("figure4", "Layer-wise learning", CIFAR, _layerwise, ("views",)),
        PaperFigure("figure9", "Deformed test pictures", ROBUST, _deformed, ("test_set", "test_views", "strength")),
        PaperFigure(
            "supplement-b",
            "Deformed pictures of the sets that Tables 1 and 4 learn from, and that Table 4 tests on",
            {name: scale for name, scale in CIFAR.items() if name in MNIST},
            _supplement,
            _SHEET,
        ),
    )
}


def draw(figure: PaperFigure, scale: Scale, folder: Path, load: Load) -> Path:
    """Draw a figure into `folder`: PNG sheets or SVG schematics, and one HTML page, whose path is returned.

    `load` gives the pictures of a name. Raises InputError where the pictures cannot be had.
    """
    made = figure.make(scale, load)
    make_folder(folder)
    for name, block in made.items():
        if isinstance(block, Svg):
            write_whole(folder / f"{name}.svg", block.svg.encode())
        else:
            write_whole(folder / f"{name}.png", base64.b64decode(block.uri.partition(",")[2]))
    blocks: list[Block] = [*made.values()]
    title = f"saccade reproduce {figure.name}"
    return write_page(
        folder / "page.html", title, f"{figure.caption}; {scale.name} scale", [Section(figure.caption, blocks)]
    )
