"""The model names that a request may ask for; a name never becomes a path."""

from shared.errors import InvalidRequest, ModelNotFound
from shared.settings import Settings


class Catalog:
    def __init__(self, settings: Settings) -> None:
        self.ids = tuple(settings.sources)
        self._default = settings.default_model

    def resolve(self, name: str | None) -> str:
        """Raises ModelNotFound; InvalidRequest when the request names no model and there is no default."""
        if name is None:
            if self._default is None:
                raise NoModel(
                    f"Missing required parameter: 'model'. Available: {', '.join(self.ids)}.", param="model"
                )
            return self._default
        if name not in self.ids:
            raise ModelNotFound(name, self.ids)
        return name


class NoModel(InvalidRequest):
    code = "missing_required_parameter"
