"""What an encoder is asked for and answers: vectors of texts, or scores of documents for a query."""

from typing import Annotated, Literal

from pydantic import Field

from shared.parts import AsJson, Ids, Part


class Embedding(Part):
    """A vector for each of ``texts`` or, where there are none, of ``ids``, which are taken as they are.

    ``dimensions``: to which vectors are cut. ``prompt``: the name of one of the model's own, put before each text.
    """

    kind: Literal["embedding"] = "embedding"
    param: str = "input"
    texts: AsJson[list[str]] = []
    ids: list[Ids] = []
    single: bool = False  # the client sent one text and no list
    dimensions: int | None = None
    prompt: str | None = None

    @property
    def n(self) -> int:
        return 1

    @property
    def size(self) -> int:
        """In characters or ids."""
        return sum(map(len, self.texts)) + sum(map(len, self.ids))

    def param_of(self, item: int) -> str:
        return self.param if self.single else f"{self.param}[{item}]"


class Ranking(Part):
    """A score from 0 to 1 for each of the documents. ``instruction``: in place of the model's own."""

    kind: Literal["ranking"] = "ranking"
    param: str = "documents"
    query: str
    documents: AsJson[list[str]]
    instruction: str | None = None

    @property
    def n(self) -> int:
        return 1

    @property
    def size(self) -> int:
        """In characters."""
        return len(self.query) + sum(map(len, self.documents))


Encoding = Annotated[Embedding | Ranking, Field(discriminator="kind")]


class Vectors(Part):
    """``data``: vectors one behind the other, each ``dimensions`` little-endian float32."""

    dimensions: int
    data: bytes


class Scores(Part):
    """One for each document, in the order of the documents: little-endian float32."""

    data: bytes
