"""Fine-tune a classifier, as transformers' tutorial does it; `llmcore` stands where `transformers` stood."""

import sys

import numpy as np
from datasets import load_dataset

from llmcore import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    pipeline,
)

model_name, train_file, test_file, output_dir = sys.argv[1:5]

# Load the snippets, two columns: text and label.
snippets = load_dataset("csv", data_files={"train": train_file, "test": test_file})

# Tokenize. The batches are padded later, each to its own longest row.
tokenizer = AutoTokenizer.from_pretrained(model_name)


def preprocess_function(examples):
    return tokenizer(examples["text"], truncation=True)


tokenized_snippets = snippets.map(preprocess_function, batched=True)
data_collator = DataCollatorWithPadding(tokenizer=tokenizer, return_tensors="np")


# Measure.
def compute_metrics(eval_pred):
    predictions, labels = eval_pred
    predictions = np.argmax(predictions, axis=1)
    return {"accuracy": float((predictions == labels).mean())}


# Train.
id2label = {0: "NEGATIVE", 1: "POSITIVE"}
label2id = {"NEGATIVE": 0, "POSITIVE": 1}

model = AutoModelForSequenceClassification.from_pretrained(
    model_name, num_labels=2, id2label=id2label, label2id=label2id
)

training_args = TrainingArguments(
    output_dir=output_dir,
    learning_rate=2e-4,
    per_device_train_batch_size=16,
    per_device_eval_batch_size=16,
    num_train_epochs=2,
    weight_decay=0.01,
    eval_strategy="epoch",
    save_strategy="epoch",
    load_best_model_at_end=True,
    metric_for_best_model="accuracy",
    push_to_hub=False,
)

trainer = Trainer(
    model=model,
    args=training_args,
    train_dataset=tokenized_snippets["train"],
    eval_dataset=tokenized_snippets["test"],
    processing_class=tokenizer,
    data_collator=data_collator,
    compute_metrics=compute_metrics,
)

trainer.train()
trainer.save_model(output_dir)
print("accuracy", trainer.evaluate()["eval_accuracy"])

# Use it.
text = "A moving and delightful film, beautifully acted from the first scene to the last."
classifier = pipeline("sentiment-analysis", model=output_dir)
print(classifier(text))

inputs = tokenizer(text, return_tensors="np")
logits = model(**inputs).logits
predicted_class_id = logits.argmax().item()
print(model.config.id2label[predicted_class_id])
