"""A model's constructor keywords: what there are, what a user wrote, and the whole of them as a Spec."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from anomalib_gan import models
from anomalib_gan.model import Spec


def keywords(name: str) -> dict[str, Any]:
    """The keywords of a model's constructor with their defaults; a ValueError lists the models that exist.

    Where a constructor hands the rest on to its parent's (**common), the parent's are among them.
    """
    if name not in models.MODELS:
        raise ValueError(f"no model is called {name!r}: choose one of {', '.join(sorted(models.MODELS))}")
    found: dict[str, Any] = {}
    for one in models.MODELS[name].__mro__:
        if "__init__" in vars(one):
            parameters = list(inspect.signature(vars(one)["__init__"]).parameters.values())[1:]  # without self
            named = {each.name: each.default for each in parameters if each.kind is not each.VAR_KEYWORD}
            found = {**named, **found}
            if len(named) == len(parameters):
                break
    return found


def complete(name: str, params: dict[str, Any], channels: int) -> Spec:
    """The model's spec with every constructor keyword written out, so that later defaults cannot change an old run."""
    known = keywords(name)
    if unknown := [key for key in params if key not in known]:
        raise ValueError(f"{name} has no parameter {unknown[0]!r}: choose from {', '.join(known)}")
    hints: dict[str, Any] = {}
    for one in models.MODELS[name].__mro__:  # what a constructor hands on is its parent's to say
        if "__init__" in vars(one) and issubclass(one, models.Model):
            hints = {**get_type_hints(vars(one)["__init__"]), **hints}
    for key, value in params.items():
        if get_origin(hints.get(key)) is Literal and value not in get_args(hints[key]):
            choices = ", ".join(map(str, get_args(hints[key])))
            raise ValueError(f"{name} has no {key} {value!r}: choose one of {choices}")
    given = {"channels": channels, **params} if "channels" in known else params
    return Spec(name, {**{key: value for key, value in known.items() if value is not inspect.Parameter.empty}, **given})


def parse_params(name: str, pairs: Sequence[str]) -> dict[str, Any]:
    """["alpha=0.5", "norm=l1"] -> values of the types that the constructor's defaults have."""
    known, params = keywords(name), {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"--param {pair}: write key=value")
        if key not in known:
            raise ValueError(f"--param {pair}: {name} has no parameter {key!r}; choose from {', '.join(known)}")
        default = known[key]
        try:
            value = (
                text if isinstance(default, str) else json.loads(text.lower() if text in ("True", "False") else text)
            )
        except ValueError:
            value = text
        if isinstance(default, float) and type(value) is int:
            value = float(value)
        free = default is None or default is inspect.Parameter.empty
        if not free and type(value) is not type(default) and not (type(default) is tuple and type(value) is list):
            raise ValueError(f"--param {pair}: {key} is of type {type(default).__name__}, such as {default!r}")
        params[key] = value
    return params
