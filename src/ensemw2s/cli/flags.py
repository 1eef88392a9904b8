"""Messages name settings as a configuration does; a verb with options of its own calls the same by another name.

The rooms below the command line do not know who asks: their messages speak of ``boost.form`` or ``train.batch_size``.
Here, at the door, a setting for which the verb has an option is called by that option.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# Options that are not called as their setting is; the first that a verb has counts.
_RENAMED = {
    "train.batch_size": ("--train-batch-size",),
    "lora.r": ("--lora-rank",),
    "loss.name": ("--loss",),
    "data.source": ("--train", "--data", "--in"),
}
_SECTIONS = ("boost", "train", "format", "loss")
_SETTING = re.compile(r"(?<![\w./])[a-z]+\.[a-z_]+\b(?![\w./]\w)")
_COLUMN = re.compile(r"(?<![\w./])(?:data\.)?columns\.(question|answer)\b(?![\w./]\w)")  # those that must be there


class Flags:
    """The options of the verb that runs; of a verb like ``run``, which takes settings, there are none to tell."""

    def __init__(self, options: Iterable[str] = ()) -> None:
        self.options = frozenset(options)

    def speak(self, message: str) -> str:
        """A message with options in place of settings; what the verb has no option for is left as it is.

        >>> Flags(["--form"]).speak("boost.form=real has no boost.top_k")
        '--form=real has no boost.top_k'
        """
        if "--column" in self.options:
            message = _COLUMN.sub(r"--column \1=NAME", message)
        return _SETTING.sub(self._option, message)

    def _option(self, found: re.Match[str]) -> str:
        section, _, name = found[0].partition(".")
        usual = (f"--{name.replace('_', '-')}",) if section in _SECTIONS else ()
        return next((option for option in _RENAMED.get(found[0], usual) if option in self.options), found[0])


#: Of this process's verb; ``main`` sets its options.
FLAGS = Flags()
