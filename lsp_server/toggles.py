"""What the user has switched off for this session, by command.

Rule: pure state; settings are not touched by it. Knows no pygls.
"""

from __future__ import annotations


class Toggles:
    """Switches for everything, per language and per document; all on at first."""

    def __init__(self) -> None:
        self.all_on = True
        self._languages: set[str] = set()
        self._documents: set[str] = set()

    def language_on(self, language_id: str) -> bool:
        """Whether the language is not switched off."""
        return language_id not in self._languages

    def document_on(self, uri: str) -> bool:
        """Whether the document is not switched off."""
        return uri not in self._documents

    def flip_all(self) -> bool:
        """Switch everything; return whether it is on now."""
        self.all_on = not self.all_on
        return self.all_on

    def flip_language(self, language_id: str) -> bool:
        """Switch a language; return whether it is on now."""
        self._languages ^= {language_id}
        return self.language_on(language_id)

    def flip_document(self, uri: str) -> bool:
        """Switch a document; return whether it is on now."""
        self._documents ^= {uri}
        return self.document_on(uri)
