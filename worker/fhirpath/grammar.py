"""From the text of an expression to what it does, by recursive descent."""

from __future__ import annotations

from decimal import Decimal

from worker.fhirpath import steps
from worker.fhirpath.functions import FUNCTIONS
from worker.fhirpath.steps import Element, Expression
from worker.fhirpath.tokens import Token, tokens

_LITERALS = {"true": True, "false": False}
_OPERATORS = frozenset({"and", "or"})
_OF_TYPE, _EXTENSION = "ofType", "extension"


def parse(expression: str) -> Expression:
    """What an expression does to a collection; raises ``PathError`` with the position of what cannot be used."""
    reader = _Reader(expression)
    found = reader.condition()
    if reader.token.kind != "end":
        raise reader.token.wrong(f"{reader.token.text!r} is not understood")
    return found


class _Reader:
    """Reads an expression token by token; ``token`` is the next one."""

    def __init__(self, expression: str) -> None:
        self._tokens = list(tokens(expression))
        self._place = 0

    @property
    def token(self) -> Token:
        return self._tokens[self._place]

    def condition(self) -> Expression:
        found = self._conjunction()
        while self._takes("or"):
            found = steps.either(found, self._conjunction())
        return found

    def _conjunction(self) -> Expression:
        found = self._comparison()
        while self._takes("and"):
            found = steps.both(found, self._comparison())
        return found

    def _comparison(self) -> Expression:
        found = self._union()
        if self.token.text in ("=", "!=") and self.token.kind == "symbol":
            is_equal = self._next().text == "="
            found = steps.equal(found, self._union(), is_equal)
        return found

    def _union(self) -> Expression:
        found = self._path()
        while self._takes("|"):
            found = steps.union(found, self._path())
        return found

    def _path(self) -> Expression:
        found = self._start()
        while True:
            if self._takes("."):
                found = steps.chain(found, self._step())
            elif self._takes("["):
                found = steps.chain(found, steps.at(self._index()))
            else:
                return found

    def _start(self) -> Expression:
        token = self.token
        if token.kind == "symbol" and self._takes("("):
            found = self.condition()
            self._expect(")")
            return found
        if token.kind == "this":
            self._next()
            return steps.this
        if token.kind == "text":
            return steps.literal(self._next().text)
        if token.kind == "number":
            digits = self._next().text
            return steps.literal(Decimal(digits) if "." in digits else int(digits))
        if token.kind == "name" and token.text in _LITERALS:
            return steps.literal(_LITERALS[self._next().text])
        return self._step(first=True)

    def _step(self, *, first: bool = False) -> Expression:
        token = self._next()
        if token.kind != "name" or token.text in _OPERATORS:
            raise token.wrong("a name is missing" if token.kind == "end" else f"{token.text!r} is not a name")
        if self._takes("("):
            return self._function(token, None)
        if (then := self._followed_by(_OF_TYPE)) or (then := self._followed_by(_EXTENSION)):
            return self._function(then, Element(token.text, first=first))
        return (steps.root if first else steps.child)(token.text)

    def _followed_by(self, name: str) -> Token | None:
        """Skip ``.name(``, if that comes next: what these two find depends on the element before."""
        dot, found, bracket = (*self._tokens[self._place : self._place + 3], *[self._tokens[-1]] * 3)[:3]
        if (dot.text, found.text, bracket.text) != (".", name, "("):
            return None
        self._place += 3
        return found

    def _function(self, named: Token, element: Element | None) -> Expression:
        if named.text == _OF_TYPE:
            return self._of_type(named, element)
        arguments = self._arguments()
        if named.text == _EXTENSION and len(arguments) == 1:
            return steps.extensions(element, arguments[0])
        function = FUNCTIONS.get(named.text)
        if function is None and named.text != _EXTENSION:
            known = ", ".join(sorted([*FUNCTIONS, _EXTENSION, _OF_TYPE]))
            raise named.wrong(f"{named.text}() cannot be used in a column; these can: {known}; found")
        if function is None or not function.least <= len(arguments) <= function.most:
            raise named.wrong(f"{named.text}() does not take {len(arguments)} arguments; found")
        return function.make(*arguments)

    def _of_type(self, named: Token, element: Element | None) -> Expression:
        type_ = self._next()
        if type_.kind != "name":
            raise named.wrong("ofType() needs the name of a type, as in value.ofType(Quantity); found")
        while self._takes("."):  # FHIR.Quantity
            type_ = self._next()
        self._expect(")")
        return steps.of_type(element, type_.text)

    def _arguments(self) -> list[Expression]:
        if self._takes(")"):
            return []
        found = [self.condition()]
        while self._takes(","):
            found.append(self.condition())
        self._expect(")")
        return found

    def _index(self) -> int:
        token = self._next()
        if not token.text.isdecimal():
            raise token.wrong("between [ and ] stands a whole number; found something else")
        self._expect("]")
        return int(token.text)

    def _next(self) -> Token:
        token = self.token
        if token.kind != "end":
            self._place += 1
        return token

    def _takes(self, text: str) -> bool:
        if self.token.text != text or self.token.kind not in ("symbol", "name"):
            return False
        self._place += 1
        return True

    def _expect(self, text: str) -> None:
        if not self._takes(text):
            raise self.token.wrong(f"{text!r} is missing")
