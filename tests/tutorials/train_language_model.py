"""Train a causal and a masked language model, as transformers' tutorials do it; `llmcore` stands where `transformers`
stood."""

import math
import sys

from datasets import load_dataset

from llmcore import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
    pipeline,
)

kind, model_name, text_file, output_dir, steps, prompt = sys.argv[1:7]

# Load lines of text and set a part aside.
lines = load_dataset("text", data_files={"train": text_file})["train"]
lines = lines.train_test_split(test_size=0.1, seed=42)

# Tokenize, join, and cut into blocks.
tokenizer = AutoTokenizer.from_pretrained(model_name)
block_size = 64


def preprocess_function(examples):
    return tokenizer(examples["text"])


def group_texts(examples):
    concatenated = {name: sum(examples[name], []) for name in examples}
    total_length = len(concatenated["input_ids"]) // block_size * block_size
    return {
        name: [values[start : start + block_size] for start in range(0, total_length, block_size)]
        for name, values in concatenated.items()
    }


tokenized_lines = lines.map(preprocess_function, batched=True, remove_columns=lines["train"].column_names)
lm_dataset = tokenized_lines.map(group_texts, batched=True)

if kind == "causal":
    tokenizer.pad_token = tokenizer.eos_token
    data_collator = DataCollatorForLanguageModeling(tokenizer=tokenizer, mlm=False, return_tensors="np")
    model = AutoModelForCausalLM.from_pretrained(model_name)
else:
    data_collator = DataCollatorForLanguageModeling(tokenizer=tokenizer, mlm_probability=0.15, return_tensors="np")
    model = AutoModelForMaskedLM.from_pretrained(model_name)

# Train.
training_args = TrainingArguments(
    output_dir=output_dir,
    eval_strategy="steps",
    eval_steps=0.5,
    max_steps=int(steps),
    learning_rate=1e-3,
    weight_decay=0.01,
    push_to_hub=False,
)

trainer = Trainer(
    model=model,
    args=training_args,
    train_dataset=lm_dataset["train"],
    eval_dataset=lm_dataset["test"],
    data_collator=data_collator,
    processing_class=tokenizer,
)

before = trainer.evaluate()
trainer.train()
eval_results = trainer.evaluate()
print("loss", before["eval_loss"], eval_results["eval_loss"])
print(f"Perplexity: {math.exp(eval_results['eval_loss']):.2f}")
trainer.save_model(output_dir)

# Use it.
if kind == "causal":
    generator = pipeline("text-generation", model=output_dir)
    print(generator(prompt, max_new_tokens=20))
else:
    mask_filler = pipeline("fill-mask", model=output_dir)
    print(mask_filler(prompt, top_k=3))
