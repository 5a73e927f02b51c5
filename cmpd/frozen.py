"""Values that do not change: dataclasses that are frozen for the type checker and quick to make.

A frozen dataclass sets each field through object.__setattr__, which makes it three times as slow to construct, and a
request makes some twenty values with a hundred and fifty fields. Here mypy refuses every assignment to a field, as it
does for a frozen dataclass, and nothing is paid for it when the program runs.
"""

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """Make a slotted dataclass whose fields are set once, by its constructor; equal and hashed by its fields."""
    return dataclass(slots=True, unsafe_hash=True)(cls)
