"""A double of TensorRT's Python module, generated from the type stubs of the real one.

It has the classes, methods and properties of the stub and nothing else. A call is bound to the
stub's signatures, overloads included, and its arguments' types are checked; a call that the stub
does not allow raises TypeError, an attribute it does not have AttributeError. What a call answers
comes from a table that the test gives, and is checked against the stub's return type. Every call is
written down in order.

What it does not prove: that the real library accepts the values (shapes, addresses, order of
calls), what it computes, how fast, or what memory it takes. The answers are ours, not NVIDIA's.
"""

from __future__ import annotations

import ast
import enum
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

Answers = Mapping[str, Callable[..., Any]]
# The stub has no values; the order of these matters, as they are compared.
_ORDERED = {"Severity": ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")}


class Call(NamedTuple):
    """One call: `Class.method`, `Class.property` (read) or `Class.property=` (written).

    Of what a constructor gets, the names of the types.
    """

    name: str
    arguments: tuple[Any, ...]


class Record(list[Call]):
    """All calls in order."""

    def names(self, start: int = 0) -> list[str]:
        """Return the names of the calls from `start` on."""
        return [call.name for call in self[start:]]


class _Overload(NamedTuple):
    signature: inspect.Signature
    arguments: Mapping[str, ast.expr | None]
    returns: ast.expr | None


class RecordedTensorRt:
    """Makes the module; `without` are `Class` and `Class.member` that an older version lacks."""

    def __init__(
        self,
        stub: str,
        answers: Answers,
        record: Record,
        version: str,
        *,
        without: Sequence[str] = (),
    ) -> None:
        self._answers = answers
        self._record = record
        self._without = set(without)
        self._nodes = {
            name: node for name, node in _classes(stub).items() if name not in self._without
        }
        self._known: dict[str, type] = {}
        self.module = _Module("tensorrt", self._find)
        self.module.__dict__["__version__"] = version

    def make(self, name: str, **state: Any) -> Any:
        """Return an object that the module itself hands out, with the answers' own state."""
        made = object.__new__(self._type(name))
        object.__setattr__(made, "state", SimpleNamespace(**state))
        return made

    def _find(self, path: str) -> type | None:
        """Return a class of the stub, made when it is first asked for; None for another name."""
        first = path.partition(".")[0]
        if first not in self._known and first in self._nodes:
            self._class(self._nodes[first], first)
        return self._known.get(path)

    def _type(self, path: str) -> type:
        found = self._find(path)
        assert found is not None, path
        return found

    def _class(self, node: ast.ClassDef, path: str) -> type:
        body = node.body
        names = [n.target.id for n in body if _is_class_variable(n)]  # type: ignore[union-attr]
        if "__members__" in names:
            members = [name for name in names if name != "__members__"]
            members = list(_ORDERED.get(node.name, members))
            made: type = enum.IntEnum(node.name, members, start=0)  # type: ignore[assignment]
            self._known[path] = made
            return made
        namespace: dict[str, Any] = {"__slots__": ("state",)}
        nested = {n.name: n for n in body if isinstance(n, ast.ClassDef)}
        for name, inner in nested.items():
            namespace[name] = self._class(inner, f"{path}.{name}")
        for name in names:
            for each in nested:
                if name in namespace[each].__members__:
                    namespace[name] = namespace[each][name]
        namespace |= dict(self._members(body, path))
        if "__init__" not in namespace:
            namespace["__init__"] = _refuse_construction(path)
        bases = tuple(
            self._type(base.id)
            for base in node.bases
            if isinstance(base, ast.Name) and base.id in self._nodes
        )
        if bases:
            del namespace["__slots__"]
        made = type(node.name, bases, namespace)
        self._known[path] = made
        return made

    def _members(self, body: Sequence[ast.stmt], path: str) -> Iterator[tuple[str, Any]]:
        methods: dict[str, list[_Overload]] = {}
        readable: dict[str, ast.expr | None] = {}
        writable: dict[str, ast.expr | None] = {}
        for node in body:
            if isinstance(node, ast.FunctionDef):
                if f"{path}.{node.name}" in self._without:
                    continue
                decorators = {ast.unparse(each) for each in node.decorator_list}
                if "property" in decorators:
                    readable[node.name] = node.returns
                elif f"{node.name}.setter" in decorators:
                    writable[node.name] = node.args.args[1].annotation
                else:
                    methods.setdefault(node.name, []).append(_overload(node))
            elif isinstance(node, ast.AnnAssign) and not _is_class_variable(node):
                assert isinstance(node.target, ast.Name)
                if f"{path}.{node.target.id}" not in self._without:
                    readable[node.target.id] = writable[node.target.id] = node.annotation
        for name, overloads in methods.items():
            yield name, self._method(f"{path}.{name}", overloads)
        for name, annotation in readable.items():
            yield name, self._property(f"{path}.{name}", annotation, writable.get(name))

    def _method(self, name: str, overloads: Sequence[_Overload]) -> Callable[..., Any]:
        def call(this: Any, *positional: Any, **named: Any) -> Any:
            for each in overloads:
                try:
                    bound = each.signature.bind(this, *positional, **named)
                except TypeError:
                    continue
                values = {k: v for k, v in bound.arguments.items() if k != "self"}
                if all(self._accepts(each.arguments[k], v) for k, v in values.items()):
                    break
            else:
                raise TypeError(f"{name}{positional}{named or ''}: no signature of the stub fits")
            given = tuple(values.values())
            if name.endswith(".__init__"):  # the record must not keep an engine alive
                given = tuple(type(value).__name__ for value in given)
            self._record.append(Call(name, given))
            return self._answer(name, each.returns, this, *values.values())

        return call

    def _property(self, name: str, type_: ast.expr | None, written: ast.expr | None) -> property:
        def read(this: Any) -> Any:
            self._record.append(Call(name, ()))
            return self._answer(name, type_, this)

        def write(this: Any, value: Any) -> None:
            if not self._accepts(written, value):
                raise TypeError(
                    f"{name} = {value!r}: the stub wants {ast.unparse(written or type_)}"
                )
            self._record.append(Call(f"{name}=", (value,)))
            self._answer(f"{name}=", None, this, value)

        return property(read, write if written is not None else None)

    def _answer(self, name: str, returns: ast.expr | None, this: Any, *values: Any) -> Any:
        if name.endswith(".__del__"):
            return None  # only that it happened is of interest
        if name not in self._answers:
            raise LookupError(f"the table has no answer for {name}")
        answer = self._answers[name](this, *values)
        assert returns is None or self._accepts(returns, answer), f"{name} answers {answer!r}"
        return answer

    def _accepts(self, annotation: ast.expr | None, value: Any) -> bool:
        """Whether a value has the annotated type; a type that is not known here is a defect."""
        if annotation is None:
            return True
        if isinstance(annotation, ast.BinOp):
            return self._accepts(annotation.left, value) or self._accepts(annotation.right, value)
        text = ast.unparse(annotation)
        if found := self._find(text):
            return isinstance(value, found)
        if isinstance(annotation, ast.Subscript):
            inner = annotation.slice
            item = inner.elts[0] if isinstance(inner, ast.Tuple) else inner
            kind = {"tuple": tuple, "list": list, "collections.abc.Sequence": Sequence}
            wanted = kind[ast.unparse(annotation.value)]
            is_one = isinstance(value, wanted) and not isinstance(value, str)
            return is_one and all(self._accepts(item, each) for each in value)
        if text == "typing_extensions.Buffer":
            try:
                memoryview(value).release()
            except TypeError:
                return False
            return True
        simple: dict[str, tuple[type, ...]] = {
            "None": (type(None),),
            "int": (int,),
            "typing.SupportsInt": (int,),
            "str": (str,),
            "float": (float, int),
            "typing.SupportsFloat": (float, int),
            "builtins.bool": (bool,),
            "object": (object,),
            "typing.Any": (object,),
        }
        if text not in simple:  # a class that this version lacks
            assert text in self._without, f"the double cannot judge the type {text}"
            return False
        return isinstance(value, simple[text])


class _Module(ModuleType):
    """A module whose classes are made when they are asked for."""

    def __init__(self, name: str, find: Callable[[str], type | None]) -> None:
        super().__init__(name)
        self.__dict__["_find"] = find

    def __getattr__(self, name: str) -> type:
        found = self.__dict__["_find"](name)
        if found is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return found  # type: ignore[no-any-return]


@functools.lru_cache
def _classes(stub: str) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in ast.parse(stub).body if isinstance(node, ast.ClassDef)}


def _is_class_variable(node: ast.stmt) -> bool:
    return isinstance(node, ast.AnnAssign) and "ClassVar" in ast.unparse(node.annotation)


def _refuse_construction(path: str) -> Callable[..., None]:
    def refuse(this: Any, *_: Any, **__: Any) -> None:
        raise TypeError(f"{path}: No constructor defined!")

    return refuse


def _overload(node: ast.FunctionDef) -> _Overload:
    """Read one signature, `self` included."""
    spec, parameter = node.args, inspect.Parameter
    assert not spec.vararg and not spec.kwarg and not spec.kwonlyargs, node.name
    names = [*spec.posonlyargs, *spec.args]
    first_default = len(names) - len(spec.defaults)
    parameters = [
        parameter(
            arg.arg,
            parameter.POSITIONAL_OR_KEYWORD,
            default=... if index >= first_default else parameter.empty,
        )
        for index, arg in enumerate(names)
    ]
    annotations = {arg.arg: arg.annotation for arg in names[1:]}
    return _Overload(inspect.Signature(parameters), annotations, node.returns)
