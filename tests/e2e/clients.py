"""Real clients as people use them: openai streaming in parallel, langchain-openai."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import openai
from langchain_openai import ChatOpenAI

QUESTION = "What is 1+1?"


def talk(url: str, model: str, expected: str = "", requests: int = 4) -> None:
    """Both clients against `url` (http://127.0.0.1:8080/v1): `requests` streams at once, then one
    answer and one stream through langchain. Every answer must hold `expected`, and a stream must
    come in pieces."""
    client = openai.OpenAI(base_url=url, api_key="none")

    def ask(_: int) -> list[str]:
        chunks = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": QUESTION}],
            temperature=0,
            max_tokens=24,
            stream=True,
        )
        pieces = (c.choices[0].delta.content for c in chunks if c.choices)
        return [piece for piece in pieces if piece]

    with ThreadPoolExecutor(requests) as pool:
        answers = list(pool.map(ask, range(requests)))
    assert len(answers) == requests
    chat = ChatOpenAI(base_url=url, api_key="none", model=model, max_tokens=24, temperature=0)
    answers.append([str(chunk.content) for chunk in chat.stream(QUESTION) if chunk.content])
    for pieces in answers:
        assert len(pieces) > 3, f"it came in {len(pieces)} pieces: {pieces}"
        assert expected in "".join(pieces)
    assert expected in str(chat.invoke(QUESTION).content)
