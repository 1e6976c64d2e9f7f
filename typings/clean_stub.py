"""Turn a raw stub into one that mypy reads strictly: signatures only, no text of NVIDIA's."""

from __future__ import annotations

import ast
import re

from corrections import (
    ARGUMENTS,
    BUFFER,
    CLASSES,
    CONVERTED,
    ENTER,
    EXIT,
    FUNCTIONS,
    IMPLEMENTED,
    METHODS,
    NULLABLE,
    NULLABLE_FUNCTIONS,
    OPTIONAL_PROPERTIES,
    PARAMETERS,
    WRITE_ONLY,
)

_DEPRECATED = re.compile(r"\[DEPRECATED\]|\bDeprecated,")
_SUPERSEDED = re.compile(r"(?:Superseded by|[Uu]se) (\w+)")
_ELLIPSIS = ast.Expr(ast.Constant(...))


def _expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _statement(text: str) -> ast.stmt:
    return ast.parse(text).body[0]


def _is(statement: ast.stmt, decorator: str) -> bool:
    return isinstance(statement, ast.FunctionDef) and any(
        ast.unparse(item) == decorator for item in statement.decorator_list
    )


def _defaults_last(line: str) -> str:
    """Give every argument behind one with a default `...`: pybind11 needs no such order."""
    found = re.match(r"(\s*def \w+\()(.*)(\) -> .*)$", line)
    if found is None:
        return line
    arguments = re.split(r", (?=\w+(?::|\b[^\]]*$))", found[2])
    seen = False
    for place, argument in enumerate(arguments):
        seen |= "=" in argument
        if seen and "=" not in argument and argument not in ("*", "/"):
            arguments[place] = f"{argument} = ..."
    return found[1] + ", ".join(arguments) + found[3]


class _Annotations(ast.NodeTransformer):
    """Names as they stand in the stub's own module, and parameters for bare generics."""

    def __init__(self, module: str) -> None:
        self.prefixes = (f"{module}.", f"{module.split('.')[0]}.", f"{module.split('.')[1]}.")

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        node.slice = self.visit(node.slice)  # its value has parameters already
        return node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id == "bool":  # the module has a constant of that name
            return _expression("builtins.bool")
        return _expression(PARAMETERS[node.id]) if node.id in PARAMETERS else node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        text = ast.unparse(node)
        for prefix in self.prefixes:
            if text.startswith(prefix):
                return _expression(text.removeprefix(prefix))
        return _expression(PARAMETERS[text]) if text in PARAMETERS else node


class Cleaner:
    """The clean-up of one module, `package.module`."""

    def __init__(self, module: str) -> None:
        self._annotations = _Annotations(module)

    def clean(self, raw: str) -> str:
        """Return the text of the stub."""
        raw = re.sub(r"\bin: ", "in_: ", raw)  # an argument's name that Python reserves
        tree = ast.parse("\n".join(map(_defaults_last, raw.split("\n"))))
        body = [item for item in self._body(tree.body, "") if self._is_kept(item)]
        text = ast.unparse(ast.fix_missing_locations(ast.Module(body, [])))
        text = re.sub(r":\n\s+\.\.\.$", ": ...", text, flags=re.M)
        text = re.sub(r"\n\n+(?= )", "\n", text)
        names = ("builtins", "collections.abc", "numpy", "typing", "typing_extensions")
        return "\n".join(f"import {name}" for name in names) + "\n" + text + FUNCTIONS

    def _is_kept(self, node: ast.stmt) -> bool:
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.Assign)):
            return False
        return not (isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "__all__")

    def _body(self, body: list[ast.stmt], owner: str) -> list[ast.stmt]:
        """Clean the statements of a class or of the module, and drop docstrings and repeats."""
        kept: list[ast.stmt] = []
        seen: set[str] = set()
        for node in body:
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                continue
            cleaned = self._node(node, owner)
            text = ast.unparse(cleaned)
            if "__hash__: " in text or text in seen:
                continue
            # C++ overloads that are one in Python: the first of equal arguments is enough.
            if isinstance(cleaned, ast.FunctionDef) and _is(cleaned, "typing.overload"):
                key = f"{cleaned.name}({ast.unparse(cleaned.args)})"
                if key in seen:
                    continue
                seen.add(key)
            seen.add(text)
            kept.append(cleaned)
        overloads = [node.name for node in kept if _is(node, "typing.overload")]  # type: ignore
        for node in kept:
            if isinstance(node, ast.FunctionDef) and overloads.count(node.name) == 1:
                node.decorator_list = [
                    item for item in node.decorator_list if ast.unparse(item) != "typing.overload"
                ]
        return kept

    def _node(self, node: ast.stmt, owner: str) -> ast.stmt:
        if isinstance(node, ast.ClassDef):
            return self._class(node, owner)
        if isinstance(node, ast.FunctionDef):
            return self._function(node, owner)
        if isinstance(node, ast.AnnAssign):
            node.annotation = self._annotations.visit(node.annotation)
            if (owner, ast.unparse(node.target)) in OPTIONAL_PROPERTIES:
                node.annotation = _optional(node.annotation)
            node.value = None
        return node

    def _class(self, node: ast.ClassDef, owner: str) -> ast.stmt:
        name = f"{owner}.{node.name}" if owner else node.name
        if name in CLASSES:
            return _statement(CLASSES[name])
        node.bases = [self._annotations.visit(base) for base in node.bases]
        extra = [f"{key}: {kind}" for key, kind in WRITE_ONLY.get(name, {}).items()]
        if name == "IHostMemory":
            extra.append(BUFFER)
        body = [*map(_statement, extra), *self._body(node.body, name)]
        node.body = body or [_ELLIPSIS]
        return node

    def _function(self, node: ast.FunctionDef, owner: str) -> ast.stmt:
        if node.name in ("__enter__", "__exit__"):
            return _statement(ENTER if node.name == "__enter__" else EXIT)
        if (owner, node.name) in METHODS:
            return _statement(METHODS[owner, node.name])
        document = ast.get_docstring(node) or ""
        if _DEPRECATED.search(document.split("\n:")[0]):
            found = _SUPERSEDED.search(document)
            text = f"use {found[1]}" if found else "deprecated"
            node.decorator_list.insert(0, _expression(f"typing_extensions.deprecated({text!r})"))
        self._arguments(node, owner)
        if node.returns is not None:
            node.returns = self._annotations.visit(node.returns)
            if (owner, node.name) in NULLABLE or (not owner and node.name in NULLABLE_FUNCTIONS):
                node.returns = _optional(node.returns)
        if (owner, node.name) == ("DataType", "itemsize"):
            node.returns = _expression("float")
        node.body = [_ELLIPSIS]
        return node

    def _arguments(self, node: ast.FunctionDef, owner: str) -> None:
        arguments = [*node.args.posonlyargs, *node.args.args]
        is_method = bool(owner) and not _is(node, "staticmethod")
        if is_method:
            if not arguments and node.args.vararg is None:
                arguments = node.args.args = [ast.arg("self")]
            if arguments and arguments[0].arg in ("self", "this"):
                arguments[0].annotation = None
                arguments[0].arg = "self"
        first_default = len(arguments) - len(node.args.defaults)
        for place, argument in enumerate(arguments):
            if argument.annotation is None:
                continue
            kind = self._annotations.visit(argument.annotation)
            is_none = place >= first_default and (
                ast.unparse(node.args.defaults[place - first_default]) == "None"
            )
            argument.annotation = _argument_type(owner, node.name, argument.arg, kind, is_none)
        for argument in node.args.kwonlyargs:
            if argument.annotation is not None:
                argument.annotation = self._annotations.visit(argument.annotation)


def _optional(kind: ast.expr) -> ast.expr:
    text = ast.unparse(kind)
    return kind if "None" in text or text == "typing.Any" else _expression(f"{text} | None")


def _argument_type(owner: str, method: str, name: str, kind: ast.expr, is_none: bool) -> ast.expr:
    """Return the type that an argument really takes."""
    if (owner, method, name) in ARGUMENTS:
        return _expression(ARGUMENTS[owner, method, name])
    if method in ("__eq__", "__ne__"):
        return _expression("object")
    text = ast.unparse(kind)
    if owner.startswith(IMPLEMENTED):
        text = text.replace("typing.SupportsInt", "int").replace("typing.SupportsFloat", "float")
    else:
        bare = text.removesuffix(" | None")
        if bare in CONVERTED:
            text = text.replace(bare, f"{bare} | {CONVERTED[bare]}", 1)
    kind = _expression(text)
    return _optional(kind) if is_none else kind
