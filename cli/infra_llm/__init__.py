"""infra-llm: turns bare machines into LLM inference nodes."""

__version__ = "0.1.0"
