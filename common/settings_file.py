"""Reads TOML settings into frozen pydantic objects that refuse what they do not know."""

import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from common.errors import SettingsError


class Settings(BaseModel):
    """Base of all settings: frozen, no unknown keys, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


S = TypeVar("S", bound=Settings)


def parse_settings(kind: type[S], values: object, origin: str) -> S:
    """`values` as a `kind`.

    Raises:
        SettingsError: names `origin`, each offending key, its value and what is allowed.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise SettingsError(_explain(kind, error, origin)) from None


def read_settings(kind: type[S], path: Path) -> S:
    """The settings in a TOML file.

    Raises:
        SettingsError: the file cannot be read, is not TOML, or holds unknown keys or bad values.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"expected a settings file at {path}, found none") from None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}") from None
    return parse_settings(kind, values, str(path))


def differences(kept: Settings, new: Settings) -> str:
    """The settings in which two differ, with both values, the first few of them."""
    there, here = (_leaves(one.model_dump(mode="json")) for one in (kept, new))
    keys = [key for key in sorted(there | here) if there.get(key) != here.get(key)]
    told = [f"{key} ({there.get(key)} there, {here.get(key)} here)" for key in keys[:5]]
    return ", ".join(told + [f"and {len(keys) - 5} more"] * (len(keys) > 5))


def _leaves(values: object, name: str = "") -> dict[str, object]:
    if isinstance(values, dict):
        parts = {f"{name}.{key}" if name else str(key): value for key, value in values.items()}
    elif isinstance(values, list):
        parts = {f"{name}[{number}]": value for number, value in enumerate(values)}
    else:
        return {name: values}
    return {
        key: leaf for part, value in parts.items() for key, leaf in _leaves(value, part).items()
    }


def _explain(kind: type[Settings], error: ValidationError, origin: str) -> str:
    lines = [f"{origin}: {error.error_count()} problem(s)"]
    for problem in error.errors(include_url=False):
        key = ".".join(str(part) for part in problem["loc"]) or "(whole file)"
        if problem["type"] == "extra_forbidden":
            allowed = ", ".join(_keys_beside(kind, problem["loc"]))
            lines.append(f"  {key} = {problem['input']!r}: unknown key; allowed here: {allowed}")
        elif problem["type"] == "missing":
            lines.append(f"  {key}: missing; {problem['msg'].lower()}")
        elif problem["type"] == "value_error":
            lines.append(f"  {key}: {problem['ctx']['error']}")
        else:
            lines.append(f"  {key} = {problem['input']!r}: {problem['msg']}")
    return "\n".join(lines)


def _keys_beside(kind: type[Settings], location: tuple[int | str, ...]) -> list[str]:
    """The keys that are allowed where an unknown one was found."""
    current: type[BaseModel] | None = kind
    for part in location[:-1]:
        if isinstance(part, str) and current is not None and part in current.model_fields:
            current = _model_inside(current.model_fields[part].annotation)
    return sorted(current.model_fields) if current is not None else []


def _model_inside(annotation: object) -> type[BaseModel] | None:
    """The pydantic model in an annotation such as `tuple[Task, ...]` or `Segmenter | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_model_inside(part) for part in getattr(annotation, "__args__", ()))
    return next((model for model in inner if model is not None), None)
