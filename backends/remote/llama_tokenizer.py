"""A llama-server's tokenizer, over its `/tokenize`.

Rule: text is tokenised with specials off; control tokens are looked up once, when connecting. Must
not know prompts.
"""

from __future__ import annotations

import asyncio

from backends.errors import RemoteProtocolError
from backends.remote.transport import Connection
from fim.catalogue import FAMILIES, Template

AT_ONCE = 16  # questions to a server that may be far away


class LlamaTokenizer:
    """Made by `connect`."""

    def __init__(self, connection: Connection, bos: list[int], control: dict[str, int]) -> None:
        self._connection = connection
        self.bos = bos
        self.control = control

    @classmethod
    async def connect(cls, connection: Connection) -> LlamaTokenizer:
        """Ask which control tokens of the families the vocabulary has. Raises RemoteError."""
        self = cls(connection, [], {})
        bare = await self._ask("a", add_special=False)
        begun = await self._ask("a", add_special=True)
        at = next((i for i in range(len(begun)) if begun[i:] == bare), 0)
        self.bos = [token for token, _ in begun[:at]]
        texts = sorted({token for row in FAMILIES for token in _of(row)})
        for begin in range(0, len(texts), AT_ONCE):
            some = texts[begin : begin + AT_ONCE]
            asked = [self._ask(text, parse_special=True) for text in some]
            for text, tokens in zip(some, await asyncio.gather(*asked), strict=True):
                if len(tokens) == 1:
                    self.control[text] = tokens[0][0]
        return self

    async def pieces(self, text: str) -> list[tuple[int, bytes]]:
        """Return the tokens of plain text, with their bytes. Raises RemoteError."""
        return await self._ask(text, parse_special=False) if text else []

    async def _ask(self, text: str, **options: bool) -> list[tuple[int, bytes]]:
        body = {"content": text, "with_pieces": True, "add_special": False, **options}
        answer, _ = await self._connection.json("POST", "/tokenize", body)
        try:
            return [(int(token["id"]), _bytes(token["piece"])) for token in answer["tokens"]]
        except (KeyError, TypeError, ValueError) as exc:
            raise RemoteProtocolError("llama-server's /tokenize sent no tokens.") from exc


def _of(row: Template) -> tuple[str, ...]:
    return (*row.fim_tokens, *row.stop_tokens)


def _bytes(piece: str | list[int]) -> bytes:
    return piece.encode() if isinstance(piece, str) else bytes(piece)
