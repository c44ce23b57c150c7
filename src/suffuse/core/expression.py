"""One grammar for plug-ins on the command line, in files and in picture metadata: `AdaptiveGuidance(0.99) | CFG(5)`.

    expression = call | literal | expression "|" expression        the first of a chain is the outermost
    call       = name [ "(" arguments ")" ]                        a registered class; arguments by position or name
               | "during(" expression "," start "," stop ")"       a part of the run, as fractions of it
               | "only(" expression {"," path} ")"                 a patch on the rows of these branches
    literal    = number | inf | text | True | False | None | tuple | list | dict

Only registered classes are called and nothing is evaluated, so text from outside is safe to parse.
"""

from __future__ import annotations

import ast
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from .errors import BadInput, SuffuseError, nearest
from .plugin import Plugin, Setting
from .registry import REQUIRED, Method, method_of, names, resolve

T = TypeVar("T")

OPERATIONS = ("during", "only")
"""What the core can do to any plug-in that has a method of this name."""

CONSTANTS: Mapping[str, float] = {"inf": math.inf}

VALUES: Mapping[str, Method] = {"Setting": Method(Setting, None, ())}
"""What expressions call beside methods: what a fitted plug-in was made for."""


def parse(text: str, base: type[T] = object) -> T:  # type: ignore[assignment]
    """The value that an expression says.

    Args:
        text: expression in the grammar of this module; a name alone is a call without arguments.
        base: class that the value must be an instance of.

    Raises:
        BadInput: not an expression, an unknown name or argument (the message names the nearest), or not a `base`.
    """
    try:
        value = _read(_syntax(text))
    except (RecursionError, MemoryError):
        raise BadInput(f"expression {text[:40]!r}...: nested too deeply; use fewer levels") from None
    if not isinstance(value, base):
        what = type(value).__name__
        raise BadInput(f"expression {text!r}: {what} is not a {base.__name__}; `suffuse methods` lists those that are")
    return value


def unparse(value: object) -> str:
    """The canonical expression of a value: arguments by name, those at their defaults left out.

    Raises:
        BadInput: the value holds something that an expression cannot say, such as a tensor.
    """
    if value is None or type(value) in (bool, int, str) or (type(value) is float and not math.isnan(value)):
        return repr(value)
    if type(value) is tuple:
        return f"({', '.join(map(unparse, value))}{',' if len(value) == 1 else ''})"
    if type(value) is list:
        return f"[{', '.join(map(unparse, value))}]"
    if type(value) is dict:
        return f"{{{', '.join(f'{unparse(k)}: {unparse(v)}' for k, v in value.items())}}}"
    if (write := _WRAPPERS.get((type(value).__module__, type(value).__name__))) is not None:
        return write(value)
    known = VALUES["Setting"] if type(value) is Setting else method_of(type(value))
    if known is not None:
        return f"{known.name}({', '.join(_given(known, value))})"
    raise BadInput(f"value {value!r:.60}: an expression cannot say a {type(value).__name__}; save it to a file instead")


# what each class of the core that wraps plug-ins is said as; by name, because importing them would import torch
_WRAPPERS: Mapping[tuple[str, str], Callable[[Any], str]] = {
    ("suffuse.core.guidance", "Chain"): lambda v: " | ".join(map(unparse, v.parts)),
    ("suffuse.core.guidance", "Window"): lambda v: _during(v),
    ("suffuse.core.hook", "HookWindow"): lambda v: _during(v),
    ("suffuse.core.patch", "PatchWindow"): lambda v: _during(v),
    ("suffuse.core.patch", "OnPaths"): lambda v: f"only({', '.join(map(unparse, (v.inner, *v.paths)))})",
}


def _during(value: Any) -> str:
    return f"during({unparse(value.inner)}, {unparse(value.start)}, {unparse(value.stop)})"


def _given(known: Method, value: Any) -> list[str]:
    said = []
    for argument in known.arguments:
        given = getattr(value, argument.name)
        if given is argument.default:
            continue
        text = unparse(given)
        # Compared as text, because 1, 1.0 and True are equal and still not the same argument.
        if argument.default is REQUIRED or text != unparse(argument.default):
            said.append(f"{argument.name}={text}")
    return said


def _syntax(text: str) -> ast.expr:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        reason = f"{error.msg} at column {error.offset}" if isinstance(error, SyntaxError) else str(error)
        raise BadInput(f"expression {text!r}: {reason}; write it like DDIM(eta=0.5)") from None


def _read(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=value) if value is None or type(value) in (bool, int, float, str):
            return value
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            value = _read(operand)
            if type(value) in (int, float):
                return -value if isinstance(sign, ast.USub) else value
        case ast.Name(id=name):
            return CONSTANTS[name] if name in CONSTANTS else _construct(name, [], [])
        case ast.Tuple(elts=elements):
            return tuple(map(_read, elements))
        case ast.List(elts=elements):
            return list(map(_read, elements))
        case ast.Dict(keys=keys, values=values):
            return {_key(key): _read(value) for key, value in zip(keys, values, strict=True)}
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _chain(_read(left), _read(right))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=keywords) if all(k.arg for k in keywords):
            return _construct(name, [_read(a) for a in arguments], [(str(k.arg), _read(k.value)) for k in keywords])
    what = ast.unparse(node)
    raise BadInput(f"expression: {what!r:.60} is neither a call nor a literal; write it like DDIM(eta=0.5)")


def _key(node: ast.expr | None) -> Any:
    key = None if node is None else _read(node)
    if type(key) in (int, float, str, bool):
        return key
    raise BadInput(f"expression: {type(key).__name__} as a key of a dict; a key is a number or a text")


def _chain(left: Any, right: Any) -> Any:
    if isinstance(left, Plugin) and isinstance(right, Plugin) and hasattr(left, "__or__"):
        return left | right
    what = f"{type(left).__name__} | {type(right).__name__}"
    raise BadInput(f"expression: {what} is not a chain; only guidances are chained, give other plug-ins one by one")


def _construct(name: str, arguments: list[Any], keywords: list[tuple[str, Any]]) -> Any:
    if name in OPERATIONS:
        return _operate(name, arguments, keywords)
    try:
        known = VALUES.get(name) or resolve(name)
    except BadInput:
        raise BadInput(f"method {name!r} is unknown; {nearest(name, {*names(), *OPERATIONS} - {name})}") from None
    if not isinstance(known.target, type) or not dataclasses.is_dataclass(known.target):
        raise BadInput(f"expression: {name} is a {known.kind}, not a value; use it from Python")
    fields = [a.name for a in known.arguments]
    if len(arguments) > len(fields):
        raise BadInput(f"{name}: takes at most {len(fields)} arguments, {len(arguments)} were given; {known.signature}")
    given = dict(zip(fields, arguments, strict=False))
    for key, value in keywords:
        if key not in fields:
            raise BadInput(f"{name}: argument {key!r} is unknown; {nearest(key, fields)}")
        if key in given:
            raise BadInput(f"{name}: argument {key!r} is given twice; {known.signature}")
        given[key] = value
    for argument in known.arguments:
        if argument.name in given and not _fits(given[argument.name], argument.annotation):
            raise BadInput(f"{name}({argument.name}={given[argument.name]!r}): give {argument.annotation}")
    missing = [a.name for a in known.arguments if a.default is REQUIRED and a.name not in given]
    if missing:
        raise BadInput(f"{name}: argument {missing[0]!r} is missing; {known.signature}")
    return _called(name, known.target, given)


PLAIN: Mapping[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "None": (type(None),),
}


def _fits(value: Any, annotation: str) -> bool:
    """Whether a literal is of the annotated type; annotations of other than plain types are left to the method."""
    kinds = annotation.split(" | ")
    return any(kind not in PLAIN for kind in kinds) or type(value) in {t for kind in kinds for t in PLAIN[kind]}


def _operate(name: str, arguments: list[Any], keywords: list[tuple[str, Any]]) -> Any:
    operation = getattr(arguments[0], name, None) if arguments else None
    if operation is None or keywords:
        example = "during(CFG(5), 0, 0.5)" if name == "during" else "only(DeepCache(), 'cond')"
        raise BadInput(f"expression: {name} needs a plug-in to act on, and one that can do it; write {example}")
    return _called(name, lambda: operation(*arguments[1:]), {})


def _called(name: str, function: Callable[..., Any], given: dict[str, Any]) -> Any:
    try:
        return function(**given)
    except SuffuseError:
        raise
    except (TypeError, ValueError, ArithmeticError) as error:
        raise BadInput(f"{name}: {error}; see `suffuse info {name}`") from error
