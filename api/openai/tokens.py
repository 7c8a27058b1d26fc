"""POST /tokenize, /detokenize and /apply-template: a worker reads a prompt and generates nothing."""

from falcon.asgi import Request, Response

from api.generation.broker_client import BrokerClient
from api.generation.catalog import Catalog
from api.generation.parse import read
from api.generation.prompt_reading import prompt_as_read
from api.generation.refusals import wrong
from api.http.respond import respond_json
from api.openai.models import model_states
from api.openai.request import chat_prompt, prompt_tools
from api.openai.schemas import (
    ApplyTemplateRequest,
    ApplyTemplateResponse,
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeRequest,
    TokenizeResponse,
)
from shared.protocol import ChatPrompt, Prompt, TextPrompt, TokenPrompt


class Tokenize:
    def __init__(self, catalog: Catalog, broker: BrokerClient) -> None:
        self._catalog = catalog
        self._broker = broker

    async def on_post(self, req: Request, resp: Response) -> None:
        request = await read(req, TokenizeRequest)
        model = self._catalog.resolve(request.model)
        start = await prompt_as_read(self._broker, model, _prompt(request))
        tokens = start.prompt_ids or []
        known = (await model_states(self._broker)).get(model)  # it has been loaded to tokenize
        longest = known.context_length if known else None
        respond_json(resp, TokenizeResponse(tokens=tokens, count=len(tokens), max_model_len=longest))


class Detokenize:
    def __init__(self, catalog: Catalog, broker: BrokerClient) -> None:
        self._catalog = catalog
        self._broker = broker

    async def on_post(self, req: Request, resp: Response) -> None:
        request = await read(req, DetokenizeRequest)
        model = self._catalog.resolve(request.model)
        text = (
            await prompt_as_read(self._broker, model, TokenPrompt(param="tokens", ids=request.tokens))
        ).prompt_text or ""
        respond_json(resp, DetokenizeResponse(prompt=text, content=text))


class ApplyTemplate:
    def __init__(self, catalog: Catalog, broker: BrokerClient) -> None:
        self._catalog = catalog
        self._broker = broker

    async def on_post(self, req: Request, resp: Response) -> None:
        request = await read(req, ApplyTemplateRequest)
        model = self._catalog.resolve(request.model)
        start = await prompt_as_read(self._broker, model, _chat(request))
        respond_json(resp, ApplyTemplateResponse(prompt=start.prompt_text or ""))


def _prompt(request: TokenizeRequest) -> Prompt:
    if request.messages is not None:
        return chat_prompt(request.messages, prompt_tools(request.tools), {}, request.chat_template_kwargs)
    text = request.content if request.prompt is None else request.prompt
    if text is None:
        raise wrong("prompt", "one of 'prompt', 'content' and 'messages' must be there")
    return TextPrompt(text=text)


def _chat(request: ApplyTemplateRequest) -> ChatPrompt:
    return chat_prompt(request.messages, prompt_tools(request.tools), {}, request.chat_template_kwargs)
