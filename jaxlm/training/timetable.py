"""When a run stops to validate, to save, and for good."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Timetable:
    """total: steps of the whole run; eval_every: steps between two validations, None without a
    validation text; checkpoint_every: steps between two checkpoints, None if none are kept.
    """

    total: int
    eval_every: int | None
    checkpoint_every: int | None

    def until_pause(self, step: int) -> int:
        """Steps from `step` to the next validation, checkpoint, or end."""
        pauses = [every for every in (self.eval_every, self.checkpoint_every) if every]
        return min([every - step % every for every in pauses] + [self.total - step])

    def validated_at(self, step: int) -> bool:
        """Whether there is a validation after so many steps; there is one at the end."""
        return self.eval_every is not None and (step % self.eval_every == 0 or step == self.total)

    def saved_at(self, step: int) -> bool:
        """Whether there is a checkpoint after so many steps."""
        return any(
            every and step % every == 0 for every in (self.eval_every, self.checkpoint_every)
        )
