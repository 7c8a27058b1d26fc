"""OpenAI's dialect: its requests and answers. Every schema can be imported from here.

The modules hold a part each. The first specification had one module for all, and its names are kept.
"""

from api.openai.schemas.answers import *  # noqa: F403
from api.openai.schemas.messages import *  # noqa: F403
from api.openai.schemas.models import *  # noqa: F403
from api.openai.schemas.requests import *  # noqa: F403
from api.openai.schemas.tokens import *  # noqa: F403
from api.openai.schemas.tools import *  # noqa: F403
