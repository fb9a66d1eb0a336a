"""Words on a command line: names, and options with their values."""

from mada_lab.errors import ConfigError


def split(words: list[str], allowed: set[str]) -> tuple[list[str], dict[str, str]]:
    """Positional words, and options with their values, given as `--name value` or `--name=value`."""
    names, options = [], {}
    rest = iter(words)
    for word in rest:
        if not word.startswith("--"):
            names.append(word)
            continue
        name, given, value = word.partition("=")
        name = name.replace("_", "-")
        if name not in allowed:
            raise ConfigError(
                f"command line: expected one of {', '.join(sorted(allowed))}, got {name}; see `mada-lab --help`"
            )
        if not given:
            value = next(rest, "")
        if not value:
            raise ConfigError(f"command line, option {name}: expected a value, got none; see `mada-lab --help`")
        options[name] = value
    return names, options
