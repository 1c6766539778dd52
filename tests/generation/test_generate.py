"""The decoding loop and `generate`, on a toy model of which every logit depends on all that its row may see."""

from __future__ import annotations

import queue
import threading
import warnings

import numpy as np
import pytest

from llmcore.data import byte_tokenizer
from llmcore.errors import ConfigError, LlmcoreError
from llmcore.generation import GenerationConfig, TextIteratorStreamer, TextStreamer, generate
from tests.generation.toy import ToyModel, greedy_reference

PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [200], [9, 9, 30], [66, 67, 68, 69]]


@pytest.fixture
def model() -> ToyModel:
    return ToyModel()


@pytest.fixture
def text_model() -> ToyModel:
    model = ToyModel()
    model.readout[:, :32] = 0  # printable ASCII is likelier
    model.readout[:, 127:] = 0
    model.tokenizer = byte_tokenizer()
    return model


# ---- rows and cache ----


@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_batch_equals_plain_decoding(model, use_cache):
    out = model.generate(PROMPTS, max_new_tokens=20, use_cache=use_cache, pad_token_id=0)
    assert out.dtype == np.int32 and out.shape == (4, 27)
    for row, prompt in zip(out, PROMPTS, strict=True):
        assert row[7 - len(prompt) :].tolist() == greedy_reference(model, prompt, 20)
        assert row[: 7 - len(prompt)].tolist() == [0] * (7 - len(prompt))


def test_cache_feeds_single_tokens(model):
    model.generate([[1, 2, 3]], max_new_tokens=5)
    assert model.calls == [(1, 3), (1, 1), (1, 1), (1, 1), (1, 1)]


@pytest.mark.parametrize("settings", [{}, dict(do_sample=True, seed=7, temperature=1.5, top_k=0)])
def test_a_row_does_not_depend_on_its_batch(model, settings):
    together = model.generate(PROMPTS, max_new_tokens=15, **settings)
    for index, prompt in enumerate(PROMPTS):
        alone = model.generate([prompt], max_new_tokens=15, **settings)[0]
        assert together[index, 7 - len(prompt) :].tolist() == alone.tolist()
    reordered = model.generate(PROMPTS[::-1], max_new_tokens=15, **settings)
    np.testing.assert_array_equal(reordered[::-1], together)


def test_rows_that_fill_the_context_at_different_times(model):
    prompts = [[5] * 60, [7, 8], [3] * 33]
    out = generate(model, prompts, return_dict_in_generate=True)  # the default number is cut to the room there is
    assert out.new_tokens == [4, 62, 31] and out.finish_reasons == ["length"] * 3
    for row, prompt, count in zip(out.sequences, prompts, out.new_tokens, strict=True):
        start = 60 - len(prompt)
        assert row[start : start + len(prompt) + count].tolist() == greedy_reference(model, prompt, count)


def test_sliding_goes_on_with_the_newer_half(model):
    prompts = [[11, 12, 13], [5] * 50]
    out = model.generate(prompts, max_new_tokens=100, slide_context=True)
    for row, prompt in zip(out, prompts, strict=True):
        ids, first = list(prompt), 0
        for _ in range(100):
            if len(ids) - first > 64:
                first = len(ids) - 32
            ids.append(greedy_reference(model, ids[first:], 1)[-1])
        assert row[50 - len(prompt) :].tolist() == ids
    alone = model.generate([prompts[0]], max_new_tokens=100, slide_context=True)
    assert alone[0].tolist() == out[0, 47:].tolist()


def test_end_of_text_ends_a_row_and_only_that(model):
    free = model.generate(PROMPTS, max_new_tokens=20)
    ends = int(free[1, 7 + 5])  # what row 1 writes as its sixth token becomes the end of text
    out = model.generate(PROMPTS, max_new_tokens=20, eos_token_id=[ends], pad_token_id=0, return_dict_in_generate=True)
    for row, old, count, reason in zip(out.sequences, free, out.new_tokens, out.finish_reasons, strict=True):
        new = old[7:].tolist()
        expected = new.index(ends) + 1 if ends in new else 20
        assert count == expected and reason == ("stop" if ends in new else "length")
        width = len(row) - 7
        assert row[7:].tolist() == (new[:expected] + [0] * 20)[:width]
    assert min(out.new_tokens) < max(out.new_tokens)


def test_min_new_tokens_keeps_the_end_away(model):
    free = model.generate([[200]], max_new_tokens=20)[0, 1:].tolist()
    out = model.generate([[200]], max_new_tokens=20, eos_token_id=free[2], min_new_tokens=6)[0, 1:].tolist()
    assert out[:2] == free[:2] and free[2] not in out[:6] and len(out) >= 6


def test_a_training_model_is_left_training(text_model):
    text_model.train()
    text_model.generate([[1]], max_new_tokens=2)
    assert text_model.training
    pieces = text_model.generate("ab", max_new_tokens=9, stream=True)
    next(pieces)
    assert text_model.training  # also while a stream waits for its reader


# ---- prompts ----


def test_prompts_in_all_forms(text_model):
    ids = text_model.tokenizer.encode("Hello")
    new = text_model.generate(ids, max_new_tokens=12)[0, 5:]
    text = text_model.tokenizer.decode(new)
    assert text_model.generate("Hello", max_new_tokens=12) == text
    assert text_model.generate(["Hello", "x"], max_new_tokens=12)[0] == text
    for form in (ids.tolist(), [ids.tolist()], ids[None], ids.astype(np.int64)):
        np.testing.assert_array_equal(text_model.generate(form, max_new_tokens=12)[0, 5:], new)
    np.testing.assert_array_equal(text_model.generate(input_ids=ids[None], max_new_tokens=12)[0, 5:], new)
    for side in ("left", "right"):
        text_model.tokenizer.padding_side = side
        encoded = text_model.tokenizer(["Hello", "Hi there"], padding=True, return_tensors="np")
        for out in (
            text_model.generate(**encoded, max_new_tokens=12),
            text_model.generate(encoded, max_new_tokens=12),
        ):
            np.testing.assert_array_equal(out[0, 3:], [*ids, *new])
    out = generate(text_model, ["Hello"], max_new_tokens=12, return_dict_in_generate=True)
    assert out.texts == [text] and out.sequences.shape == (1, 17)


def test_no_prompt_begins_after_the_end_of_text(text_model):
    expected = text_model.generate([[256]], max_new_tokens=6)
    np.testing.assert_array_equal(text_model.generate(max_new_tokens=6), expected)
    assert text_model.generate("", max_new_tokens=6) == text_model.tokenizer.decode(expected[0, 1:])


def test_several_texts_of_a_prompt(text_model):
    settings = dict(max_new_tokens=10, do_sample=True, temperature=4.0, seed=3)
    texts = text_model.generate(["ab", "cd"], num_return_sequences=3, **settings)
    assert len(texts) == 6 and len(set(texts)) == 6
    assert text_model.generate("ab", num_return_sequences=3, **settings) == texts[:3]
    assert text_model.generate("ab", **settings) == texts[0]


def test_seeds(text_model):
    settings = dict(max_new_tokens=20, do_sample=True, temperature=8.0)
    assert text_model.generate("ab", seed=1, **settings) == text_model.generate("ab", seed=1, **settings)
    assert text_model.generate("ab", seed=1, **settings) != text_model.generate("ab", seed=2, **settings)
    assert text_model.generate("ab", **settings) != text_model.generate("ab", **settings)


# ---- stop strings and streams ----


@pytest.mark.parametrize("seed", range(12))
def test_stop_strings_and_streams(text_model, seed):
    settings = dict(max_new_tokens=40, do_sample=True, temperature=1.1, seed=seed)
    free = text_model.generate("Go", **settings)
    stop = free[20:23]  # across token boundaries: every byte is a token
    cut = text_model.generate("Go", stop_strings=[stop, "\u0000never"], **settings)
    assert cut == free[: free.find(stop)]
    assert "".join(text_model.generate("Go", stop_strings=stop, stream=True, **settings)) == cut
    assert "".join(text_model.generate("Go", stream=True, **settings)) == free
    out = text_model.generate("Go", stop_strings=stop, return_dict_in_generate=True, **settings)
    assert out.finish_reasons == ["stop"] and out.new_tokens == [free.find(stop) + 3] and out.texts == [cut]


def test_streams_are_lazy(text_model):
    pieces = text_model.generate("Go", max_new_tokens=30, stream=True)
    assert text_model.calls == []
    next(pieces)
    assert len(text_model.calls) < 30
    pieces.close()


class Recorder(TextStreamer):
    def __init__(self, **options):
        super().__init__(**options)
        self.pieces, self.ended = [], 0

    def on_finalized_text(self, text, stream_end=False):
        self.pieces.append(text)
        self.ended += stream_end


def test_text_streamers(text_model, capsys):
    settings = dict(max_new_tokens=20)
    text = text_model.generate("Go", **settings)
    for skip_prompt in (True, False):
        recorder = Recorder(skip_prompt=skip_prompt)
        assert text_model.generate("Go", streamer=recorder, **settings) == text
        assert "".join(recorder.pieces) == ("" if skip_prompt else "Go") + text and recorder.ended == 1
        assert len(recorder.pieces) > 15
    recorder = Recorder()
    cut = text_model.generate("Go", streamer=recorder, stop_strings=text[5:8], **settings)
    assert "".join(recorder.pieces) == "Go" + cut  # nothing of the stop string
    streamer = TextStreamer(text_model.tokenizer, skip_special_tokens=True)
    text_model.generate("Go", streamer=streamer, **settings)
    assert capsys.readouterr().out == "Go" + text + "\n"


def test_text_streamer_driven_by_ids(capsys):
    tokenizer = byte_tokenizer()
    for skip_prompt, expected in ((False, "Préé\n"), (True, "éé\n")):
        streamer = TextStreamer(tokenizer, skip_prompt=skip_prompt)
        streamer.put(tokenizer.encode("Pr")[None])
        for token in tokenizer.encode("éé"):
            streamer.put(np.array([token]))
        streamer.end()
        assert capsys.readouterr().out == expected
    with pytest.raises(ConfigError, match="special tokens are not part of the text"):
        TextStreamer(tokenizer, skip_special_tokens=False)
    with pytest.raises(ValueError, match="one text"):
        TextStreamer(tokenizer).put(np.zeros((2, 3), np.int32))


def test_iterator_streamer_in_another_thread(text_model):
    settings = dict(max_new_tokens=25)
    streamer = TextIteratorStreamer(skip_prompt=True, timeout=60)
    thread = threading.Thread(target=text_model.generate, args=("Go",), kwargs=dict(settings, streamer=streamer))
    thread.start()
    text = "".join(streamer)
    thread.join()
    assert text == text_model.generate("Go", **settings)
    with pytest.raises(queue.Empty):
        next(TextIteratorStreamer(timeout=0.001))


def test_iterator_streamer_ends_when_generation_fails(text_model):
    streamer = TextIteratorStreamer(skip_prompt=True, timeout=60)
    text_model.readout[:] = np.nan
    with pytest.raises(LlmcoreError, match="NaN"):
        text_model.generate("Go", streamer=streamer)
    assert list(streamer) == []


def test_transformers_own_streamer(text_model, capsys):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    streamer = transformers.TextStreamer(text_model.tokenizer, skip_prompt=True, skip_special_tokens=True)
    text = text_model.generate("Go", max_new_tokens=20, streamer=streamer)
    assert capsys.readouterr().out == text + "\n"


# ---- what is refused ----


def test_refusals(text_model):
    model = text_model
    with pytest.raises(TypeError, match="'temprature'; did you mean 'temperature'"):
        model.generate("a", temprature=0.5)
    with pytest.raises(ConfigError, match="num_beams=4: beam search is not available"):
        model.generate("a", num_beams=4)
    with pytest.raises(ConfigError, match="typical_p=0.5 would change the text"):
        model.generate("a", typical_p=0.5)
    with pytest.raises(ConfigError, match="do_sample=True"):
        model.generate("a", num_return_sequences=2)
    with pytest.raises(ConfigError, match="streaming writes one text, got 2"):
        model.generate(["a", "b"], stream=True)
    with pytest.raises(ConfigError, match="prompt 1 of 60 tokens and 10 new ones are 70"):
        model.generate(["a", "b" * 60], max_new_tokens=10)
    with pytest.raises(ConfigError, match="prompt 0 has 64 tokens, and the model sees at most 64"):
        model.generate("a" * 64)
    with pytest.raises(ConfigError, match="max_length=5"):
        model.generate("a" * 6, max_length=5)
    with pytest.raises(ConfigError, match="got ndarray with entries of type float64"):
        model.generate(np.zeros((1, 3)))
    with pytest.raises(ConfigError, match="prompt 1 has no tokens"):
        model.generate([[1], []])
    with pytest.raises(ConfigError, match="prompt 0 has no tokens"):
        model.generate([])
    with pytest.raises(ConfigError, match="the list is empty"):
        model.generate(np.zeros((0, 3), np.int32))
    with pytest.raises(ConfigError, match="attention_mask has 1 x 2 entries, the input ids have 1 x 3"):
        model.generate([[1, 2, 3]], attention_mask=[[1, 1]])
    with pytest.raises(ConfigError, match="two names"):
        model.generate([[1]], input_ids=[[1]])
    model.tokenizer = None
    with pytest.raises(ConfigError, match="needs a tokenizer"):
        model.generate("a")
    with pytest.raises(ConfigError, match="stop_strings needs a tokenizer"):
        model.generate([[1]], stop_strings="x")
    with pytest.raises(ConfigError, match="stream=True needs a tokenizer"):
        model.generate([[1]], stream=True)


def test_length_settings(model):
    def count(**settings) -> int:
        return generate(model, [[1, 2, 3]], return_dict_in_generate=True, **settings).new_tokens[0]

    assert count() == 61
    assert count(max_length=10) == 7
    assert count(max_length=10, max_new_tokens=4) == 4
    config = GenerationConfig(max_new_tokens=5)
    assert count(generation_config=config) == 5
    assert count(generation_config=config, max_length=10) == 7
    assert count(generation_config=config, max_new_tokens=None) == 61
    model.generation_config = GenerationConfig(max_new_tokens=6)
    assert count() == 6
    assert count(generation_config={"max_new_tokens": 8, "transformers_version": "5.0"}) == 8


def test_sampling_settings_without_sampling_warn(model):
    with pytest.warns(UserWarning, match="temperature, top_p: no effect without do_sample=True"):
        model.generate([[1]], temperature=0.5, top_p=0.9, max_new_tokens=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.generate([[1]], temperature=0.5, do_sample=True, max_new_tokens=1)
