"""Which names of a foreign library our source uses, and how, found in its syntax tree.

A value's type is known where it is the library module (called ``library``, or imported), where an
annotation says it (``config: trt.IBuilderConfig``), and where a signature of the library or an
annotation of ours says what a call returns. Whatever is read from such a value is a use.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

MODULE = "module"
_ANNOTATION = re.compile(r"\btrt\.(\w+)")

Signatures = list[str]
"""Such as ``create_network(self, flags=) -> INetworkDefinition``; empty where none is told."""

Api = dict[str, dict[str, Signatures]]
"""Member name to signatures, by class."""


@dataclass(frozen=True, slots=True)
class Use:
    """One reading of a member, or one call of it where ``arguments`` is not None.

    ``optional`` is a use under an ``if`` that asks with hasattr whether something is there.
    """

    owner: str
    member: str
    where: str
    arguments: int | None = None
    keywords: tuple[str, ...] = ()
    optional: bool = False


@dataclass(slots=True)
class Source:
    """What is known across files: what our functions return, and our classes' attributes."""

    api: Api
    returns: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, dict[str, str]] = field(default_factory=dict)
    bases: dict[str, list[str]] = field(default_factory=dict)
    uses: dict[tuple[str, int, int], Use] = field(default_factory=dict)

    def attribute(self, owner: str, name: str) -> str | None:
        """Return the type of an attribute of one of our classes, its bases included."""
        found = self.attributes.get(owner, {}).get(name)
        if found is None:
            parts = (self.attribute(base, name) for base in self.bases.get(owner, ()))
            found = next((part for part in parts if part), None)
        return found


def uses_of(paths: Iterable[Path], api: Api) -> list[Use]:
    """Return every use of the library in some files, in order."""
    source = Source(api)
    trees = [(path, ast.parse(path.read_text("utf-8"))) for path in paths]
    for _ in range(2):  # the second round knows what the first found out
        source.uses.clear()
        for path, tree in trees:
            _Walk(source, path.name).body(tree.body, {}, None)
    return [source.uses[key] for key in sorted(source.uses)]


@dataclass(slots=True)
class _Walk:
    source: Source
    file: str
    guarded: bool = False

    def body(self, statements: list[ast.stmt], names: dict[str, str], owner: str | None) -> None:
        for statement in statements:
            self.statement(statement, names, owner)

    def statement(self, node: ast.stmt, names: dict[str, str], owner: str | None) -> None:
        if isinstance(node, ast.FunctionDef):
            self.function(node, names, owner)
        elif isinstance(node, ast.ClassDef):
            self.klass(node, names)
        elif isinstance(node, ast.AnnAssign):
            if node.value is not None:
                self.type_of(node.value, names)
            self.bind(node.target, _annotated(node.annotation, self.source), names, owner)
        elif isinstance(node, ast.Assign):
            self.assign(node, names, owner)
        elif isinstance(node, ast.If) and _asks(node.test):
            self.type_of(node.test, names)
            self.guarded = True
            self.body(node.body, names, owner)
            self.guarded = False
            self.body(node.orelse, names, owner)
        else:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.stmt):
                    self.statement(child, names, owner)
                elif isinstance(child, ast.ExceptHandler):
                    self.body(child.body, names, owner)
                else:
                    self.type_of(child, names)

    def assign(self, node: ast.Assign, names: dict[str, str], owner: str | None) -> None:
        value = node.value
        for target in node.targets:
            if not isinstance(target, ast.Tuple):
                self.bind(target, self.type_of(value, names), names, owner)
            elif isinstance(value, ast.Tuple):
                for part, given in zip(target.elts, value.elts, strict=True):
                    self.bind(part, self.type_of(given, names), names, owner)
            else:
                self.type_of(value, names)
                called = value.func if isinstance(value, ast.Call) else value
                found = self.source.returns.get(f"{_last(called)}()", "").split()
                for part, kind in zip(target.elts, found, strict=False):
                    self.bind(part, kind, names, owner)

    def bind(
        self, target: ast.expr, kind: str | None, names: dict[str, str], owner: str | None
    ) -> None:
        if isinstance(target, ast.Name) and kind:
            names[target.id] = kind
        elif isinstance(target, ast.Attribute):
            at = self.type_of(target.value, names)
            if at == f"our {owner}" and owner and kind:
                self.source.attributes.setdefault(owner, {})[target.attr] = kind
            else:
                self.type_of(target, names)

    def function(self, node: ast.FunctionDef, names: dict[str, str], owner: str | None) -> None:
        inner = dict(names)
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        for argument in arguments:
            kind = _annotated(argument.annotation, self.source)
            if argument.arg == "self" and owner:
                kind = f"our {owner}"
            if kind:
                inner[argument.arg] = kind
        if node.returns is not None:
            found = _ANNOTATION.findall(ast.unparse(node.returns))
            if "tuple" in ast.unparse(node.returns):
                self.source.returns[f"{node.name}()"] = " ".join(found)
            elif found:
                self.source.returns[node.name] = found[0]
        self.body(node.body, inner, owner)

    def klass(self, node: ast.ClassDef, names: dict[str, str]) -> None:
        self.source.attributes.setdefault(node.name, {})
        self.source.bases[node.name] = [_last(base) for base in node.bases]
        for base in node.bases:
            kind = self.type_of(base, names)
            if kind and kind.startswith("class "):
                self.overrides(node, kind.removeprefix("class "))
        for statement in node.body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                kind = _annotated(statement.annotation, self.source)
                if kind:
                    self.source.attributes[node.name][statement.target.id] = kind
            else:
                self.statement(statement, dict(names), node.name)

    def overrides(self, node: ast.ClassDef, base: str) -> None:
        """A method of a subclass is one that the library calls, unless we decorate it."""
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and not method.decorator_list:
                count = len(method.args.args) - 1
                self.use(method, base, method.name, count if method.name != "__init__" else 0)

    def use(
        self, node: ast.AST, owner: str, member: str, arguments: int | None, *keywords: str
    ) -> None:
        line, column = getattr(node, "lineno", 0), getattr(node, "end_col_offset", 0)
        key = (self.file, line * 1000, column)
        known = self.source.uses.get(key)
        if known is not None and known.arguments is not None:
            return
        where = f"{self.file}:{line}"
        self.source.uses[key] = Use(owner, member, where, arguments, keywords, self.guarded)

    def type_of(self, node: ast.AST, names: dict[str, str]) -> str | None:
        """Return what an expression is, and record every use in it."""
        if isinstance(node, ast.Name):
            return names.get(node.id) or (MODULE if node.id == "library" else None)
        if isinstance(node, ast.Attribute):
            return self.member(node, names, None)
        if isinstance(node, ast.Call):
            return self.call(node, names)
        kinds = [self.type_of(child, names) for child in ast.iter_child_nodes(node)]
        if isinstance(node, ast.IfExp | ast.BoolOp):
            return next((kind for kind in kinds if kind), None)
        return None

    def member(
        self, node: ast.Attribute, names: dict[str, str], call: ast.Call | None
    ) -> str | None:
        at = self.type_of(node.value, names)
        if node.attr.strip("_") == "library":
            return MODULE
        if at == MODULE:
            if not node.attr.startswith("__"):
                self.use(node, MODULE, node.attr, None)
            return f"class {node.attr}"
        if at is None:
            return None
        if at.startswith("our "):
            return self.source.attribute(at.removeprefix("our "), node.attr)
        owner = at.removeprefix("class ")
        if owner not in self.source.api:
            return None
        count: int | None = None
        keywords: tuple[str, ...] = ()
        if call is not None:
            unbound = at.startswith("class ")
            count = len(call.args) - unbound
            keywords = tuple(k.arg or "**" for k in call.keywords)
        if node.attr != "__members__":
            self.use(node, owner, node.attr, count, *keywords)
        return _returned(self.source.api[owner].get(node.attr, []))

    def call(self, node: ast.Call, names: dict[str, str]) -> str | None:
        func = node.func
        kind = self.member(func, names, node) if isinstance(func, ast.Attribute) else None
        for part in (*node.args, *(k.value for k in node.keywords)):
            self.type_of(part, names)
        if isinstance(func, ast.Attribute) and func.attr == "library":
            return MODULE
        if kind and kind.startswith("class ") and isinstance(func, ast.Attribute):
            owner = kind.removeprefix("class ")
            keywords = tuple(k.arg or "**" for k in node.keywords)
            if owner in self.source.api and "__init__" in self.source.api[owner]:
                self.use(node, owner, "__init__", len(node.args), *keywords)
            return owner
        return kind or self.source.returns.get(_last(func))


def _annotated(annotation: ast.expr | None, source: Source) -> str | None:
    if annotation is None:
        return None
    text = ast.unparse(annotation)
    found = _ANNOTATION.search(text)
    if found:
        return found[1]
    ours = next((c for c in source.attributes if re.fullmatch(rf"{c}( \| None)?", text)), None)
    return f"our {ours}" if ours else None


def _asks(test: ast.expr) -> bool:
    """Whether a condition asks with hasattr."""
    calls = [node for node in ast.walk(test) if isinstance(node, ast.Call)]
    return any(_last(call.func) == "hasattr" for call in calls)


def _last(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _returned(signatures: Signatures) -> str | None:
    found = {s.rpartition(" -> ")[2] for s in signatures if " -> " in s}
    return found.pop() if len(found) == 1 else None


def misfit(use: Use, api: Api, functions: Iterable[str]) -> str | None:
    """Return what is wrong with a use, or None."""
    if use.owner == MODULE:
        there = use.member in api or use.member in functions
        return None if there else f"{use.where}: the library has no {use.member}"
    if use.owner not in api:
        return f"{use.where}: the library has no class {use.owner}"
    if use.member not in api[use.owner]:
        return f"{use.where}: {use.owner} has no {use.member}"
    signatures = api[use.owner][use.member]
    if use.arguments is None or not signatures:
        return None
    if any(_takes(s, use.arguments, use.keywords) for s in signatures):
        return None
    given = f"{use.arguments} and {list(use.keywords)}" if use.keywords else str(use.arguments)
    return f"{use.where}: {use.owner}.{use.member} takes {signatures}, not {given}"


def _takes(signature: str, count: int, keywords: tuple[str, ...]) -> bool:
    """Whether a signature takes so many positional arguments after self, and these keywords."""
    inside = signature[signature.index("(") + 1 : signature.rindex(")")]
    parameters = [p.strip() for p in inside.split(",") if p.strip()]
    parameters = parameters[1:] if parameters[:1] == ["self"] else parameters
    names = [p.removesuffix("=") for p in parameters]
    if not set(keywords) <= set(names) or count + len(keywords) > len(names):
        return False
    missing = [p for p in parameters[count:] if p.removesuffix("=") not in keywords]
    return all(p.endswith("=") for p in missing)
