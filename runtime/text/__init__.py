"""Messages -> token ids, and token ids -> text: templates, tokenizer, stop strings. Knows no engine, no session."""
