"""The trainer: plays a model's game round by round. The only optimiser step of training in the project."""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from anomalib_gan.model import Defective, Labelled, Model, Pair, Player
from anomalib_gan.muon import Muon, matrices

EMA = 0.999  # decay of the averaged weights, which are the ones that are scored and exported
CLIP = 5.0  # largest norm of one player's gradient
WARM_UP = 0.1  # share of the training in which the learning rate rises
START = 0.04  # factor on the learning rate at the very beginning
GRADIENT = "|gradient|"  # its norm stands among the values that are checked
READ_EVERY = 10  # rounds between two readings of the losses on CUDA, where each reading waits for the device

Batches = Callable[[int], Tensor | Labelled | Pair | Defective]
Losses = dict[str, dict[str, float]]


def derive_seed(*parts: object) -> int:
    """A 63-bit seed that depends on the parts and on nothing else (process, platform, Python's hashing).

    >>> derive_seed(0, 1) == derive_seed(0, 1) != derive_seed(1, 0)
    True
    """
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little") >> 1


def schedule(progress: float) -> float:
    """Factor on the learning rate: a cosine from START up to 1 until WARM_UP, then a cosine down to 0.

    >>> [round(schedule(p), 2) for p in (0, 0.1, 0.55, 1)]
    [0.04, 1.0, 0.5, 0.0]
    """
    if progress < WARM_UP:
        return START + (1 - START) * (1 - math.cos(math.pi * progress / WARM_UP)) / 2
    return (1 + math.cos(math.pi * (min(progress, 1.0) - WARM_UP) / (1 - WARM_UP))) / 2


@dataclass(frozen=True)
class Progress:
    """What is known after a round.

    `losses` by player and term: their mean since the last reading. `seconds`: the time spent in training, all lives
    of the run together. `rate`: rounds per second, recently. `steps` is None until planned.
    """

    step: int
    steps: int | None
    losses: Losses
    seconds: float
    rate: float

    @property
    def left(self) -> float | None:
        """Seconds to the end at the recent rate."""
        return None if self.steps is None else (self.steps - self.step) / self.rate


class Trainer:
    """Plays the game: `for progress in Trainer(model, batches, steps): ...`; stopping is `break`, a later loop goes on.

    `batches(n)` is batch n as a pure function of n, (N, C, patch, patch) in [-1, 1] on the model's device, `Labelled`
    for a model with classes, a `Pair` for a translator, `Defective` for one that takes defects where there are any. A
    step is one round of `model.play`. `steps=None` means not yet planned: progress stays 0 until `trainer.steps` is
    set, which may be set anew at any time.

    All randomness of a round comes from torch's global generator, seeded from (seed, step, rank) as the round begins,
    and what a model remembers between rounds lies in buffers; so `state_dict` needs no generator's state, and a trainer
    that loads it goes on bit for bit as if it had never stopped (CPU, same thread count).

    Where torch.distributed is initialised, every process plays with its own share of each batch, and the gradients of
    the moving player are averaged: where losses are means over the batch, that equals one process with the whole batch.
    """

    def __init__(
        self, model: Model, batches: Batches, steps: int | None, *, seed: int = 0, ema: float = EMA, clip: float = CLIP
    ) -> None:
        self.model, self.batches, self.steps, self.seed, self.decay, self.clip = model, batches, steps, seed, ema, clip
        self.players = players_of(model)
        tensors = [*model.parameters(), *model.buffers()]
        self.device = tensors[0].device if tensors else torch.device("cpu")
        self.cuda = self.device.type == "cuda"
        if not any(tensor.dim() == 5 for tensor in tensors):
            model.to(memory_format=torch.channels_last)  # faster on processors too
        self.parameters = {
            who: list(dict.fromkeys(parameter for parameter in player.parameters() if parameter.requires_grad))
            for who, player in self.players.items()
        }
        self.optimisers = {
            who: Muon(
                self.parameters[who],
                matrices(player.nets),
                turn=player.turn,
                lr=player.lr,
                betas=player.betas,
                weight_decay=player.weight_decay,
            )
            for who, player in self.players.items()
        }
        self.rates = {who: [group["lr"] for group in one.param_groups] for who, one in self.optimisers.items()}
        self.ema = copy.deepcopy(model).eval().requires_grad_(False)
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.step = 0
        self.drawn = 0  # batches used so far
        self.seconds = 0.0
        self._losses: Losses = {}
        self._unread: list[tuple[int, str, list[str], Tensor]] = []

    @property
    def progress(self) -> float:
        """The share of the training that is done, in [0, 1]."""
        return self.step / self.steps if self.steps else 0.0

    def __iter__(self) -> Iterator[Progress]:
        if not self.players:
            return  # a closed-form model has no game: `finish` fits it
        rate, then = 0.0, time.perf_counter()
        while self.steps is None or self.step < self.steps:
            self._round()
            now = time.perf_counter()
            spent, then = now - then, now
            self.seconds += spent
            rate = 1 / spent if rate == 0 else 1 / (0.95 / rate + 0.05 * spent)
            yield Progress(self.step, self.steps, self._losses, self.seconds, rate)
            then = time.perf_counter()  # what the caller did in between is not training

    def _round(self) -> None:
        torch.manual_seed(derive_seed(self.seed, self.step, self.rank))
        self.model.train()
        factor = schedule(self.progress)
        for who, optimiser in self.optimisers.items():
            for group, rate in zip(optimiser.param_groups, self.rates[who], strict=True):
                group["lr"] = rate * factor
        game = self.model.play(self._draw(), self.progress)
        while True:
            with self._precision():  # left at each yield: autocast keeps copies of weights that the move will change
                move = next(game, None)
            if move is None:
                break
            self._move(*move)
        self.step += 1
        self._average()
        if self._unread and (not self.cuda or self.step % READ_EVERY == 0 or self.step == self.steps):
            self._read()

    def _draw(self) -> Iterator[Any]:
        while True:
            batch = self.batches(self.drawn)
            self.drawn += 1
            yield type(batch)(*map(laid_out, batch)) if isinstance(batch, tuple) else laid_out(batch)

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast("cuda", dtype=torch.bfloat16) if self.cuda else nullcontext()

    def _move(self, who: str, terms: dict[str, Tensor]) -> None:
        """The player descends the sum of its terms by one step; nobody else moves."""
        if who not in self.players:
            raise KeyError(f"the game yields player {who!r}, but players() names only {', '.join(self.players)}")
        loss = torch.stack([term.float() for term in terms.values()]).sum()
        if not self.cuda:  # a look costs nothing here, so nothing bad ever reaches a weight
            self._check(self.step, who, list(terms), [float(term.detach()) for term in terms.values()])
        optimiser, parameters = self.optimisers[who], self.parameters[who]
        optimiser.zero_grad(set_to_none=True)
        if loss.requires_grad:
            loss.backward(inputs=parameters)
        if all(parameter.grad is None for parameter in parameters):
            raise ValueError(f"no term of player {who!r} ({', '.join(terms)}) depends on a parameter of its own")
        norm = self._gradient(parameters)
        if not self.cuda:
            self._check(self.step, who, [GRADIENT], [float(norm)])
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        values = [*(term.detach().float() for term in terms.values()), norm.float()]
        self._unread.append((self.step, who, [*terms, GRADIENT], torch.stack(values)))

    def _gradient(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """Averages the gradients over the processes, clips them, and returns the norm they had."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.world > 1:
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(flat)
            parts = (flat / self.world).split([gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))
        return nn.utils.clip_grad_norm_(parameters, self.clip)

    @torch.no_grad()
    def _average(self) -> None:
        """The averaged weights follow; early on they follow faster, or they would remember the random start."""
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        slow: list[Tensor] = list(self.ema.parameters())
        fast: list[Tensor] = list(self.model.parameters())
        if slow:
            torch._foreach_lerp_(slow, fast, 1 - decay)
        for old, new in zip(self.ema.buffers(), self.model.buffers(), strict=True):
            old.copy_(new)

    def _read(self) -> None:
        """Brings the losses of the rounds since the last reading to the host, checks them and takes their means."""
        values = torch.cat([numbers for *_, numbers in self._unread])
        if self.world > 1:
            dist.all_reduce(values)
            values = values / self.world
        numbers = iter(values.tolist())
        gathered: dict[str, dict[str, list[float]]] = {}
        unread, self._unread = self._unread, []
        for step, who, names, part in unread:
            row = [next(numbers) for _ in range(len(part))]
            self._check(step, who, names, row)
            for name, value in zip(names[:-1], row[:-1], strict=True):  # the last is the gradient's norm, only checked
                gathered.setdefault(who, {}).setdefault(name, []).append(value)
        self._losses = {
            who: {name: sum(values) / len(values) for name, values in terms.items()} for who, terms in gathered.items()
        }

    @staticmethod
    def _check(step: int, who: str, names: Sequence[str], values: Sequence[float]) -> None:
        for name, value in zip(names, values, strict=True):
            if not math.isfinite(value):
                what = "gradient" if name == GRADIENT else f"term {name!r}"
                raise FloatingPointError(
                    f"player {who!r}: its {what} is {value} in round {step}: "
                    "lower its learning rate, or look at that term"
                )

    def _look(self) -> None:
        """Checks the losses that were not read yet, by this process alone: the others need not save when it does."""
        for step, who, names, part in self._unread:
            self._check(step, who, names, part.tolist())

    def finish(self, normals: Sequence[Any]) -> Model:
        """The model that is scored and exported: a copy with the averaged weights, settled on normal images.

        `normals`: each (1, C, H, W) in [-1, 1], H and W multiples of the model's stride, on its device, and `Labelled`
        where it has classes, a `Pair` where it plays with such; of a model that paints patches, as it played with. In
        eval mode.
        """
        self._look()
        torch.manual_seed(derive_seed(self.seed, "settle"))
        model = copy.deepcopy(self.ema).to(memory_format=torch.contiguous_format)  # as a model that is loaded again
        model.settle(normals)
        return model.eval()

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on exactly; plain dicts, numbers and tensors.

        A non-finite loss that was not read yet raises here, so that a ruined state is never stored.
        """
        self._look()
        return {
            "step": self.step,
            "steps": self.steps,
            "seed": self.seed,
            "drawn": self.drawn,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimisers": {who: optimiser.state_dict() for who, optimiser in self.optimisers.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict`'s answer; the model, its players and the seed must be the same."""
        if state["seed"] != self.seed:
            raise ValueError(f"the state was trained with seed {state['seed']}, not {self.seed}: use that seed")
        if set(state["optimisers"]) != set(self.optimisers):
            raise ValueError(
                f"the state has the players {sorted(state['optimisers'])}, the model has {sorted(self.optimisers)}: "
                "build the model from the spec that is stored beside the state"
            )
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        for who, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][who])
        self.step, self.steps = state["step"], state["steps"]
        self.drawn, self.seconds = state["drawn"], state["seconds"]
        self._unread.clear()


def laid_out(x: Tensor) -> Tensor:
    """Images in the memory format of the networks."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def players_of(model: Model) -> dict[str, Player]:
    """The model's players, once every trainable parameter has one owner; a ValueError names those that have not."""
    players = model.players()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    owned = Counter(id(parameter) for player in players.values() for parameter in set(player.parameters()))
    if strangers := sum(key not in names for key in owned):
        raise ValueError(
            f"{strangers} of the players' parameters are not the model's: make their networks attributes of the model"
        )
    if shared := [names[key] for key, count in owned.items() if count > 1]:
        raise ValueError(f"these parameters belong to more than one player: {', '.join(shared)}: give each one owner")
    trainable = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    if orphans := [name for key, name in names.items() if key in trainable and key not in owned and players]:
        raise ValueError(f"these parameters belong to no player: {', '.join(orphans)}: name their network in players()")
    return players
