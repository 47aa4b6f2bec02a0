"""An arena: ways of pretraining on equal budgets, scored by the same tasks.

Each start is pretrained once for each seed, from the same images and settings but for
what it changes, until its budget is spent; then every task scores its frozen features
or fine-tunes it. Whatever is finished is not done again. A study of starts that exist
already is an arena of one task without pretraining (`study`).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np

from spectralgpt.building import model_config
from spectralgpt.checkpoints import CONFIG_FILE, load_model
from spectralgpt.config import build_config, changed_settings, check_keys, check_range
from spectralgpt.errors import ConfigError
from spectralgpt.files import digest_of, read_json, write_json
from spectralgpt.models.sizes import find_weights
from spectralgpt.training.comparison import ProbeMethod
from spectralgpt.training.pretrain_config import PretrainConfig, merge_sections
from spectralgpt.training.pretrain_data import plain_contract
from spectralgpt.training.pretraining import pretrain
from spectralgpt.training.probing import Prober, ProbeTask, first_of
from spectralgpt.training.run_folder import plain_config
from spectralgpt.training.study import StudyConfig, lines_of_runs, run_study
from spectralgpt.training.trials import Clock, measure_cost

_OF_ARENA = ("budget", "after", "scored")
"""Keys of a start that are no settings of its pretraining."""
_PROBE_KEYS = ("data", "methods", "k")
_RECORD, _SCORES, _COST = "arena_run.json", "scores.json", "cost.json"
_SHOWN = 3
_TRIAL_SHARE = 0.03
"""Of the budget in seconds."""
_Runs = Mapping[tuple[str, int], Path]
"""Folders of pretrainings by start and seed."""
_Results = dict[str, dict[str, Any]]
"""`scores` by task, score and start: a list of values by pretraining seed, each with
one by seed of the task; floors have one pretraining seed. `curves` by task and start: a
list by pretraining seed of points, each processor seconds, or images, and the first
score. `costs` by start."""

Progress = Callable[[str], None]
"""Told what is done, a line each."""


@dataclass(frozen=True)
class ArenaConfig:
    """What is compared.

    Args:
        pretrain: settings of `spectralgpt pretrain` that all starts share;
            trainer.epochs is the number of points on the curves of score by budget.
        starts: what each start changes of them, by its name, such as `{mae: {objective:
            mae}}`. Beside these, `budget: 0.5` gives it half of the budget, `after:
            NAME` the weights of a start before it, so that both budgets count together,
            and `scored: false` leaves it out of the tasks.
        tasks: what scores them, by name. `{data: ..., methods: [ridge, knn], k: 20}`
            probes frozen features of labelled images; `{task: segmentation, finetune:
            ..., fractions: [0.1, 1.0]}` fine-tunes, see `StudyConfig`, and may have
            `starts` of its own, such as a forest of pixels.
        seconds: processor seconds that each pretraining may take; its steps follow from
            a trial of 3 % of them, and the report says what was spent.
        images: images that each pretraining sees, instead of seconds.
        pretrain_seeds: one pretraining each.
        seeds: repetitions of each task: splits, subsets, heads.
        floors: score what learned nothing, too: each encoder with random weights,
            statistics of bands, random convolutions, a random forest.
    """

    pretrain: dict[str, Any]
    starts: dict[str, dict[str, Any]]
    tasks: dict[str, dict[str, Any]]
    seconds: float | None = None
    images: int | None = None
    pretrain_seeds: tuple[int, ...] = (0,)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    floors: bool = True

    def __post_init__(self) -> None:
        """Check that there is something to compare, and on which budget."""
        if not (self.starts and self.tasks and self.seeds and self.pretrain_seeds):
            raise ConfigError(
                "an arena needs starts, tasks, seeds and pretrain_seeds: state them."
            )
        if (self.seconds is None) == (self.images is None):
            raise ConfigError(
                "state the budget of each pretraining: either seconds or images."
            )
        check_range("above 0", self, "seconds", "images")
        for name in (*self.starts, *self.tasks):
            if not name.replace("-", "_").isidentifier():
                raise ConfigError(
                    f"{name!r} names a folder: use letters, digits, - and _, and a "
                    "letter first."
                )
        for number, start in enumerate(self.starts):
            self.share_of(start)
            after = self.starts[start].get("after")
            if after is not None and after not in list(self.starts)[:number]:
                raise ConfigError(
                    f"start {start}: after is {after!r}, which is no start before it."
                )
        if not self.scored:
            raise ConfigError("no start is scored: leave out scored: false of some.")

    @property
    def scored(self) -> tuple[str, ...]:
        """The starts that the tasks score."""
        return tuple(
            start for start, own in self.starts.items() if own.get("scored", True)
        )

    def share_of(self, start: str) -> float:
        """Return the share of the budget that a start has.

        Raises:
            ConfigError: it is not above 0.
        """
        share = self.starts[start].get("budget", 1.0)
        if not isinstance(share, int | float) or not 0 < share < math.inf:
            raise ConfigError(f"start {start}: budget is {share!r}; use above 0.")
        return float(share)


def run_arena(
    config: ArenaConfig, output: Path, progress: Progress = lambda line: None
) -> Path:
    """Pretrain and score what is not finished, and write arena.json and report.html.

    Args:
        config: what is compared.
        output: folder; pretrained models lie in models/START/seed-N, scores in
            tasks/TASK.
        progress: told what is done.

    Returns:
        `output`.

    Raises:
        ConfigError: settings are wrong, or what is finished was made with others; found
            before anything runs.
    """
    from spectralgpt.reports.arena import write_arena_report

    plans = {start: _plan(config, start) for start in config.starts}
    for start, plan in plans.items():
        if after := config.starts[start].get("after"):
            plan.check_follows(plans[after], f"start {start}")
    probers = {
        name: Prober(task, config.seeds)
        for name in config.tasks
        if (task := _task_of(config, name)) is not None
    }
    runs = {
        (start, seed): output / "models" / start / f"seed-{seed}"
        for seed in config.pretrain_seeds
        for start in config.starts
    }
    for (start, seed), folder in runs.items():
        _check_record(folder, _record(config, start, plans[start], seed))
    first = plans[config.scored[0]]
    for prober in probers.values():
        prober.list_images(plain_contract(first, first.data))
    costs = _pretrain_all(config, plans, runs, output, progress)
    found: _Results = {"scores": {}, "curves": {}, "costs": costs}
    runs = {key: folder for key, folder in runs.items() if key[0] in config.scored}
    for name in config.tasks:
        if name in probers:
            _probe_all(config, name, probers[name], runs, output, found, progress)
        else:
            _finetune_all(config, name, runs, output, found, progress)
    stated = {
        "budget": "processor seconds" if config.seconds is not None else "images",
        "amount": config.seconds or config.images,
        "pretrain_seeds": list(config.pretrain_seeds),
        "seeds": list(config.seeds),
    }
    write_json(output / "arena.json", {**stated, **found})
    write_arena_report(output)
    return output


def _plan(config: ArenaConfig, start: str) -> PretrainConfig:
    """Return the settings of a start's pretraining, without its length.

    Raises:
        ConfigError: they are wrong.
    """
    own = {k: v for k, v in config.starts[start].items() if k not in _OF_ARENA}
    merged = merge_sections(config.pretrain, own)
    for name in ("steps", "stages"):
        if merged.get(name):
            raise ConfigError(
                f"start {start}: {name} is set, but each is one stage, as long as the "
                "budget allows. Leave it out."
            )
    planned = build_config(merged, PretrainConfig, f"start {start}")
    if planned.trainer.processes != 1:
        raise ConfigError(
            f"start {start}: trainer.devices makes several processes, whose seconds "
            "are not counted. Use 1."
        )
    if config.seconds is not None and planned.trainer.workers:
        raise ConfigError(
            f"start {start}: trainer.workers is {planned.trainer.workers}, processes "
            "whose seconds are not counted. Use 0, or a budget of images."
        )
    data = replace(planned.data, samples_per_epoch=None)
    return replace(planned, data=data)


def _task_of(config: ArenaConfig, name: str) -> ProbeTask | None:
    """Return a probe's settings; None of a fine-tuning, which is checked.

    Raises:
        ConfigError: they are wrong.
    """
    entry, where = dict(config.tasks[name]), f"task {name}"
    if "finetune" in entry:
        _study(config, name, {})
        return None
    check_keys(entry, where, required=("data",), optional=_PROBE_KEYS)
    task = build_config(entry, ProbeTask, where)
    unknown = sorted(set(task.methods) - set(get_args(ProbeMethod)))
    if unknown or not task.methods:
        raise ConfigError(
            f"{where}: methods are {list(task.methods)}; use some of "
            f"{', '.join(get_args(ProbeMethod))}."
        )
    return task


def _record(
    config: ArenaConfig, start: str, plan: PretrainConfig, seed: int
) -> dict[str, Any]:
    plain = plain_config(replace(plan, seed=seed))
    plain["data"].pop("root")  # Where images lie changes nothing.
    for name in ("workers", "log_every_steps", "checkpoint_every_steps"):
        plain["trainer"].pop(name)
    if after := config.starts[start].get("after"):
        plain["model"]["start_from"] = after  # Wherever it lies.
    share = config.share_of(start)
    amount = {"seconds": config.seconds, "images": config.images, "budget": share}
    return {"settings": plain, **amount}


def _check_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Refuse a pretraining that would be mistaken for this one."""
    if not (folder / _RECORD).exists():
        return
    changed = changed_settings(read_json(folder / _RECORD), record)
    if changed:
        raise ConfigError(
            f"{folder} was pretrained with other settings: "
            f"{', '.join(changed[:_SHOWN])}. Name another --output, or remove that "
            "folder to do it anew."
        )


def _pretrain_all(
    config: ArenaConfig,
    plans: Mapping[str, PretrainConfig],
    runs: _Runs,
    output: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Pretrain what is not finished, or go on with it; returns costs by start."""
    costs: dict[str, Any] = {}
    prices = {
        start: _price(config, start, plan, output, progress)
        for start, plan in plans.items()
        if config.starts[start].get("after") is None
    }
    spent: dict[str, list[float]] = {}
    for number, ((start, seed), folder) in enumerate(runs.items(), start=1):
        plan, after = plans[start], config.starts[start].get("after")
        if after is not None:
            begun = str(runs[after, seed])
            plan = replace(plan, model=replace(plan.model, start_from=begun))
        if start not in prices:
            prices[start] = _price(config, start, plan, output, progress)
        cost = prices[start]
        if not _is_finished(folder):
            due = [key[0] for key, run in runs.items() if not _is_finished(run)]
            left = sum(_clock_seconds(config, prices, each) for each in due)
            about = f"about {timedelta(seconds=round(left))} left"
            progress(
                f"pretraining {number} of {len(runs)}, {about}: {start}, seed {seed}"
            )
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / _RECORD, _record(config, start, plan, seed))
            pretrain(
                replace(plan, seed=seed, steps=cost["steps"]),
                folder,
                resume=(folder / "config.yaml").exists(),
                callbacks=[Clock(folder / "points")],
            )
        noted = read_json(_points(folder)[-1] / CONFIG_FILE)["extra"]
        spent.setdefault(start, []).append(noted["seconds"])
        costs[start] = {**cost, "seconds": float(np.mean(spent[start]))}
    return costs


def _is_finished(folder: Path) -> bool:
    """Tell whether a pretraining wrote its report, which is the last thing it does."""
    return (folder / "report.html").exists()


def _clock_seconds(
    config: ArenaConfig, prices: Mapping[str, Mapping[str, Any]], start: str
) -> float:
    """Estimate what a pretraining of a start takes by the clock.

    A start that goes on from another one can be priced once that is there: until then
    it is taken to be as fast.
    """
    if start in prices:
        price = prices[start]
        # Trials of earlier versions were not timed by the clock.
        of_step = price.get("wall_seconds_per_step", price["seconds_per_step"])
        return float(price["steps"] * of_step)
    after = config.starts[start]["after"]
    share = config.share_of(start) / config.share_of(after)
    return share * _clock_seconds(config, prices, after)


def _price(
    config: ArenaConfig,
    start: str,
    plan: PretrainConfig,
    output: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Return what a step of a start takes, and the steps that its budget pays.

    It is measured once: another trial would take other seconds.
    """
    path = output / "models" / start / _COST
    # The first seed stands for all.
    settings = _record(config, start, plan, 0)["settings"]
    found = read_json(path) if path.exists() else {}
    if found.get("settings") != settings:
        progress(f"trial of {start}")
        share = config.share_of(start)
        cost = measure_cost(plan, _TRIAL_SHARE * share * (config.seconds or 0.0))
        path.parent.mkdir(parents=True, exist_ok=True)
        found = {
            "settings": settings,
            "batch": plan.trainer.effective_batch,
            "seconds_per_step": cost.seconds,
            "wall_seconds_per_step": cost.wall,
            "memory_bytes": cost.memory,
            "gflop_per_step": cost.gflop,
        }
        write_json(path, found)
    seconds = found["seconds_per_step"]
    steps = _steps(config, config.share_of(start), plan, seconds)
    return {name: found[name] for name in found if name != "settings"} | {
        "steps": steps
    }


def _steps(
    config: ArenaConfig, share: float, plan: PretrainConfig, seconds: float
) -> int:
    """Return the steps that the budget pays, a multiple of the epochs.

    Raises:
        ConfigError: it does not pay one step an epoch.
    """
    epochs = plan.trainer.epochs
    if config.images is not None:
        paid = int(share * config.images) // plan.trainer.effective_batch
    else:
        assert config.seconds is not None
        paid = int(share * config.seconds / seconds)
    if paid < epochs:
        raise ConfigError(
            f"the budget pays {paid} steps of objective {plan.objective}, fewer than "
            f"trainer.epochs {epochs}: raise it."
        )
    return paid - paid % epochs


def _probe_all(
    config: ArenaConfig,
    name: str,
    prober: Prober,
    runs: _Runs,
    output: Path,
    found: _Results,
    progress: Progress,
) -> None:
    """Probe every pretrained model, its points by the first score, and the floors."""
    at = output / "tasks" / name
    settings = plain_config(prober.task) | {"seeds": list(config.seeds)}
    for (start, seed), folder in runs.items():

        def score(folder: Path = folder) -> dict[str, Any]:
            loaded = load_model(folder)
            points = []
            for path in _points(folder):
                point = replace(load_model(path), preprocessing=loaded.preprocessing)
                scores = prober.score(point)
                noted = point.extra["seconds"], point.extra["step"]
                points.append([*noted, first_of(scores)])
            # The last point is the model itself.
            return {"scores": scores, "points": points}

        line = partial(progress, f"task {name}: {start}, seed {seed}")
        scored = _once(at / start / f"seed-{seed}", settings, folder, score, line)
        for metric, values in scored["scores"].items():
            _add(found, name, metric, start, values)
        before = _spent_before(config, found["costs"], start)
        batch = found["costs"][start]["batch"]
        curve = [
            (before + (seconds if config.seconds is not None else step * batch), value)
            for seconds, step, value in scored["points"]
        ]
        found["curves"].setdefault(name, {}).setdefault(start, []).append(curve)
    if config.floors:
        _add_floors(name, prober, settings, runs, at, found, progress)


def _spent_before(
    config: ArenaConfig, costs: Mapping[str, Mapping[str, Any]], start: str
) -> float:
    """Return what the starts took that a start goes on from: seconds, or images."""
    after = config.starts[start].get("after")
    if after is None:
        return 0.0
    cost = costs[after]
    own = cost["steps"] * cost["batch"] if config.seconds is None else cost["seconds"]
    return own + _spent_before(config, costs, after)


def _add_floors(
    name: str,
    prober: Prober,
    settings: dict[str, Any],
    runs: _Runs,
    at: Path,
    found: _Results,
    progress: Progress,
) -> None:
    """Score what learned nothing: each kind of encoder, and what has no weights."""
    known: list[dict[str, Any]] = []
    for (start, _), folder in runs.items():
        config = model_config(load_model(folder).encoder)
        if config in known:
            continue
        known.append(config)

        def score(folder: Path = folder) -> dict[str, Any]:
            return {"scores": prober.score_random(load_model(folder))}

        random = f"random {start}"
        scored = _once(
            at / "floors" / start,
            settings,
            folder,
            score,
            partial(progress, f"task {name}: {random}"),
        )
        for metric, values in scored["scores"].items():
            _add(found, name, metric, random, values)
    first = next(iter(runs.values()))
    scored = _once(
        at / "floors",
        settings,
        first,
        lambda: {"scores": prober.score_floors(load_model(first))},
        partial(progress, f"task {name}: what has no weights"),
    )
    for kind, scores in scored["scores"].items():
        for metric, values in scores.items():
            _add(found, name, metric, kind, values)


def _add(
    found: _Results, task: str, score: str, start: str, values: list[float]
) -> None:
    """Add the values of a start's next pretraining seed."""
    by_start = found["scores"].setdefault(task, {}).setdefault(score, {})
    by_start.setdefault(start, []).append(values)


def _points(folder: Path) -> list[Path]:
    """Return the models that were kept on the way, without contract, in order."""
    kept = (folder / "points").glob("epoch-*")
    return sorted(kept, key=lambda path: int(path.name.removeprefix("epoch-")))


def _once(
    at: Path,
    settings: Mapping[str, Any],
    model: Path,
    score: Callable[[], dict[str, Any]],
    progress: Callable[[], None],
) -> dict[str, Any]:
    """Return scores of a model that lie in a folder, or make them.

    Raises:
        ConfigError: those there are of other settings or weights.
    """
    path, weights = at / _SCORES, find_weights(model)
    assert weights is not None, "a run has weights"
    made_from = {"settings": dict(settings), "weights": digest_of(weights)}
    if path.exists():
        before: dict[str, Any] = read_json(path)
        if before.get("made_from") == made_from:
            return before
        raise ConfigError(
            f"{path} holds scores of other settings or weights. Name another --output, "
            "or remove that file to score anew."
        )
    progress()
    scored = {"made_from": made_from, **score()}
    at.mkdir(parents=True, exist_ok=True)
    write_json(path, scored)
    return scored


def _study(config: ArenaConfig, name: str, runs: _Runs) -> StudyConfig:
    """Return the fine-tuning of a task as a study of the pretrained models.

    Raises:
        ConfigError: its settings are wrong.
    """
    entry = dict(config.tasks[name])
    own = entry.pop("starts", {})
    starts = {
        _folder_of(start, seed): {"model": str(folder)}
        for (start, seed), folder in runs.items()
    }
    # Checked before there are any.
    starts = starts or {start: {} for start in config.starts}
    values = {"seeds": config.seeds, **entry, "starts": {**starts, **own}}
    return build_config(values, StudyConfig, f"task {name}")


def _folder_of(start: str, seed: int) -> str:
    return f"{start}-pretrained-{seed}"


def _finetune_all(
    config: ArenaConfig,
    name: str,
    runs: _Runs,
    output: Path,
    found: _Results,
    progress: Progress,
) -> None:
    """Fine-tune every pretrained model, and whatever the task compares with."""
    study, at = _study(config, name, runs), output / "tasks" / name
    run_study(study, at, lines_of_runs(lambda line: progress(f"task {name}, {line}")))
    names = {_folder_of(*key): key[0] for key in runs}
    for share, by_start in read_json(at / "study.json").items():
        for start, row in by_start.items():
            for metric, entry in row.items():
                score = f"{float(share):.0%} of the labels, {metric}"
                _add(found, name, score, names.get(start, start), entry["values"])
