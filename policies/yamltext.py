"""YAML text -> validated pydantic model, with errors that name file, line and key.

Shared by packs and by ``config.yaml``. Takes text, never a path: whoever reads the file hands over its contents.
"""

from __future__ import annotations

import contextlib
import difflib
from dataclasses import dataclass
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

ModelT = TypeVar("ModelT", bound=BaseModel)
Path = tuple[str | int, ...]

MAX_CHARS = 2_000_000
"""A larger file is refused before parsing: no honest pack comes near, and a parser must not be a way to stall us."""
MAX_DEPTH = 40


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a file."""

    source: str
    line: int
    key: str
    message: str

    def __str__(self) -> str:
        where = f"{self.source}:{self.line}"
        return f"{where}: {self.key}: {self.message}" if self.key else f"{where}: {self.message}"


class YamlError(ValueError):
    """The text is not a valid document; ``problems`` holds every one that was found, in file order."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = sorted(problems, key=lambda p: p.line)
        super().__init__("\n".join(str(p) for p in self.problems))


def dotted(path: Path) -> str:
    """``('legs', 0, 'name')`` as ``legs[0].name``."""
    out = ""
    for part in path:
        out += f"[{part}]" if isinstance(part, int) else (f".{part}" if out else str(part))
    return out


def parse(text: str, source: str) -> tuple[Any, dict[Path, int]]:
    """Parse one YAML document into plain data and the line (from 1) of every path in it.

    Raises:
        YamlError: syntax error, duplicate or non-scalar key, alias, nesting over 40, or text over 2 MB.
    """
    if len(text) > MAX_CHARS:
        raise YamlError([Problem(source, 1, "", f"the file has {len(text):,} characters; at most {MAX_CHARS:,}")])
    try:
        node = _compose(text)
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(exc, "problem", None) or str(exc).splitlines()[0]
        raise YamlError([Problem(source, line, "", f"not valid YAML: {problem}")]) from exc
    except RecursionError as exc:
        raise YamlError([Problem(source, 1, "", "nested too deeply")]) from exc
    lines: dict[Path, int] = {(): 1}
    problems: list[Problem] = []
    builder = _Builder(source, lines, problems)
    data = builder.build(node, ()) if node is not None else {}
    if problems:
        raise YamlError(problems)
    return data, lines


def _compose(text: str) -> yaml.Node | None:
    """By libyaml where PyYAML was built with it, because a restarted service is then beside its calls the sooner (the
    shipped pack: 30 ms instead of 280). What it refuses is read again by PyYAML's own parser, whose words are told."""
    fast = getattr(yaml, "CSafeLoader", None)
    if fast is not None:
        with contextlib.suppress(yaml.YAMLError):
            if _shallow(text, fast):  # its composer recurses in C, without a limit
                return yaml.compose(text, Loader=fast)
    return yaml.compose(text, Loader=yaml.SafeLoader)


def _shallow(text: str, loader: type[yaml.SafeLoader]) -> bool:
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH + 1:
            return False
    return True


class _Builder:
    """Walks the node graph once, noting lines and refusing what YAML allows but a person never means."""

    def __init__(self, source: str, lines: dict[Path, int], problems: list[Problem]) -> None:
        self._source, self._lines, self._problems = source, lines, problems
        self._seen: set[int] = set()
        self._scalars = yaml.SafeLoader("")

    def build(self, node: yaml.Node, path: Path) -> Any:
        line = node.start_mark.line + 1
        self._lines.setdefault(path, line)
        if len(path) > MAX_DEPTH:
            return self._refuse(line, path, "nested too deeply")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if id(node) in self._seen:
            return self._refuse(line, path, "YAML aliases (*name) are not supported; use `extends:`")
        self._seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*path, i)) for i, child in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        return self._refuse(line, path, "unexpected YAML node")

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        try:
            return self._scalars.construct_object(node)
        except (yaml.YAMLError, ValueError) as exc:
            return self._refuse(node.start_mark.line + 1, path, f"cannot read {node.value!r}: {exc}")

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._refuse(line, path, "keys must be plain words")
                continue
            key = str(key_node.value)
            child = (*path, key)
            if key in out:
                self._refuse(line, child, f"key given twice; first on line {self._lines[child]}")
                continue
            self._lines[child] = line
            out[key] = self.build(value_node, child)
        return out

    def _refuse(self, line: int, path: Path, message: str) -> None:
        self._problems.append(Problem(self._source, line, dotted(path), message))


def validate(data: Any, lines: dict[Path, int], source: str, model: type[ModelT]) -> ModelT:
    """Turn parsed data into ``model``, translating every pydantic error to file:line: key.

    Raises:
        YamlError: with one problem per error; unknown keys get the nearest known one as a suggestion.
    """
    if not isinstance(data, dict):
        raise YamlError([Problem(source, 1, "", f"expected a mapping of keys, found {type(data).__name__}")])
    try:
        return model.model_validate(data)
    except ValidationError as exc:
        problems = [_problem(dict(err), lines, source, model) for err in exc.errors(include_url=False)]
        raise YamlError(problems) from exc


def load(text: str, source: str, model: type[ModelT]) -> ModelT:
    """``parse`` then ``validate``."""
    data, lines = parse(text, source)
    return validate(data, lines, source, model)


def _problem(err: dict[str, Any], lines: dict[Path, int], source: str, model: type[BaseModel]) -> Problem:
    loc = tuple(err["loc"])
    known = _known_prefix(loc, lines)
    message = str(err["msg"])
    for noise in ("Value error, ", "Assertion failed, "):
        message = message.removeprefix(noise)
    kind = err["type"]
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(loc[-1]), _keys_at(model, loc[:-1]), n=1)
        message = "unknown key" + (f"; did you mean `{near[0]}`?" if near else "")
        allowed = _keys_at(model, loc[:-1])
        if not near and allowed:
            message += f"; known keys here: {', '.join(sorted(allowed))}"
    elif kind == "missing":
        message = "missing; it must be given"
    elif kind == "model_type":
        message = f"expected keys below it, found {_short(err.get('input'))}"
    elif kind != "value_error":
        message = f"{message[0].lower()}{message[1:]}, found {_short(err.get('input'))}"
    return Problem(source, lines.get(known, 1), dotted(loc) or dotted(known), message)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _known_prefix(loc: Path, lines: dict[Path, int]) -> Path:
    """The longest part of ``loc`` that stands in the file (pydantic adds union tags that do not)."""
    while loc and loc not in lines:
        loc = loc[:-1]
    return loc


def _keys_at(model: type[BaseModel], path: Path) -> list[str]:
    """Field names of the nested model at ``path``, or none when the path leaves the models we can follow."""
    current: Any = model
    for part in path:
        if not (isinstance(current, type) and issubclass(current, BaseModel)):
            return []
        fields = current.model_fields
        if not isinstance(part, str) or part not in fields:
            return []
        current = _nested_model(fields[part].annotation)
    if isinstance(current, type) and issubclass(current, BaseModel):
        return [f.alias or name for name, f in current.model_fields.items()]
    return []


def _nested_model(annotation: Any) -> Any:
    if isinstance(annotation, type):
        return annotation
    for arg in getattr(annotation, "__args__", ()):
        found = _nested_model(arg)
        if isinstance(found, type) and issubclass(found, BaseModel):
            return found
    return None
