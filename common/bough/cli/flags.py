"""Flags made from the settings: each field of `Settings` is a flag of the same name."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from bough.common.config import LoadedSettings, Settings, flag_of, load_settings, nearest


class Parser(argparse.ArgumentParser):
    """An argument parser that takes no abbreviations and answers an unknown flag with the nearest known one."""

    def __init__(self, *, prog: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def parse_strictly(self, argv: Sequence[str]) -> argparse.Namespace:
        """As `parse_args`; exits with 2 after an error that names what is wrong."""
        parsed, unknown = self.parse_known_args(argv)
        if unknown:
            flag = unknown[0].partition("=")[0]
            known = [option for action in self._actions for option in action.option_strings if option[:2] == "--"]
            self.error(f"{flag} is no option{nearest(flag, known)}")
        return parsed

    def error(self, message: str) -> NoReturn:
        """Say what is wrong without repeating the whole usage."""
        self.exit(2, f"{self.prog}: {message}\n`{self.prog} --help` shows the options.\n")


def add_settings_flags(parser: Parser, *, leave_out: Sequence[str] = ()) -> None:
    """Add a flag for each setting, and `--config`."""
    group = parser.add_argument_group(
        "settings", "each also as the environment variable BOUGH_NAME and as a key of the --config file"
    )
    group.add_argument("--config", type=Path, metavar="FILE", help="TOML file of settings; BOUGH_CONFIG names it too")
    for name, field in Settings.model_fields.items():
        if name in leave_out:
            continue
        text = (field.description or "").replace("%", "%%")
        if field.default is not None:
            text += f" (default {field.default})"
        # SUPPRESS keeps flags that were not given out of the namespace, so that given ones can be told.
        group.add_argument(flag_of(name), dest=f"setting_{name}", default=argparse.SUPPRESS, metavar="X", help=text)


def settings_from(parsed: argparse.Namespace, **flags: str) -> LoadedSettings:
    """Settings from parsed flags, further `flags` by name, the environment and a file. ConfigError when refused."""
    given = {name.removeprefix("setting_"): value for name, value in vars(parsed).items() if name[:8] == "setting_"}
    return load_settings({**given, **flags}, os.environ, config_file=parsed.config)
