"""What pydantic finds wrong, in the words of this project's errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError

from .problems import ProblemError, shorten

OBJECT = ("a JSON object", "send an object, such as the one in /docs")

#: Types of pydantic's errors -> what was expected.
EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of fewer digits",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a text",
    "string_unicode": "a text in UTF-8",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a JSON object",
    "literal_error": "{expected}",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "too_long": "{max_length} values",
}


def explain_validation(error: RequestValidationError, described_in: str = "/docs") -> ProblemError:
    """The first of the values that do not fit the schema, which `described_in` describes."""
    first: Mapping[str, Any] = error.errors()[0]
    kind, context = first["type"], first.get("ctx", {})
    parts = first["loc"][1:]  # the first part is "query" or "body"
    place, value = shorten(".".join(map(str, parts))), first.get("input")
    if kind == "json_invalid":
        given = f"a document that is not JSON ({context.get('error', 'it cannot be read')})"
        return ProblemError(422, "json", given, "a JSON document", "let a JSON library write it")
    if kind == "extra_forbidden":
        return ProblemError(422, "settings", f"parameter {place}", f"a parameter of {described_in}", "leave it out")
    if kind == "missing" and isinstance(value, (list, tuple)):  # a pair of which only one value was sent
        name = ".".join(map(str, parts[:-1]))
        given, remedy = f"{name} with {len(value)} of its values", "send the others too"
        return ProblemError(422, "settings", given, "all of them", remedy)
    if kind == "missing":
        return ProblemError(
            422, "settings", f"a document without {place}", place, f"add {place}; {described_in} describes it"
        )
    given = f"{place} {shorten(repr(value))}" if place else f"a document that is {shorten(repr(value))}"
    if kind in ("model_type", "model_attributes_type"):
        return ProblemError(422, "settings", given, *OBJECT)
    expected = EXPECTED.get(kind, f"a value as {described_in} describes it").format_map(context)
    return ProblemError(
        422, "settings", given, expected, f"correct it, or leave it out; {described_in} lists the values"
    )
