"""Errors of a dialogue memory. Each says what was expected, what came, and what to do; nothing was changed."""


class DialogueError(Exception):
    """Base of what a dialogue memory raises on its own account (bad arguments are ValueError)."""


class StoreLocked(DialogueError):
    """Another process is writing this memory; the message names it."""


class StoreCorrupt(DialogueError):
    """The records themselves are damaged, so that no cache could repair them."""


class StoreUnavailable(DialogueError):
    """The store cannot be opened or written: read-only, disk full, server down, newer schema, missing package."""


class WrongKey(StoreUnavailable):
    """The memory is encrypted with another key, needs one, or is not encrypted at all."""


class MigrationError(DialogueError):
    """A schema upgrade or a move to another store did not finish; the source is as it was."""


class EmbedderError(DialogueError):
    """The embedder failed. What was added is stored; search goes on with words alone until it works again."""


class GeneratorError(DialogueError):
    """The model could not answer. What was said is stored; the same question can be asked again."""


class ModelMissing(GeneratorError):
    """No such model here, or a package that it needs is missing."""


class ModelOutOfMemory(GeneratorError):
    """The model, or this prompt with it, does not fit into memory."""


class GenerationTimeout(GeneratorError):
    """No token came for too long."""


class BackendDown(GeneratorError):
    """The server of the model cannot be reached, or broke off."""


class ContextExceeded(GeneratorError):
    """The prompt is longer than the model can read."""
