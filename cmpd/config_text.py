"""What the operator reads about cmpd.toml: the mistakes in it, and the commented file that `cmpd init` writes.

Both are derived from the models in config.py, which are handed in. A mistake is one line "path: wanted, found". In the
template a line `#key = value` is the default that holds while the line is a comment; of a list of tables that has no
entry the head is a comment too, and without the marks before head and keys it is an entry that is valid. In each table
the keys that must be set come first, then the others as the models have them, those of its bases before its own.
"""

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from cmpd.config_values import PlacedError, Span, duration_text, nearest, quoted, shown

_WIDTH: Final = 100


# --- mistakes --------------------------------------------------------------------------------------------------------


def mistakes(error: ValidationError, root: type[BaseModel]) -> list[str]:
    """One line for each mistake, in the order of the models."""
    return [_line(details, root) for details in error.errors(include_url=False)]


def _line(details: ErrorDetails, root: type[BaseModel]) -> str:
    path = [part for part in details["loc"] if part != "[key]"]
    kind, found, limits = details["type"], details["input"], details.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{_dotted(path)}: unknown key{_nearest_key(path, root)}"
    if kind == "missing":
        return f"{_dotted(path)}: missing"
    if kind == "value_error":
        fault = limits["error"]
        return str(fault) if isinstance(fault, PlacedError) else f"{_dotted(path)}: {fault}"
    if kind == "literal_error":
        words = str(limits["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
        return f"{_dotted(path)}: {shown(found)} is not possible{nearest(found, words)}"
    wanted = _WANTED[kind](limits) if kind in _WANTED else details["msg"]
    return f"{_dotted(path)}: want {wanted}, have {shown(found)}"


_WANTED: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "bool_type": lambda _: "true or false",
    "int_type": lambda _: "a whole number",
    "string_type": lambda _: "text",
    "tuple_type": lambda _: "a list",
    "dict_type": lambda _: "a table",
    "model_type": lambda _: "a table",
    "greater_than_equal": lambda limits: f"at least {limits['ge']}",
    "less_than_equal": lambda limits: f"at most {limits['le']}",
    "string_pattern_mismatch": lambda limits: (
        'a path such as "/cmp", or ""' if "/" in limits["pattern"] else "a name of letters, digits, '_', '.' and '-'"
    ),
}


def _dotted(path: list[int | str]) -> str:
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else shown(part)
            text += f".{name}" if text else name
    return text


def _nearest_key(path: list[int | str], root: type[BaseModel]) -> str:
    """What to say of an unknown key: where it belongs, or the nearest key of its table."""
    key = str(path[-1])
    homes = [name for name, field in root.model_fields.items() if key in _keys(_model(field.annotation))]
    near = nearest(key, _keys(_model_at(path[:-1], root)))
    return f"; it belongs to [{homes[0]}]" if len(homes) == 1 and "nearest" not in near else near


def _model_at(path: list[int | str], root: type[BaseModel]) -> type[BaseModel] | None:
    """The model of the table at `path`; names of profiles and indices lead to the model of the values."""
    model: type[BaseModel] | None = root
    named = False
    for part in path:
        if isinstance(part, int) or named or model is None:
            named = False
            continue
        annotation = model.model_fields[part].annotation
        model, named = _model(annotation), get_origin(annotation) is dict
    return model


def _model(annotation: Any) -> type[BaseModel] | None:
    """The model inside an annotation such as tuple[TcpConfig, ...]."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model(part))), None)


def _keys(model: type[BaseModel] | None) -> tuple[str, ...]:
    return tuple(field.alias or name for name, field in model.model_fields.items()) if model else ()


# --- the template ----------------------------------------------------------------------------------------------------


def template(root: type[BaseModel], values: Mapping[str, Mapping[str, Any]]) -> str:
    """A complete cmpd.toml: keys in `values` are set, all others are comments that state their defaults."""
    lines = [
        "# Configuration of cmpd. `cmpd check --config FILE` finds mistakes in it.",
        "# Lines that begin with # and a key, such as #max_in_flight = 32, state the default that holds.",
        '# Durations are written "30s", "5m", "24h", "365d".',
    ]
    for name, field in root.model_fields.items():
        model = _model(field.annotation)
        if model is None:
            continue
        absent = get_origin(field.annotation) is tuple and name not in values
        lines += ["", *_wrapped((model.__doc__ or "") + (_ABSENT.format(name, _first(model)) if absent else ""))]
        lines += [("#" if absent else "") + _title(name, field), *_lines_of(model, values.get(name, {}))]
    return "\n".join(lines) + "\n"


_ABSENT: Final = " There is none yet: it begins with the lines [[{0}]] and {1}, without #."


def _title(name: str, field: FieldInfo) -> str:
    kind = get_origin(field.annotation)
    return f"[[{name}]]" if kind is tuple else f"[{name}.default]" if kind is dict else f"[{name}]"


def _first(model: type[BaseModel]) -> str:
    """The key that a table begins with."""
    return _ordered(model)[0][0]


def _ordered(model: type[BaseModel]) -> list[tuple[str, FieldInfo]]:
    """The keys of a table in the order of the template."""
    fields = [(field.alias or name, field) for name, field in model.model_fields.items()]
    return sorted(fields, key=lambda entry: not entry[1].is_required())


def _lines_of(model: type[BaseModel], values: Mapping[str, Any]) -> Iterator[str]:
    for key, field in _ordered(model):
        yield from ("", *_wrapped(field.description or ""))
        if key in values:
            yield f"{key} = {_toml(values[key], field)}"
        elif field.is_required():
            yield f"#{key} = {_toml((field.examples or [''])[0], field)}"
        elif field.default is None:
            yield f"# Example: {key} = {_toml((field.examples or [''])[0], field)}"
        else:
            yield f"#{key} = {_toml(field.default, field)}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()), _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )


def _toml(value: Any, field: FieldInfo) -> str:
    is_duration = any(isinstance(rule, BeforeValidator) and isinstance(rule.func, Span) for rule in field.metadata)
    if is_duration and isinstance(value, int):
        value = duration_text(value)
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(item, field) for item in value) + "]"
    return quoted(value)
