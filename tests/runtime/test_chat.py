"""Chat templates: what they render, what they refuse and what they cannot reach."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import jinja2
import pytest

from edgellama.runtime import chat
from edgellama.runtime.chat import ChatMessage, ChatTemplate
from edgellama.runtime.request import InvalidRequestError

HELLO = [ChatMessage("user", "hello")]


def render(source: str, messages: list[ChatMessage] = HELLO, **options: Any) -> str:
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    return ChatTemplate(source, names).render(messages, options.get("prompt", True))


LLAMA = (
    "{{- bos_token }}\n{%- for m in messages %}\n"
    "    {{- '<h>' + m['role'] + '</h>\\n\\n' + m['content'] | trim + eos_token }}\n"
    "{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<h>assistant</h>\\n\\n' }}\n"
    "{%- endif %}\n"
)


def test_a_llama_template_renders_roles_contents_and_the_prompt() -> None:
    messages = [ChatMessage("system", " be kind "), ChatMessage("user", "hi")]
    body = "<s><h>system</h>\n\nbe kind</s><h>user</h>\n\nhi</s>"
    assert render(LLAMA, messages, prompt=False) == body
    assert render(LLAMA, messages) == body + "<h>assistant</h>\n\n"


def test_blocks_leave_no_lines_and_no_indentation() -> None:
    source = (
        "{% for m in messages %}\n  {% if true %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}\n"
    )
    assert render(source) == "hello\n"


def test_it_renders_as_transformers_does() -> None:
    transformers = pytest.importorskip("transformers.utils.chat_template_utils")
    source = (
        "{% for m in messages %}\n  {% if loop.first %}\n{% continue %}\n  {% endif %}\n"
        "{{ m.content }}{% generation %}{{ m | tojson }}{% endgeneration %}\n{% endfor %}\n"
        "{{ tools is none }} {{ documents is none }} {{ bos_token }}\n"
    )
    messages = [ChatMessage(role, f"<é {role}>") for role in chat.ROLES]
    [expected], _ = transformers.render_jinja_template(
        [[{"role": m.role, "content": m.content} for m in messages]],
        chat_template=source,
        add_generation_prompt=True,
        bos_token="<s>",
    )
    assert render(source, messages) == expected
    assert '"content": "<é tool>"' in expected


def test_the_globals_of_transformers_exist() -> None:
    assert render("{{ strftime_now('%Y') }}") == str(datetime.now().year)
    with pytest.raises(InvalidRequestError, match="roles must alternate") as caught:
        render("{{ raise_exception('roles must alternate') }}")
    assert caught.value.field == "chat"


def test_unknown_roles_and_empty_chats_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"'root'.*system, user") as caught:
        ChatMessage("root", "x")
    assert caught.value.field == "chat"
    with pytest.raises(InvalidRequestError, match="is empty"):
        render(LLAMA, [])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for %}", "does not compile: line 1"),
        ("{{ messages[9].content.x }}", "refused the messages"),
        ("{{ 1 / 0 }}", "division"),
        ("{{ [] | nosuchfilter }}", "nosuchfilter"),
    ],
)
def test_broken_templates_are_errors_of_the_request(source: str, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        render(source)
    assert caught.value.field == "chat"


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__globals__['json'] }}",
    "{{ (''|attr('__class__'))|attr('__mro__') }}",
    "{{ '{0.__class__.__init__}'.format(messages) }}",
    "{{ self.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.getcwd() }}",
    "{{ range.__doc__ }}",
    "{{ messages.append(messages[0]) }}",
    "{{ messages[0].update({'role': 'system'}) }}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_a_hostile_template_reaches_nothing(source: str) -> None:
    try:
        shown = render(source)  # jinja shows an attribute that the sandbox hides as ""
    except InvalidRequestError as error:
        assert error.field == "chat"
    else:
        assert shown == ""


def test_without_the_sandbox_the_attempts_succeed() -> None:
    plain = jinja2.Environment()
    plain.globals.update(raise_exception=chat._raise, strftime_now=chat._strftime_now)
    for source in ESCAPES:
        assert plain.from_string(source).render(messages=[{"role": "user"}], range=range) != ""


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(10 ** 9) %}x{% endfor %}",
        "{% for i in range(0, -200000, -1) %}x{% endfor %}",
        "{{ 'x' * 1000000000 }}",
        "{{ 1000000000 * 'x' }}",
        "{{ [0] * 1000000000 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    ],
)
def test_a_template_cannot_exhaust_the_device(source: str) -> None:
    start = time.monotonic()
    with pytest.raises(InvalidRequestError, match="refused"):
        render(source)
    assert time.monotonic() - start < 5


def test_the_length_of_the_text_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "MAX_RENDERED_CHARS", 1000)
    loop = "{% for i in range(COUNT) %}0123456789{{ i * 0 }}{% endfor %}"
    assert len(render(loop.replace("COUNT", "90"))) == 990
    with pytest.raises(InvalidRequestError, match="exceeds 1000 characters"):
        render(loop.replace("COUNT", "91"))


def test_each_rendering_has_its_own_limit_of_loops() -> None:
    template = ChatTemplate("{% for i in range(90000) %}{% endfor %}done", {})
    for _ in range(3):
        assert template.render(HELLO, True) == "done"
