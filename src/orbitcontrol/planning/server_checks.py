"""Which servers of a configuration HAProxy looks after by itself, as its text says.

A server does with ``check`` or ``track`` on its line, or from the ``default-server`` of its section
or of the ``defaults`` it inherits; ``no-check`` takes that back (configuration manual, 5.2). One
whose name begins with ``nocheck-`` is its author's: Orbit never takes it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from orbitcontrol.planning.rotation import Place

_SECTIONS = frozenset({"defaults", "frontend", "backend", "listen"})
_UNTOUCHED = "nocheck-"


def checked_servers(text: str, places: Iterable[Place]) -> frozenset[Place]:
    """Those of the places that have servers in the text, every one of which HAProxy looks after."""
    wanted: dict[str, set[Place]] = {}
    for place in places:
        for key in (place.address, f"{place.service}-{place.address}"):
            wanted.setdefault(key, set()).add(place)
    verdicts: dict[Place, bool] = {}
    if wanted:
        for name, address, checked in _servers(text):
            found = wanted.get(address, set()) | wanted.get(name.removeprefix(_UNTOUCHED), set())
            for place in found:
                verdicts[place] = verdicts.get(place, True) and (checked or name.startswith(_UNTOUCHED))
    return frozenset(place for place, checked in verdicts.items() if checked)


def _servers(text: str) -> Iterator[tuple[str, str, bool]]:
    """Name, address and whether HAProxy looks after it, of each server."""
    defaults = {"": False}  # by name; "" is the latest
    names: tuple[str, ...] = ()
    default = False
    for line in text.splitlines():
        match _words(line):
            case [section, *words] if section in _SECTIONS and not line[0].isspace():
                parent = words[words.index("from") + 1] if "from" in words[:-1] else None
                is_defaults = section == "defaults"
                default = defaults.get(parent or "", False) if parent or not is_defaults else False
                names = ("", *words[:1]) if is_defaults else ()
                defaults |= dict.fromkeys(names, default)
            case ["default-server", *options]:
                default = _checks(options, default=default)
                defaults |= dict.fromkeys(names, default)
            case ["server", name, address, *options]:
                yield name, address.rpartition("@")[2], _checks(options, default=default)
            case _:
                pass


def _checks(options: list[str], *, default: bool) -> bool:
    for option in options:
        if option in ("check", "track"):
            default = True
        elif option == "no-check":
            default = False
    return default


def _words(line: str) -> list[str]:
    """The line's words, without the comment behind them."""
    words = line.split()
    comment = next((index for index, word in enumerate(words) if word.startswith("#")), len(words))
    return words[:comment]
