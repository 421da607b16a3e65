"""Training on several processes, the ranks, that torchrun started: who takes what, sums over all, and ending together.

Every rank holds the whole network and takes its share of each batch: the draws of the whole batch are made on all ranks
alike, and a rank loads and computes the rows of its own games. Gradients and losses are then summed over the ranks, so
that all make the step that one process would make. The loop is the same for one process, for which `ALONE` stands.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, NoReturn, cast

import torch
import torch.distributed as dist
from torch import Tensor

from zoo.support.errors import QzooError

TIMEOUT = timedelta(days=7)
"""How long ranks wait for one that is still at its recordings. A process that dies is noticed at once, but not a
machine that is suddenly without power or network."""
STEP_TIMEOUT = timedelta(minutes=30)
"""How long they wait in a step: for one that compiles, or for rank 0 to write a checkpoint to a slow disk."""


@dataclass(frozen=True)
class World:
    """The ranks of a run and this one's place among them; by default a process by itself."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Among the ranks of this machine."""
    local_size: int = 1
    gradients: dist.ProcessGroup | None = None
    """What sums on the training device: NCCL between GPUs, else gloo, which does everything else."""
    steps: dist.ProcessGroup | None = None
    """What the ranks tell each other in a step goes through this, with the patience for a step."""

    @property
    def is_main(self) -> bool:
        """Whether this rank writes logs, checkpoints and the model, and speaks for all."""
        return self.rank == 0

    def own_device(self, name: str) -> str:
        """The name of this rank's device: where they train on GPUs, one each, by their number on the machine.

        Where each rank is shown a single GPU (CUDA_VISIBLE_DEVICES, as by torchrun's --virtual-local-rank), it takes
        that.

        Args:
            name: as in --device, of which all give the same. Nothing is set up on any GPU for it.

        Raises:
            QzooError: more ranks than GPUs; a GPU's number, which can't be that of all ranks.
        """
        if self.size == 1 or (name == "auto" and not torch.cuda.is_available()):
            return name
        if name not in ("auto", "cuda"):
            if name.startswith("cuda"):
                raise QzooError(f"device {name}: each rank takes a GPU of its own; give `device` cuda")
            return name
        seen = torch.cuda.device_count()
        if seen == 1 and "CUDA_VISIBLE_DEVICES" in os.environ:
            return "cuda:0"
        if self.local_size > seen:
            raise QzooError(
                f"--nproc-per-node {self.local_size}: {seen} GPUs are here; start one rank each, or give --device cpu"
            )
        return f"cuda:{self.local_rank}"

    def on(self, device: torch.device) -> World:
        """The same ranks, training on `device`, their current one; all must call this.

        Raises:
            QzooError: two ranks have the same GPU.
        """
        if self.size == 1 or device.type != "cuda":
            return self
        held = self.gather(str(torch.cuda.get_device_properties(device).uuid))
        if len(set(held)) < self.size:
            self.leave(
                QzooError(f"{self.size} ranks see {len(set(held))} GPUs; show each one of its own, or all of them")
            )
        return replace(self, gradients=cast(dist.ProcessGroup, dist.new_group(backend="nccl", timeout=STEP_TIMEOUT)))

    def begin_sum(self, tensors: Sequence[Tensor]) -> Callable[[], None]:
        """Begin to sum each tensor, float32 on the training device, over all ranks, in one message.

        Returns:
            what to call to put the sums in their places; the tensors must not change before.
        """
        if self.size == 1:
            return lambda: None
        with torch.no_grad():
            flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with self._others():
            work = dist.all_reduce(flat, group=self.gradients, async_op=True)

        def end() -> None:
            with self._others():
                work.wait()  # on a GPU the stream waits, and this thread continues
            put_back(flat, tensors)

        return end

    def copy_first(self, tensors: Sequence[Tensor]) -> None:
        """Put rank 0's values in the place of each tensor, float32 on the training device."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        with self._others():
            dist.broadcast(flat, 0, group=self.gradients)
        put_back(flat, tensors)

    def any(self, flag: bool) -> bool:
        """Whether the flag is up on any rank; the same answer on all."""
        if self.size == 1:
            return flag
        told = torch.tensor(int(flag))
        with self._others():
            dist.all_reduce(told, dist.ReduceOp.MAX, group=self.steps)
        return bool(told)

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, by rank, in JSON's types."""
        texts = [json.dumps(value)] * self.size
        if self.size > 1:
            with self._others():
                dist.all_gather_object(texts, texts[0])
        return [json.loads(text) for text in texts]

    def union(self, held: Mapping[str, Any]) -> dict[str, Any]:
        """What the ranks hold by key, as one dict.

        Raises:
            QzooError: two ranks hold different values of a key.
        """
        union: dict[str, Any] = {}
        for part in self.gather(dict(held)):
            for key, value in part.items():
                if union.setdefault(key, value) != value:
                    self.leave(
                        QzooError(f"{key}: the ranks find different play; give all machines the same recordings")
                    )
        return union

    def check_same(self, values: Mapping[str, Any]) -> None:
        """All ranks must give the same values.

        Raises:
            QzooError: names those that differ.
        """
        first, *others = self.gather(dict(values))
        for rank, other in enumerate(others, 1):
            differing = [name for name in {**first, **other} if first.get(name) != other.get(name)]
            if differing:
                told = f"rank {rank} differs from rank 0 in {', '.join(differing)}"
                self.leave(QzooError(f"{told}; give all machines the same command, and an `out` that they share"))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Work after which all ranks continue, or none: where it fails on any, rank 0 says the first error.

        Raises:
            QzooError: on rank 0, the first error; the other ranks exit.
        """
        if self.size == 1:
            yield
            return
        error = ""
        try:
            yield
        except QzooError as caught:
            error = str(caught)
        for rank, told in enumerate(self.gather(error)):
            if told:
                self.leave(QzooError(f"rank {rank}: {told}" if rank else told))

    def leave(self, error: QzooError | KeyboardInterrupt) -> NoReturn:
        """End on all ranks, which must all call this: rank 0 raises the error, the others exit without a word."""
        if self.is_main:
            raise error
        sys.exit(130 if isinstance(error, KeyboardInterrupt) else 2)

    @contextmanager
    def _others(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = str(error).split(". ")[0]  # what follows is advice
            raise QzooError(f"rank {self.rank}: lost another rank, which may have said why ({reason})") from error


ALONE = World()


@torch.no_grad()
def put_back(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    """Copy the parts of a message to the tensors that it was made of."""
    parts = flat.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(list(tensors), [p.view(t.shape) for p, t in zip(parts, tensors, strict=True)])


@contextmanager
def join() -> Iterator[World]:
    """Meet the other ranks, if torchrun started this process as one of several and they have not met yet."""
    started = dist.is_available() and dist.is_torchelastic_launched()
    if not started or os.environ["WORLD_SIZE"] == "1":
        yield ALONE
        return
    rank, size, local_rank, local_size = (
        int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    )
    met = dist.is_initialized()
    if not met:
        store = _meeting_place(rank)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    if rank > 0:
        logging.getLogger("zoo").setLevel(logging.ERROR)  # rank 0 warns for all
    steps = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=STEP_TIMEOUT))
    yield World(rank, size, local_rank, local_size, steps, steps)
    if not met:
        dist.destroy_process_group()  # not after an error: it may wait for ranks that are gone


def refuse_ranks(what: str) -> None:
    """Refuse to be one of several processes that torchrun started; rank 0 says so for all.

    Raises:
        QzooError: on rank 0; the other ranks exit.
    """
    if not dist.is_available() or not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        return
    World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])).leave(
        QzooError(f"{what} trains in one process, not in {os.environ['WORLD_SIZE']}; start it without torchrun")
    )


def _meeting_place(rank: int) -> Any:
    """Where ranks leave each other their addresses: a store that rank 0 opens anew.

    The store of torchrun outlives a restart, and with it the addresses of ranks that are dead. It only says at which
    port rank 0 opened its own; where that is still of a dead rank 0, nothing answers.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":  # torchrun opens none, and leaves that to rank 0
        return _store(host, port, opens=rank == 0)
    known = _store(host, port)
    if rank == 0:
        store = _store(host, 0, opens=True)
        known.set("qzoo", str(store.port))
        return store
    while not _answers(host, port := int(known.get("qzoo"))):
        time.sleep(0.1)
    return _store(host, port)


def _store(host: str, port: int, *, opens: bool = False) -> Any:
    return dist.TCPStore(  # type: ignore[attr-defined]
        host, port, is_master=opens, wait_for_workers=False, timeout=TIMEOUT
    )


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5.0).close()
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class Shard:
    """What a rank takes of the data and of every batch; by default all."""

    games: tuple[str, ...] = ()
    """Of the run, in the order of the heads; by default those of the store."""
    mine: tuple[int, ...] | None = None
    """The numbers of the games whose play this rank holds; None: all."""
    part: int = 0
    """It takes every `parts`-th sample of these games in a batch, from this one on."""
    parts: int = 1

    @property
    def names(self) -> tuple[str, ...]:
        """The games whose play this rank holds."""
        return self.games if self.mine is None else tuple(self.games[number] for number in self.mine)

    @property
    def weight(self) -> float:
        """The share of the batch."""
        return (1.0 if self.mine is None else len(self.mine) / len(self.games)) / self.parts

    def rows(self, games: int, per_game: int) -> Tensor:
        """The rows of a game-major batch that are this rank's, int64, game-major."""
        numbers = torch.arange(games * per_game).view(games, per_game)
        return numbers[slice(None) if self.mine is None else list(self.mine), self.part :: self.parts].flatten()


WHOLE = Shard()


def shard_of(games: Sequence[str], per_game: int, world: World) -> Shard:
    """This rank's share: of N ranks, number r takes the games r, r + N, ...

    With more ranks than games, `parts` ranks in a row take the same games and deal out their samples: `parts` divides
    the ranks and the samples of a game, and is chosen so that the rank with most samples has the fewest possible.

    Args:
        per_game: samples of each game in a batch.

    Raises:
        QzooError: the ranks can't be divided like that.
    """
    fitting = [
        parts
        for parts in range(1, min(world.size, per_game) + 1)
        if world.size % parts == 0 and per_game % parts == 0 and world.size // parts <= len(games)
    ]
    if not fitting:
        raise QzooError(
            f"{world.size} ranks: {len(games)} games of {per_game} samples a step don't divide by them; start at most "
            f"{len(games)}, or their product with a number that divides {per_game}"
        )
    most = {parts: -(-len(games) // (world.size // parts)) * (per_game // parts) for parts in fitting}
    parts = 1 if world.size <= len(games) else min(fitting, key=most.__getitem__)
    groups = world.size // parts
    group, part = divmod(world.rank, parts)
    mine = None if groups == 1 else tuple(range(group, len(games), groups))
    return Shard(tuple(games), mine, part, parts)
