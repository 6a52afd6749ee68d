"""Models, optimisers, data sources and schedules of the user's own, chosen by an override.

    model._target_=mypkg.models:Ssm     a class that follows `OwnModel`
    train.optimizer=mypkg.optim:Lion    a `torch.optim.Optimizer` of parameter groups
    train.schedule=mypkg.rates:steps    a function (position, tokens, warmup) -> share of the peak
    data._target_=mypkg.music:melodies  a function (DataConfig, seq_len, seed) -> TokenSource

Each may take a further argument `options`, annotated by a dataclass: its fields are settings of the
section, so that `model.state_size=8` reaches `Ssm(shape, options)`, and any other name is refused.

The module has to be importable wherever a run is planned or trained. The hash of its source file is
part of the run's identity; other files that it imports are not. Planning needs no torch of its own:
modules of models and optimisers, which import it, are read in another process, and what was learned
is kept by the hash of their source.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fit.data.accounting import FlopsPerToken, ParamCounts, Shape
from fit.errors import PlanError
from sweep.cache import cache_folder, compute_elsewhere, compute_once
from sweep.config import Config, names_plug_in
from sweep.settings import settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SETTINGS = ("model._target_", "data._target_", "train.optimizer", "train.schedule")
"""Settings that may name a plug-in."""
NEEDS_TORCH = ("model._target_", "train.optimizer")
"""Settings whose modules are not imported by the planner."""
GROUPS = ("hidden", "embedding", "gains", "taps")
"""Groups of parameters with a rule each; see `OwnModel.parameter_groups`."""
PLACES = "in the working folder, on PYTHONPATH or installed"


class OwnModel(Protocol):
    """What a model of the user's own offers: a `torch.nn.Module` built from a shape.

    `MyModel(shape)` or `MyModel(shape, options)` builds it, with uninitialised weights, on whatever
    device is current. Two static methods may count it, else its matrix products are counted by
    torch: `count_params(shape[, options]) -> ParamCounts` and `count_flops(shape[, options]) ->
    FlopsPerToken`, in training FLOP per token (`fit.data.accounting`).
    """

    def init_weights(self, generator: torch.Generator) -> None:
        """Fill all weights from a CPU generator, always in the same order."""

    def forward(self, tokens: Tensor, targets: Tensor, z_loss: float) -> Tensor:
        """Mean cross-entropy [nats/token] of targets (b, t) int64 after tokens (b, t).

        Its gradient may include `z_loss` times the mean squared log-partition.
        """

    def token_losses(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Negative log-likelihood of every target, (b, t) [nats], in float32."""

    def parameter_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """Every parameter once, by the rule that trains it.

        `hidden` are matrices inside the network: rate `train.lr` x base_width / width, weight
        decay, Muon where it is chosen. `embedding` holds embedding and head: rate
        `train.embedding_lr` by its own power of width. `gains` (vectors) and `taps` have rate
        `train.lr` at every width. Only `hidden` decays.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class PlugIn:
    """A plug-in of a run."""

    setting: str
    """The setting that names it."""
    target: str
    """`package.module:name`, as it was given."""
    sha: str
    """Hash of its source file, 16 hexadecimal digits of SHA-256."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Values of all fields that it declares."""

    @property
    def source(self) -> str:
        """The plug-in and its source, as a record holds them."""
        return f"{self.target} sha256:{self.sha}"

    def call(self, *arguments: Any) -> Any:
        """Call it with arguments, and with its options where it declares any."""
        plug = load(self.setting, self.target)
        kind = options_type(self.setting, self.target, plug)
        return plug(*arguments) if kind is None else plug(*arguments, kind(**self.options))

    def function(self) -> Callable[..., Any]:
        """The function with its options bound, which can be pickled."""
        plug = load(self.setting, self.target)
        kind = options_type(self.setting, self.target, plug)
        bound: Callable[..., Any] = plug
        return bound if kind is None else functools.partial(bound, options=kind(**self.options))


def targets(config: Config) -> dict[str, str]:
    """The plug-ins that a configuration names, by setting.

    Any `model._target_` is one, since no built-in model is chosen by it.
    """
    model = config.model._target_
    named = {
        "data._target_": config.data._target_,
        "train.optimizer": config.train.optimizer,
        "train.schedule": config.train.schedule,
    }
    found = {} if model is None else {"model._target_": model}
    return found | {k: str(v) for k, v in named.items() if names_plug_in(v)}


def plug_ins(config: Config) -> dict[str, PlugIn]:
    """Find the plug-ins of a configuration and check their options.

    Raises:
        PlanError: One cannot be imported, an option is not declared or has a wrong type, or an
            optimiser cannot be built.
    """
    named = targets(config)
    declared = {s: describe(s, target)["fields"] for s, target in named.items()}
    for section in ("model", "data", "train"):
        readers = {s: target for s, target in named.items() if s.startswith(f"{section}.")}
        for name in getattr(config, section).options:
            if not any(name in declared[s] for s in readers):
                known = [f for s in readers for f in declared[s]]
                raise PlanError(unknown_option(section, name, list(readers.values()), known))
    found = {}
    for setting, target in named.items():
        given = getattr(config, setting.split(".")[0]).options
        own = {k: v for k, v in given.items() if k in declared[setting]}
        found[setting] = PlugIn(
            setting=setting,
            target=target,
            sha=source_hash(setting, target),
            options=_answer(setting, "options", setting, target, own),
        )
        if setting == "train.optimizer":
            _answer(setting, "optimizer", setting, target, dict(found[setting].options))
    return found


def describe(setting: str, target: str) -> dict[str, Any]:
    """What a plug-in declares: `fields`, the names of its options."""
    source_hash(setting, target)  # refused here in one line where there is no such module
    return dict(_answer(setting, "fields", setting, target))


def unknown_option(section: str, name: str, owners: Sequence[str], declared: Sequence[str]) -> str:
    """What is said of a setting that no plug-in of a section declares."""
    if not owners:
        return (
            f"{section}.options.{name} is read by nothing: {section} has no plug-in. Leave it out, "
            f"or name one ({', '.join(s for s in SETTINGS if s.startswith(section))})."
        )
    inside = [k.rpartition(".")[2] for k in settings() if k.startswith(f"{section}.")]
    near = difflib.get_close_matches(name, [*declared, *inside], 1, 0.6)
    advice = f"the nearest is {section}.{near[0]}; " if near else ""
    known = ", ".join(f"{section}.{n}" for n in declared) or "no settings"
    return (
        f"{section}.{name} is not a setting, nothing would read it; {advice}"
        f"{' and '.join(owners)} declares {known}."
    )


def count_model(plug_in: PlugIn, shape: Shape) -> tuple[ParamCounts, FlopsPerToken]:
    """Parameters and training FLOP per token of a model of the user's own.

    Raises:
        PlanError: The model cannot be built or counted.
    """
    counts = _answer(
        plug_in.setting,
        "counts",
        plug_in.setting,
        plug_in.target,
        dict(plug_in.options),
        dataclasses.asdict(shape),
    )
    return ParamCounts(**counts["params"]), FlopsPerToken(**counts["flops"])


def split_target(setting: str, target: str) -> tuple[str, str]:
    """Module and name of a plug-in: `mypkg.models:Ssm` or `mypkg.models.Ssm`.

    Raises:
        PlanError: It is neither.
    """
    module, _, name = target.rpartition(":" if ":" in target else ".")
    if not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise PlanError(
            f"{setting}={target}; the module and the name of a plug-in are needed: "
            f"{setting}=package.module:Name."
        )
    return module, name


def source_hash(setting: str, target: str) -> str:
    """Hash of the source file of a plug-in's module, which is not imported.

    Raises:
        PlanError: There is no such module, or it has no source file.
    """
    return hashlib.sha256(source_file(setting, target).read_bytes()).hexdigest()[:16]


def source_file(setting: str, target: str) -> Path:
    """The source file of a plug-in's module, which is not imported; its packages are.

    Raises:
        PlanError: There is no such module, or it has no source file.
    """
    module, _ = split_target(setting, target)
    importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    except Exception as error:  # a package's __init__ may raise anything
        raise PlanError(_not_imported(setting, target, error)) from error
    if spec is None:
        raise PlanError(
            f"{setting}={target}: there is no module {module}; it has to be importable where runs "
            f"are planned and trained: {PLACES}."
        )
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise PlanError(
            f"{setting}={target}: {module} has no Python source file, by whose hash a run is "
            "known; name the module that defines it."
        )
    return Path(spec.origin)


def load(setting: str, target: str) -> Any:
    """Import a plug-in.

    Raises:
        PlanError: It cannot be imported, is not callable, is defined in another module, or was
            edited since this process imported it.
    """
    module, name = split_target(setting, target)
    sha = source_hash(setting, target)
    try:
        imported = importlib.import_module(module)
        plug = getattr(imported, name)
    except Exception as error:  # importing runs the user's code, which may raise anything
        raise PlanError(_not_imported(setting, target, error)) from error
    if _imported.setdefault(imported, sha) != sha:  # the old code would train under the new hash
        raise PlanError(
            f"{setting}={target}: {module} was edited after this process imported it; start a new "
            "process to train what it says now."
        )
    if not callable(plug):
        raise PlanError(f"{setting}={target} is of type {type(plug).__name__}, not callable.")
    home = getattr(plug, "__module__", module)
    if home != module:
        raise PlanError(
            f"{setting}={target} is defined in {home}; name it there, so that the run's identity "
            f"follows its source: {setting}={home}:{name}."
        )
    return plug


def _not_imported(setting: str, target: str, error: Exception) -> str:
    """What is said of a plug-in whose import failed, in one line."""
    return (
        f"{setting}={target} cannot be imported ({_reason(error)}); python -c 'import "
        f"{split_target(setting, target)[0]}' shows where."
    )


def _reason(error: Exception) -> str:
    """An error of the user's code in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def options_type(setting: str, target: str, plug: Any) -> type | None:
    """The dataclass that annotates the argument `options` of a plug-in; None without one.

    Raises:
        PlanError: The annotation is missing, unreadable or no dataclass.
    """
    signed = getattr(plug, "__init__") if isinstance(plug, type) else plug  # noqa: B009 - for mypy
    if "options" not in inspect.signature(signed).parameters:
        return None
    try:
        kind = get_type_hints(signed).get("options")
    except Exception as error:  # names of annotations that are imported for type checkers alone
        raise PlanError(f"{setting}={target}: its annotations cannot be read ({error}).") from error
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        raise PlanError(
            f"{setting}={target}: its argument `options` needs a dataclass as annotation, whose "
            "fields are the settings that it reads."
        )
    return kind


def read_options(setting: str, target: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Values of all declared fields of a plug-in, those that are given checked by their types.

    Raises:
        PlanError: A value has the wrong type, breaks a rule of the dataclass or is missing.
    """
    kind = options_type(setting, target, load(setting, target))
    if kind is None:
        return {}
    section = setting.split(".")[0]
    try:
        merged = OmegaConf.merge(OmegaConf.structured(kind), dict(given))
        read: Any = OmegaConf.to_object(merged)
        values = dataclasses.asdict(read)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        given_text = ", ".join(f"{section}.{k}={v}" for k, v in given.items()) or "its defaults"
        reason = str(error).splitlines()[0]
        raise PlanError(f"{target} does not take {given_text}: {reason}.") from error
    return dict(values)


def answer(question: str, *arguments: Any) -> Any:
    """Answer a question about a plug-in in this process; answers are JSON documents."""
    return _QUESTIONS[question](*arguments)


def _declared(setting: str, target: str) -> dict[str, Any]:
    """What a plug-in declares."""
    kind = options_type(setting, target, load(setting, target))
    return {"fields": [] if kind is None else [f.name for f in dataclasses.fields(kind)]}


def _count(
    setting: str, target: str, options: Mapping[str, Any], sizes: Mapping[str, Any]
) -> dict[str, Any]:
    """Parameters and FLOP per token of a model, by its own functions or by torch."""
    plug, shape = load(setting, target), Shape(**sizes)
    kind = options_type(setting, target, plug)
    more = () if kind is None else (kind(**options),)
    try:
        needed = ("token_losses", "init_weights", "parameter_groups")
        if isinstance(plug, type) and (lacking := [n for n in needed if not hasattr(plug, n)]):
            raise PlanError(f"it has no {' and no '.join(lacking)}; see sweep.plugins: OwnModel.")
        own = [getattr(plug, n, None) for n in ("count_params", "count_flops")]
        params, flops = (None if f is None else f(shape, *more) for f in own)
        if params is None or flops is None:
            measured = measure_counts(lambda: plug(shape, *more), shape)
            params, flops = params or measured[0], flops or measured[1]
        return {"params": dataclasses.asdict(params), "flops": dataclasses.asdict(flops)}
    except PlanError as error:
        raise PlanError(f"{setting}={target}: {error}") from error
    except Exception as error:  # the model's code may raise anything
        raise PlanError(
            f"{setting}={target} cannot be counted at width {shape.width} and depth {shape.depth} "
            f"({_reason(error)}). Correct it, or add static methods count_params(shape) and "
            "count_flops(shape)."
        ) from error


def _check_optimizer(setting: str, target: str, options: Mapping[str, Any]) -> bool:
    """Build an optimiser for a small matrix and a vector, as training does for its groups."""
    import torch

    rule = {"lr": 1e-3, "peak": 1e-3, "weight_decay": 0.0, "eps": 1e-8}
    groups = [
        {"params": [torch.nn.Parameter(torch.zeros(size))], "decays": len(size) > 1, **rule}
        for size in ((2, 2), (2,))
    ]
    plug_in = PlugIn(setting=setting, target=target, sha="", options=options)
    try:
        built = plug_in.call(groups)
    except Exception as error:  # the optimiser's code may raise anything
        raise PlanError(f"{setting}={target} cannot be built ({_reason(error)}).") from error
    if not isinstance(built, torch.optim.Optimizer):
        raise PlanError(
            f"{setting}={target} gives a {type(built).__name__}; a subclass of "
            "torch.optim.Optimizer is needed."
        )
    if not all({"lr", "peak", "decays"} <= group.keys() for group in built.param_groups):
        raise PlanError(
            f"{setting}={target} changes the groups it is given; pass them on: "
            "super().__init__(groups, defaults)."
        )
    return True


_QUESTIONS: Mapping[str, Callable[..., Any]] = {
    "fields": _declared,
    "options": read_options,
    "counts": _count,
    "optimizer": _check_optimizer,
}


def measure_counts(build: Callable[[], Any], shape: Shape) -> tuple[ParamCounts, FlopsPerToken]:
    """Count a model that is built without memory: its groups, and torch's count of its products.

    The head is vocab x width of the group `embedding`, the rest of that group is the embedding.
    torch counts matrix products, convolutions and fused attention (the whole square) of one row
    forward and backward; products of FFTs, scans and other elementwise work are not counted.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = build()
        groups = checked_groups(model)
        tokens = torch.zeros(1, shape.seq_len, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            _of_shape(model(tokens, tokens, 0.0), "forward", ()).backward()
        with torch.no_grad():
            _of_shape(model.token_losses(tokens, tokens), "token_losses", (1, shape.seq_len))
    size = {name: sum(p.numel() for p in groups.get(name, ())) for name in GROUPS}
    head = min(size["embedding"], shape.vocab * shape.width)
    by_operation = counter.get_flop_counts()["Global"]
    attention = sum(n for op, n in by_operation.items() if "attention" in str(op))
    total = sum(by_operation.values()) // shape.seq_len
    in_attention = attention // shape.seq_len
    params = ParamCounts(
        body=size["hidden"],
        head=head,
        embedding=size["embedding"] - head,
        other=size["gains"] + size["taps"],
    )
    in_head = min(6 * head, total - in_attention)
    flops = FlopsPerToken(body=total - in_attention - in_head, head=in_head, attention=in_attention)
    return params, flops


def _of_shape(losses: Any, method: str, shape: tuple[int, ...]) -> Any:
    """The losses that a model's method gives for one row, of the shape that is needed."""
    if tuple(getattr(losses, "shape", (None,))) != shape:
        given = getattr(losses, "shape", type(losses).__name__)
        raise PlanError(f"{method} gives {given} for one row; {shape} is needed.")
    return losses


def checked_groups(model: Any) -> Mapping[str, Sequence[nn.Parameter]]:
    """The parameter groups of a model of the user's own.

    Raises:
        PlanError: A group is unknown, or a parameter stands in none or in two.
    """
    groups: Mapping[str, Sequence[nn.Parameter]] = model.parameter_groups()
    kind = type(model).__name__
    if wrong := [name for name in groups if name not in GROUPS]:
        raise PlanError(
            f"{kind}.parameter_groups has {', '.join(wrong)}; known are {', '.join(GROUPS)}."
        )
    listed = [id(p) for group in groups.values() for p in group]
    missing = [n for n, p in model.named_parameters() if listed.count(id(p)) != 1]
    if missing:
        raise PlanError(
            f"{kind}.parameter_groups has to name every parameter once; {', '.join(missing[:3])} "
            "stands in none or in several."
        )
    return groups


def _answer(setting: str, question: str, *arguments: Any) -> Any:
    """Answer a question about a plug-in: here, or where that would import torch, elsewhere."""
    target = str(arguments[1])
    sha = source_hash(setting, target)
    key = repr((sha, question, arguments))
    if key not in _known:
        if setting not in NEEDS_TORCH or "torch" in sys.modules:
            _known[key] = answer(question, *arguments)
        else:
            asked = ["plug-in 2", sha, question, *arguments]
            _known[key] = compute_once(
                cache_folder(None), asked, lambda: compute_elsewhere(answer, question, *arguments)
            )
    return _known[key]


_imported: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
"""Hash of the source of each imported module, when it was first used here."""
_known: dict[str, Any] = {}
"""Answers of this process, by source hash and question."""
