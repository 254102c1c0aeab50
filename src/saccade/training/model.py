"""A configuration made real: encoder, sites, rule, schedule, optimizers, and one training step of them all."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import UninitializedParameter

from .. import draws, networks, views
from ..allocator import keep_freed_memory
from ..config.grammar import Call
from ..config.names import LOSSES, OPTIMIZERS, RULES, SCHEDULES, choose, create
from ..config.run import TrainConfig, check, head_of, refuse_negatives
from ..data import ImageSet
from ..data.memory import free_memory, pick_device
from ..errors import InputError, whole
from ..losses import make as make_loss
from ..losses import needs
from ..losses.common import check_grid
from ..ranks import ALONE, Ranks
from ..rules import make as make_rule
from ..rules.feedback import maps_of
from ..rules.site import Batch, Site
from .diagnostics import backpropagated, measure, snapshot
from .own_code import failures_told
from .stages import stages
from .weights import begin

DTYPES = {"float32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}  # of weights


def pick_precision(name: str, device: torch.device) -> str:
    """The precision of the network's arithmetic; auto is bfloat16 where the hardware multiplies it fast."""
    if name != "auto":
        return name
    if device.type == "cuda":
        with torch.cuda.device(device):
            return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if fast else "float32"


@dataclass
class Model:
    """Everything that a run moves through its steps. `sums` holds each site's running loss and step count."""

    config: TrainConfig
    device: torch.device
    precision: str
    shape: tuple[int, ...]  # of one view
    encoder: nn.Sequential
    sites: list[Site]
    rule: Any
    schedule: Any
    policy: Any
    optimizers: dict[tuple[int, str], torch.optim.Optimizer]
    steps_per_epoch: int
    steps_per_site: int
    sums: Tensor
    broken: Tensor
    recent: list[tuple[Site, Batch]] = field(default_factory=list)  # who learned at the last step, from what
    remembers: bool = True  # whether `recent` is filled
    ranks: Ranks = ALONE
    names: frozenset[str] = (
        frozenset()
    )  # of the encoder's and the heads' tensors (see `named_tensors`), without what the rule added
    underway: dict[int, Iterator[None]] = field(default_factory=dict)  # updates of sites whose gradients are being sent
    # Where processes share out the layers: this one's sites, and the features that it passed up and got from below last.
    stage: range = range(0)
    grid: tuple[int, int] | None = None
    passing: Callable[[], None] | None = None
    below: Tensor | None = None

    @property
    def total_steps(self) -> int:
        return self.schedule.length(len(self.sites), self.steps_per_site)

    def turns(self, step: int) -> tuple[int, ...]:
        """The sites that learn at a step. Raises InputError where a schedule of the user's own names none, or others."""
        turns = self.schedule.sites(self.config.seed, step, len(self.sites), self.steps_per_site)
        sites = range(len(self.sites))
        if not isinstance(turns, Sequence) or not turns or len({*turns} & {*sites}) < len(turns):
            raise InputError(
                f"The schedule {self.config.schedule} has {turns!r} learn at step {step}; it takes one site or more, "
                f"each once, from 0 to {len(sites) - 1}."
            )
        return tuple(turns)

    def modules(self) -> nn.ModuleList:
        """All that is saved: the sites hold the layers, the heads, the losses, feedback weights and inverses."""
        return nn.ModuleList(self.sites)


def build(config: TrainConfig, images: ImageSet, ranks: Ranks = ALONE) -> Model:
    """Everything that `config` names, for these images, at its initial weights; `ranks` where processes share the run.

    Raises InputError for whatever does not exist or does not fit, before anything is trained or written.
    """
    check(config)
    with failures_told(config, InputError):
        return _built(config, images, ranks)


def _built(config: TrainConfig, images: ImageSet, ranks: Ranks) -> Model:
    device = pick_device(config.device)
    if device.type == "cpu":
        keep_freed_memory()
    precision = pick_precision(config.precision, device)
    wants = needs(make_loss(config.loss))
    if wants.labels and images.labels is None:
        raise InputError(f"The loss {config.loss} learns from labels, and the images {images.name} have none.")
    if config.batch > len(images):
        raise InputError(
            f"batch is {config.batch}, and the images {images.name} are {len(images)}; it takes at most that many."
        )
    policy = views.parse(config.views, config.size)
    rows, shape, grid = _view_shape(policy, images, wants.layout, config.batch)
    dtype = DTYPES[precision]
    encoder = networks.build(config.network, shape, config.seed).to(dtype)
    begin(encoder, config)
    schedule = create(config.schedule, SCHEDULES, "schedule")
    rule = make_rule(config.rule)
    shapes, groups = networks.shapes(encoder, shape), _groups(config, schedule, len(encoder))
    sites = _sites(config, encoder, groups, shapes, images.class_count if wants.labels else None)
    if _feeds_back(config.rule) and all(len(maps_of(nn.ModuleList(site.chain()))) < 2 for site in sites):
        raise InputError(
            f"The rule {config.rule} replaces the weights that carry errors from one map to the map below, and there "
            f"are none with the loss {config.loss} under the schedule {config.schedule}; it takes e2e, larger blocks, or bp."
        )
    names = frozenset(named_tensors(encoder, sites))
    size = 2 if precision == "bfloat16" else dtype.itemsize
    below = [shapes[group.start] for group in groups]
    _refuse_too_large(config, sites, below, size * rows * (config.batch // ranks.count), device)
    for site, features in zip(sites, below, strict=True):
        if not any(p.requires_grad for p in site.parameters()):
            raise InputError(
                f"Site {site.index + 1} has no weights to train under the schedule {config.schedule}: network "
                f"{config.network!r}, head {head_of(config)!r}; it takes a map, such as conv32, in each."
            )
        site.to(device, dtype)
        if all(p.ndim < 5 for p in site.parameters()):  # torch lays out three-dimensional convolutions otherwise
            site.to(memory_format=torch.channels_last)
        rule.prepare(site, features, config.seed)
        site.train()
    if lost := names - named_tensors(encoder, sites).keys():
        raise InputError(
            f"The rule {config.rule} takes {min(lost)} away or gives it another name; it takes a rule that leaves weights where they are."
        )
    optimizers = {
        (site.index, group): _optimizer(config, [p for _, p in named], rule.rates.get(group, config.rate))
        for site in sites
        for group, named in rule.groups(site).items()
    }
    _refuse_shares(config, sites, ranks)
    if choose(config.loss, LOSSES, "loss")[1] is None:
        seen = slice(None) if ranks.gathers else ranks.share
        count = len(range(config.batch)[seen])
        labels = images.labels[:count].to(device) if wants.labels and images.labels is not None else None
        for site, features in zip(sites, below, strict=True):
            _try_loss(config, site, features, rows * count, labels, grid)
    stage = range(len(sites))
    if ranks.count > 1 and not ranks.shares:
        stage = stages(sites, below, ranks.count)[ranks.rank]
    steps_per_epoch = len(images) // config.batch
    steps_per_site = max(1, round(config.epochs * steps_per_epoch))
    whole(f"The length of the schedule {config.schedule}", schedule.length(len(sites), steps_per_site), 1, 2**53)
    model = Model(
        config,
        device,
        precision,
        shape,
        encoder,
        sites,
        rule,
        schedule,
        policy,
        optimizers,
        steps_per_epoch,
        steps_per_site,
        torch.zeros(len(sites), 2, dtype=torch.float64, device=device),
        torch.zeros(len(sites), 2, dtype=torch.int64, device=device),
        ranks=ranks,
        names=names,
        stage=stage,
        grid=grid,
    )
    model.turns(0)  # refused before anything is written
    return model


def named_tensors(encoder: nn.Module, sites: list[Site]) -> dict[str, Tensor]:
    """Encoder and heads by name: `encoder.0.linear.weight`, `heads.4.linear.weight`, ..."""
    heads = {f"heads.{site.index}": site.head for site in sites if site.head is not None}
    return {
        f"{part}.{name}": tensor
        for part, module in {"encoder": encoder, **heads}.items()
        for name, tensor in module.state_dict(keep_vars=True).items()
    }


def _groups(config: TrainConfig, schedule: Any, layers: int) -> list[range]:
    """Which layers each site has. Raises InputError where a schedule of the user's own does not share out all of them."""
    for name in ("groups", "length", "sites"):
        if not callable(getattr(schedule, name, None)):
            raise InputError(f"The schedule {config.schedule} has no method {name}; it takes groups, length and sites.")
    groups = schedule.groups(layers)
    whole = isinstance(groups, Sequence) and all(isinstance(group, range) and len(group) for group in groups)
    if not whole or [layer for group in groups for layer in group] != list(range(layers)):
        raise InputError(
            f"The schedule {config.schedule} has the groups {groups!r} of {layers} layers; it takes ranges that hold each of them "
            "once, from the bottom up."
        )
    return list(groups)


def _refuse_shares(config: TrainConfig, sites: list[Site], ranks: Ranks) -> None:
    """Refuse what several processes could not do as one: InputError."""
    if not ranks.shares:
        return
    least = config.batch // ranks.count
    if least < (1 if ranks.gathers else 2):
        raise InputError(
            f"A batch of {config.batch} leaves {ranks.count} processes {least} pictures each; it takes more."
        )
    if not ranks.gathers:
        refuse_negatives(config, least, f"each of {ranks.count} processes with negatives=local")
    for site in sites:
        for part in nn.ModuleList(site.chain()).modules():
            if isinstance(part, _BatchNorm) and not isinstance(part, nn.SyncBatchNorm):
                raise InputError(
                    f"{type(part).__name__} would normalize by each process's share of the batch; several processes take "
                    "nn.SyncBatchNorm (on GPUs), a normalization of single images, or none."
                )
        if not ranks.gathers and any(True for _ in site.loss.buffers()):
            raise InputError(
                f"The loss {config.loss} keeps what it has seen, which with negatives=local would differ among "
                "processes; it takes gathered."
            )


def _try_loss(
    config: TrainConfig,
    site: Site,
    below: tuple[int, ...],
    rows: int,
    labels: Tensor | None,
    grid: tuple[int, int] | None,
) -> None:
    """Refuse a loss of the user's own that cannot be called, or gives nothing to descend: InputError.

    A copy of the site is called once, with `rows` random inputs, and the generators that it may draw from are put back.
    """
    try:
        twin = copy.deepcopy(site)
    except Exception:  # it holds a file or a lock, say; the first step will tell
        return
    like = next(site.parameters())
    with torch.random.fork_rng(devices=[like.device] if like.is_cuda else []):
        torch.manual_seed(0)
        with torch.no_grad():
            _, z = twin(torch.rand(rows, *below, dtype=like.dtype, device=like.device))
        trial = Site(site.index, nn.Sequential(), None, twin.loss)  # no layers: its inputs are embeddings
        batch = Batch(z, labels, grid)
        try:
            trial.evaluate([x.requires_grad_(carries) for x, carries in trial.parts(z)], batch)
        except InputError:
            raise
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise InputError(
                f"The loss {config.loss} cannot be called with embeddings of shape {tuple(z.shape[1:])} ({reason}); it takes one "
                "that is called as loss(z_a, z_b)."
            ) from error


def _view_shape(
    policy: Any, images: ImageSet, layout: str, batch: int
) -> tuple[int, tuple[int, ...], tuple[int, int] | None]:
    """How many pictures the encoder sees of each, and their shape, from making the views of one; the grid of patches.

    Raises InputError for too few patches.
    """
    first = torch.zeros(1, dtype=torch.long)
    made = views.make_views(policy, images.batch(first), first.to(images.device), layout)
    if made.grid is not None:
        check_grid(*made.grid, batch)
    return len(made.x), tuple(made.x.shape[1:]), made.grid


def _refuse_too_large(
    config: TrainConfig, sites: list[Site], below: list[tuple[int, ...]], size: int, device: torch.device
) -> None:
    """Refuse what the kernel would end without a word; `size` is the bytes that a unit's activity takes over a batch.

    It counts the least that a step takes: gradients, Adam's two means, and the activity of the largest site.
    """
    weights = sum(p.numel() for site in sites for p in site.parameters() if p.requires_grad)
    activity = max(networks.activity(site.layers, shape) for site, shape in zip(sites, below, strict=True))
    least = 4 * weights * (3 if choose(config.optimizer, OPTIMIZERS, "optimizer", own=False)[0].name == "adam" else 1)
    least += size * activity
    if least > (free := free_memory(device)):
        raise InputError(
            f"The network {config.network} at batch {config.batch} needs at least {least / 2**30:,.1f} GiB of memory, and "
            f"{free / 2**30:,.1f} are free; it takes a smaller batch, a smaller network, or layers that learn one by one."
        )


def _feeds_back(rule: str) -> bool:
    entry = choose(rule, RULES, "rule")[1]
    return entry is not None and "needs-feedback" in entry.facts


def _sites(
    config: TrainConfig, encoder: nn.Sequential, groups: list[range], shapes: list[tuple[int, ...]], classes: int | None
) -> list[Site]:
    """One site a group of layers, with the head and the loss that train it; `classes` where the loss needs labels."""
    sites = []
    for index, group in enumerate(groups):
        head: nn.Module | None = None
        embedding = shapes[group.stop]
        with draws.seeded(config.seed, "loss", index):
            loss: Any = make_loss(config.loss)
            if needs(loss).head:
                head = networks.head(head_of(config), embedding, classes, config.seed, index, bias=classes is not None)
                embedding = networks.output_shape(head, embedding)
            if hasattr(loss, "sized"):
                loss.sized(embedding)
            if any(isinstance(p, UninitializedParameter) for p in loss.parameters()):
                raise InputError(
                    f"The loss {config.loss} has lazy weights, whose sizes are not known; it takes ones of a size, or makes them "
                    "in a method sized(shape)."
                )
        sites.append(Site(index, nn.Sequential(*(encoder[k] for k in group)), head, loss))
    return sites


def _optimizer(config: TrainConfig, parameters: list[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    call: Call = choose(config.optimizer, OPTIMIZERS, "optimizer", own=False)[0]
    options = dict(call.options)
    if call.name == "adam":
        betas = (
            float(options.pop("beta1")),
            float(options.pop("beta2")),
        )  # one kind of number for both, or torch refuses
        return torch.optim.AdamW(parameters, lr=rate, betas=betas, foreach=True, **options)
    return torch.optim.SGD(parameters, lr=rate, foreach=True, **options)


def make_batch(model: Model, images: ImageSet, step: int) -> tuple[views.Views, Tensor | None]:
    """The views of a step, and the labels where the loss needs them; of this rank's share of the pictures."""
    index = images.drawn(model.config.seed, step, model.config.batch)[model.ranks.share]
    keys = draws.image_keys(draws.key(model.config.seed, "views", step // model.steps_per_epoch), index).to(
        model.device
    )
    wants = model.sites[0].needs
    pictures = images.batch(index).to(model.device)
    if images.streamed and step + 1 < model.total_steps:
        images.expect(images.drawn(model.config.seed, step + 1, model.config.batch)[model.ranks.share])
    made = views.make_views(model.policy, pictures, keys, wants.layout)
    return made, batch_labels(model, images, step)


def batch_labels(model: Model, images: ImageSet, step: int) -> Tensor | None:
    """The labels that this rank's loss needs: of its share, or of the whole batch where embeddings are gathered."""
    if not model.sites[0].needs.labels or images.labels is None:
        return None
    index = images.drawn(model.config.seed, step, model.config.batch)
    index = index if model.ranks.gathers else index[model.ranks.share]
    return images.labels[index.to(images.labels.device)].to(model.device)


def train_step(model: Model, images: ImageSet, step: int, watch: list[dict[str, Any]] | None = None) -> None:
    """One step: make views, run up through the layers, let every site whose turn it is learn.

    Where processes share the run, a site's update may still be on its way when this returns, while its gradients are
    sent: it is applied before the site's weights are next used (`settle`). With `watch`, each learning site's
    diagnostics are appended to it, at the cost of one more backpropagation step.
    """
    model.recent = []
    turns = model.turns(step)
    if max(turns) < model.stage.start:
        return
    if model.stage.start == 0:
        made, labels = make_batch(model, images, step)
        x = made.x.to(DTYPES[model.precision])
        del made  # it would hold the views in the other layout to the end
    else:
        x, labels = model.ranks.from_below(model.below, model.device), batch_labels(model, images, step)
        model.below = x
    if x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    own = (model.ranks.rank,) if model.ranks.share.start else ()
    for site in model.sites[model.stage.start : min(model.stage.stop, max(turns) + 1)]:
        # A context a site: leaving it frees the rounded copies of the site's weights.
        rounds, keeps = model.precision == "bfloat16", _rounded_weights_keep_gradients()
        with (
            draws.seeded(model.config.seed, "step", step, site.index, *own),  # for dropout, say, in one's own network
            torch.autocast(model.device.type, torch.bfloat16, enabled=rounds, cache_enabled=keeps),
        ):
            settle(model, site.index)
            if site.index not in turns:
                with torch.no_grad():
                    x = site.layers(x)
                continue
            batch = Batch(x, labels, model.grid, model.config.seed, step, model.ranks)
            model.underway[site.index] = _learn(model, site, batch, watch)
            next(model.underway[site.index], None)
            if not model.ranks.shares or watch is not None:
                settle(model, site.index)
            assert batch.outputs is not None
            x = batch.outputs
    if model.stage.stop <= max(turns):
        new = model.passing is None
        if model.passing is not None:
            model.passing()
        model.passing = model.ranks.pass_up(x, header=new)


@cache
def _rounded_weights_keep_gradients() -> bool:
    """Whether autocast may keep a weight that it has rounded: torch 2.9 hands out one that was rounded without gradient,
    for a view that carries none, to the views that carry one, and nothing would learn."""
    weight = nn.Parameter(torch.ones(1, 1))
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            nn.functional.linear(weight, weight)
        return nn.functional.linear(weight.detach(), weight).requires_grad


def _learn(model: Model, site: Site, batch: Batch, watch: list[dict[str, Any]] | None) -> Iterator[None]:
    """Let one site learn from a batch. Pauses when the gradients of its last group are on their way."""
    expected = backpropagated(site, batch) if watch is not None else {}
    found: dict[str, Tensor] = {}
    groups = model.rule.groups(site) if model.ranks.shares else {}
    for group in model.rule.phases(site, batch):
        if groups:
            copies = getattr(model.rule, "copies", None)  # which a rule of the user's own may lack
            put = model.ranks.send(groups[group], copies(site) if copies else {})
            if group == list(groups)[-1]:
                yield
            put()
        if watch is not None:
            found |= snapshot(site)
        optimizer = model.optimizers.get((site.index, group))
        if optimizer is None:
            raise InputError(f"The rule {model.config.rule} has the phase {group!r}, and no such group of parameters.")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    site.follow()
    if batch.loss is None or batch.outputs is None:
        raise InputError(
            f"The phases of the rule {model.config.rule} left out the loss or the outputs; it takes one that calls "
            "site.evaluate and sets batch.outputs."
        )
    images_seen = model.config.batch if site.needs.reduction == "sum" else 1
    model.sums[site.index, 0] += batch.loss.double() / images_seen
    model.sums[site.index, 1] += 1
    _mark_broken(model, site, batch.loss, batch.step + 1)
    if model.remembers:
        model.recent.append((site, _some(batch)))
    if watch is not None:
        watch.append({"site": site.index} | measure(site, batch, found, expected))


def _some(batch: Batch) -> Batch:
    """The first images of a batch, copied, so that not all features of all sites stay in memory."""
    assert batch.outputs is not None
    inputs, outputs, *seen = (x[:256].clone() for x in (batch.inputs, batch.outputs, *batch.views))
    return replace(batch, inputs=inputs, outputs=outputs, views=tuple(seen))


def settle(model: Model, site: int | None = None) -> None:
    """Wait for the updates that are on their way, of one site or of all, and apply them."""
    for index in [site] if site is not None else sorted(model.underway):
        for _ in model.underway.pop(index, ()):
            pass
    if site is None and model.passing is not None:
        model.passing()
        model.passing = lambda: None


def _mark_broken(model: Model, site: Site, loss: Tensor, step: int) -> None:
    """Note the first step whose loss or weights are not finite, without waiting for a GPU to finish it."""
    largest = torch.nn.utils.get_total_norm([p for p in site.parameters() if p.requires_grad], float("inf"))
    now = ~torch.stack([loss.double(), largest.detach().double()]).isfinite()
    first = model.broken[site.index]
    first.copy_(torch.where((first == 0) & now, step, first))
