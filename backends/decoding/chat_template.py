"""A model's chat template: Jinja in a sandbox, with the helpers such templates expect.

Rule: a template comes with a downloaded file and is not trusted: immutable sandbox, a limit of
time, of output and of what its operators may build. Knows messages as plain dicts and gives text
back; must not know tokens, nor which model it is for.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import FrameType
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.compiler import CodeGenerator
from jinja2.exceptions import SecurityError, TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from backends.errors import BadRequest, Unsupported

MAX_OUTPUT = 4 * 1024 * 1024  # characters
MAX_SECONDS = 2.0
MAX_SOURCE = 1024 * 1024  # characters; real ones have up to 20,000

# Methods and filters that make much of little; no template of a model needs them.
_AMPLIFIERS = frozenset(
    ("center", "ljust", "rjust", "zfill", "expandtabs", "format", "format_map", "translate")
)
_CODE_NAME = "<template>"  # jinja2's own name for the code of a template without a file


class TemplateRefused(BadRequest):
    """The template can't render this conversation, and says why."""


class TooLarge(TemplateError):  # noqa: N818 - it is what the template asks for
    """The template asks for more than its limits allow."""


class ChatTemplate:
    """A compiled template. `tokens` are its variables such as `bos_token`."""

    def __init__(self, source: str, tokens: Mapping[str, str]) -> None:
        """Compile `source`. Raises Unsupported where it is no template."""
        if len(source) > MAX_SOURCE:
            raise Unsupported(f"The chat template has {len(source)} characters: it can't be one.")
        environment = _environment()
        try:
            tree = environment.parse(source)
            self._template = environment.from_string(tree)
        except (TemplateError, RecursionError, SyntaxError) as exc:
            line = f" (line {exc.lineno})" if isinstance(exc, TemplateSyntaxError) else ""
            raise Unsupported(f"The chat template is not valid: {exc}{line}.") from exc
        self.source = source
        self.tokens = dict(tokens)
        self.constants = frozenset(
            found.value for found in tree.find_all(nodes.Const) if isinstance(found.value, str)
        )

    def render(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str:
        """Return the prompt's text for `messages`, in the form Hugging Face's templates take.

        Raises TemplateRefused, also for a template that runs for too long or writes too much.
        """
        variables = {"add_generation_prompt": True, **self.tokens, **variables}
        parts: list[str] = []
        room = MAX_OUTPUT
        try:
            with _time_limit(MAX_SECONDS):
                for part in self._template.generate(messages=list(messages), **variables):
                    room -= len(part)
                    if room < 0:
                        raise TooLarge("it writes too much")
                    parts.append(part)
        except Exception as exc:
            # A missing key, a wrong type, a limit: whatever goes wrong is the template's.
            said = str(exc).strip().rstrip(".") or type(exc).__name__
            raise TemplateRefused(
                f"The model's chat template refuses this conversation: {said}."
            ) from exc
        return "".join(parts)


class _Code(CodeGenerator):
    """Sends `a ~ b` through `concat` as well, so that it can be limited like `a + b`."""

    def visit_Concat(self, node: nodes.Concat, frame: Any) -> None:  # noqa: N802 - jinja2's name
        self.write("environment.concat((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class _Sandbox(ImmutableSandboxedEnvironment):
    code_generator_class = _Code
    intercepted_binops = frozenset("+*%") | {"**"}

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sized = [len(side) for side in (left, right) if isinstance(side, (str, list, tuple))]
        if operator == "%" and isinstance(left, str):
            raise SecurityError("it formats a string with %")
        if operator == "**" and not (_small(left) and _small(right)):
            raise TooLarge("it computes with too large numbers")
        if operator == "*" and sized:
            sized.append(
                sized[0] * max((n for n in (left, right) if isinstance(n, int)), default=1)
            )
        if sum(sized) > MAX_OUTPUT:
            raise TooLarge("it builds too large a text")
        return super().call_binop(context, operator, left, right)

    def concat(self, parts: Sequence[Any]) -> str:  # type: ignore[override]
        """Return the parts of `a ~ b` as one text."""
        texts = [str(part) for part in parts]
        if sum(map(len, texts)) > MAX_OUTPUT:
            raise TooLarge("it builds too large a text")
        return "".join(texts)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str) and attr in _AMPLIFIERS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        return None  # jinja2's own would allow it: a width is as good as a multiplication

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        if getattr(obj, "__name__", "") in ("replace", "join") and isinstance(
            owner := getattr(obj, "__self__", None), str
        ):
            _check_growth(owner, *args)
        return super().call(context, obj, *args, **kwargs)


def _small(value: object) -> bool:
    return isinstance(value, (int, float)) and abs(value) <= 1000


def _check_growth(*values: Any) -> None:
    """Refuse `replace` and `join` of texts whose lengths together could make far more."""
    product = 1
    for value in values:
        product *= 1 + (len(value) if isinstance(value, (str, list, tuple)) else 0)
    # Ordinary uses have one long text and one or two of a few characters.
    if product > 1000 * MAX_OUTPUT:
        raise TooLarge("it builds too large a text")


def _replace(text: Any, old: str, new: str, count: int | None = None) -> str:
    _check_growth(str(text), old, new)
    return str(text).replace(old, new, -1 if count is None else count)


def _join(values: Iterable[Any], separator: str = "", attribute: str | None = None) -> str:
    texts = [str(value if attribute is None else value[attribute]) for value in values]
    if sum(map(len, texts)) + len(separator) * len(texts) > MAX_OUTPUT:
        raise TooLarge("it builds too large a text")
    return str(separator).join(texts)


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}`, which only marks text for training."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 wants a set

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> _Sandbox:
    environment = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )
    for name in _AMPLIFIERS:
        environment.filters.pop(name, None)
    environment.filters["tojson"] = _tojson
    environment.filters["replace"] = _replace
    environment.filters["join"] = _join
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Write JSON as models were trained on it: not escaped for HTML, as jinja2's own is."""
    if indent is not None and not 0 <= indent <= 16:
        raise TooLarge("it indents too far")
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise TooLarge in template code that runs for longer, also in a loop that writes nothing.

    A thread can't be ended from outside; a trace function sees every line that it executes.
    """
    end = time.monotonic() + seconds

    def line(frame: FrameType, _event: str, _argument: Any) -> Callable[..., Any]:
        if time.monotonic() > end:
            raise TooLarge("it runs for too long")
        return line

    def entered(frame: FrameType, _event: str, _argument: Any) -> Callable[..., Any] | None:
        return line if frame.f_code.co_filename == _CODE_NAME else None

    before = sys.gettrace()
    sys.settrace(entered)
    try:
        yield
    finally:
        sys.settrace(before)
