"""JSON and YAML of strangers: what they hold comes back, and whatever is odd about them is one ValueError."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cggm_med.trees import in_form, parse_json, parse_yaml

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="ascii"))
trees = st.recursive(plain, lambda of: st.lists(of) | st.dictionaries(st.text("abc"), of), max_leaves=8)


@given(trees)
def test_what_was_written_is_read(tree):
    assert parse_json(json.dumps(tree)) == tree
    assert parse_yaml(yaml.safe_dump(tree)) == tree


@pytest.mark.parametrize(
    "text",
    [
        *("!!bool maybe", "!!timestamp soon", "!!int a", "!!binary é", "2024-13-01", "9" * 5000, "[" * 5000),
        *("!!python/object/apply:os.getcwd []", "? [1]\n: 2", "a: &a [*a]", "<<: 1", "\x00", "a: b: c"),
    ],
)
def test_odd_yaml_is_one_line(text):
    with pytest.raises(ValueError, match="^[^\n]+$"):
        parse_yaml(text)


def test_a_few_aliases_are_usual_and_a_billion_are_not():
    lines = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    assert len(parse_yaml("a0: &a0 [x]\n" + lines[0])["a1"]) == 9
    with pytest.raises(ValueError, match="its aliases repeat what it holds without end"):
        parse_yaml("\n".join(["a0: &a0 [x]", *lines]))


@pytest.mark.parametrize(
    ("value", "form", "problem"),
    [
        ([1], {}, "is a list, expected an object"),
        ({}, {"a": str}, "a is nothing, expected text"),
        ({"a": {"b": True}}, {str: {str: (float, str)}}, "a b is true or false, expected a number or text"),
        ({"a": 1.5}, {"a": int}, "a is a number, expected a whole number"),
    ],
)
def test_another_form_is_named(value, form, problem):
    with pytest.raises(ValueError, match=f"^{problem}$"):
        in_form(value, form)
