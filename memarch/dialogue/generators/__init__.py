"""Models that answer: any transformers model, any OpenAI-compatible server, or quotations of memory without a model."""
