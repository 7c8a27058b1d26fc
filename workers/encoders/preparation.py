"""A request for vectors or scores as texts of token ids; all that can be wrong with it is found here."""

from dataclasses import dataclass

from shared.errors import InvalidRequest
from shared.kinds import Asked, Kind, asked_of, wrong_kind
from shared.protocol import (
    ChatPrompt,
    Embedding,
    Generation,
    Hosted,
    Prompt,
    Ranking,
    Run,
    Start,
    Task,
    TokenPrompt,
)
from workers.encoders.job import Answer, EncodingJob
from workers.encoders.loading.recipe import Recipe
from workers.encoders.template import PairTemplate
from workers.encoders.text import EncodedText, TextEncoder

QUERY = ("query", "search_query")  # names that makers give to the prompt of what is sought …
DOCUMENT = ("document", "passage", "search_document")  # … and of what is found


@dataclass(frozen=True)
class EncoderPreparation:
    """``size``: of the model's vectors."""

    model: str
    kind: Kind
    text: TextEncoder
    recipe: Recipe
    size: int
    template: PairTemplate | None = None

    def __call__(self, run: Run) -> EncodingJob:
        """Raises InvalidRequest or ContextLengthExceeded."""
        task = run.submit.task
        if refusal := wrong_kind(self.model, self.kind, _asked(task)):
            raise refusal
        assert not isinstance(task, Hosted)
        match task:
            case Embedding():
                return self._job(run, self._embedded(task), "vectors", self._dimensions(task))
            case Ranking():
                texts = self._apart(task) if self.kind == "embedding" else self._pairs(task)
                return self._job(run, texts, "cosines" if self.kind == "embedding" else "scores")
            case Generation(prompt=prompt):
                return self._job(run, [], self._read(prompt))

    def _job(
        self, run: Run, texts: list[EncodedText], answer: Answer, dimensions: int | None = None
    ) -> EncodingJob:
        submit = run.submit
        return EncodingJob(
            request_id=submit.request_id,
            attempt=submit.attempt,
            api=run.api,
            texts=texts,
            answer=answer,
            dimensions=dimensions,
            caller=submit.caller,
            group=submit.group,
        )

    def _read(self, prompt: Prompt) -> Start:
        """A text in tokens, and tokens as text; there is nothing to compute."""
        assert not isinstance(prompt, ChatPrompt)
        if isinstance(prompt, TokenPrompt):
            read = self.text.tokens(prompt.ids, prompt.param)
            text = self.text.decoded(read.ids)
        else:
            read, text = self.text.text(prompt.text, prompt.param), prompt.text
        return Start(prompt_tokens=read.tokens, prompt_ids=read.ids, prompt_text=text)

    def _embedded(self, task: Embedding) -> list[EncodedText]:
        prompt = self._named_prompt(task.prompt)
        if task.ids:
            return [self.text.tokens(ids, task.param_of(item)) for item, ids in enumerate(task.ids)]
        return [self._one(text, task.param_of(item), prompt) for item, text in enumerate(task.texts)]

    def _named_prompt(self, name: str | None) -> str:
        prompts = self.recipe.prompts or {}
        if name is None:
            return prompts.get(self.recipe.default_prompt or "", "")
        if name not in prompts:
            known = f"it has {', '.join(map(repr, prompts))}" if prompts else "leave it out"
            raise InvalidRequest(
                f"The model {self.model!r} has no prompt {name[:64]!r}; {known}.", param="prompt_name"
            )
        return prompts[name]

    def _one(self, text: str, param: str, prompt: str) -> EncodedText:
        return self.text.text(text, param, prompt, counts_prompt=self.recipe.counts_prompt)

    def _dimensions(self, task: Embedding) -> int | None:
        """Raises InvalidRequest where the model was not trained for vectors of that length."""
        wanted, allowed = task.dimensions, self.recipe.dimensions
        if wanted is None or wanted == self.size:
            return None
        if wanted < self.size and (allowed is None or wanted in allowed):
            return wanted
        if allowed is None:
            can = f"can be cut to any length below its {self.size}"
        elif allowed:
            can = f"has {self.size} dimensions, and can be cut to {', '.join(map(str, allowed))}"
        else:
            can = f"has {self.size} dimensions, and was not trained to be cut"
        raise InvalidRequest(f"The model {self.model!r} {can}.", param="dimensions")

    def _apart(self, task: Ranking) -> list[EncodedText]:
        """The query first."""
        if task.instruction is not None:
            raise self._no_instruction()
        query, document = (self._prompt_like(names) for names in (QUERY, DOCUMENT))
        return [
            self._one(task.query, "query", query),
            *(self._one(text, f"documents[{i}]", document) for i, text in enumerate(task.documents)),
        ]

    def _prompt_like(self, names: tuple[str, ...]) -> str:
        prompts = self.recipe.prompts or {}
        return next((prompts[name] for name in names if name in prompts), self._named_prompt(None))

    def _pairs(self, task: Ranking) -> list[EncodedText]:
        if self.template is None and task.instruction is not None:
            raise self._no_instruction()
        self._pair(task, "", "query")  # one that is too long by itself is no document's fault
        return [self._pair(task, text, f"documents[{i}]") for i, text in enumerate(task.documents)]

    def _pair(self, task: Ranking, document: str, param: str) -> EncodedText:
        if self.template is None:
            return self.text.pair(task.query, document, param)
        return self.template.applied(self.text, task.query, document, param, task.instruction)

    def _no_instruction(self) -> InvalidRequest:
        return InvalidRequest(
            f"The model {self.model!r} takes no instruction; leave it out.", param="instruction"
        )


def _asked(task: Task) -> Asked:
    if isinstance(task, Generation):
        return asked_of(task.prompt.kind, task.stopping.max_tokens)
    return asked_of(task.kind, None)
