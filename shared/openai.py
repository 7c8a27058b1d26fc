"""The OpenAI schemas under the name they had in the first specification; they live in ``api.openai.schemas``."""

from api.openai.schemas import *  # noqa: F403
