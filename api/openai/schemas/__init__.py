"""OpenAI's dialect: what its clients send and what they get. Every name can be imported from here.

Each module holds one part; the first specification had them all in one, and its names stay.
"""

from api.openai.schemas.answers import *  # noqa: F403
from api.openai.schemas.messages import *  # noqa: F403
from api.openai.schemas.models import *  # noqa: F403
from api.openai.schemas.requests import *  # noqa: F403
from api.openai.schemas.tokens import *  # noqa: F403
from api.openai.schemas.tools import *  # noqa: F403
