"""One file per architecture, in reading order: config, blocks, model (BERT's heads have one of their own). `auto` finds
the right one for a directory."""

from __future__ import annotations

from llmcore.models.auto import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from llmcore.models.bert import BertConfig, BertModel
from llmcore.models.bert_heads import BertForMaskedLM, BertForSequenceClassification, BertForTokenClassification
from llmcore.models.gpt2 import PRESETS as GPT2_PRESETS
from llmcore.models.gpt2 import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel
from llmcore.models.llama import LLAMA_PRESETS, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification
from llmcore.models.lora import LoraConfig, PeftModel, get_peft_model

PRESETS = {**GPT2_PRESETS, **LLAMA_PRESETS}  # every size that has a name

__all__ = [
    "LLAMA_PRESETS",
    "PRESETS",
    "AutoConfig",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForMaskedLM",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "BertConfig",
    "BertForMaskedLM",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertModel",
    "GPT2Config",
    "GPT2ForSequenceClassification",
    "GPT2LMHeadModel",
    "LlamaConfig",
    "LlamaForCausalLM",
    "LlamaForSequenceClassification",
    "LoraConfig",
    "PeftModel",
    "get_peft_model",
]
