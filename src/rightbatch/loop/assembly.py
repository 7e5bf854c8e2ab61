"""From what a caller gives to the parts of a loop that fit each other."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..data import BatchStream, Source, require_trainable
from ..data.nest import tensors
from ..decision import Decision, Needs, Plan
from ..errors import InputError
from ..ranges import require_whole
from ..rule_text import write_rule
from .clip import Clip
from .decide import Decide
from .distance import Distance
from .distributed.process_group import ProcessGroup
from .distributed.rank_sync import RankSync, digest_of, unwrapped
from .distributed.sharding import squared_norm
from .engine import Engine
from .forks import Forks
from .gather import Gather
from .gradients import Gradients
from .loss_scale import LossScale
from .measure import Measure
from .memory.forward_limit import BatchSnapshot, ForwardLimit
from .micro_batcher import MicroBatcher
from .noise_meter import NoiseMeter
from .optimizer_settings import apply_settings, settings_of
from .report import Report
from .resolving import require_compatible, require_enough, require_no_scheduler, resolve, resolve_noise
from .run_state import RunState
from .step import Step
from .timing.step_timer import StepTimer
from .update import Update

LARGEST_FORWARD_SAMPLES = 4096


@dataclass(slots=True)
class LoopParts:
    """The parts of a loop that outlive a step, and their state.

    Args:
        model: unwrapped.
        sync: the other processes.
        meter: measures the noise; None where nothing needs it.
        timer: models the seconds of a step.
        step: the phases.
        engine: takes batches through them.
        opening: the first decisions, for batch size and learning rate.
        settings: what the caller gave, in words, by name; what differs at a resume is reported as a change.
        plan: the context of rules before the first step.
    """

    model: nn.Module
    sync: RankSync
    meter: NoiseMeter | None
    timer: StepTimer
    step: Step
    engine: Engine
    opening: tuple[Decision, Decision]
    settings: dict[str, str]
    plan: Plan

    def state_dict(self) -> dict[str, Any]:
        """All that goes with the model's own state to continue bit for bit."""
        if self.engine.searching:
            raise InputError(
                "auto.state_dict() was called during a line search, while the model is at a trial point: call it when "
                "auto.step() has returned True."
            )
        step = self.step
        return {
            "settings": self.settings,
            "stream": step.stream.state_dict(self.engine.place),
            "run": step.run.state_dict(),
            "decisions": self.sync.decisions,
            "decide": step.decide_.state_dict(),
            "update": step.update_.state_dict(),
            "forks": step.forks.state_dict(),
            "meter": self.meter.state_dict() if self.meter is not None else None,
            "timer": self.timer.state_dict(),
            "limit": step.batcher.limit.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`; rules that are others than then start where the run is."""
        step = self.step
        step.gradients.forget()
        then = state["settings"]
        same = {name: then.get(name) == text for name, text in self.settings.items()}
        step.stream.load_state_dict(state["stream"])
        given = step.run.batch_size
        step.run.load_state_dict(state["run"])
        changed = step.update_.load_state_dict(state["update"])
        step.decide_.load_state_dict(state["decide"], same["batch_size"], same["lr"])
        if same["lr"]:
            step.forks.load_state_dict(state["forks"])
        if not same["batch_size"]:
            step.run.batch_size, step.run.decided_step = given, step.run.steps
        if not same["lr"]:
            step.update_.set_lr(self.opening[1].lr)
        if self.meter is not None and state["meter"] is not None and same["noise"]:
            self.meter.load_state_dict(state["meter"], step.run.samples)
            step.report.skip_method()
        self.timer.load_state_dict(state["timer"])
        step.batcher.limit.load_state_dict(state["limit"])
        self.sync.begin_at(state["decisions"])
        for name, text in self.settings.items():
            if not same[name]:
                step.report.change(name, then.get(name), text)
        for name, old, new in changed:
            step.report.change(name, old, new)


def assemble(
    given: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    source: Source,
    batch_size: Any,
    lr: Any,
    clip_norm: float | None,
    clip_value: float | None,
    scaler: "torch.amp.GradScaler | None",
    micro_batch: int | None,
    noise: Any,
    seed: int,
    epochs: int | None,
) -> LoopParts:
    """Check what a caller gives to `AutoBatch`, and put the parts of its loop together.

    Raises:
        InputError: unusable data or settings.
        UnsupportedError: rules, optimizer and model that do not go together.
    """
    ranks = ProcessGroup.present()
    model = unwrapped(given, ranks)
    for name, value in (("micro_batch", micro_batch), ("epochs", epochs)):
        if value is not None:
            require_whole(name, value, least=1)
    require_no_scheduler(lr)
    batch_size_rule, lr_rule = resolve(batch_size, lr, source.batch_size)
    require_compatible(lr_rule, optimizer)
    if scaler is not None and not isinstance(scaler, torch.amp.GradScaler):
        raise InputError(f"scaler must be a torch.amp.GradScaler, got {type(scaler).__name__}.")
    clip = Clip(clip_norm, clip_value)
    measuring = resolve_noise(noise, batch_size_rule, lr_rule)
    settings = {"batch_size": write_rule(batch_size_rule), "lr": write_rule(lr_rule), "noise": str(measuring or "none")}
    settings |= {"micro_batch": str(micro_batch), "clip_norm": str(clip_norm), "clip_value": str(clip_value)}
    require_trainable(source)
    require_enough(batch_size_rule, len(source))
    # Averaging has the optimizer step other tensors than the model's.
    gradients = Gradients(model, None if lr_rule.averages else optimizer)
    sync = RankSync(ranks, model, gradients.parameters, _shared(source, settings, seed, epochs))
    device = gradients.parameters[0].device
    run = RunState(len(source), epochs)
    stream = BatchStream(source, seed=seed, device=device)
    loss_scale = LossScale(scaler, device)
    update = Update(model, gradients, optimizer, lr_rule, clip, loss_scale)
    needs = batch_size_rule.needs | lr_rule.needs
    meter = None
    if measuring is not None:
        meter = NoiseMeter(model, gradients.parameters, measuring, update.optimizer, Needs.PROJECTIONS in needs, ranks)
    timer = StepTimer()
    batcher = MicroBatcher(
        ranks,
        stream,
        epochs,
        exact=not (batch_size_rule.needs or batch_size_rule.enlarges_current),
        limit=ForwardLimit(micro_batch or LARGEST_FORWARD_SAMPLES, model),
        timer=timer,
        meter=meter,
        device=device,
        timed=Needs.TIME in needs,
        repeatable=lr_rule.searches,
    )
    report = Report(run, meter, update)
    gather = Gather(batcher, gradients, meter, sync, loss_scale, device)
    measure = Measure(meter, batch_size_rule.enlarges_current, lr_rule.searches, report.measurement)
    distance = Distance(gradients.parameters) if Needs.DISTANCE in needs else None
    decide = Decide(batch_size_rule, lr_rule, sync, timer, measure, update, distance)
    forks = Forks(model, gradients, update, decide, stream.seek, lambda: decide.sized(run.steps), device)
    step = Step(model, run, stream, batcher, gradients, sync, timer, gather, measure, decide, update, report, forks)
    engine = Engine(step, BatchSnapshot(model, device), device)
    engine.losses.looks_for_coupling = micro_batch is None  # else the caller knows
    plan = _plan(run, gradients, update, sync, optimizer is None, source.batch_size)
    size, rate = decide.start(plan)
    run.batch_size = min(size.batch_size or 1, run.train_samples)
    update.set_lr(rate.lr)
    update.reported_lr = update.lr
    apply_settings(update.optimizer, rate.settings)
    return LoopParts(model, sync, meter, timer, step, engine, (size, rate), settings, plan)


def _shared(source: Source, settings: dict[str, str], seed: int, epochs: int | None) -> dict[str, object]:
    """What must be the same in all processes."""
    same: dict[str, object] = {
        "train": len(source),
        "rules": settings,
        "seed": seed,
        "the seed of the loader's generator": source.own_seed,
        "epochs": epochs,
    }
    first = source.first_samples()
    if first is not None:
        same["the first samples"] = digest_of(tensors(first))
    return same


def _plan(
    run: RunState, gradients: Gradients, update: Update, sync: RankSync, own_optimizer: bool, initial: int | None
) -> Plan:
    return Plan(
        train_samples=run.train_samples,
        parameter_count=sum(p.numel() for p in gradients.parameters),
        parameter_norm=sync.of_first(math.sqrt(squared_norm([p.detach() for p in gradients.parameters]))),
        lr=update.lr,
        total_samples=run.total_samples,
        optimizer=type(update.optimizer).__name__,
        settings=settings_of(update.optimizer),
        own_optimizer=own_optimizer,
        matrices=sum(p.dim() > 1 for p in gradients.parameters),
        initial_batch_size=initial,
    )
