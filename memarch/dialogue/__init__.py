"""HEMA dialogue memory (arXiv 2504.16754): compact summaries and a vector memory that can be trusted."""
