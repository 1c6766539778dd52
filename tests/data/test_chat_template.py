"""Chat templates: equal to transformers' rendering, in a sandbox, and what they refuse as a sentence."""

from __future__ import annotations

import pytest

from llmcore.data.chat_template import render_chat
from llmcore.data.vocabularies import byte_tokenizer
from llmcore.errors import ConfigError, DataError
from llmcore.training.arguments import TrainingArguments
from llmcore.training.text_examples import tokenize_rows

CHATML = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}{% if message['role'] == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LOOP = (
    "{{ bos_token }}{%- for m in messages -%}\n  {{ m | tojson }}\n"
    "{%- if loop.last %}{% break %}{% endif %}{% endfor %}"
)
CHAT = [
    {"role": "user", "content": ' hi "you" <b>&'},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "and?"},
    {"role": "assistant", "content": "more"},
]


def tokenizer():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.mark.parametrize("template", [CHATML, LOOP])
def test_equal_to_transformers(tmp_path, template):
    transformers = pytest.importorskip("transformers")
    ours = byte_tokenizer()
    ours.chat_template, ours.bos_token = template, "<|endoftext|>"
    ours.save_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for messages in (CHAT, CHAT[:1]):
        for prompt in (False, True):
            options = dict(tokenize=False, add_generation_prompt=prompt)
            text = ours.apply_chat_template(messages, **options)
            assert text == theirs.apply_chat_template(messages, **options)
            ids = ours.apply_chat_template(messages, add_generation_prompt=prompt)
            assert ids["input_ids"] == theirs.apply_chat_template(messages, add_generation_prompt=prompt)["input_ids"]
    again = type(ours).from_pretrained(tmp_path)
    assert again.chat_template == template
    assert len(again.apply_chat_template([CHAT, CHAT[:1]], return_dict=False)) == 2


def test_only_what_the_assistant_says_is_learned():
    rows = tokenize_rows([{"messages": CHAT}], tokenizer(), TrainingArguments(), None)
    labels = rows[0]["labels"]
    assert bytes(label for label in labels if label != -100).decode() == "hello<|im_end|>\nmore<|im_end|>\n"
    assert bytes(rows[0]["input_ids"]).decode() == tokenizer().apply_chat_template(CHAT, tokenize=False)
    everything = tokenize_rows([{"messages": CHAT}], tokenizer(), TrainingArguments(completion_only_loss=False), None)
    assert everything[0]["labels"] == everything[0]["input_ids"]


def test_a_template_reaches_nothing():
    for attack in (
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{% set _ = messages.append(1) %}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
    ):
        with pytest.raises(DataError, match="refuses this conversation"):
            render_chat(attack, CHAT, False)
    with pytest.raises(DataError, match="wrote more than"):
        render_chat("{% for a in range(9999) %}{% for b in range(9999) %}xxxx{% endfor %}{% endfor %}", CHAT, False)


def test_mistakes():
    with pytest.raises(DataError, match="no tools here"):
        tokenizer().apply_chat_template([{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}])
    with pytest.raises(ConfigError, match="no chat template"):
        byte_tokenizer().apply_chat_template(CHAT)
    with pytest.raises(ConfigError, match="none that jinja2 understands"):
        render_chat("{% for %}", CHAT, False)
    whole = tokenizer()
    whole.chat_template = "{{ messages | length }}{{ messages[-1]['content'] }}"
    with pytest.raises(DataError, match="changes what was said before"):
        tokenize_rows([{"messages": CHAT}], whole, TrainingArguments(), None)
