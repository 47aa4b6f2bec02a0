"""Weights put into models, strictly, and numbers that are not finite refused."""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor, nn

from spectralgpt.errors import CheckpointError, DataError

_log = logging.getLogger(__name__)
_MAX_LISTED = 8
# What torch.compile and parallel training put before names, on all or within them.
_COMPILED = "_orig_mod."
_WRAPPERS = ("module.", "model.")
_QKV = re.compile(r"(.*\.attn\.)([qkv])(\.(?:weight|bias))")
_FUSED = re.compile(r"(.*\.attn\.)qkv(\.(?:weight|bias))")


class Pretrained:
    """Saved and loaded as users of the Hugging Face Hub know it.

    Attributes:
        contract: how images are prepared for it, a `Preprocessing`; None if unknown.
        notes: what its training stored, such as `class_names` and `task`.
    """

    contract: Any = None
    notes: Mapping[str, Any] = MappingProxyType({})

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, revision: str | None = None
    ) -> Self:
        """Load a model of this class, or the encoder in a larger one.

        Args:
            name_or_path: see `spectralgpt.load_model`.
            revision: branch, tag or commit of a repository on the Hub; None takes main.

        Returns:
            The model, in evaluation mode, on the CPU.

        Raises:
            CheckpointError: nothing is found, or it cannot be used; says which and why.
        """
        found: Self = _hub().find(cls, name_or_path, revision)
        return found

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        license: str | None = None,
        data: str | None = None,
        scores: Mapping[str, float] | None = None,
    ) -> Path:
        """Write weights, configuration and a card, README.md, into a folder.

        Args:
            folder: made if it is not there; these files are replaced.
            license: as the Hub spells it, such as `apache-2.0`.
            data: what it was trained on; None takes what the training noted.
            scores: by name; None takes the one that the weights were chosen by.

        Raises:
            CheckpointError: the weights are not finite.
            OutputError: the files cannot be written.
        """
        facts = {"license": license, "data": data, "scores": scores}
        saved: Path = _hub().save(self, Path(folder), facts)
        return saved

    def push_to_hub(
        self,
        repo_id: str,
        *,
        license: str | None = None,
        data: str | None = None,
        scores: Mapping[str, float] | None = None,
        private: bool | None = None,
        branch: str | None = None,
        token: str | None = None,
        commit_message: str = "Upload a model of spectralgpt",
    ) -> str:
        """Send what `save_pretrained` writes to the Hub; returns the commit's address.

        Args:
            repo_id: `owner/name`; made if it is not there.
            license: as the Hub spells it.
            data: what it was trained on.
            scores: by name.
            private: whether a new repository is; None as its owner has set.
            branch: None is main.
            token: of a user who may write; None takes that of `hf auth login`.
            commit_message: of the one commit.

        Raises:
            CheckpointError: the weights are not finite.
            OutputError: the Hub does not take them.
        """
        sent: str = _hub().push(
            self,
            repo_id,
            {"license": license, "data": data, "scores": scores},
            private=private,
            branch=branch,
            token=token,
            commit_message=commit_message,
        )
        return sent


def _hub() -> Any:
    # By name: users look for these methods on models, which know nothing of files.
    return import_module("spectralgpt.hub")


def load_weights(
    model: nn.Module, weights: Mapping[str, Tensor], assign: bool = False
) -> None:
    """Put weights that were read from a file into a model of our names, strictly.

    Floating weights of any type become what the model has. Prefixes that compiling or
    parallel training put before all names are taken off.

    Args:
        model: any module.
        weights: a tensor for each of the model's names.
        assign: the model takes the tensors themselves, as one without storage always
            does.

    Raises:
        CheckpointError: names or shapes do not fit, or values are not finite; lists
            them.
    """
    found = plain_names(weights)
    wanted = model.state_dict()
    assign = assign or any(value.is_meta for value in wanted.values())
    _check_fit(wanted, found)
    cast = {name: _cast(name, found[name], wanted[name]) for name in wanted}
    check_finite(cast.items(), "weights")
    others = {str(v.dtype).removeprefix("torch.") for v in found.values()} - {
        str(v.dtype).removeprefix("torch.") for v in wanted.values()
    }
    if others:
        _log.info(
            "weights in %s are cast to those of the model", ", ".join(sorted(others))
        )
    model.load_state_dict(cast, assign=assign)


def plain_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights without the prefixes of compiled and parallel models."""
    plain = {name.replace(_COMPILED, ""): value for name, value in weights.items()}
    for prefix in _WRAPPERS * 2:
        if plain and all(name.startswith(prefix) for name in plain):
            plain = {name.removeprefix(prefix): value for name, value in plain.items()}
    return plain


def stack_qkv(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stack maps of query, key and value that a state dict keeps apart.

    Raises:
        CheckpointError: one of the three is missing, or has another shape.
    """
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        matched = _QKV.fullmatch(name)
        if matched is None:
            found[name] = value
        elif matched[2] == "q":
            parts = [matched[1] + part + matched[3] for part in "qkv"]
            missing = [part for part in parts if part not in weights]
            if missing:
                raise CheckpointError(f"checkpoint lacks {', '.join(missing)}.")
            if len({weights[part].shape for part in parts}) > 1:
                raise CheckpointError(f"{', '.join(parts)} differ in shape.")
            stacked = torch.cat([weights[part] for part in parts])
            found[f"{matched[1]}qkv{matched[3]}"] = stacked
        elif f"{matched[1]}q{matched[3]}" not in weights:
            raise CheckpointError(f"checkpoint has {name} but no query beside it.")
    return found


def split_qkv(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `stack_qkv`."""
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        matched = _FUSED.fullmatch(name)
        if matched is None:
            found[name] = value
            continue
        for part, chunk in zip("qkv", value.chunk(3), strict=True):
            found[matched[1] + part + matched[2]] = chunk.clone()
    return found


def _check_fit(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    problems = [f"missing {name}" for name in wanted if name not in found]
    problems += [f"unexpected {name}" for name in found if name not in wanted]
    problems += [
        f"{name} is {tuple(found[name].shape)}, needs {tuple(wanted[name].shape)}"
        for name in wanted
        if name in found and found[name].shape != wanted[name].shape
    ]
    if problems:
        raise CheckpointError(f"weights do not fit the model: {_listed(problems)}.")


def _cast(name: str, value: Tensor, wanted: Tensor) -> Tensor:
    if value.dtype == wanted.dtype:
        return value
    # Numbers of 8 bits come with scales that lie elsewhere.
    is_cast = value.is_floating_point() and value.element_size() > 1
    if not (is_cast and wanted.is_floating_point()):
        raise CheckpointError(
            f"{name} holds {value.dtype}, needs {wanted.dtype}: these are no weights "
            "of the model. Export them as float32."
        )
    return value.to(wanted.dtype)


def check_finite(tensors: Iterable[tuple[str, Tensor]], what: str) -> None:
    """Refuse tensors that hold NaN or infinity.

    Args:
        tensors: with their names.
        what: they are, for the message.

    Raises:
        CheckpointError: names those that are not finite.
    """
    bad = [
        name
        for name, value in tensors
        if value.is_floating_point()
        and value.numel()
        # One pass without a copy; NaN stays NaN.
        and not torch.linalg.vector_norm(value.float(), torch.inf).isfinite()
    ]
    if bad:
        raise CheckpointError(
            f"{what} not finite (NaN or infinity) in {_listed(bad)}: the training that "
            "wrote them diverged. Use an earlier checkpoint, or train anew with a "
            "lower optimizer.base_lr."
        )


def check_output(values: Tensor, name: str = "the images") -> Tensor:
    """Return what a model made, after refusing values that are not finite.

    Raises:
        DataError: there are NaN or infinite values; a class or score of them would look
            like a result.
    """
    if not bool(values.isfinite().all()):
        raise DataError(
            f"{name}: the model gives values that are not finite (NaN or infinity), so "
            "there is no result. Its weights may be too large for their arithmetic: "
            "try --precision fp32, or a checkpoint from before the training diverged."
        )
    return values


def _listed(problems: Sequence[str]) -> str:
    more = len(problems) - _MAX_LISTED
    return "; ".join(problems[:_MAX_LISTED]) + (
        f"; and {more} more" if more > 0 else ""
    )
