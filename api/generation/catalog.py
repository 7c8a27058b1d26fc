"""The model names that a request may ask for; a name never becomes a path."""

from collections.abc import Sequence

from api.http.keys import ModelNotAllowed, current_key
from api.http.served import note_model
from shared.errors import InvalidRequest, ModelNotFound
from shared.hosting import Endpoint
from shared.settings import Settings


class Catalog:
    """An answer carries the name that was asked for; the broker knows models by their own names only."""

    def __init__(self, settings: Settings) -> None:
        self.use(settings)

    def use(self, settings: Settings) -> None:
        """Also later: an operator may change models and their names while the server runs."""
        self.registry = settings.registry
        self.ids = tuple(settings.sources)
        self.hosted: dict[str, Sequence[Endpoint]] = {
            model: settings.table(model).endpoints
            for model, source in settings.sources.items()
            if source.kind == "hosted"
        }
        """With the endpoints that the operator names; without any, its server is asked when it is started."""
        self._default = settings.default_model

    @property
    def default(self) -> str:
        """The name where a request has none; empty: it must have one."""
        return self._default or ""

    def resolve(self, name: str | None) -> str:
        """The name that the answer carries: of a model or an alias.

        Raises ModelNotFound; ModelNotAllowed by the request's key; InvalidRequest when no name was given and there is
        no default.
        """
        if name is None:
            if self._default is None:
                raise NoModel(
                    f"Missing required parameter: 'model'. Available: {', '.join(self.names)}.",
                    param="model",
                )
            name = self._default
        self.model(name)
        return name

    def model(self, name: str) -> str:
        """The model that a name stands for. Raises ModelNotFound, ModelNotAllowed."""
        model = self.registry.resolve(name)
        if model is None:
            raise ModelNotFound(name, self.names)
        if (key := current_key.get()) and not key.may_use(name, model):
            raise ModelNotAllowed(
                f"This key may not use the model {name!r}. It may use: {', '.join(self.names) or 'none of those here'}."
            )
        note_model(model)
        return model

    @property
    def names(self) -> tuple[str, ...]:
        """What may be asked for with the request's key: models, then aliases."""
        key, registry = current_key.get(), self.registry
        if key is None or not key.models:
            return registry.names
        return tuple(name for name in registry.names if key.may_use(name, registry.resolve(name) or name))


class NoModel(InvalidRequest):
    code = "missing_required_parameter"
