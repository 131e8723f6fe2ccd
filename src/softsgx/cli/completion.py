"""``softsgx completion``: what shells complete, for bash, zsh and fish.

Each shell has a few lines that ask softsgx itself, so that what may stand somewhere is said
once, of the help texts and the designs; a file of `--load` counts as well. Rejected: argcomplete
and shtab, which want a parser of argparse. `run` must not have one, since it costs a tenth of the
start-up, and neither hands the words behind PROGRAM to the program's own completion.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise

from softsgx.cli.main import COMMANDS
from softsgx.cli.options import given
from softsgx.cli.texts import Option, options_of
from softsgx.errors import SoftsgxError, UsageError

__all__ = ["HELP", "SCRIPTS", "completion", "may_stand"]

HELP = """\
usage: softsgx completion bash|zsh|fish

Print what has the shell complete softsgx's commands, options, designs and files:

  eval "$(softsgx completion bash)"      in ~/.bashrc
  eval "$(softsgx completion zsh)"       in ~/.zshrc, after compinit
  softsgx completion fish | source       in ~/.config/fish/config.fish
"""

# The protocol of the scripts: a line a word (and a tab, and what it is), or one of these.
_FILES, _PROGRAM = ":files", ":program"

_BASH = r"""
_softsgx() {
    local line word skip at rest
    COMPREPLY=()
    while IFS= read -r line; do
        case $line in
            :files) compopt -o default; return ;;
            :program*)
                # Of bash's own words, which it has split at "=" and ":", too.
                skip=${line#:program }
                for ((word = 0, at = 0; word < COMP_CWORD && skip > 0; word++)); do
                    rest=${COMP_LINE:at}
                    rest=${rest#"${rest%%[![:space:]]*}"}
                    at=$((${#COMP_LINE} - ${#rest} + ${#COMP_WORDS[word]}))
                    [[ ${COMP_LINE:at:1} == [[:space:]] ]] && ((skip--))
                done
                compopt -o default
                if declare -F _command_offset >/dev/null; then
                    _command_offset "$word"
                elif ((word == COMP_CWORD)); then
                    COMPREPLY=($(compgen -c -- "${COMP_WORDS[word]}"))
                fi
                return ;;
        esac
        word=${line%%$'\t'*}
        [[ $word == *[:=,] ]] && compopt -o nospace
        COMPREPLY+=("$word")
    done < <(softsgx completion --line "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null)
}
complete -F _softsgx softsgx
"""

_ZSH = r"""#compdef softsgx
_softsgx() {
    local line text
    local -a found
    found=("${(@f)$(softsgx completion --words "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
    case $found[1] in
        :files) compset -P '*='; _files; return ;;
        :program*)
            integer skip=${found[1]#:program}
            shift $skip words
            (( CURRENT -= skip ))
            _normal
            return ;;
    esac
    for line in $found; do
        text=${line%%$'\t'*}
        if [[ $text == *[:=,] ]]; then
            compadd -Q -S '' -- "$text"
        else
            compadd -Q -- "$text"
        fi
    done
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _softsgx "$@"
else
    compdef _softsgx softsgx
fi
"""

_FISH = r"""
function __softsgx_complete
    set -l words (commandline -opc)[2..-1] (commandline -ct)
    for line in (softsgx completion --words $words 2>/dev/null)
        switch $line
            case :files
                set -l start (string match -r '^-.*?=' -- $words[-1])
                for path in (__fish_complete_path (string replace -r '^-.*?=' '' -- $words[-1]))
                    echo "$start$path"
                end
            case ':program*'
                set -l place (math 1 + (string replace ':program ' '' -- $line))
                set -l line (commandline -opc) (commandline -ct)
                __fish_complete_subcommand --commandline $line[$place..-1]
            case '*'
                echo $line
        end
    end
end
complete -c softsgx -f -a '(__softsgx_complete)'
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def completion(args: list[str]) -> int:
    """Print a shell's script; or answer one: ``--words WORD…``, ``--line LINE BREAKS``.

    Raises UsageError.
    """
    if args[:1] in (["--words"], ["--line"]):
        return _answer(args)
    options = given("completion", HELP, args, words=(1, 1), what="one of bash, zsh and fish")
    if options is None:
        return 0
    if options.words[0] not in SCRIPTS:
        raise UsageError(f"completion knows {', '.join(SCRIPTS)}, and no {options.words[0]!r}")
    print(SCRIPTS[options.words[0]].lstrip("\n"), end="")
    return 0


def _answer(args: list[str]) -> int:
    """What a script asked. A line that nobody can complete is no mistake of the user's yet."""
    in_bash = args[0] == "--line"
    line, breaks = [*args[1:], "", ""][:2] if in_bash else ("", "")
    words = _split(line)[1:] if in_bash else args[1:]
    if not words:
        return 1
    cut = max((words[-1].rfind(mark) for mark in ":=" if mark in breaks), default=-1) + 1
    try:
        found = list(may_stand(words))
    except SoftsgxError:
        return 1
    for text, said in found:
        if text in (_FILES, _PROGRAM):
            print(f"{text} {said}".rstrip())
        elif text.startswith(words[-1]):
            print(text[cut:] + (f"\t{said}" if said and not in_bash else ""))
    return 0


def _split(line: str) -> list[str]:
    """The words of a line as a shell splits it; the last is what is being written, or ""."""
    for quote in ("", '"', "'"):
        try:
            words = shlex.split(line + quote)
        except ValueError:
            continue
        return words if quote or not line[-1:].isspace() else [*words, ""]
    return []


def may_stand(words: list[str]) -> Iterator[tuple[str, str]]:
    """What may stand in the place of the last of ``words`` (behind "softsgx"), and what it is.

    ``:files`` is any file, ``:program`` a program's own words, with how many words stand before
    it, that of softsgx among them.
    """
    if len(words) == 1:
        yield from ((name, said) for name, (_, said) in COMMANDS.items())
        yield from (("--help", "the commands"), ("--version", "which softsgx this is"))
        return
    command, before, current = words[0], words[1:-1], words[-1]
    if command not in COMMANDS:
        return
    if command in ("help", "completion"):
        found = COMMANDS if command == "help" else SCRIPTS
        yield from ((name, "") for name in found if not before)
        return
    options = {name: option for option in _options(command) for name in option.names}
    runs = command in ("run", "explore")
    place = _program_at(words, options) if runs else 0
    if place:
        yield _PROGRAM, str(place)
        return
    asked = options.get(before[-1]) if before else None
    name, equals, _ = current.partition("=")
    if asked is not None and asked.value:
        yield from _values(asked, before, current, "")
    elif equals and name in options:
        yield from _values(options[name], before, current, name + "=")
    elif current.startswith("-"):
        for option in options.values():
            for each in option.names if option.names[-1].startswith(current) else ():
                yield each, option.said
    else:
        yield from _others(command, before, current)


def _options(command: str) -> list[Option]:
    found = options_of(command)
    return found + options_of("run") if command == "explore" else found


def _program_at(words: list[str], options: dict[str, Option]) -> int:
    """How many words stand before the program, with that of softsgx; 0 before there is one."""
    number, last = 1, len(words) - 1
    while number < last:
        word = words[number]
        if word == "--":
            return number + 2
        if not word.startswith("-"):
            return number + 1
        option = options.get(word)
        number += 2 if option is not None and option.value else 1
    return number + 1 if number == last and not words[last].startswith("-") else 0


def _values(
    option: Option, before: list[str], current: str, start: str
) -> Iterator[tuple[str, str]]:
    """The values of an option; ``start``: what stands before them in the same word."""
    name = option.names[-1]
    if option.value.startswith("{"):
        found = [(each, "") for each in option.value.strip("{}").split(",")]
    elif name == "--design":
        found = _designs(before, current.removeprefix(start))
    elif name == "--property":
        from softsgx.checker.properties import PROPERTIES

        _load(before)
        found = [(p.name, p.words) for p in PROPERTIES.values()]
    elif name == "--errno":
        from errno import errorcode

        found = [(each, "") for each in ("any", *errorcode.values())]
    elif re.match(r"\[?(FILE|KEY|PAGE|DIR|FOLDER|PROGRAM|RULES|/PATH)", option.value):
        found, start = [(_FILES, "")], ""
    else:
        found = []
    yield from ((start + text, said) for text, said in found)


def _others(command: str, before: list[str], current: str) -> Iterator[tuple[str, str]]:
    """The words of a command that are no options."""
    takes = COMMANDS[command][0]
    if command == "attest" and not before:
        from softsgx.cli.attest import SUBCOMMANDS

        yield from ((name, "") for name in SUBCOMMANDS)
    elif command in ("designs", "check", "repair"):
        yield from _designs(before, current)
    elif takes:
        yield _FILES, ""


def _load(before: list[str]) -> None:
    """The files of --load that stand before."""
    from softsgx.cli.load import load_file

    for option, path in pairwise([*before, ""]):
        if option == "--load" and path:
            load_file(path)
        elif option.startswith("--load="):
            load_file(option.removeprefix("--load="))


def _designs(before: list[str], current: str) -> list[tuple[str, str]]:
    """Designs, and behind the colon their options."""
    from softsgx.designs.registry import DESIGNS

    _load(before)
    name, colon, chosen = current.partition(":")
    if not colon:
        both = [(n, ("", ":") if cls.options else ("",)) for n, cls in DESIGNS.items()]
        return [(n + end, DESIGNS[n].title) for n, ends in both for end in ends]
    if name not in DESIGNS:
        return []
    done, comma, now = chosen.rpartition(",")
    start, cls = name + colon + done + comma, DESIGNS[name]
    option, equals, _ = now.partition("=")
    if equals:
        return [(f"{start}{option}={value}", "") for value in cls.options.get(option, ())]
    words = [f"{option}=" for option in cls.options] + (["repaired"] if cls.repaired else [])
    return [(start + word, "") for word in words]
