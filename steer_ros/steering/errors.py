"""What steering raises besides ValueError."""


class UnsteerableModelError(TypeError):
    """The model's attention can't be steered rightly. The message names the model's class and the reason."""


class SteeringNotAppliedError(RuntimeError):
    """A steering ended without having changed one attention call, though it had something to steer with: the
    silent no-op, made loud."""
