"""How a decoder is shown a query and a document: ids of special tokens and of its maker's words around them."""

from dataclasses import dataclass

from workers.encoders.text import EncodedText, TextEncoder


@dataclass(frozen=True)
class PairTemplate:
    """``form`` has places for {instruction}, {query} and {document}, filled in one pass."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    form: str
    instruction: str

    def applied(
        self, text: TextEncoder, query: str, document: str, param: str, instruction: str | None
    ) -> EncodedText:
        """Raises InvalidRequest."""
        said = self.form.format(instruction=instruction or self.instruction, query=query, document=document)
        return text.framed(self.before, said, self.after, param)
