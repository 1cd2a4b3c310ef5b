"""The sandbox: what templates need works, and what a hostile one tries ends soon."""

from __future__ import annotations

import pytest

from backends.decoding import chat_template
from backends.decoding.chat_template import ChatTemplate, TemplateRefused
from backends.errors import Unsupported

MESSAGES = [{"role": "user", "content": " <b> "}]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ messages[0].content | trim }}", "<b>"),
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": " <b> "}'),
        ('{{ {"b": 1, "a": "é"} | tojson(indent=1) }}', '{\n "b": 1,\n "a": "é"\n}'),
        ("{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "1"),
        ("{% generation %}x{% endgeneration %}y", "xy"),
        ("{{ bos_token ~ 1 ~ 'a' }}", "<s>1a"),
        ("{{ 'a</think>b'.split('</think>')[-1] }}", "b"),
        ("{{ ['a', 'b'] | join(', ') }}{{ 'aXb' | replace('X', '-') }}", "a, ba-b"),
        ("  {% if add_generation_prompt %}\n  go\n  {% endif %}\n", "  go\n"),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("{{ 2 + 3 * 4 }}{{ 'ab' * 2 }}", "14abab"),
    ],
)
def test_render_offers_what_templates_expect(source: str, text: str) -> None:
    assert ChatTemplate(source, {"bos_token": "<s>"}).render(MESSAGES) == text


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'a': 1}) }}",
        "{{ raise_exception('only users') }}",
        "{{ nothing.there }}",
        "{{ 'a' * 10000000000 }}",
        "{{ [0] * 10000000000 }}",
        "{{ 9 ** 9999999 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '{:>999999999}'.format(1) }}",
        "{{ 'a'.center(999999999) }}",
        "{{ messages | tojson(indent=999999999) }}",
        "{% set n = namespace(x='aaaa') %}"
        "{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% set n = namespace(x='aaaa') %}"
        "{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x='aaaa') %}"
        "{% for i in range(60) %}{% set n.x = n.x.replace('a', n.x) %}{% endfor %}",
        "{% set n = namespace(x='aaaa') %}"
        "{% for i in range(60) %}{% set n.x = [n.x, n.x] | join(n.x) %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99) %}aaaaaaaaaaa{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(1) }}",
    ],
)
def test_render_refuses_what_a_template_must_not_do(source: str) -> None:
    with pytest.raises(TemplateRefused, match="chat template refuses this conversation"):
        ChatTemplate(source, {}).render(MESSAGES)


def test_render_ends_a_loop_that_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "MAX_SECONDS", 0.2)
    loop = "{% set r = range(99999) %}{% for i in r %}{% for j in r %}{% endfor %}{% endfor %}"
    with pytest.raises(TemplateRefused, match="runs for too long"):
        ChatTemplate(loop, {}).render(MESSAGES)
    assert ChatTemplate("ok", {}).render(MESSAGES) == "ok", "and the next one has its own time"


@pytest.mark.parametrize(
    "source", ["{% if %}", "{{ x", "{% for %}", "{% x %}", "{{ 'a' | center(9) }}"]
)
def test_template_that_is_no_jinja_is_unsupported(source: str) -> None:
    with pytest.raises(Unsupported, match="not valid"):
        ChatTemplate(source, {})


def test_render_gives_the_reason_of_the_template() -> None:
    with pytest.raises(TemplateRefused, match="roles must alternate"):
        ChatTemplate("{{ raise_exception('roles must alternate') }}", {}).render(MESSAGES)
